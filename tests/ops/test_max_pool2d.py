"""Max-pooling against PyTorch and finite differences; ties, NaN and odd sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import DTYPES, assert_equals_torch, random_arrays

import tinyunet as tu
from tinyunet.errors import ShapeError


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_torch(backend, dtype):
    assert_equals_torch("max_pool2d", random_arrays([(2, 6, 10, 3)], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_first_as_in_torch(backend, dtype):
    """Of the values -1, 0 and 1, nearly every window has a tie; a whole window of -0.0 and 0.0 is one too."""
    x = np.random.default_rng(0).integers(-1, 2, (2, 12, 14, 3)).astype(dtype)
    x[0, :2, :2, 0] = [[-0.0, 0.0], [0.0, -0.0]]
    assert_equals_torch("max_pool2d", [x])


@given(n=st.integers(1, 3), height=st.integers(1, 6), width=st.integers(1, 6), channels=st.integers(1, 5))
def test_equals_torch_for_any_shape(backend, n, height, width, channels):
    assert_equals_torch("max_pool2d", random_arrays([(n, 2 * height, 2 * width, channels)], np.float64))


def test_gradients_equal_finite_differences(backend):
    x = np.random.default_rng(0).permutation(2 * 4 * 6 * 3).reshape(2, 4, 6, 3) / 10.0  # no ties
    assert tu.gradcheck(tu.max_pool2d, [tu.Tensor(x, requires_grad=True)])


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_nan_is_the_maximum(backend, place):
    x = np.ones((1, 4, 4, 1), np.float32)
    x[(0, *place, 0)] = np.nan
    tensor = tu.Tensor(x, requires_grad=True)
    y = tu.max_pool2d(tensor)
    assert np.isnan(y.data[0, 0, 0, 0])
    assert np.isnan(y.data).sum() == 1
    y.backward(np.ones(y.shape))
    assert tensor.grad[(0, *place, 0)] == 1


def test_minus_infinity_is_a_value(backend):
    y = tu.max_pool2d(tu.Tensor(np.full((1, 2, 2, 1), -np.inf, np.float32)))
    assert y.data.item() == -np.inf


@pytest.mark.parametrize("size", [(7, 8), (8, 11), (0, 4)])
def test_odd_and_empty_sizes_are_refused(size):
    with pytest.raises(ShapeError, match=f"must be even, x has {size[0]} and {size[1]}"):
        tu.max_pool2d(tu.Tensor(np.zeros((1, *size, 2), np.float32)))
