"""Gradients in place: added to and written over only where no one else has the array."""

import numpy as np
import pytest
import torch

import tinyunet as tu
from tinyunet.autograd import Function, Tensor
from tinyunet.errors import ShapeError
from tinyunet.ops.add import Add


class Sum(Function):
    """a + b, which hands the same array back for two inputs."""

    def forward(self, a, b):
        return a + b

    def backward(self, grad_output):
        return grad_output, grad_output


class Scale(Function):
    """3 a, whose gradient NumPy makes a number of if a has no axes."""

    def forward(self, a):
        return np.asarray(3 * a)

    def backward(self, grad_output):
        return (3 * grad_output,)


class Swap(Function):
    """The transposed rows and columns, whose gradient is new but lies in memory in another order."""

    returns_new = True

    def forward(self, a):
        return np.ascontiguousarray(a.transpose(0, 2, 1, 3))

    def backward(self, grad_output):
        return (1 * grad_output.transpose(0, 2, 1, 3),)


def whole_numbers(*shapes):
    """Tensors in float32 whose sums and products are not rounded, and the same for PyTorch."""
    rng = np.random.default_rng(0)
    numbers = [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes]
    return (
        [Tensor(array, requires_grad=True) for array in numbers],
        [torch.from_numpy(array.copy()).requires_grad_() for array in numbers],
    )


def test_an_array_given_to_two_inputs_is_not_added_to(backend):
    """More arrives for only one of them, from an op whose gradients are new."""
    (a, b), _ = whole_numbers((50,), (50,))
    rectified_a, rectified_b = tu.relu(a), tu.relu(b)
    more = tu.relu(rectified_a)
    tu.add(Sum.apply(rectified_a, rectified_b), more).backward(np.ones(50))
    np.testing.assert_array_equal(a.grad, 2 * (a.data > 0))
    np.testing.assert_array_equal(b.grad, b.data > 0)


def test_a_gradient_given_to_two_ops_is_overwritten_by_neither(backend):
    """A convolution may write the gradient before its ReLU over an array that no other op is given."""
    (x, *ours), (their_x, *theirs) = whole_numbers((1, 4, 4, 2), (1, 1, 2, 3), (1, 1, 2, 3))
    Sum.apply(*(tu.conv2d(x, weight, relu=True) for weight in ours)).backward(np.ones((1, 4, 4, 3)))
    sum(torch.relu(their_x @ weight[0, 0]) for weight in theirs).sum().backward()
    for tensor, expected in zip((x, *ours), (their_x, *theirs), strict=True):
        np.testing.assert_array_equal(tensor.grad, expected.grad.numpy())


@pytest.mark.parametrize("pooled", ["first", "last"])
@pytest.mark.parametrize("joined_by", ["conv2d", "a shared gradient"])
def test_a_map_that_is_pooled_and_goes_on_elsewhere(backend, pooled, joined_by):
    """Pooling may add its gradient in place to what a convolution sent, which no one else has."""
    (x, a, b), (their_x, their_a, their_b) = whole_numbers((1, 4, 4, 2), (1, 1, 2, 2), (1, 1, 2, 2))
    skip, other = tu.conv2d(x, a), tu.conv2d(x, b)
    steps = {
        "pool": lambda: tu.max_pool2d(skip),
        "elsewhere": lambda: tu.conv2d(skip, b) if joined_by == "conv2d" else Sum.apply(skip, other),
    }
    order = ["pool", "elsewhere"] if pooled == "first" else ["elsewhere", "pool"]
    made = {name: steps[name]() for name in order}
    large = tu.max_pool2d(made["elsewhere"])
    tu.add(made["pool"], large).backward(np.ones(large.shape))

    their_skip, their_other = their_x @ their_a[0, 0], their_x @ their_b[0, 0]
    elsewhere = their_skip @ their_b[0, 0] if joined_by == "conv2d" else their_skip + their_other
    pool = torch.nn.functional.max_pool2d
    (pool(their_skip.permute(0, 3, 1, 2), 2) + pool(elsewhere.permute(0, 3, 1, 2), 2)).sum().backward()
    for tensor, expected in zip((x, a, b), (their_x, their_a, their_b), strict=True):
        np.testing.assert_array_equal(tensor.grad, expected.grad.numpy())


def test_more_arrives_for_a_number(backend):
    """In any order; and the gradient of a leaf without axes is an array."""
    for order in (1, -1):
        x, y = (Tensor(np.float32(number), requires_grad=True) for number in (2, 5))
        rectified = tu.relu(x)
        tu.add(
            *[Scale.apply(tu.add(rectified, tu.relu(y))), tu.add(rectified, rectified)][::order]
        ).backward()
        assert (x.grad, y.grad) == (5, 3)
        assert isinstance(x.grad, np.ndarray)
    rectified = tu.relu(x)
    Scale.apply(tu.add(rectified, rectified)).backward()
    assert x.grad == 5 + 6


def test_gradients_in_another_order_of_memory(backend):
    """An op that writes over such an array, or adds to it, must not work on a copy of it."""
    (x, weight), (their_x, their_weight) = whole_numbers((1, 4, 5, 2), (1, 1, 2, 3))
    y = tu.conv2d(x, weight, Tensor(np.zeros(3, np.float32)), relu=True)
    tu.add(Swap.apply(y), Swap.apply(y)).backward(np.ones((1, 5, 4, 3)))
    (2 * torch.relu(their_x @ their_weight[0, 0])).sum().backward()
    for tensor, expected in ((x, their_x), (weight, their_weight)):
        np.testing.assert_array_equal(tensor.grad, expected.grad.numpy())


def test_a_subclass_with_another_backward_promises_nothing(backend):
    """The engine's add returns new arrays; this one returns the same array twice."""

    class CheapAdd(Add):
        def backward(self, grad_output):
            return grad_output, grad_output

    assert not CheapAdd.returns_new
    (a, b), _ = whole_numbers((50,), (50,))
    rectified_a = tu.relu(a)
    more = tu.relu(rectified_a)
    tu.add(CheapAdd.apply(rectified_a, tu.relu(b)), more).backward(np.ones(50))
    np.testing.assert_array_equal(b.grad, b.data > 0)


def test_a_gradient_of_another_shape_is_refused(backend):
    """Also one that NumPy would broadcast."""

    class Mean(Function):
        def forward(self, a):
            return a.mean(axis=0)

        def backward(self, grad_output):
            return (grad_output[np.newaxis] / 4,)

    x = Tensor(np.ones((4, 3)), requires_grad=True)
    for source in (x, tu.relu(x)):
        with pytest.raises(ShapeError, match="another shape than its input"):
            Mean.apply(source).backward(np.ones(3))


def test_a_leaf_is_reported_though_one_op_has_no_gradient_for_it(backend):
    class First(Function):
        def forward(self, a, b):
            return a.copy()

        def backward(self, grad_output):
            return grad_output, None

    a, b = (Tensor(np.ones(3), requires_grad=True) for _ in range(2))
    reported = []
    tu.add(First.apply(a, b), b).backward(np.ones(3), on_leaf=reported.append)
    assert {id(leaf) for leaf in reported} == {id(a), id(b)}
