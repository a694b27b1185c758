"""The sum of two tensors of equal shape.

y = a + b
grad_a = grad_b = grad_y

Tutorial: `tutorials/01_autograd.py`.
"""

from __future__ import annotations

from tinyunet.autograd import Function, Tensor
from tinyunet.autograd.tensor import OPERATORS
from tinyunet.backend import Dispatch, cuda
from tinyunet.backend.sums import add_numba
from tinyunet.errors import ShapeError
from tinyunet.ops.checks import require_one_dtype

# NumPy: the reference


def forward_numpy(a, b):
    return a + b


def backward_numpy(grad_output):
    # Two arrays, so that changing one gradient in place does not change the other.
    return grad_output.copy(), grad_output.copy()


# The op: its checks, and its place in the graph


def add(a: Tensor, b: Tensor) -> Tensor:
    """Add two tensors element by element, without broadcasting: a + b.

    Parameters
    ----------
    a, b : Tensor, of equal shape and dtype

    Raises
    ------
    ShapeError
        The shapes differ.
    DtypeError
        The dtypes differ.
    """
    require_one_dtype("add", a=a, b=b)
    if a.shape != b.shape:
        raise ShapeError(
            "add: the shapes differ; there is no broadcasting",
            {"a": a.shape, "b": b.shape},
            "give both the same shape",
        )
    return Add.apply(a, b)


OPERATORS["+"] = add


class Add(Function):
    """The op in the graph. Nothing needs saving: the derivative is 1."""

    name = "add"
    returns_new = True

    def forward(self, a, b):
        return forward(a, b)

    def backward(self, grad_output):
        return backward(grad_output)


# Numba: the sum of two gradients is the same kernel

forward_numba = add_numba


# CUDA: kernels/add.cu


def forward_cuda(a, b):
    y = cuda.empty(a.shape)
    cuda.launch_elementwise("add", "forward", a.size, a, b, y, flops=a.size)
    return y


forward = Dispatch("add", "forward", numpy=forward_numpy, numba=forward_numba, cuda=forward_cuda)
backward = Dispatch("add", "backward", numpy=backward_numpy, numba=backward_numpy, cuda=backward_numpy)
