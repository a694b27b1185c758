"""The maximum over 2×2 windows that do not overlap.

    y[n,i,j,c] = max over p,q in {0,1} of x[n,2i+p,2j+q,c]
    grad_x[n,2i+p,2j+q,c] = grad_y[n,i,j,c] where (p,q) was the place of the maximum, else 0

The place is stored as one byte 2p+q per output; at a tie it is the first. A NaN counts as the maximum, so
that a diverging training is noticed.

Tutorial: `tutorials/08_max_pool2d_conv_transpose2d.py`.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import prange, types

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, allocator, cuda, simd
from tinyunet.backend.jit import inlined_kernel, parallel_kernel
from tinyunet.backend.simd import LANES
from tinyunet.errors import ShapeError, describe
from tinyunet.ops.checks import AXES, require_axes

# NumPy: the reference


def forward_numpy(x):
    candidates = np.stack([x[:, p::2, q::2] for p in (0, 1) for q in (0, 1)])
    place = candidates.argmax(axis=0).astype(np.uint8)  # the first of equals; NaN wins
    return candidates.max(axis=0), place


def backward_numpy(grad_output, place, total=None):
    n, height, width, channels = grad_output.shape
    grad_x = np.zeros((n, 2 * height, 2 * width, channels), grad_output.dtype) if total is None else total
    for p in (0, 1):
        for q in (0, 1):
            grad_x[:, p::2, q::2] += np.where(place == 2 * p + q, grad_output, 0)
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
    returns_new = True

    def forward(self, x):
        y, place = forward(x)
        self.save(place)
        return y

    def backward(self, grad_output):
        (place,) = self.saved
        return (backward(grad_output, place),)

    def add_backward(self, grad_output, total):
        (place,) = self.saved
        backward(grad_output, place, total)


# Numba: one output row at a time, so that each thread writes its own rows. The places are bytes, and a
# compiler left to itself computes numbers beside bytes one by one: hence the registers.


def forward_numba(x):
    x = np.ascontiguousarray(x)
    n, height, width, channels = x.shape
    y = allocator.empty((n, height // 2, width // 2, channels), x.dtype)
    place = allocator.empty(y.shape, np.uint8)
    _forward(x, y, place)
    return y, place


@parallel_kernel
def _forward(x, y, place):
    batch, height, width, channels = y.shape
    line = 2 * width * channels  # from one row of x to the next
    for row in prange(batch * height):
        n, i = row // height, row % height
        whole = channels // LANES * LANES
        for j in range(width):
            pixel = row * width + j
            at = 2 * row * line + 2 * j * channels
            for c in range(0, whole, LANES):
                _put_largest(x, at + c, channels, line, y, place, pixel * channels + c)
            for c in range(whole, channels):
                y[n, i, j, c], place[n, i, j, c] = _largest(x, n, 2 * i, 2 * j, c)


@simd.intrinsic
def _put_largest(context, x, at, pixel, line, y, place, to):
    """Write LANES maxima and their places, each from two pixels of two lines, as `_largest` finds them.

    at, to : places in the memory of x, and in those of y and place. pixel, line : distances in x.
    """
    integer = types.intp
    signature = types.void(x, integer, integer, integer, y, place, integer)

    def generate(context, builder, sig, args):
        def address(array, element, kind):
            pair = types.void(sig.args[array], integer), (args[array], element)
            return builder.bitcast(simd.address(context, builder, *pair), kind.as_pointer())

        number = context.get_value_type(x.dtype)
        numbers, indices, octets = (
            ir.VectorType(kind, LANES) for kind in (number, ir.IntType(32), ir.IntType(8))
        )
        _, at, pixel, line, _, _, to = args
        size = x.dtype.bitwidth // 8
        best, which = builder.load(address(0, at, numbers), align=size), ir.Constant(indices, [0] * LANES)
        for k, offset in ((1, pixel), (2, line), (3, builder.add(line, pixel))):
            value = builder.load(address(0, builder.add(at, offset), numbers), align=size)
            # Larger, or one of them a NaN; and that is not the best so far.
            larger, known = builder.fcmp_unordered(">", value, best), builder.fcmp_ordered("ord", best, best)
            better = builder.and_(larger, known)
            best = builder.select(better, value, best)
            which = builder.select(better, ir.Constant(indices, [k] * LANES), which)
        builder.store(best, address(4, to, numbers), align=size)
        builder.store(builder.trunc(which, octets), address(5, to, octets), align=1)
        return context.get_dummy_value()

    return signature, generate


_put_largest.source_files.append(__file__)


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


def backward_numba(grad_output, place, total=None):
    if total is not None:
        _add_backward(grad_output, place, total)
        return total
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


@parallel_kernel
def _add_backward(grad_output, place, total):
    batch, height, width, channels = grad_output.shape
    for row in prange(batch * height):
        n, i = row // height, row % height
        for j in range(width):
            for k in range(4):
                for c in range(channels):
                    here = place[n, i, j, c] == k
                    total[n, 2 * i + k // 2, 2 * j + k % 2, c] += grad_output[n, i, j, c] if here else 0


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
