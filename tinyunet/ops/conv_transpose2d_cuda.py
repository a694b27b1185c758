"""The CUDA up-convolution: chooses a rung of `kernels/conv_transpose2d.cu` and launches it.

By default (`rung=None`) it is "product": conv2d's kernels multiply, and those here move factors and results.
"""

from __future__ import annotations

from tinyunet.backend import cuda
from tinyunet.ops import conv2d_cuda

RUNGS = ("naive", "product")


def forward(x, weight, bias, relu, rung=None):
    n, height, width, channels = x.shape
    filters = weight.shape[3]
    y = cuda.empty((n, 2 * height, 2 * width, filters))
    bias = cuda.zeros((filters,)) if bias is None else bias
    if rung == "naive":
        arguments = (x, weight, bias, y, width, channels, filters, int(relu))
        _launch("forward_naive", y.size, *arguments, flops=8 * x.size * filters)
    else:
        rows = conv2d_cuda.forward(x, _joined(weight), None, 0, False)
        _move("scatter", y.size, filters, (rows, bias, y), (width,), (int(relu),))
    return y


def backward_bias(grad_output, channels=None, rung=None):
    """The gradient of y, and that of the bias.

    With the channels of x, the first is gathered to rows, once for `backward_input` and `backward_weight`.
    """
    if channels is None or rung == "naive":
        return grad_output, conv2d_cuda.backward_bias(grad_output)
    rows, grad_bias = conv2d_cuda.gather_and_add(grad_output, channels)
    if rows is None:
        return _rows(grad_output), conv2d_cuda.backward_bias(grad_output)
    return rows, grad_bias


def backward_input(grad_output, weight, rung=None):
    if rung != "naive":
        rows = grad_output if grad_output.shape[3] == 4 * weight.shape[3] else _rows(grad_output)
        return conv2d_cuda.backward_input(rows, _joined(weight), 0)
    n, height, width, filters = grad_output.shape
    grad_x = cuda.empty((n, height // 2, width // 2, weight.shape[2]))
    arguments = (grad_output, weight, grad_x, width // 2, weight.shape[2], filters)
    _launch("backward_input_naive", grad_x.size, *arguments, flops=8 * grad_x.size * filters)
    return grad_x


def backward_weight(x, grad_output, rung=None):
    n, height, width, channels = x.shape
    if rung != "naive":
        rows = grad_output if grad_output.shape[1] == height else _rows(grad_output)
        joined, filters = conv2d_cuda.backward_weight(x, rows, 0, 1), rows.shape[3] // 4
        grad_weight = cuda.empty((2, 2, channels, filters))
        _move("swap_axes", joined.size, filters, (joined, grad_weight), (channels, 4))
        return grad_weight
    filters, pixels = grad_output.shape[3], n * height * width
    parts = cuda.empty((cuda.blocks(pixels, conv2d_cuda.ROWS_PER_PART), 2, 2, channels, filters))
    arguments = (x, grad_output, parts, width, channels, filters, pixels, conv2d_cuda.ROWS_PER_PART)
    _launch("backward_weight_naive", parts.size, *arguments, flops=8 * x.size * filters)
    return conv2d_cuda.sum_parts(parts)


def _launch(direction, count, *arguments, flops=0):
    cuda.launch_elementwise("conv_transpose2d", direction, count, *arguments, flops=flops)


def _joined(weight):
    """(2, 2, C, F) -> (1, 1, C, 4F): the weight of a 1×1 convolution whose results are scattered."""
    _, _, channels, filters = weight.shape
    joined = cuda.empty((1, 1, channels, 4 * filters))
    _move("swap_axes", weight.size, filters, (weight, joined), (4, channels))
    return joined


def _rows(grad_output):
    """(N, 2H, 2W, F) -> (N, H, W, 4F): the four pixels of each input pixel."""
    n, height, width, filters = grad_output.shape
    rows = cuda.empty((n, height // 2, width // 2, 4 * filters))
    _move("gather", rows.size, filters, (grad_output, rows), (width // 2,))
    return rows


def _move(direction, count, filters, arrays, before, after=()):
    """Run a kernel that moves `count` numbers, four filters at once where it can.

    `before` and `after` are its parameters around the number of filters.
    """
    at_once = 1 if filters % 4 else 4
    name = direction if at_once == 1 else f"{direction}_by_four"
    _launch(name, count // at_once, *arrays, *before, filters // at_once, *after)
