"""The maximum over 2×2 windows that do not overlap.

    y[n,i,j,c] = max over p,q in {0,1} of x[n,2i+p,2j+q,c]
    grad_x[n,2i+p,2j+q,c] = grad_y[n,i,j,c] where (p,q) was the place of the maximum, else 0

The place is stored as one byte 2p+q per output; at a tie it is the first. A NaN counts as the maximum, so
that a diverging training is noticed.

Tutorial: `tutorials/08_max_pool2d_conv_transpose2d.py`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, allocator, cuda
from tinyunet.backend.jit import inlined_kernel, parallel_kernel
from tinyunet.backend.simd import LANES
from tinyunet.errors import ShapeError, describe
from tinyunet.ops.checks import AXES, require_axes

# NumPy: the reference


def forward_numpy(x):
    candidates = np.stack([x[:, p::2, q::2] for p in (0, 1) for q in (0, 1)])
    place = candidates.argmax(axis=0).astype(np.uint8)  # the first of equals; NaN wins
    return candidates.max(axis=0), place


def backward_numpy(grad_output, place):
    n, height, width, channels = grad_output.shape
    grad_x = np.zeros((n, 2 * height, 2 * width, channels), grad_output.dtype)
    for p in (0, 1):
        for q in (0, 1):
            grad_x[:, p::2, q::2] = np.where(place == 2 * p + q, grad_output, 0)
    return grad_x


# The op: its checks, and its place in the graph


def max_pool2d(x: Tensor) -> Tensor:
    """The U-Net's 2×2 max-pooling with stride 2.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C), H and W even

    Returns
    -------
    Tensor, shape (N, H/2, W/2, C)

    Raises
    ------
    ShapeError
        H or W is odd or 0: pooling would drop a row or column.

    References
    ----------
    .. [1] Ronneberger et al. 2015, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> import tinyunet as tu
    >>> x = tu.Tensor(np.arange(16.0).reshape(1, 4, 4, 1))
    >>> tu.max_pool2d(x).data[0, ..., 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    require_axes("max_pool2d", x=x)
    _, height, width, _ = x.shape
    if height % 2 or width % 2 or not height or not width:
        raise ShapeError(
            f"max_pool2d: height and width must be even, x has {height} and {width}",
            {"x": describe(x, AXES["x"])},
            "choose an input size that the network can halve: see tinyunet.models.geometry",
        )
    return MaxPool2d.apply(x)


class MaxPool2d(Function):
    """The op in the graph. The places of the maxima are enough for backward."""

    name = "max_pool2d"

    def forward(self, x):
        y, place = forward(x)
        self.save(place)
        return y

    def backward(self, grad_output):
        (place,) = self.saved
        return (backward(grad_output, place),)


# Numba: one output row at a time, so that each thread writes its own rows


def forward_numba(x):
    n, height, width, channels = x.shape
    y = allocator.empty((n, height // 2, width // 2, channels), x.dtype)
    place = allocator.empty(y.shape, np.uint8)
    _forward(x, y, place)
    return y, place


@parallel_kernel
def _forward(x, y, place):
    batch, height, width, channels = y.shape
    for row in prange(batch * height):
        n, i = row // height, row % height
        for j in range(width):
            whole = channels // LANES * LANES
            for first in range(0, whole, LANES):
                for c in range(first, first + LANES):  # a number that the compiler knows
                    y[n, i, j, c], place[n, i, j, c] = _largest(x, n, 2 * i, 2 * j, c)
            for c in range(whole, channels):
                y[n, i, j, c], place[n, i, j, c] = _largest(x, n, 2 * i, 2 * j, c)


@inlined_kernel
def _largest(x, n, i, j, c):
    """The largest of four pixels, and which it is. A NaN counts as largest."""
    best, at = x[n, i, j, c], np.uint8(0)
    for k in range(1, 4):
        value = x[n, i + k // 2, j + k % 2, c]
        better = value > best or (np.isnan(value) and not np.isnan(best))
        best = value if better else best
        at = np.uint8(k) if better else at
    return best, at


def backward_numba(grad_output, place):
    n, height, width, channels = grad_output.shape
    grad_x = allocator.empty((n, 2 * height, 2 * width, channels), grad_output.dtype)
    _backward(grad_output, place, grad_x)
    return grad_x


@parallel_kernel
def _backward(grad_output, place, grad_x):
    batch, height, width, channels = grad_output.shape
    for row in prange(batch * height):
        n, i = row // height, row % height
        for j in range(width):
            for k in range(4):
                for c in range(channels):
                    here = place[n, i, j, c] == k
                    grad_x[n, 2 * i + k // 2, 2 * j + k % 2, c] = grad_output[n, i, j, c] if here else 0


# CUDA: kernels/max_pool2d.cu


def forward_cuda(x):
    n, height, width, channels = x.shape
    y = cuda.empty((n, height // 2, width // 2, channels))
    place = cuda.empty(y.shape, np.uint8)
    cuda.launch_elementwise("max_pool2d", "forward", y.size, x, y, place, width // 2, channels)
    return y, place


def backward_cuda(grad_output, place):
    n, height, width, channels = grad_output.shape
    grad_x = cuda.empty((n, 2 * height, 2 * width, channels))
    sizes = (width, channels)
    cuda.launch_elementwise("max_pool2d", "backward", grad_output.size, grad_output, place, grad_x, *sizes)
    return grad_x


forward = Dispatch("max_pool2d", "forward", numpy=forward_numpy, numba=forward_numba, cuda=forward_cuda)
backward = Dispatch("max_pool2d", "backward", numpy=backward_numpy, numba=backward_numba, cuda=backward_cuda)
