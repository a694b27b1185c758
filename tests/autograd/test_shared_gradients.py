"""Gradients in place: added to and written over only where no one else has the array."""

import numpy as np
import pytest
import torch

import tinyunet as tu
from tinyunet.autograd import Function, Tensor


class Sum(Function):
    """a + b, which hands the same array back for two inputs."""

    def forward(self, a, b):
        return a + b

    def backward(self, grad_output):
        return grad_output, grad_output


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
