"""The interface of every network for the trainer, overlap-tile and checkpoints."""

from typing import get_args

import numpy as np
import pytest
from oracle import DTYPES, assert_close, randomised

import tinyunet as tu
from tinyunet.errors import OptionError
from tinyunet.models import MODELS, ModelName, make_network
from tinyunet.ops.targets import checked_pixels

SMALL = {"unet": {"depth": 1}, "fcn": {"depth": 3}, "sliding-window": {"depth": 1}}


def small(name):
    return make_network(name, in_channels=2, num_classes=3, base_channels=2, **SMALL[name]).eval()


def test_the_names_that_the_commands_take():
    assert list(get_args(ModelName)) == list(MODELS) == list(SMALL)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_made_from_its_options_alone(name):
    options = MODELS[name].options()
    assert {"in_channels", "num_classes", "base_channels", "depth", "seed"} <= options.keys()
    model = make_network(name, **{**options, "base_channels": 1})
    assert isinstance(model, MODELS[name])
    assert (model.in_channels, model.num_classes) == (1, 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unet", {"base_channels": 64, "depth": 4, "padding": "valid", "dropout": 0.5, "variant": "paper"}),
        ("fcn", {"base_channels": 64, "depth": 5, "dropout": 0.5}),
        ("sliding-window", {"base_channels": 48, "depth": 4, "neurons": 200}),
    ],
)
def test_defaults_are_those_of_its_paper(name, expected):
    """The dropout probability is the common one: the U-Net's paper does not give it."""
    options = MODELS[name].options()
    assert {option: options[option] for option in expected} == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, options) for name, options in SMALL.items()),
        ("unet", {"depth": 0}),
        ("unet", {"depth": 3, "variant": "release", "padding": "same", "in_channels": 3}),
        ("unet", {"depth": 2, "normalisation": "batch"}),
        ("fcn", {"depth": 4, "num_classes": 5}),
        ("sliding-window", {"depth": 3, "neurons": 7, "in_channels": 3}),
    ],
)
def test_the_shapes_are_known_before_the_network_is_made(name, options):
    options = {**MODELS[name].options(), "base_channels": 3, **options}
    model = make_network(name, **options)
    made = [(part, parameter.shape) for part, parameter in model.named_parameters()]
    assert list(MODELS[name].shapes_of(options)) == made
    assert list(MODELS[name].buffers_of(options)) == [(part, b.shape) for part, b in model.named_buffers()]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("option", "value"),
    [("depth", 1_000_000), ("base_channels", 10**6), ("num_classes", 10**12), ("seed", -1)],
)
def test_what_no_memory_holds_is_refused_before_weights_are_drawn(name, option, value, monkeypatch):
    monkeypatch.setattr("tinyunet.nn.layers.he_normal", None)
    with pytest.raises(OptionError):
        make_network(name, **{option: value})


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_determines_the_initial_weights(name):
    one, same, other = (make_network(name, base_channels=2, seed=seed, **SMALL[name]) for seed in (1, 1, 2))
    for parameter, array in one.state_dict().items():
        np.testing.assert_array_equal(array, same.state_dict()[parameter])
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert not all(np.array_equal(a.data, b.data) for a, b in pairs)


@pytest.mark.parametrize("name", MODELS)
def test_the_output_is_as_large_as_the_geometry_says(name):
    model = small(name)
    sides = model.geometry
    for height, width in ((0, 1), (2, 0)):
        shape = (1, sides.smallest + height * sides.step, sides.smallest + width * sides.step, 2)
        output = model(tu.Tensor(np.zeros(shape, np.float32)))
        assert output.shape == (1, shape[1] - sides.shrink, shape[2] - sides.shrink, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_the_scores(backend, name, dtype):
    """The gradients are too."""
    model = randomised(small(name))
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(dtype)
    size = getattr(model, "window", model.geometry.smallest + model.geometry.step)
    rng = np.random.default_rng(0)
    x = tu.Tensor(rng.standard_normal((2, size, size, 2)).astype(dtype), requires_grad=True)
    target = rng.integers(0, 4, model(x).shape[:3])  # 3: not labelled
    weight = rng.uniform(0.5, 5, target.shape)
    pixels = checked_pixels("test", target, weight, 3, ignore_label=3, dtype=dtype)
    results = []
    for loss_of in (
        lambda: model.loss(x, *pixels),
        lambda: tu.softmax_cross_entropy(model(x), target, weight, ignore_label=3),
    ):
        tensors = [x, *model.parameters()]
        for tensor in tensors:
            tensor.grad = None
        loss = loss_of()
        loss.backward()
        results.append([loss.data, *(tensor.grad for tensor in tensors)])
    for ours, expected in zip(*results, strict=True):
        assert np.abs(expected).max() > 0
        assert_close(ours, expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_halo_is_enough(name):
    """A block on the grid is the same whatever lies beyond the halo around it."""
    model = randomised(small(name))
    sides, rng = model.geometry, np.random.default_rng(0)
    step, cut = sides.step, sides.halo - sides.shrink // 2
    whole = sides.nearest_inputs(step + 2 * sides.halo)[1]
    image = rng.standard_normal((1, whole + 2 * step, whole + 2 * step, 2)).astype(np.float32)
    alone = model(tu.Tensor(np.ascontiguousarray(image[:, step : step + whole, step : step + whole]))).data
    among = model(tu.Tensor(image)).data
    block = alone[:, cut : cut + step, cut : cut + step]
    assert np.ptp(block) > 0
    np.testing.assert_allclose(
        among[:, step + cut : 2 * step + cut, step + cut : 2 * step + cut], block, rtol=0, atol=1e-5
    )
