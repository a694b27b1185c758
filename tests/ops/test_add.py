"""add and the operator + against PyTorch and finite differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import ELEMENTWISE, assert_equals_torch, random_arrays

import tinyunet as tu
from tinyunet.errors import DtypeError, ShapeError


@pytest.mark.parametrize("shape", ELEMENTWISE)
def test_equals_torch(kernel_dtype, shape):
    assert_equals_torch("add", random_arrays([shape, shape], kernel_dtype))


@given(shape=st.lists(st.integers(1, 5), max_size=5).map(tuple))
def test_equals_torch_for_any_shape(backend, shape):
    assert_equals_torch("add", random_arrays([shape, shape], np.float64))


def test_gradients_equal_finite_differences(backend):
    inputs = [tu.Tensor(a, requires_grad=True) for a in random_arrays([(3, 4), (3, 4)], np.float64)]
    assert tu.gradcheck(tu.add, inputs)


def test_the_operator_is_the_op(backend):
    a, b = (tu.Tensor(x, requires_grad=True) for x in random_arrays([(3, 4), (3, 4)], np.float64))
    c = a + b
    np.testing.assert_array_equal(c.data, a.data + b.data)
    c.backward(2 * np.ones((3, 4)))
    for tensor in (a, b):
        np.testing.assert_array_equal(tensor.grad, 2 * np.ones((3, 4)))
    assert tu.gradcheck(lambda a, b: a + b, [a, b])


def test_the_first_line_of_micrograd():
    a, b = tu.Tensor([-4.0], requires_grad=True), tu.Tensor([2.0], requires_grad=True)
    c = a + b
    c.backward()
    assert (c.item(), a.grad.tolist(), b.grad.tolist()) == (-2, [1], [1])


def test_the_operator_takes_two_tensors_of_equal_shape():
    a = tu.Tensor(np.zeros((3, 4)))
    with pytest.raises(ShapeError):
        a + tu.Tensor(np.zeros(4))
    for other in (1.0, np.zeros((3, 4))):
        with pytest.raises(TypeError):
            a + other


def test_no_broadcasting():
    """As many elements in another shape are not enough either."""
    for shape in [(4,), (4, 3), (12,)]:
        with pytest.raises(ShapeError, match=r"\(3, 4\)"):
            tu.add(tu.Tensor(np.zeros((3, 4))), tu.Tensor(np.zeros(shape)))
    with pytest.raises(DtypeError, match="float32"):
        tu.add(tu.Tensor(np.zeros(4)), tu.Tensor(np.zeros(4, np.float32)))
