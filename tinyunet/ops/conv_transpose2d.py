"""Up-convolution: 2×2, stride 2. Each input pixel is scattered to a 2×2 square of output pixels of its own.

    y[n,2i+p,2j+q,f] = bias[f] + sum over c of weight[p,q,c,f] · x[n,i,j,c]

    grad_x[n,i,j,c]      = sum over p,q,f of weight[p,q,c,f] · grad_y[n,2i+p,2j+q,f]
    grad_weight[p,q,c,f] = sum over n,i,j of x[n,i,j,c] · grad_y[n,2i+p,2j+q,f]
    grad_bias[f]         = sum over n,i,j of grad_y[n,i,j,f]

It is the adjoint of a 2×2 convolution of stride 2, hence the name: <up(x), y> = <x, down(y)>.

With channels last, row 2i+p of the output is, as it lies in memory, a matrix of W rows and 2·F columns: q and
f run together. With the weight in the order (p, C, q·F), each output row is then one matrix product.

`conv_transpose2d_overlapping` reduces a window of 4×4, which overlaps its neighbours, to this one.

Tutorial: `tutorials/08_max_pool2d_conv_transpose2d.py`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, allocator
from tinyunet.backend.blas import PIECE_COLUMNS, PIECE_SUMMANDS, gemm, gemm_routine, gemm_tn
from tinyunet.backend.jit import kernel, parallel_kernel
from tinyunet.errors import ShapeError, describe
from tinyunet.ops import conv_transpose2d_cuda
from tinyunet.ops import conv_transpose2d_overlapping as overlapping
from tinyunet.ops.checks import AXES, require_axes, require_channels, require_one_dtype
from tinyunet.ops.conv2d import backward_bias_and_relu

# NumPy: the reference


def forward_numpy(x, weight, bias, relu):
    n, height, width, _ = x.shape
    y = np.empty((n, 2 * height, 2 * width, weight.shape[3]), x.dtype)
    for p in (0, 1):
        for q in (0, 1):
            y[:, p::2, q::2] = x @ weight[p, q]
    if bias is not None:
        y += bias
    return np.maximum(y, 0) if relu else y


def backward_input_numpy(grad_output, weight):
    return sum(grad_output[:, p::2, q::2] @ weight[p, q].T for p in (0, 1) for q in (0, 1))


def backward_weight_numpy(x, grad_output):
    grad_weight = np.empty((2, 2, x.shape[3], grad_output.shape[3]), x.dtype)
    for p in (0, 1):
        for q in (0, 1):
            grad_weight[p, q] = np.tensordot(x, grad_output[:, p::2, q::2], axes=((0, 1, 2), (0, 1, 2)))
    return grad_weight


# The op: its checks, and its place in the graph


def conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """The paper's up-convolution: twice the height and width.

    y[n,2i+p,2j+q,f] = bias[f] + sum over c of weight[p,q,c,f] x[n,i,j,c]

    A window of 4×4 overlaps its neighbours and can interpolate, as in the FCN [2]_. It begins one pixel
    further up and left, and what falls outside of the output is cut off (PyTorch's padding=1).

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C), float32 or float64
    weight : Tensor, shape (2, 2, C, F) or (4, 4, C, F), dtype of x
    bias : Tensor, shape (F,), optional
    relu : bool
        Whether to return max(y, 0), as in the authors' released network.

    Returns
    -------
    Tensor, shape (N, 2H, 2W, F)

    Raises
    ------
    ShapeError
        Channel counts differ, or the window is neither 2×2 nor 4×4.
    DtypeError
        The dtypes differ.

    References
    ----------
    .. [1] Ronneberger et al. 2015, section 2.
    .. [2] Long, Shelhamer, Darrell 2015, section 3.3.
    """
    require_axes("conv_transpose2d", x=x, weight=weight)
    require_one_dtype("conv_transpose2d", x=x, weight=weight, bias=bias)
    require_channels("conv_transpose2d", x, weight, bias)
    if weight.shape[:2] not in ((2, 2), (4, 4)):
        raise ShapeError(
            "conv_transpose2d: the window must be 2×2 or 4×4",
            {"weight": describe(weight, AXES["weight"])},
            "use a weight of shape (2, 2, C, F) or (4, 4, C, F)",
        )
    return ConvTranspose2d.apply(x, weight, bias, relu=relu)


class ConvTranspose2d(Function):
    """The op in the graph."""

    name = "conv_transpose2d"

    def forward(self, x, weight, bias, *, relu):
        overlaps = weight.shape[0] == 4
        if overlaps:
            x, weight = overlapping.with_neighbours(x), overlapping.by_neighbour(weight)
        y = forward(x, weight, bias, relu)
        if overlaps:
            y = overlapping.cut_border(y)
        self.save(x, weight, overlaps, y if relu else None)
        return y

    def backward(self, grad_output):
        x, weight, overlaps, rectified = self.take_saved()
        needs_x, needs_weight, needs_bias = self.needs_grad
        grad_output, grad_bias = backward_bias_and_relu(grad_output, rectified, needs_bias)
        del rectified
        if overlaps:
            grad_output = overlapping.with_border(grad_output)
        grad_weight = backward_weight(x, grad_output) if needs_weight else None
        del x
        grad_x = backward_input(grad_output, weight) if needs_x else None
        if overlaps:
            grad_x = None if grad_x is None else overlapping.sum_of_neighbours(grad_x)
            grad_weight = None if grad_weight is None else overlapping.by_tap(grad_weight)
        return grad_x, grad_weight, grad_bias


# Numba: matrix products over rows

_ROWS_PER_TASK = 8  # of x: they share the pieces of the weight
# A block of grad_weight, 16 kB: a thread adds the products of all rows to it, in its cache.
_CHANNELS_PER_TASK, _COLUMNS_PER_TASK = 64, 64


def _pairs(rows):
    """View (N, 2H, 2W, F) as (N, 2H, W, 2F): the two columns of one input pixel, side by side."""
    n, height, width, filters = rows.shape
    return rows.reshape(n, height, width // 2, 2 * filters)


def _by_rows(weight):
    """Copy the weight (p, q, C, F) to the order (p, C, q·F) that fits `_pairs`."""
    return allocator.copy(weight.transpose(0, 2, 1, 3)).reshape(2, weight.shape[2], -1)


def forward_numba(x, weight, bias, relu):
    n, height, width, _ = x.shape
    y = allocator.empty((n, 2 * height, 2 * width, weight.shape[3]), x.dtype)
    bias = np.zeros(weight.shape[3], x.dtype) if bias is None else bias
    with gemm_routine(x.dtype) as routine:
        _forward(routine, x, _by_rows(weight), np.tile(bias, 2), relu, _pairs(y))
    return y


@parallel_kernel
def _forward(routine, x, weight, bias, relu, y):
    batch, height, _, _ = x.shape
    groups = (height + _ROWS_PER_TASK - 1) // _ROWS_PER_TASK
    for task in prange(batch * groups):
        n, first = task // groups, task % groups * _ROWS_PER_TASK
        last = min(height, first + _ROWS_PER_TASK)
        for p in range(2):
            out = y[n, 2 * first + p : 2 * last : 2]
            _multiply_rows(routine, x[n, first:last], weight[p], 0.0, out)
            _add_bias(out, bias, relu)


@kernel
def _multiply_rows(routine, a, b, beta, c):
    """c[i] = a[i] b + beta c[i] for each row of pixels i. A piece of b stays in the cache for all of them."""
    summands, columns = b.shape
    for j in range(0, columns, PIECE_COLUMNS):
        for e in range(0, summands, PIECE_SUMMANDS):
            piece, kept = b[e : e + PIECE_SUMMANDS, j : j + PIECE_COLUMNS], beta if e == 0 else 1.0
            for i in range(len(a)):
                gemm(routine, a[i, :, e : e + PIECE_SUMMANDS], piece, kept, c[i, :, j : j + PIECE_COLUMNS])


@kernel
def _add_bias(y, bias, relu):
    height, width, columns = y.shape
    for i in range(height):
        for j in range(width):
            for f in range(columns):
                value = y[i, j, f] + bias[f]
                y[i, j, f] = 0 if relu and value <= 0 else value


def backward_input_numba(grad_output, weight):
    n, height, width, filters = grad_output.shape
    channels = weight.shape[2]
    grad_x = allocator.empty((n, height // 2, width // 2, channels), grad_output.dtype)
    # A copy, because BLAS is slower with a transposed factor.
    transposed = allocator.copy(weight.transpose(0, 1, 3, 2)).reshape(2, 2 * filters, channels)
    with gemm_routine(grad_x.dtype) as routine:
        _backward_input(routine, _pairs(grad_output), transposed, grad_x)
    return grad_x


@parallel_kernel
def _backward_input(routine, grad_output, transposed, grad_x):
    batch, height, _, _ = grad_x.shape
    groups = (height + _ROWS_PER_TASK - 1) // _ROWS_PER_TASK
    for task in prange(batch * groups):
        n, first = task // groups, task % groups * _ROWS_PER_TASK
        last = min(height, first + _ROWS_PER_TASK)
        for p in range(2):
            rows = grad_output[n, 2 * first + p : 2 * last : 2]
            _multiply_rows(routine, rows, transposed[p], float(p), grad_x[n, first:last])


def backward_weight_numba(x, grad_output):
    channels, filters = x.shape[3], grad_output.shape[3]
    grad_weight = allocator.empty((2, channels, 2 * filters), x.dtype)
    with gemm_routine(x.dtype) as routine:
        _backward_weight(routine, x, _pairs(grad_output), grad_weight)
    return allocator.copy(grad_weight.reshape(2, channels, 2, filters).transpose(0, 2, 1, 3))


@parallel_kernel
def _backward_weight(routine, x, grad_output, grad_weight):
    batch, height, _, channels = x.shape
    columns = grad_output.shape[3]
    across = (columns + _COLUMNS_PER_TASK - 1) // _COLUMNS_PER_TASK
    down = (channels + _CHANNELS_PER_TASK - 1) // _CHANNELS_PER_TASK
    for task in prange(2 * down * across):
        p, block = task // (down * across), task % (down * across)
        top, left = block // across * _CHANNELS_PER_TASK, block % across * _COLUMNS_PER_TASK
        block_channels = slice(top, top + _CHANNELS_PER_TASK)
        block_columns = slice(left, left + _COLUMNS_PER_TASK)
        out = grad_weight[p, block_channels, block_columns]
        out[:] = 0
        for n in range(batch):
            for i in range(height):
                x_row, grad_row = x[n, i, :, block_channels], grad_output[n, 2 * i + p, :, block_columns]
                gemm_tn(routine, x_row, grad_row, 1.0, out)


# CUDA: conv_transpose2d_cuda.py and kernels/conv_transpose2d.cu

forward = Dispatch(
    "conv_transpose2d",
    "forward",
    numpy=forward_numpy,
    numba=forward_numba,
    cuda=conv_transpose2d_cuda.forward,
)
backward_input = Dispatch(
    "conv_transpose2d",
    "backward_input",
    numpy=backward_input_numpy,
    numba=backward_input_numba,
    cuda=conv_transpose2d_cuda.backward_input,
)
backward_weight = Dispatch(
    "conv_transpose2d",
    "backward_weight",
    numpy=backward_weight_numpy,
    numba=backward_weight_numba,
    cuda=conv_transpose2d_cuda.backward_weight,
)
