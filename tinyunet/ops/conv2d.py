"""Convolution with stride 1: a cross-correlation, as in every network library.

    y[n,i,j,f] = bias[f] + sum over p,q,c of weight[p,q,c,f] · x[n,i+p,j+q,c]

    grad_x[n,i+p,j+q,c]  =  sum over p,q,f of weight[p,q,c,f] · grad_y[n,i,j,f]
    grad_weight[p,q,c,f] =  sum over n,i,j of x[n,i+p,j+q,c] · grad_y[n,i,j,f]
    grad_bias[f]         =  sum over n,i,j of grad_y[n,i,j,f]

For each tap (p, q) of the window, all three are a plain matrix product over channels: (pixels × C)(C × F)
forward, (pixels × F)(F × C) for the input, (C × pixels)(pixels × F) for the weight. A 1×1 convolution is one
such product. `padding` puts zeros around x first.

Tutorial: `tutorials/03_conv2d.py` and `tutorials/04_conv2d_numba.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, active_backend, allocator
from tinyunet.backend.jit import kernel, new_tasks, next_task, parallel_kernel
from tinyunet.backend.products import (
    in_panels,
    multiply_windows,
    multiply_windows_transposed,
    padded,
    panel_width,
    write_row,
)
from tinyunet.errors import OptionError, ShapeError, describe
from tinyunet.ops import conv2d_cuda, conv2d_winograd, conv2d_winograd_backward
from tinyunet.ops.checks import AXES, require_axes, require_channels, require_one_dtype
from tinyunet.ops.relu import backward as backward_of_relu

# NumPy: the reference


def forward_numpy(x, weight, bias, padding, relu):
    x = pad(x, padding)
    size = weight.shape[0]
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    y = np.zeros((x.shape[0], height, width, weight.shape[3]), x.dtype)
    if bias is not None:
        y += bias
    for p in range(size):
        for q in range(size):
            y += x[:, p : p + height, q : q + width] @ weight[p, q]
    return np.maximum(y, 0) if relu else y


def backward_input_numpy(grad_output, weight, padding):
    size = weight.shape[0]
    n, height, width, _ = grad_output.shape
    grad_x = np.zeros((n, height + size - 1, width + size - 1, weight.shape[2]), grad_output.dtype)
    for p in range(size):
        for q in range(size):
            grad_x[:, p : p + height, q : q + width] += grad_output @ weight[p, q].T
    return np.ascontiguousarray(pad(grad_x, -padding))


def backward_weight_numpy(x, grad_output, padding, size):
    x = pad(x, padding)
    _, height, width, filters = grad_output.shape
    grad_weight = np.empty((size, size, x.shape[3], filters), x.dtype)
    for p in range(size):
        for q in range(size):
            window = x[:, p : p + height, q : q + width]
            grad_weight[p, q] = np.tensordot(window, grad_output, axes=((0, 1, 2), (0, 1, 2)))
    return grad_weight


def backward_bias_numpy(grad_output):
    return grad_output.sum(axis=(0, 1, 2))


def backward_numpy(x, grad_output, rectified, weight, padding, needs_x, needs_bias):
    """All gradients at once, None for one that is not needed. rectified : y if a ReLU made it, or None."""
    if rectified is not None:
        grad_output = np.where(rectified > 0, grad_output, grad_output.dtype.type(0))
    grad_weight = backward_weight_numpy(x, grad_output, padding, weight.shape[0])
    grad_bias = backward_bias_numpy(grad_output) if needs_bias else None
    grad_x = backward_input_numpy(grad_output, weight, padding) if needs_x else None
    return grad_x, grad_weight, grad_bias


def backward_relu_in_two_steps(grad_output, y, weight_shape=None, in_place=False):
    """The gradient before the ReLU, and that of the bias.

    CUDA has to know what is multiplied with it. Whether the gradient may be written over is for Numba.
    """
    grad_output = backward_of_relu(grad_output, y)
    return grad_output, backward_bias(grad_output)


def pad(x, padding):
    """Put zeros around each image. A negative padding cuts off as many rows and columns on each side."""
    if padding <= 0:
        return x[:, -padding : x.shape[1] + padding, -padding : x.shape[2] + padding]
    n, height, width, channels = x.shape
    padded = np.zeros((n, height + 2 * padding, width + 2 * padding, channels), x.dtype)
    padded[:, padding:-padding, padding:-padding] = x
    return padded


# The op: its checks, and its place in the graph


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, padding: int = 0, relu: bool = False
) -> Tensor:
    """Cross-correlation with stride 1, the U-Net's convolution.

    y[n,i,j,f] = bias[f] + sum over p,q,c of weight[p,q,c,f] x[n,i+p,j+q,c]

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C), float32 or float64
    weight : Tensor, shape (K, K, C, F), dtype of x
    bias : Tensor, shape (F,), optional
    padding : int
        Rows and columns of zeros on each side of x. 0: valid; (K - 1) / 2: the output is as large as x.
    relu : bool
        Whether to return max(y, 0), computed in the same pass.

    Returns
    -------
    Tensor, shape (N, H + 2 padding - K + 1, W + 2 padding - K + 1, F)

    Raises
    ------
    ShapeError
        Wrong number of axes, channel counts differ, or the window is not square or larger than the padded x.
    DtypeError
        The dtypes differ.
    OptionError
        A negative padding.

    References
    ----------
    .. [1] Ronneberger et al. 2015, section 2.
    """
    require_fit(x, weight, bias, padding)
    return Conv2d.apply(x, weight, bias, padding=padding, relu=relu)


def require_fit(x: Any, weight: Tensor, bias: Tensor | None, padding: int) -> None:
    """Raise the errors of `conv2d`. Of x, a tensor or an array, only shape and dtype are used."""
    require_axes("conv2d", x=x, weight=weight)
    require_one_dtype("conv2d", x=x, weight=weight, bias=bias)
    require_channels("conv2d", x, weight, bias)
    details = {"x": describe(x, AXES["x"]), "weight": describe(weight, AXES["weight"]), "padding": padding}
    size = weight.shape[0]
    if weight.shape[1] != size:
        raise ShapeError(
            f"conv2d: the window is {size}×{weight.shape[1]}, expected a square",
            details,
            "use a window of 1×1, 3×3, 4×4, …",
        )
    if padding < 0:
        raise OptionError(f"conv2d: padding is {padding} pixels, expected at least 0", details)
    if min(x.shape[1:3]) + 2 * padding < size:
        raise ShapeError(
            f"conv2d: a {size}×{size} window does not fit into x with {padding} pixels of padding",
            details,
            "use a larger x, a smaller window, or more padding",
        )


class Conv2d(Function):
    """The op in the graph."""

    name = "conv2d"
    returns_new = True

    def forward(self, x, weight, bias, *, padding, relu):
        x = as_multiplied(x, weight.shape, padding)
        y = forward(x, weight, bias, padding, relu)
        self.save(x, weight, padding, y if relu else None)
        return y

    def backward(self, grad_output):
        x, weight, padding, rectified = self.take_saved()
        needs_x, needs_weight, needs_bias = self.needs_grad
        if needs_weight and in_one_pass(x, weight, padding, needs_x):
            return backward(x, grad_output, rectified, weight, padding, needs_x, needs_bias)
        grad_output, grad_bias = backward_bias_and_relu(
            grad_output, rectified, needs_bias, weight.shape, self.may_overwrite
        )
        del rectified
        grad_weight = backward_weight(x, grad_output, padding, weight.shape[0]) if needs_weight else None
        del x
        return backward_input(grad_output, weight, padding) if needs_x else None, grad_weight, grad_bias


def in_one_pass(x, weight, padding, needs_x=True):
    """Whether `backward` is faster than the steps: on a CPU for narrow layers, and for the first of all."""
    if active_backend() != "numba":
        return False
    if needs_x:
        return conv2d_winograd_backward.suits(x, weight, padding)
    size, _, channels, filters = weight.shape
    return not conv2d_winograd.suits(x.dtype, size, channels, filters)


def as_multiplied(x, weight_shape, padding):
    """The map x or, on CUDA, the copy that kernels multiply: made once for y and the weight's gradient."""
    on_cuda = active_backend() in ("cuda", "cuda-emulated")
    return conv2d_cuda.as_multiplied(x, weight_shape, padding) if on_cuda else x


def backward_bias_and_relu(grad_output, rectified, needs_bias, weight_shape=None, in_place=False):
    """The gradient before the ReLU, if there is one, and that of the bias, if it is needed.

    With the shape of a convolution's weight, the first may come in the precision in which its backward
    multiplies. If `in_place`, it may be written over grad_output.
    """
    if rectified is None:
        return grad_output, backward_bias(grad_output) if needs_bias else None
    if needs_bias:
        return backward_relu(grad_output, rectified, weight_shape, in_place)
    return backward_of_relu(grad_output, rectified), None


# Numba: each row of the output is a sum of matrix products, one for each row of the window. The rows of the
# left factor are the pieces of a row of x that the window covers, which overlap in memory. The right factor,
# weights or gradients, is in panels. For 3×3 windows over many channels, `conv2d_winograd` does it with fewer
# multiplications.


def forward_numba(x, weight, bias, padding, relu):
    size, _, channels, filters = weight.shape
    if bias is None:
        bias = np.zeros(filters, x.dtype)
    if conv2d_winograd.suits(x.dtype, size, channels, filters):
        return conv2d_winograd.forward(x, weight, bias, padding, relu)
    x = np.ascontiguousarray(pad(x, padding))
    y = allocator.empty((x.shape[0], x.shape[1] - size + 1, x.shape[2] - size + 1, filters), x.dtype)
    panels = in_panels(weight.reshape(size, size * channels, filters))
    _forward(_lines(x), x.shape[1], channels, panels, bias, relu, y, new_tasks())
    return y


@parallel_kernel
def _forward(x, x_height, channels, weight, bias, relu, y, tasks):
    batch, height, width, filters = y.shape
    size = len(weight)
    for _worker in prange(tasks.workers):
        row = next_task(tasks.taken)
        while row < batch * height:
            n, i = row // height, row % height
            out = y[n, i]
            for p in range(size):
                line = x[n * x_height + i + p]
                multiply_windows(line, channels, size * channels, weight[p], p > 0, out)
            for j in range(width):
                for f in range(filters):
                    value = out[j, f] + bias[f]
                    out[j, f] = 0 if relu and value < 0 else value  # a NaN stays
            row = next_task(tasks.taken)


def backward_input_numba(grad_output, weight, padding):
    size, _, channels, filters = weight.shape
    if conv2d_winograd.suits(weight.dtype, size, filters, channels):
        return conv2d_winograd.backward_input(grad_output, weight, padding)
    # Every input pixel gathers from the outputs that it went into: a convolution of the padded gradient with
    # the window rotated by 180° and its channels exchanged.
    flipped = np.ascontiguousarray(weight[::-1, ::-1].transpose(0, 1, 3, 2))
    return forward_numba(grad_output, flipped, None, size - 1 - padding, False)


def backward_weight_numba(x, grad_output, padding, size):
    channels, filters = x.shape[3], grad_output.shape[3]
    if conv2d_winograd.suits(x.dtype, size, channels, filters):
        return conv2d_winograd.backward_weight(x, grad_output, padding)
    return _backward_weight_and_bias(x, grad_output, grad_output[:0], padding, size)[0]


def _backward_weight_and_bias(x, grad_output, rectified, padding, size):
    """The gradient of the weights and, unless `rectified` is empty, that of the bias, before the ReLU."""
    channels, filters = x.shape[3], grad_output.shape[3]
    x, grad_output = np.ascontiguousarray(pad(x, padding)), np.ascontiguousarray(grad_output)
    # The number of parts of the sum over rows depends on shapes alone: fewer for a large gradient.
    columns = size * size * channels
    parts = np.zeros((max(2, min(16, 2**24 // (columns * filters))), size, size * channels, filters), x.dtype)
    sums = _partial_sums(grad_output, len(parts))
    rectified = np.ascontiguousarray(rectified)
    _backward_weight(_lines(x), x.shape[1], grad_output, rectified, parts, sums, new_tasks())
    return parts.sum(axis=0).reshape(size, size, channels, filters), _total(sums, grad_output)


@parallel_kernel
def _backward_weight(x, x_height, grad_output, rectified, parts, sums, tasks):
    batch, height, width, filters = grad_output.shape
    count, size, length, _ = parts.shape
    rows = batch * height
    in_place = filters == panel_width(filters, 0)  # one panel without room: a row of the gradient as it lies
    for _worker in prange(tasks.workers):
        memory, before_relu = np.empty(width * padded(filters), x.dtype), np.empty(width * filters, x.dtype)
        part = next_task(tasks.taken)
        while part < count:
            for row in range(rows * part // count, rows * (part + 1) // count):
                n, i = row // height, row % height
                gradient = grad_output[n, i].reshape(-1)
                if len(rectified):
                    _through_relu(gradient, rectified[n, i].reshape(-1), before_relu)
                    _add_up(before_relu, sums[part])
                    gradient = before_relu
                panels = gradient if in_place else memory
                if not in_place:
                    for j in range(width):
                        write_row(gradient[j * filters : (j + 1) * filters], j, width, memory)
                for p in range(size):
                    line = x[n * x_height + i + p]
                    multiply_windows_transposed(line, length // size, width, panels, True, parts[part, p])
            part = next_task(tasks.taken)


def backward_bias_numba(grad_output):
    lines, partial = _lines(grad_output), _sums_of_rows(grad_output)
    _backward_bias(lines, partial)
    return _total(partial, grad_output)


def backward_relu_numba(grad_output, y, weight_shape=None, in_place=False):
    partial = _sums_of_rows(grad_output)
    if in_place:
        _backward_relu_in_place(_lines(grad_output), _lines(y), partial)
        return grad_output, _total(partial, grad_output)
    before = allocator.empty_like(grad_output)
    _backward_relu(_lines(grad_output), _lines(y), _lines(before), partial)
    return before, _total(partial, grad_output)


def _lines(maps):
    """View each row of pixels as one line of numbers."""
    return maps.reshape(maps.shape[0] * maps.shape[1], -1)


def _sums_of_rows(maps):
    return _partial_sums(maps, maps.shape[0] * maps.shape[1])


def _partial_sums(maps, count):
    """Zeros to add rows of pixels to: several sums per filter, used in turn, to fill the vector lanes."""
    filters = maps.shape[3]
    return np.zeros((count, max(1, 128 // filters) * filters), np.float64)


def _total(partial, maps):
    return partial.reshape(-1, maps.shape[3]).sum(axis=0).astype(maps.dtype)


@parallel_kernel
def _backward_bias(grad_output, partial):
    for row in prange(len(partial)):
        _add_up(grad_output[row], partial[row])


@parallel_kernel
def _backward_relu(grad_output, y, before, partial):
    for row in prange(len(partial)):
        _through_relu(grad_output[row], y[row], before[row])
        _add_up(before[row], partial[row])  # `before` is still in the cache


@kernel
def _through_relu(grad_output, y, before):
    for e in range(y.size):
        before[e] = grad_output[e] if y[e] > 0 else 0


# Not the kernel above with one array as two: for arrays that overlap, its loop has no vectors.
@parallel_kernel
def _backward_relu_in_place(grad, y, partial):
    for row in prange(len(partial)):
        for e in range(y.shape[1]):
            grad[row, e] = grad[row, e] if y[row, e] > 0 else 0
        _add_up(grad[row], partial[row])  # it is still in the cache


@kernel
def _add_up(line, sums):
    for first in range(0, line.size, sums.size):
        piece = line[first : first + sums.size]
        for e in range(piece.size):
            sums[e] += piece[e]


def backward_numba(x, grad_output, rectified, weight, padding, needs_x, needs_bias):
    size, _, channels, filters = weight.shape
    if needs_x and conv2d_winograd_backward.suits(x, weight, padding):
        grads = conv2d_winograd_backward.backward(x, grad_output, rectified, weight, padding)
        return with_bias(grads, grad_output, rectified, needs_bias)
    if rectified is not None and not needs_x and not conv2d_winograd.suits(x.dtype, size, channels, filters):
        grads = _backward_weight_and_bias(x, grad_output, rectified, padding, size)
        return None, *with_bias(grads, grad_output, rectified, needs_bias)
    grad_output, grad_bias = backward_bias_and_relu(grad_output, rectified, needs_bias)
    grad_weight = backward_weight_numba(x, grad_output, padding, size)
    grad_x = backward_input_numba(grad_output, weight, padding) if needs_x else None
    return grad_x, grad_weight, grad_bias


def with_bias(grads, grad_output, rectified, needs_bias):
    """These gradients of one pass, which adds up the bias's only on the way through a ReLU."""
    *others, grad_bias = grads
    if rectified is None and needs_bias:
        grad_bias = backward_bias_numba(grad_output)
    return *others, grad_bias if needs_bias else None


# CUDA: conv2d_cuda.py and kernels/conv2d*.cu. All gradients at once: on a CPU only.

forward = Dispatch("conv2d", "forward", numpy=forward_numpy, numba=forward_numba, cuda=conv2d_cuda.forward)
backward_input = Dispatch(
    "conv2d",
    "backward_input",
    numpy=backward_input_numpy,
    numba=backward_input_numba,
    cuda=conv2d_cuda.backward_input,
)
backward_weight = Dispatch(
    "conv2d",
    "backward_weight",
    numpy=backward_weight_numpy,
    numba=backward_weight_numba,
    cuda=conv2d_cuda.backward_weight,
)
backward_bias = Dispatch(
    "conv2d",
    "backward_bias",
    numpy=backward_bias_numpy,
    numba=backward_bias_numba,
    cuda=conv2d_cuda.backward_bias,
)
backward_relu = Dispatch(
    "conv2d",
    "backward_relu",
    numpy=backward_relu_in_two_steps,
    numba=backward_relu_numba,
    cuda=conv2d_cuda.backward_relu,
)
backward = Dispatch("conv2d", "backward", numpy=backward_numpy, numba=backward_numba)
