"""The checker finds planted mistakes, says where they are, and is not misled by kinks."""

import re

import numpy as np
import pytest
from oracle import random_arrays

import tinyunet as tu
from tinyunet.autograd import Function, Tensor
from tinyunet.autograd.gradcheck import EACH_ELEMENT_UP_TO
from tinyunet.errors import DtypeError, GradientError


def cubed(change=lambda gradient: gradient):
    """x³ with a gradient that `change` spoils."""

    class Cubed(Function):
        def forward(self, x):
            self.save(x)
            return x**3

        def backward(self, grad_output):
            (x,) = self.saved
            return (change(3 * x**2 * grad_output),)

    return Cubed.apply


def at(index, factor):
    def change(gradient):
        gradient[index] *= factor
        return gradient

    return change


def tensor(shape, seed=0):
    return Tensor(*random_arrays([shape], np.float64, seed), requires_grad=True)


def test_a_right_gradient_passes():
    assert tu.gradcheck(cubed(), [tensor((3, 4))]) is True
    assert tu.gradcheck(cubed(), [tensor((40, 50))]) is True


def test_a_planted_mistake_is_named():
    """Input, index, both numbers and the step."""
    x, y = tensor((3, 4)), tensor((3, 4), seed=1)
    with pytest.raises(GradientError) as caught:
        tu.gradcheck(lambda x, y: tu.add(x, cubed(at((2, 1), -1))(y)), [x, y], eps=1e-5)
    message = str(caught.value)
    assert "input 1, index (2, 1)" in message
    names = ("backward", "difference quotient", "step")
    wrong, right, step = (float(re.search(rf"^ *{name} +(\S+)$", message, re.M)[1]) for name in names)
    assert wrong == pytest.approx(-right, rel=1e-5)
    assert step == 1e-5


@pytest.mark.parametrize("index", [(0, 0), (12, 49), (39, 3)])
def test_one_wrong_element_of_many_is_found(index):
    """A random direction contains all 2,000 elements; halving it finds the wrong one."""
    x = tensor((40, 50))
    x.data[index] = 1.3  # where the gradient is not small by chance
    with pytest.raises(GradientError, match=re.escape(f"input 0, index {index}")):
        tu.gradcheck(cubed(at(index, 1.01)), [x])


@pytest.mark.parametrize("factor", [0.9999, 1.0001])
def test_a_small_mistake_is_found(factor):
    with pytest.raises(GradientError):
        tu.gradcheck(cubed(lambda gradient: factor * gradient), [tensor((3, 4))])


def test_a_missing_gradient_is_a_gradient_of_zero():
    class Forgets(Function):
        def forward(self, x):
            return 2 * x

        def backward(self, grad_output):
            return (None,)

    with pytest.raises(GradientError, match=r"backward +0\.0"):
        tu.gradcheck(Forgets.apply, [tensor((3, 4))])


def test_only_inputs_that_require_a_gradient_are_checked():
    wrong = cubed(at(0, 2))
    constant = Tensor(np.ones(3))
    assert tu.gradcheck(lambda x, c: tu.add(x, wrong(c)), [tensor((3,)), constant])
    with pytest.raises(GradientError, match="input 1"):
        tu.gradcheck(lambda x, y: tu.add(x, wrong(y)), [tensor((3,)), tensor((3,), seed=1)])


def test_a_gradient_left_from_before_does_not_count():
    x = tensor((3,))
    x.grad = np.full(3, 100.0)
    assert tu.gradcheck(cubed(), [x])


def rectified(at_zero, above=1.0):
    """A ReLU whose gradient is `at_zero` at 0, and `above` where x > 0."""

    class Rectified(Function):
        def forward(self, x):
            self.save(x)
            return np.maximum(x, 0)

        def backward(self, grad_output):
            (x,) = self.saved
            return (np.select([x > 0, x == 0], [above, at_zero], 0.0) * grad_output,)

    return Rectified.apply


def with_zeros(shape):
    x = tensor(shape)
    x.data.flat[:: x.data.size // 3] = 0
    return x


SMALL, LARGE = (3, 4), (9, 10)
assert np.prod(SMALL) <= EACH_ELEMENT_UP_TO < np.prod(LARGE)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("at_zero", [0.0, 0.5, 1.0])
def test_any_slope_between_both_sides_of_a_kink_is_right(shape, at_zero):
    assert tu.gradcheck(rectified(at_zero), [with_zeros(shape)])


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("at_zero", [-3.0, 5.0])
def test_a_slope_outside_both_sides_of_a_kink_is_wrong(shape, at_zero):
    with pytest.raises(GradientError, match="disagree"):
        tu.gradcheck(rectified(at_zero), [with_zeros(shape)])


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_a_kink_does_not_hide_a_mistake_elsewhere(shape):
    with pytest.raises(GradientError, match="disagree"):
        tu.gradcheck(rectified(0.0, above=1.001), [with_zeros(shape)])


@pytest.mark.parametrize("seed", range(5))
def test_many_kinks_do_not_hide_one_wrong_element(seed):
    """Half of the elements at a kink, and one of the others 1 % off: too little for the first direction."""
    x = tensor(LARGE, seed)
    x.data.flat[::2] = 0
    index = np.unravel_index(2 * seed + 1, LARGE)
    x.data[index] = 1

    class AlmostRectified(Function):
        def forward(self, x):
            self.save(x)
            return np.maximum(x, 0)

        def backward(self, grad_output):
            (x,) = self.saved
            gradient = (x > 0) * grad_output
            gradient[index] *= 1.01
            return (gradient,)

    with pytest.raises(GradientError, match="disagree"):
        tu.gradcheck(AlmostRectified.apply, [x])


def test_relu_and_max_pool_at_their_kinks(backend):
    assert tu.gradcheck(tu.relu, [with_zeros((2, 6, 6, 3))])
    tied = tensor((2, 6, 6, 3))
    tied.data[:, :2, :2] = 0.5
    assert tu.gradcheck(tu.max_pool2d, [tied])


def test_kinks_everywhere_are_reported():
    with pytest.raises(GradientError, match="input 0 has a kink"):
        tu.gradcheck(tu.relu, [Tensor(np.zeros(LARGE), requires_grad=True)])


def test_float32_is_refused():
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    with pytest.raises(DtypeError, match="input 1 is float32"):
        tu.gradcheck(tu.add, [tensor((3,)), x])


def test_the_inputs_are_left_as_they_were():
    x = tensor((3, 4))
    before = x.data.copy()
    tu.gradcheck(cubed(), [x])
    np.testing.assert_array_equal(x.data, before)
