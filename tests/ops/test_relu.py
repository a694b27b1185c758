"""relu against PyTorch and finite differences; what it does at 0 and with NaN."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import ELEMENTWISE, assert_equals_torch, random_arrays

import tinyunet as tu


@pytest.mark.parametrize("shape", ELEMENTWISE)
def test_equals_torch(kernel_dtype, shape):
    assert_equals_torch("relu", random_arrays([shape], kernel_dtype))


def test_gradient_at_zero_is_zero_as_in_torch(kernel_dtype):
    assert_equals_torch("relu", [np.array([-1.0, -0.0, 0.0, 1.0], kernel_dtype)])


@given(shape=st.lists(st.integers(1, 5), max_size=5).map(tuple))
def test_equals_torch_for_any_shape(backend, shape):
    assert_equals_torch("relu", random_arrays([shape], np.float64))


def test_gradients_equal_finite_differences(backend):
    assert tu.gradcheck(tu.relu, [tu.Tensor(*random_arrays([(3, 5, 2)], np.float64), requires_grad=True)])


def test_nan_stays(kernel_dtype):
    y = tu.relu(tu.Tensor(np.array([np.nan, -np.inf, np.inf, -1.0], kernel_dtype))).numpy()
    np.testing.assert_array_equal(y, np.array([np.nan, 0, np.inf, 0], kernel_dtype))
