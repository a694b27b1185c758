"""Sizes: the paper's, and those of a simulation that takes each step of the network."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import as_float64

import tinyunet as tu
from tinyunet.errors import ShapeError
from tinyunet.models import geometry

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
    paper = geometry.unet(4)
    assert paper.output_size(572) == 388
    assert (paper.shrink, paper.halo) == (184, 92)
    valid = [n for n in range(600) if paper.takes(n)]
    assert valid == [16 * k + 60 for k in range(8, 34)]
    assert valid[:2] == [188, 204]
    assert [paper.output_size(n) for n in valid] == [16 * k - 124 for k in range(8, 34)]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depth", range(6))
def test_valid_sizes_are_those_that_the_steps_allow(depth, padding):
    sides = geometry.unet(depth, padding)
    for size in range(1, 1000):
        steps = simulate(size, depth, padding)
        assert sides.takes(size) == (steps is not None)
        if steps is not None:
            down, up, _ = steps
            assert sides.output_size(size) == (up or down)[-1]


GEOMETRIES = st.builds(
    geometry.Geometry, st.integers(1, 300), st.integers(1, 64), st.integers(0, 200), st.integers(0, 200)
)


@settings(max_examples=200)
@given(size=st.integers(1, 5000), sides=GEOMETRIES)
def test_nearest_inputs(size, sides):
    below, above = sides.nearest_inputs(size)
    assert sides.takes(above)
    assert above >= size
    assert not any(sides.takes(n) for n in range(size, above))
    if below is None:
        assert size < sides.smallest == above
    else:
        assert sides.takes(below)
        assert below <= size
        assert not any(sides.takes(n) for n in range(below + 1, size + 1))


@settings(max_examples=200)
@given(size=st.integers(1, 2000), sides=GEOMETRIES)
def test_input_for_output_is_the_smallest_that_is_enough(size, sides):
    whole = sides.input_for_output(size)
    assert sides.output_size(whole) >= size
    smaller, _ = sides.nearest_inputs(whole - 1)
    assert smaller is None or sides.output_size(smaller) < size


def test_the_network_goes_through_the_sizes_of_the_paper(wrap_op):
    """The real network at 572×572, with one channel; the heights that the ops give, in their order."""
    heights = {"conv2d": [], "max_pool2d": [], "conv_transpose2d": [], "crop_concat": []}

    def watch(op):
        def watched(*inputs, **options):
            y = op(*inputs, **options)
            heights[op.__name__].append(y.shape[1])
            return y

        return watched

    for name in heights:
        wrap_op(name, watch)
    with tu.no_grad():
        y = tu.UNet(base_channels=1).eval()(tu.Tensor(np.zeros((1, 572, 572, 1), np.float32)))
    assert y.shape == (1, 388, 388, 2)
    convolved = [570, 568, 282, 280, 138, 136, 66, 64, 30, 28, 54, 52, 102, 100, 198, 196, 390, 388, 388]
    assert heights["conv2d"] == convolved
    assert heights["max_pool2d"] == [284, 140, 68, 32]
    assert heights["conv_transpose2d"] == heights["crop_concat"] == [56, 104, 200, 392]


@pytest.mark.parametrize(
    ("depth", "padding", "sight"),
    [(0, "valid", 2), (1, "valid", 8), (2, "valid", 20), (1, "same", 8), (2, "same", 22)],
)
def test_the_halo_is_how_far_a_block_sees(depth, padding, sight):
    """A NaN spreads as far as its pixel counts: into a block from there, not from one pixel further.

    In float64 on the NumPy backend: a fast convolution may spread it over pixels that do not depend on it.
    """
    model = as_float64(tu.UNet(base_channels=2, depth=depth, padding=padding)).eval()
    sides, step = model.geometry, 2**depth
    assert sight <= sides.halo
    whole = sides.nearest_inputs(4 * sight + 4 * step)[1]
    cut = sides.shrink // 2
    first = (whole // 2 - cut) // step * step  # of a block in the middle, in pixels of the output
    last = first + step - 1
    for distance, counts in ((sight, True), (sight + 1, False)):
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
    with pytest.raises(ShapeError, match=rf"{size}(?s:.)*{below}(?s:.)*{above}"):
        geometry.unet(4, padding).output_size(size)
