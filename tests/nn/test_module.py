"""Modules: names, modes, loading; layers: shapes and the variance at the start."""

import numpy as np
import pytest
import torch
from oracle import TORCH, as_float64, assert_close
from torch.nn import functional as F

import tinyunet as tu
from tinyunet.errors import CheckpointError
from tinyunet.nn import Buffer, Conv2d, ConvTranspose2d, Module, NormalisedConv2d, Parameter


class Network(Module):
    """One parameter and one buffer of its own, a list of modules and a module."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.count = Buffer(np.ones(2, np.float32))
        self.layers = [Conv2d(2, 3, 3, rng=rng), NormalisedConv2d(3, 4, 1, rng=rng)]
        self.scale = Parameter(np.ones(1, np.float32))
        self.up = ConvTranspose2d(4, 2, rng=rng)
        self.not_a_parameter = tu.Tensor(np.ones(1), requires_grad=True)


NAMES = [
    "scale",
    "layers.0.weight",
    "layers.0.bias",
    "layers.1.weight",
    "layers.1.scale",
    "layers.1.shift",
    "up.weight",
    "up.bias",
]
BUFFERS = ["count", "layers.1.mean", "layers.1.variance"]


def test_names():
    network = Network()
    assert [name for name, _ in network.named_parameters()] == NAMES
    assert network.parameters()[1] is network.layers[0].weight
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert [name for name, _ in network.named_buffers()] == BUFFERS
    assert not any(buffer.requires_grad for _, buffer in network.named_buffers())


def test_train_and_eval_reach_all_parts():
    """And the parts of parts."""
    whole, network = Module(), Network()
    whole.parts = [network]
    modules = (whole, network, *network.layers, network.up)
    assert all(module.training for module in modules)
    assert whole.eval() is whole
    assert not any(module.training for module in modules)
    assert whole.train() is whole
    assert all(module.training for module in modules)


def test_state_dict_is_the_arrays_themselves():
    network = Network()
    state = network.state_dict()
    assert list(state) == NAMES + BUFFERS
    assert state["layers.1.mean"] is network.layers[1].mean.data
    assert state["layers.1.weight"] is network.layers[1].weight.data


def test_load_state_dict_copies_and_converts():
    network = Network()
    state = {
        name: np.full(array.shape, i + 0.5) for i, (name, array) in enumerate(network.state_dict().items())
    }
    kept = network.layers[0].weight.data
    network.load_state_dict(state)
    for i, (name, array) in enumerate(network.state_dict().items()):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, i + 0.5)
        assert not np.shares_memory(array, state[name])
    assert network.layers[0].weight.data is kept, "in place: an optimiser may hold it"


def changed(change):
    state = {name: np.full_like(array, 7) for name, array in Network().state_dict().items()}
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("up.bias"), r"missing +\['up\.bias'\]"),
        (lambda s: s.update(extra=np.zeros(1)), r"unknown +\['extra'\]"),
        (lambda s: s.update({"up.weight": np.zeros((2, 2, 2, 4))}), r"up\.weight(?s:.)*\(2, 2, 2, 4\)"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    network = Network()
    before = {name: array.copy() for name, array in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        network.load_state_dict(changed(change))
    for name, array in network.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_conv2d_layer_is_the_op():
    layer = Conv2d(2, 3, 3, padding=1, relu=True, rng=np.random.default_rng(0))
    layer.bias.data[:] = [1, -2, 3]
    x = tu.Tensor(np.random.default_rng(1).standard_normal((2, 5, 4, 2)).astype(np.float32))
    expected = tu.conv2d(x, layer.weight, layer.bias, padding=1, relu=True)
    np.testing.assert_array_equal(layer(x).data, expected.data)
    assert layer(x).shape == (2, 5, 4, 3)


def normalised():
    """A layer as it is after some training, and its input."""
    rng = np.random.default_rng(0)
    layer = as_float64(NormalisedConv2d(2, 3, 3, padding=1, relu=True, rng=rng))
    layer.scale.data[:], layer.shift.data[:] = [1, -2, 3], [0.5, 0.25, -1]
    layer.mean.data[:], layer.variance.data[:] = [0.3, -4, 7], [0.5, 2, 9]
    return layer, tu.Tensor(rng.standard_normal((2, 5, 4, 2)))


@pytest.mark.parametrize("training", [False, True])
def test_normalised_conv2d_layer_equals_torch(backend, training):
    """In training by the map's own statistics, which it hands over and does not keep; then by its buffers."""
    layer, x = normalised()
    p = {name: torch.tensor(array) for name, array in layer.state_dict().items()}
    y = TORCH["conv2d"](torch.tensor(x.data), p["weight"], padding=1).permute(0, 3, 1, 2)
    fixed = (None, None) if training else (p["mean"], p["variance"])
    expected = torch.relu(F.batch_norm(y, *fixed, p["scale"], p["shift"], training)).permute(0, 2, 3, 1)
    assert_close(layer.train(training)(x).data, expected.numpy())
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, p[name].numpy())

    found = []
    layer.on_statistics = lambda *statistics: found.append(statistics)
    layer.eval()(x)
    ((mean, variance),) = found
    assert_close(mean, y.mean(dim=(0, 2, 3)).numpy())
    assert_close(variance, y.var(dim=(0, 2, 3), correction=0).numpy())


def test_a_normalised_layer_predicts_each_part_of_an_image_alike(backend):
    layer, x = normalised()
    layer.eval().padding = 0
    whole, part = layer(x).data, layer(tu.Tensor(np.ascontiguousarray(x.data[:1, 1:, :3]))).data
    np.testing.assert_allclose(part, whole[:1, 1:, :1], rtol=1e-12)


def test_conv_transpose2d_layer_is_the_op():
    layer = ConvTranspose2d(2, 3, relu=True, rng=np.random.default_rng(0))
    layer.bias.data[:] = [1, -2, 3]
    x = tu.Tensor(np.random.default_rng(1).standard_normal((2, 5, 4, 2)).astype(np.float32))
    expected = tu.conv_transpose2d(x, layer.weight, layer.bias, relu=True)
    np.testing.assert_array_equal(layer(x).data, expected.data)
    assert layer(x).shape == (2, 10, 8, 3)


@pytest.mark.parametrize(
    ("layer", "variance"),
    [
        (lambda rng: Conv2d(64, 128, 3, rng=rng), 2 / (9 * 64)),
        (lambda rng: Conv2d(256, 128, 1, rng=rng), 2 / 256),
        (lambda rng: ConvTranspose2d(256, 128, rng=rng), 2 / (4 * 128)),
    ],
    ids=["3×3", "1×1", "up"],
)
def test_initial_weights(layer, variance):
    """Normal, of variance 2/N: mean, variance and kurtosis lie within five of their standard deviations."""
    layer = layer(np.random.default_rng(0))
    weight = layer.weight.data.astype(np.float64).ravel() / np.sqrt(variance)
    assert layer.weight.dtype == np.float32
    assert abs(weight.mean()) < 5 / np.sqrt(weight.size)
    assert abs((weight**2).mean() - 1) < 5 * np.sqrt(2 / weight.size)
    assert abs((weight**4).mean() - 3) < 5 * np.sqrt(96 / weight.size)
    assert not layer.bias.data.any()
