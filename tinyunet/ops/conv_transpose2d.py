"""Up-convolution: 2×2, stride 2. Each input pixel is scattered to a 2×2 square of output pixels of its own.

    y[n,2i+p,2j+q,f] = bias[f] + sum over c of weight[p,q,c,f] · x[n,i,j,c]

    grad_x[n,i,j,c]      = sum over p,q,f of weight[p,q,c,f] · grad_y[n,2i+p,2j+q,f]
    grad_weight[p,q,c,f] = sum over n,i,j of x[n,i,j,c] · grad_y[n,2i+p,2j+q,f]
    grad_bias[f]         = sum over n,i,j of grad_y[n,i,j,f]

It is the adjoint of a 2×2 convolution of stride 2, hence the name: <up(x), y> = <x, down(y)>.

With channels last, row 2i+p of the output is, as it lies in memory, a matrix of W rows and 2·F columns: q and
f run together. With the weight in the order (p, C, q·F), each output row is then one matrix product, here one
of `tinyunet.backend.products`.

`conv_transpose2d_overlapping` reduces a window of 4×4, which overlaps its neighbours, to this one.

Tutorial: `tutorials/08_max_pool2d_conv_transpose2d.py`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, allocator
from tinyunet.backend.jit import kernel, new_tasks, next_task, parallel_kernel
from tinyunet.backend.products import (
    PANEL,
    SUMMANDS,
    in_panels,
    multiply,
    multiply_transposed,
    padded,
    panel_width,
    write_row,
)
from tinyunet.errors import ShapeError, describe
from tinyunet.ops import conv_transpose2d_cuda
from tinyunet.ops import conv_transpose2d_overlapping as overlapping
from tinyunet.ops.checks import AXES, require_axes, require_channels, require_one_dtype
from tinyunet.ops.conv2d import as_multiplied, backward_bias_and_relu
from tinyunet.ops.conv2d import backward_bias as backward_bias_of_conv2d

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


def backward_bias_on_cpu(grad_output, channels=None):
    """The gradient of y as the two above take it, and that of the bias. CUDA gathers the first for both."""
    return grad_output, backward_bias_of_conv2d(grad_output)


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
    returns_new = True

    def forward(self, x, weight, bias, *, relu):
        overlaps = weight.shape[0] == 4
        if overlaps:
            x, weight = overlapping.with_neighbours(x), overlapping.by_neighbour(weight)
        product_shape = (1, 1, weight.shape[2], 4 * weight.shape[3])  # on CUDA, a convolution multiplies
        x = as_multiplied(x, product_shape, 0)
        y = forward(x, weight, bias, relu)
        if overlaps:
            y = overlapping.cut_border(y)
        self.save(x, weight, overlaps, y if relu else None)
        return y

    def backward(self, grad_output):
        x, weight, overlaps, rectified = self.take_saved()
        needs_x, needs_weight, needs_bias = self.needs_grad
        if rectified is None and needs_bias:
            grad_output, grad_bias = backward_bias(grad_output, None if overlaps else weight.shape[2])
        else:
            grad_output, grad_bias = backward_bias_and_relu(
                grad_output, rectified, needs_bias, in_place=self.may_overwrite
            )
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


# Numba: matrix products over rows, with the weight in panels

_ROWS_PER_TASK = 8  # of x: they share a piece of the weight
_CHANNELS_PER_TASK, _PIXELS = 128, 128  # of the products that are the weight's gradient


def _pairs(rows):
    """View (N, 2H, 2W, F) as (N, 2H, W, 2F): the two columns of one input pixel, side by side."""
    n, height, width, filters = rows.shape
    return rows.reshape(n, height, width // 2, 2 * filters)


def forward_numba(x, weight, bias, relu):
    n, height, width, channels = x.shape
    filters = weight.shape[3]
    y = allocator.empty((n, 2 * height, 2 * width, filters), x.dtype)
    bias = np.zeros(filters, x.dtype) if bias is None else bias
    by_row = allocator.copy(weight.transpose(0, 2, 1, 3)).reshape(2, channels, 2 * filters)
    _forward(np.ascontiguousarray(x), in_panels(by_row), np.tile(bias, 2), relu, _pairs(y), new_tasks())
    return y


@kernel
def _groups(height):
    """Count the groups of rows of an image."""
    return (height + _ROWS_PER_TASK - 1) // _ROWS_PER_TASK


@kernel
def _some_rows(task, height):
    """A task's image, its first row, and the one after its last."""
    groups = _groups(height)
    first = task % groups * _ROWS_PER_TASK
    return task // groups, first, min(height, first + _ROWS_PER_TASK)


@parallel_kernel
def _forward(x, weight, bias, relu, y, tasks):
    batch, height, _, _ = x.shape
    for _worker in prange(tasks.workers):
        task = next_task(tasks.taken)
        while task < batch * _groups(height):
            n, first, last = _some_rows(task, height)
            for p in range(2):
                out = y[n, 2 * first + p : 2 * last : 2]
                _multiply_rows(x[n, first:last], weight[p], False, out)
                _add_bias(out, bias, relu)
            task = next_task(tasks.taken)


@kernel
def _multiply_rows(a, b, add, c):
    """c[i] = a[i] B, or c[i] + a[i] B if `add`, for each row of pixels i, and B in panels.

    A piece of a panel stays in the cache for all of them.
    """
    summands, columns = a.shape[2], c.shape[2]
    for left in range(0, columns, PANEL):
        width, right = panel_width(columns, left), min(columns, left + PANEL)
        for e in range(0, summands, SUMMANDS):
            piece, last = b[left * summands + e * width :], min(summands, e + SUMMANDS)
            for i in range(len(a)):
                multiply(a[i, :, e:last], piece, add or e > 0, c[i, :, left:right])


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
    transposed = allocator.copy(weight.transpose(0, 1, 3, 2)).reshape(2, 2 * filters, channels)
    _backward_input(_pairs(np.ascontiguousarray(grad_output)), in_panels(transposed), grad_x, new_tasks())
    return grad_x


@parallel_kernel
def _backward_input(grad_output, transposed, grad_x, tasks):
    batch, height, _, _ = grad_x.shape
    for _worker in prange(tasks.workers):
        task = next_task(tasks.taken)
        while task < batch * _groups(height):
            n, first, last = _some_rows(task, height)
            for p in range(2):
                rows = grad_output[n, 2 * first + p : 2 * last : 2]
                _multiply_rows(rows, transposed[p], p > 0, grad_x[n, first:last])
            task = next_task(tasks.taken)


def backward_weight_numba(x, grad_output):
    channels, filters = x.shape[3], grad_output.shape[3]
    pixels = np.ascontiguousarray(x).reshape(-1, channels)
    # Groups of pixels that threads share out, fewer where their sums would be large.
    groups = min(16, len(pixels), max(1, 2**18 // (channels * 2 * filters)))
    parts = allocator.empty((groups, 2, channels, 2 * filters), x.dtype)
    rows = np.ascontiguousarray(grad_output).reshape(-1, x.shape[2], 2 * filters)
    if channels <= _CHANNELS_PER_TASK and 2 * filters == panel_width(2 * filters, 0):
        _backward_weight_by_row(pixels.reshape(-1, x.shape[2], channels), rows, parts, new_tasks())
    else:
        _backward_weight(pixels, rows, parts, new_tasks())
    grad_weight = parts[0] if groups == 1 else parts.sum(axis=0, out=allocator.empty_like(parts[0]))
    return allocator.copy(grad_weight.reshape(2, channels, 2, filters).transpose(0, 2, 1, 3))


@parallel_kernel
def _backward_weight(x, grad_output, parts, tasks):
    """Add the products of x (pixels, C) and the rows of one parity of grad_output (2 N H, W, 2F)."""
    groups, _, channels, columns = parts.shape
    pixels, width = len(x), grad_output.shape[1]
    blocks = (channels + _CHANNELS_PER_TASK - 1) // _CHANNELS_PER_TASK
    for _worker in prange(tasks.workers):
        panels = np.empty(_PIXELS * padded(columns), x.dtype)
        task = next_task(tasks.taken)
        while task < groups * 2 * blocks:
            group, p, top = task // (2 * blocks), task // blocks % 2, task % blocks * _CHANNELS_PER_TASK
            out = parts[group, p, top : top + _CHANNELS_PER_TASK]
            # Channels side by side: rows a power of two apart would compete for the same places in the cache.
            some_x = np.empty((_PIXELS, len(out)), x.dtype)
            begin, end = pixels * group // groups, pixels * (group + 1) // groups
            for first in range(begin, end, _PIXELS):
                last = min(end, first + _PIXELS)
                for pixel in range(first, last):
                    source, target = x[pixel, top:], some_x[pixel - first]
                    for c in range(target.size):
                        target[c] = source[c]
                    row, j = pixel // width, pixel % width
                    write_row(grad_output[2 * row + p, j], pixel - first, last - first, panels)
                multiply_transposed(some_x[: last - first], panels, first > begin, out)
            task = next_task(tasks.taken)


@parallel_kernel
def _backward_weight_by_row(x, grad_output, parts, tasks):
    """The same for narrow maps, whose rows are multiplied as they lie. x : (N H, W, C)."""
    groups, rows = len(parts), len(x)
    for _worker in prange(tasks.workers):
        group = next_task(tasks.taken)
        while group < groups:
            begin, end = rows * group // groups, rows * (group + 1) // groups
            parts[group] = 0
            for row in range(begin, end):
                for p in range(2):
                    multiply_transposed(x[row], grad_output[2 * row + p].reshape(-1), True, parts[group, p])
            group = next_task(tasks.taken)


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
backward_bias = Dispatch(
    "conv_transpose2d",
    "backward_bias",
    numpy=backward_bias_on_cpu,
    numba=backward_bias_on_cpu,
    cuda=conv_transpose2d_cuda.backward_bias,
)
