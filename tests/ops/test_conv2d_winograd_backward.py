"""All gradients of a narrow convolution in one pass: against float64, the steps, and its own bits."""

import numpy as np
import pytest
from oracle import random_arrays
from threads import assert_same_bits_for_any_number_of_threads

import tinyunet as tu
from tinyunet.ops import conv2d, conv2d_winograd, conv2d_winograd_backward
from tinyunet.ops.crop_concat import backward_numpy as cut
from tinyunet.ops.crop_concat import forward_numpy as concatenated

# As for Winograd's other passes, relative to the largest value: the cases below reach at most 1.8e-6. The
# sums for the bias, of at most 240 tiles in float32 and then in float64, reach 5e-7.
TOLERANCE = 1e-5

SHAPES = [  # n, height, width, channels, filters, padding
    (1, 70, 66, 16, 16, 0),
    (2, 45, 50, 32, 64, 1),  # both axes with tiles that are not full
    (3, 38, 39, 21, 40, 0),  # a last register that is not full
    (1, 131, 130, 9, 8, 1),  # 16 groups
    (1, 64, 65, 70, 20, 0),  # two panels
]
CROP = (2, 3)  # rows and columns above and left of the skip's centre


def arrays(n, height, width, channels, filters, padding):
    """x, weight, the output of a ReLU and its gradient, float32."""
    y_shape = (n, height + 2 * padding - 2, width + 2 * padding - 2, filters)
    shapes = [(n, height, width, channels), (3, 3, channels, filters), y_shape, y_shape]
    x, weight, y, grad = random_arrays(shapes, np.float32)
    return x, weight, np.maximum(y, 0), grad


def in_float64(x, weight, y, grad, padding):
    x, weight, grad = (a.astype(np.float64) for a in (x, weight, grad))
    return conv2d.backward_numpy(x, grad, y, weight, padding, True, True)


def assert_close(actual, expected):
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_float64(shape, relu):
    *given, padding = *arrays(*shape), shape[-1]
    x, weight, y, grad = given
    assert conv2d_winograd_backward.suits(x, weight, padding)
    with tu.use_backend("numba"):
        grads = conv2d.backward(x, grad, y if relu else None, weight, padding, True, True)
    expected = in_float64(x, weight, y if relu else None, grad, padding)
    for one, other in zip(grads, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("first", [8, 5])
def test_two_maps_have_the_bits_of_their_concatenation(first):
    x, weight, y, grad = arrays(1, 70, 66, 21, 16, 0)
    skip = np.zeros((1, 70 + 2 * CROP[0], 66 + 2 * CROP[1], 21 - first), np.float32)
    skip[:, CROP[0] : -CROP[0], CROP[1] : -CROP[1]] = x[..., first:]
    upsampled = np.ascontiguousarray(x[..., :first])
    np.testing.assert_array_equal(concatenated(upsampled, skip), x)
    grad_x, *others = conv2d_winograd_backward.backward(x, grad, y, weight, 0)
    joined = conv2d_winograd_backward.backward_joined(upsampled, skip, grad, y, weight, 0)
    for one, other in zip(joined, (*cut(grad_x, upsampled.shape, skip.shape), *others), strict=True):
        np.testing.assert_array_equal(one, other)


def test_same_bits_each_time_and_for_any_number_of_threads():
    x, weight, y, grad = arrays(1, 131, 130, 16, 24, 1)
    assert_same_bits_for_any_number_of_threads(
        lambda: conv2d_winograd_backward.backward(x, grad, y, weight, 1)
    )


def test_without_a_relu_the_gradient_of_x_has_the_bits_of_the_step():
    x, weight, _, grad = arrays(*SHAPES[0])
    grad_x, *_ = conv2d_winograd_backward.backward(x, grad, None, weight, 0)
    np.testing.assert_array_equal(grad_x, conv2d_winograd.backward_input(grad, weight, 0))


def test_a_nan_in_the_gradient_reaches_all_three():
    """A diverged training has to be noticed. Behind a ReLU that let nothing through, it is no gradient."""
    x, weight, y, grad = arrays(*SHAPES[0])
    y[0, 30, 30, 3], grad[0, 30, 30, 3] = 1, np.nan
    assert all(np.isnan(g).any() for g in conv2d_winograd_backward.backward(x, grad, y, weight, 0))
    y[0, 30, 30, 3] = 0
    assert not any(np.isnan(g).any() for g in conv2d_winograd_backward.backward(x, grad, y, weight, 0))


@pytest.mark.parametrize("needs", ["x", "weight", "x weight", "weight bias", "x weight bias"])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("channels", [16, 1])
def test_the_op_gives_each_gradient_that_is_asked_for(channels, relu, needs):
    """One channel takes the direct algorithm, in one pass where x needs no gradient."""
    x, weight, _, grad = arrays(1, 70, 66, channels, 16, 0)
    given = {"x": x, "weight": weight, "bias": np.linspace(-1, 1, 16, dtype=np.float32)}
    tensors = {name: tu.Tensor(a, requires_grad=name in needs.split()) for name, a in given.items()}
    with tu.use_backend("numba"):
        y = tu.conv2d(**tensors, relu=relu)
        y.backward(grad)
    expected = in_float64(x, weight, y.numpy() if relu else None, grad, 0)
    for (name, tensor), one in zip(tensors.items(), expected, strict=True):
        if name in needs.split():
            assert_close(tensor.grad, one)
        else:
            assert tensor.grad is None


@pytest.mark.parametrize(
    ("shape", "padding", "chosen"),
    [
        ((1, 64, 64, 16, 16), 0, True),
        ((1, 60, 64, 16, 16), 0, False),  # few tiles
        ((1, 64, 64, 64, 64), 0, False),  # products are most of the work
        ((1, 64, 64, 16, 16), 2, False),  # the tiles do not cover the gradient
        ((1, 64, 64, 4, 16), 0, False),  # by the direct algorithm
    ],
)
def test_choice(shape, padding, chosen):
    x, weight, _, _ = arrays(*shape, padding)
    assert conv2d_winograd_backward.suits(x, weight, padding) == chosen
    assert not conv2d_winograd_backward.suits(x.astype(np.float64), weight.astype(np.float64), padding)
    with tu.use_backend("numpy"):
        assert not conv2d.in_one_pass(x, weight, padding)
