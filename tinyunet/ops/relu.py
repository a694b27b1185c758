"""The rectified linear unit.

    y = max(x, 0)
    grad_x = grad_y where y > 0, else 0          (0 at the kink, as in PyTorch)

A NaN stays a NaN, so that a diverging training is noticed.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, allocator, cuda
from tinyunet.backend.jit import parallel_kernel

# NumPy: the reference


def forward_numpy(x):
    return np.maximum(x, 0)


def backward_numpy(grad_output, y):
    return np.where(y > 0, grad_output, 0)


# The op: its checks, and its place in the graph


def relu(x: Tensor) -> Tensor:
    """Compute max(x, 0), element by element.

    Parameters
    ----------
    x : Tensor, any shape

    Returns
    -------
    Tensor, shape and dtype of x
    """
    return Relu.apply(x)


class Relu(Function):
    """The op in the graph. The output is enough for backward."""

    name = "relu"
    returns_new = True

    def forward(self, x):
        y = forward(x)
        self.save(y)
        return y

    def backward(self, grad_output):
        (y,) = self.saved
        return (backward(grad_output, y),)


# Numba


def forward_numba(x):
    y = allocator.empty_like(x)
    _forward(x.reshape(-1), y.reshape(-1))
    return y


@parallel_kernel
def _forward(x, y):
    for i in prange(x.size):
        y[i] = x[i] if x[i] > 0 or np.isnan(x[i]) else 0


def backward_numba(grad_output, y):
    grad_x = allocator.empty_like(grad_output)
    _backward(grad_output.reshape(-1), y.reshape(-1), grad_x.reshape(-1))
    return grad_x


@parallel_kernel
def _backward(grad_output, y, grad_x):
    for i in prange(y.size):
        grad_x[i] = grad_output[i] if y[i] > 0 else 0


# CUDA: kernels/relu.cu


def forward_cuda(x):
    y = cuda.empty(x.shape)
    cuda.launch_elementwise("relu", "forward", x.size, x, y)
    return y


def backward_cuda(grad_output, y):
    grad_x = cuda.empty(y.shape)
    cuda.launch_elementwise("relu", "backward", y.size, grad_output, y, grad_x)
    return grad_x


forward = Dispatch("relu", "forward", numpy=forward_numpy, numba=forward_numba, cuda=forward_cuda)
backward = Dispatch("relu", "backward", numpy=backward_numpy, numba=backward_numba, cuda=backward_cuda)
