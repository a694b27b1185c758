"""Max-pooling against PyTorch and finite differences; ties, NaN and odd sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import ELEMENTWISE, assert_equals_torch, random_arrays

import tinyunet as tu
from tinyunet.backend import to_host
from tinyunet.errors import ShapeError


@pytest.mark.parametrize("shape", ELEMENTWISE)
def test_equals_torch(kernel_dtype, shape):
    assert_equals_torch("max_pool2d", random_arrays([shape], kernel_dtype))


def test_ties_go_to_the_first_as_in_torch(kernel_dtype):
    """With the values -1, 0 and 1 nearly every window has a tie; so has a window of -0.0 and 0.0."""
    x = np.random.default_rng(0).integers(-1, 2, (2, 12, 14, 3)).astype(kernel_dtype)
    x[0, :2, :2, 0] = [[-0.0, 0.0], [0.0, -0.0]]
    assert_equals_torch("max_pool2d", [x])


@given(n=st.integers(1, 3), height=st.integers(1, 6), width=st.integers(1, 6), channels=st.integers(1, 35))
def test_equals_torch_for_any_shape(backend, n, height, width, channels):
    assert_equals_torch("max_pool2d", random_arrays([(n, 2 * height, 2 * width, channels)], np.float64))


def test_gradients_equal_finite_differences(backend):
    x = np.random.default_rng(0).permutation(2 * 4 * 6 * 3).reshape(2, 4, 6, 3) / 10.0  # no ties
    assert tu.gradcheck(tu.max_pool2d, [tu.Tensor(x, requires_grad=True)])


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_nan_is_the_maximum(kernel_dtype, place):
    """In channels that fill a vector register, and in one beside them."""
    x = np.ones((1, 4, 4, 33), kernel_dtype)
    x[(0, *place, [5, 32])] = np.nan
    tensor = tu.Tensor(x, requires_grad=True)
    y = tu.max_pool2d(tensor)
    assert np.argwhere(np.isnan(y.numpy())).tolist() == [[0, 0, 0, 5], [0, 0, 0, 32]]
    y.backward(np.ones(y.shape))
    for channel in (5, 32):
        window = to_host(tensor.grad)[0, :2, :2, channel]
        assert window[place] == window.sum() == 1


def test_minus_infinity_is_a_value(kernel_dtype):
    y = tu.max_pool2d(tu.Tensor(np.full((1, 2, 2, 1), -np.inf, kernel_dtype)))
    assert y.item() == -np.inf


@pytest.mark.parametrize("size", [(7, 8), (8, 11), (0, 4)])
def test_odd_and_empty_sizes_are_refused(size):
    with pytest.raises(ShapeError, match=f"{size[0]} and {size[1]}"):
        tu.max_pool2d(tu.Tensor(np.zeros((1, *size, 2), np.float32)))
