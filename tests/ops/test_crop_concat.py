"""The skip connection against PyTorch, finite differences and its adjoint."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import assert_equals_torch, random_arrays

import tinyunet as tu
from tinyunet.errors import DtypeError, ShapeError


@pytest.mark.parametrize(
    ("size", "skip_size"),
    [((4, 5), (7, 8)), ((6, 6), (6, 6)), ((1, 3), (10, 3)), ((7, 11), (15, 19))],
    ids=["odd", "no crop", "one side", "by 4"],
)
def test_equals_torch(kernel_dtype, size, skip_size):
    assert_equals_torch("crop_concat", random_arrays([(2, *size, 3), (2, *skip_size, 5)], kernel_dtype))


@given(
    n=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    more=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_equals_torch_for_any_shape(backend, n, height, width, more, channels):
    upsampled, skip = (n, height, width, channels[0]), (n, height + more[0], width + more[1], channels[1])
    assert_equals_torch("crop_concat", random_arrays([upsampled, skip], np.float64))


def test_gradients_equal_finite_differences(backend):
    inputs = random_arrays([(2, 2, 3, 2), (2, 4, 6, 1)], np.float64)
    assert tu.gradcheck(tu.crop_concat, [tu.Tensor(a, requires_grad=True) for a in inputs])


def test_adjoint(backend):
    """A linear op: <f(a, b), y> = <a, grad_a> + <b, grad_b> where the gradients belong to grad_output = y."""
    a, b = (tu.Tensor(x, requires_grad=True) for x in random_arrays([(2, 4, 5, 3), (2, 9, 8, 2)], np.float64))
    output = tu.crop_concat(a, b)
    y = np.random.default_rng(2).standard_normal(output.shape)
    output.backward(y)
    both = np.vdot(a.data, a.grad) + np.vdot(b.data, b.grad)
    np.testing.assert_allclose(np.vdot(output.data, y), both, rtol=1e-12)


def test_the_centre_of_a_numbered_map(backend):
    """6×6 into 2×2: rows and columns 2 and 3. The up-sampled channels come first."""
    skip = np.arange(36.0).reshape(1, 6, 6, 1)
    y = tu.crop_concat(tu.Tensor(np.full((1, 2, 2, 1), -1.0)), tu.Tensor(skip)).numpy()
    assert y[0].tolist() == [[[-1, 14], [-1, 15]], [[-1, 20], [-1, 21]]]


def test_inputs_that_do_not_fit():
    def tensor(*shape):
        return tu.Tensor(np.zeros(shape, np.float32))

    for sides in [(9, 7), (7, 9)]:
        with pytest.raises(ShapeError, match=rf"{sides[0]}, {sides[1]}"):
            tu.crop_concat(tensor(1, 8, 8, 2), tensor(1, *sides, 2))
    with pytest.raises(ShapeError, match="batch"):
        tu.crop_concat(tensor(1, 4, 4, 2), tensor(2, 8, 8, 2))
    with pytest.raises(ShapeError, match="skip"):
        tu.crop_concat(tensor(1, 4, 4, 2), tensor(8, 8, 2))
    with pytest.raises(DtypeError, match="float64"):
        tu.crop_concat(tensor(1, 4, 4, 2), tu.Tensor(np.zeros((1, 8, 8, 2))))
