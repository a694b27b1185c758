"""The FCN: its parameters, its agreement with one in PyTorch, upsampling, receptive field and errors."""

import numpy as np
import pytest
import torch
from oracle import as_float64, assert_network_equals_torch, randomised
from torch.nn import functional as F

import tinyunet as tu
from tinyunet.errors import OptionError, ShapeError


def test_parameter_names_and_shapes():
    model = tu.FCN(2, 3, base_channels=4, depth=4)
    shapes = {name: array.shape for name, array in model.state_dict().items() if name.endswith("weight")}
    assert shapes == {
        "contracting.0.first.weight": (3, 3, 2, 4),
        "contracting.0.second.weight": (3, 3, 4, 4),
        "contracting.1.first.weight": (3, 3, 4, 8),
        "contracting.1.second.weight": (3, 3, 8, 8),
        "contracting.2.first.weight": (3, 3, 8, 16),
        "contracting.2.second.weight": (3, 3, 16, 16),
        "contracting.3.first.weight": (3, 3, 16, 32),
        "contracting.3.second.weight": (3, 3, 32, 32),
        "bottom.0.weight": (3, 3, 32, 32),
        "bottom.1.weight": (1, 1, 32, 32),
        "scores.0.weight": (1, 1, 16, 3),  # of stride 8
        "scores.1.weight": (1, 1, 32, 3),
        "up.0.weight": (4, 4, 3, 3),
        "up.1.weight": (4, 4, 3, 3),
        "up.2.weight": (4, 4, 3, 3),
        "up.3.weight": (4, 4, 3, 3),
    }


def test_as_large_as_the_u_net_that_it_is_compared_with():
    """1.84 against 1.94 million parameters at a width of 16."""
    fcn, unet = (
        sum(p.data.size for p in model(base_channels=16).parameters()) for model in (tu.FCN, tu.UNet)
    )
    assert 0.9 < fcn / unet < 1


@pytest.mark.parametrize(("depth", "size"), [(3, (24, 40)), (4, (32, 16)), (5, (64, 32))])
def test_equals_an_fcn_in_torch(backend, depth, size):
    model = tu.FCN(3, 4, base_channels=3, depth=depth, dropout=0)
    assert_network_equals_torch(as_float64(randomised(model)), size)


def test_equals_an_fcn_in_torch_in_float32(backend):
    assert_network_equals_torch(randomised(tu.FCN(base_channels=8, depth=4, dropout=0)), (48, 32))


def test_the_upsampling_starts_as_bilinear():
    """Compared with torch's interpolation inside: at the edge theirs repeats pixels, ours sees zeros."""
    model = tu.FCN(num_classes=3, base_channels=1)
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 3)).astype(np.float32)
    expected = F.interpolate(torch.tensor(x).permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")
    for up in model.up:
        np.testing.assert_allclose(
            up(tu.Tensor(x)).data[:, 1:-1, 1:-1],
            expected.permute(0, 2, 3, 1).numpy()[:, 1:-1, 1:-1],
            rtol=0,
            atol=1e-6,
        )


def test_all_initial_scores_are_zero():
    """As in the paper: the loss is that of guessing, and yet the scores can learn."""
    model = tu.FCN(num_classes=3, base_channels=2)
    x = tu.Tensor(np.random.default_rng(0).standard_normal((1, 32, 32, 1)).astype(np.float32))
    y = model(x)
    assert not y.data.any()
    loss = tu.softmax_cross_entropy(y, np.zeros((1, 32, 32), int))
    assert loss.item() == pytest.approx(np.log(3), rel=1e-6)
    loss.backward()
    assert all(score.weight.grad.any() for score in model.scores)


def test_scores_of_stride_8_are_interpolated():
    """The finest scores alone: the output of the initial network varies as slowly as they do."""
    model = tu.FCN(base_channels=2, dropout=0)
    model.scores[0].weight.data[...] = np.random.default_rng(1).standard_normal((1, 1, 8, 2))
    x = tu.Tensor(np.random.default_rng(0).standard_normal((1, 64, 64, 1)).astype(np.float32))
    y = model(x).data
    coarse = y[:, 4::8, 4::8]
    assert np.ptp(coarse) > 0.1
    assert np.abs(np.diff(y, axis=1)).max() < np.ptp(coarse) / 4


@pytest.mark.parametrize("depth", [3, 4])
def test_the_halo_is_how_far_a_block_sees(depth):
    """A NaN spreads as far as its pixel counts: 4 · 2^depth - 2 pixels into a block, not from one further.

    In float64 on the NumPy backend: a fast convolution may spread it over pixels that do not depend on it.
    """
    model, step = as_float64(tu.FCN(base_channels=2, depth=depth)).eval(), 2**depth
    sight = 4 * step - 2
    assert model.geometry.halo - step < sight <= model.geometry.halo
    whole, first, last = 10 * step, 5 * step, 6 * step - 1
    for distance, counts in ((sight, True), (sight + 1, False)):
        for place in (first - distance, last + distance):
            image = np.zeros((1, whole, step, 1))
            image[0, place, step // 2] = np.nan
            with tu.use_backend("numpy"), tu.no_grad():
                y = model(tu.Tensor(image)).data
            assert np.isnan(y[0, first : last + 1]).any() == counts


@pytest.mark.parametrize("depth", [3, 5])
def test_multiplications_are_those_of_the_ops(count_multiplications, depth):
    model = tu.FCN(3, 4, base_channels=5, depth=depth)
    assert model.multiplications(64, 32) == count_multiplications(model, 64, 32)


def test_multiplications_by_hand():
    """One channel wide, one image of 8 × 8 pixels, of which 1 is left at the end."""
    contracting = 64 * 9 * 2 + 16 * 9 * (2 + 4) + 4 * 9 * (8 + 16)
    end = (9 * 4 * 4 + 4 * 4) + 4 * 2
    up = 16 * 2 * 2 * (1 + 4 + 16)
    assert tu.FCN(base_channels=1, depth=3).multiplications(8, 8) == contracting + end + up


def test_dropout_at_the_end_of_the_contracting_path_in_training_only(wrap_op):
    seen = []
    wrap_op("dropout", lambda op: lambda x, p, rng: seen.append((x.shape, p)) or x)
    model = tu.FCN(base_channels=1, depth=3, dropout=0.3)
    x = tu.Tensor(np.zeros((1, 16, 8, 1), np.float32))
    model(x)
    assert seen == [((1, 2, 1, 4), 0.3)] * 2
    model.eval()(x)
    assert len(seen) == 2


def test_inputs_that_do_not_fit():
    model = tu.FCN(in_channels=3, base_channels=1)
    with pytest.raises(ShapeError, match=r"60(?s:.)*32(?s:.)*64"):
        model(tu.Tensor(np.zeros((1, 64, 60, 3), np.float32)))
    with pytest.raises(ShapeError, match=r"\(1, 64, 64, 1\)"):
        model(tu.Tensor(np.zeros((1, 64, 64, 1), np.float32)))


@pytest.mark.parametrize(
    ("option", "value"),
    [("in_channels", 0), ("num_classes", 1), ("base_channels", 0), ("depth", 2), ("dropout", 1)],
)
def test_options_out_of_range(option, value):
    with pytest.raises(OptionError, match=f"{option} is {value}"):
        tu.FCN(**{option: value})
