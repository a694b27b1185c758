"""Sizes: the paper's, and those of a simulation that takes each step of the network."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import as_float64

import tinyunet as tu
from tinyunet import geometry
from tinyunet.errors import ShapeError

PAPER_DOWN = [572, 570, 568, 284, 282, 280, 140, 138, 136, 68, 66, 64, 32, 30, 28]
PAPER_UP = [56, 54, 52, 104, 102, 100, 200, 198, 196, 392, 390, 388]
PAPER_CROPS = [4, 16, 40, 88]


def simulate(size, depth, padding):
    """Every size from input to output and every crop, one step at a time; None where a step is impossible."""
    loss = 2 if padding == "valid" else 0
    down, up, crops, skips = [size], [], [], []
    for level in range(depth + 1):
        if level:
            if down[-1] % 2:
                return None
            down.append(down[-1] // 2)
        down += [down[-1] - loss, down[-1] - 2 * loss]
        skips.append(down[-1])
    sizes = down[-1:]
    for skip in reversed(skips[:-1]):
        up += [2 * sizes[-1]]
        crops.append((skip - up[-1]) / 2)
        up += [up[-1] - loss, up[-1] - 2 * loss]
        sizes.append(up[-1])
    possible = min(down + up) > 0 and all(crop >= 0 and crop == int(crop) for crop in crops)
    return (down, up, crops) if possible else None


def test_the_simulation_takes_the_steps_of_the_paper():
    assert simulate(572, 4, "valid") == (PAPER_DOWN, PAPER_UP, PAPER_CROPS)


def test_the_numbers_of_the_paper():
    assert geometry.output_size(572, 4) == 388
    assert geometry.shrink(4) == 184
    assert geometry.halo(4) == 92
    valid = [n for n in range(600) if geometry.is_valid_input(n, 4)]
    assert valid == [16 * k + 60 for k in range(8, 34)]
    assert valid[:2] == [188, 204]
    assert [geometry.output_size(n, 4) for n in valid] == [16 * k - 124 for k in range(8, 34)]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depth", range(6))
def test_valid_sizes_are_those_that_the_steps_allow(depth, padding):
    for size in range(1, 1000):
        steps = simulate(size, depth, padding)
        assert geometry.is_valid_input(size, depth, padding) == (steps is not None)
        if steps is not None:
            down, up, _ = steps
            assert geometry.output_size(size, depth, padding) == (up or down)[-1]


@settings(max_examples=200)
@given(size=st.integers(1, 5000), depth=st.integers(0, 5), padding=st.sampled_from(["valid", "same"]))
def test_nearest_valid_sizes(size, depth, padding):
    below, above = geometry.nearest_valid_sizes(size, depth, padding)
    assert geometry.is_valid_input(above, depth, padding)
    assert above >= size
    assert not any(geometry.is_valid_input(n, depth, padding) for n in range(size, above))
    if below is None:
        assert size < geometry.smallest_input(depth, padding) == above
    else:
        assert geometry.is_valid_input(below, depth, padding)
        assert below <= size
        assert not any(geometry.is_valid_input(n, depth, padding) for n in range(below + 1, size + 1))


@settings(max_examples=200)
@given(size=st.integers(1, 2000), depth=st.integers(0, 5), padding=st.sampled_from(["valid", "same"]))
def test_input_size_for_output_is_the_smallest_that_is_enough(size, depth, padding):
    whole = geometry.input_size_for_output(size, depth, padding)
    assert geometry.output_size(whole, depth, padding) >= size
    smaller, _ = geometry.nearest_valid_sizes(whole - 1, depth, padding)
    assert smaller is None or geometry.output_size(smaller, depth, padding) < size


def test_the_network_goes_through_the_sizes_of_the_paper(monkeypatch):
    """The real network at 572×572, with one channel; the heights that the ops give, in their order."""
    from tinyunet import ops

    heights = {"conv2d": [], "max_pool2d": [], "conv_transpose2d": [], "crop_concat": []}
    for name, seen in heights.items():
        op = getattr(ops, name)

        def watched(*inputs, op=op, seen=seen, **options):
            y = op(*inputs, **options)
            seen.append(y.shape[1])
            return y

        monkeypatch.setattr(ops, name, watched)
    with tu.no_grad():
        y = tu.UNet(base_channels=1).eval()(tu.Tensor(np.zeros((1, 572, 572, 1), np.float32)))
    assert y.shape == (1, 388, 388, 2)
    convolved = [570, 568, 282, 280, 138, 136, 66, 64, 30, 28, 54, 52, 102, 100, 198, 196, 390, 388, 388]
    assert heights["conv2d"] == convolved
    assert heights["max_pool2d"] == [284, 140, 68, 32]
    assert heights["conv_transpose2d"] == heights["crop_concat"] == [56, 104, 200, 392]


@pytest.mark.parametrize(
    ("depth", "padding", "further"),
    [(0, "valid", 0), (1, "valid", 0), (2, "valid", 0), (1, "same", 0), (2, "same", 2)],
)
def test_the_halo_is_how_far_a_block_sees(depth, padding, further):
    """A NaN spreads as far as its pixel counts: into a block from there, not from one pixel further.

    In float64 on the NumPy backend: a fast convolution may spread it over pixels that do not depend on it.
    """
    model = as_float64(tu.UNet(base_channels=2, depth=depth, padding=padding)).eval()
    halo, step = geometry.halo(depth) + further, 2**depth
    whole = geometry.nearest_valid_sizes(4 * halo + 4 * step, depth, padding)[1]
    cut = geometry.shrink(depth, padding) // 2
    first = (whole // 2 - cut) // step * step  # of a block in the middle, in pixels of the output
    last = first + step - 1
    for distance, counts in ((halo, True), (halo + 1, False)):
        for place in (first - distance, last + distance):
            image = np.zeros((1, whole, whole, 1))
            image[0, place + cut, whole // 2] = np.nan
            with tu.use_backend("numpy"), tu.no_grad():
                y = model(tu.Tensor(image)).data
            assert np.isnan(y[0, first : last + 1]).any() == counts


@pytest.mark.parametrize(
    ("size", "padding", "below", "above"),
    [(512, "valid", "508", "524"), (100, "valid", "none", "188"), (250, "same", "240", "256")],
)
def test_the_error_names_the_nearest_sizes(size, padding, below, above):
    message = (
        rf"{size} pixels(?s:.)*nearest smaller +{below}\n +nearest larger +{above}\n(?s:.)*predict_tiled"
    )
    with pytest.raises(ShapeError, match=message):
        geometry.output_size(size, 4, padding)
