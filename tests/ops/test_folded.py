"""A normalisation by fixed statistics, folded into the convolution before it, and its gradients."""

import numpy as np
import pytest
import torch
from oracle import assert_close, random_arrays
from torch.nn import functional as F

import tinyunet as tu
from tinyunet.backend import to_backend
from tinyunet.ops.batch_norm import EPSILON, folded

# An odd number of filters; several blocks of windows on every backend; more filters than a block has threads.
SHAPES = [(1, 1, 2, 3), (3, 3, 5, 7), (3, 3, 300, 21), (3, 3, 2, 300)]


def arrays(shape, dtype):
    """Weight, scale, shift, mean and variance."""
    *given, deviation = random_arrays([shape, *[shape[3:]] * 4], dtype)
    return [*given, deviation**2 + dtype(0.1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_torch(kernel_dtype, shape):
    *given, mean, variance = arrays(shape, kernel_dtype)
    ours = [tu.Tensor(array, requires_grad=True) for array in given]
    theirs = [torch.tensor(array, requires_grad=True) for array in given]
    found = folded(*ours, to_backend(mean), to_backend(variance))
    weight, scale, shift = theirs
    factor = scale / torch.sqrt(torch.tensor(variance) + EPSILON)
    expected = weight * factor, shift - torch.tensor(mean) * factor
    upper = random_arrays([shape, shape[3:]], kernel_dtype, seed=1)
    for name, one, other, up in zip(("weight", "bias"), found, expected, upper, strict=True):
        assert_close(one.data, other.detach().numpy(), name)
        one.backward(to_backend(up))
        other.backward(torch.tensor(up), retain_graph=True)
    for name, one, other in zip(("weight", "scale", "shift"), ours, theirs, strict=True):
        assert_close(one.grad, other.grad.numpy(), f"gradient of {name}")


def test_gradients_equal_finite_differences(backend):
    *given, mean, variance = arrays((3, 3, 2, 3), np.float64)
    leaves = [tu.Tensor(array, requires_grad=True) for array in given]
    for part in (0, 1):
        assert tu.gradcheck(lambda *tensors, part=part: folded(*tensors, mean, variance)[part], leaves)


def test_a_layer_in_evaluation_mode_learns_as_pytorchs(backend):
    rng = np.random.default_rng(0)
    layer = tu.nn.NormalisedConv2d(3, 5, 3, relu=True, rng=rng).eval()
    x, up = random_arrays([(1, 9, 8, 3), (1, 7, 6, 5)], np.float32)
    for tensor, array in zip((layer.scale, layer.shift, layer.mean), rng.normal(size=(3, 5)), strict=True):
        tensor.data[...] = array
    mine, parameters = tu.Tensor(x, requires_grad=True), [layer.weight, layer.scale, layer.shift]
    y = layer(mine)
    y.backward(up)
    theirs = [torch.tensor(tensor.data, requires_grad=True) for tensor in (mine, *parameters)]
    z = F.conv2d(theirs[0].permute(0, 3, 1, 2), theirs[1].permute(3, 2, 0, 1))
    mean, variance = torch.tensor(layer.mean.data), torch.tensor(layer.variance.data)
    z = F.relu(F.batch_norm(z, mean, variance, *theirs[2:], eps=EPSILON)).permute(0, 2, 3, 1)
    z.backward(torch.tensor(up))
    assert_close(y.data, z.detach().numpy(), "output")
    for one, other in zip((mine, *parameters), theirs, strict=True):
        assert_close(one.grad, other.grad.numpy(), "gradient")
