"""The CUDA convolution: which rung of `kernels/conv2d.cu` runs, and how it is launched.

A rung computes the same values as the others, up to rounding; each is faster than the one before and asks for
more. Left open (`rung=None`), the fastest that can take the arrays is chosen.
"""

from __future__ import annotations

from tinyunet import cuda

RUNGS = ("naive",)
ROWS_A_PART = 2048  # pixels that one thread adds up in the gradient of a weight


def forward(x, weight, bias, padding, relu, rung=None):
    n, height, width, channels = x.shape
    size, filters = weight.shape[0], weight.shape[3]
    y = cuda.empty((n, height + 2 * padding - size + 1, width + 2 * padding - size + 1, filters))
    bias = cuda.zeros((filters,)) if bias is None else bias
    rung = rung or "naive"
    rows = y.size // filters
    cuda.launch(
        "conv2d",
        f"forward_{rung}",
        *_shape_of_launch(rung, rows, filters),
        *(x, weight, bias, y),
        *(height, width, channels, size, padding, filters, int(relu), rows),
        flops=2 * rows * weight.size,
    )
    return y


def backward_input(grad_output, weight, padding, rung=None):
    # Every input pixel gathers from the outputs that it went into: a convolution of the padded gradient with
    # the window turned by 180 degrees and its channels exchanged.
    size, _, channels, filters = weight.shape
    turned = cuda.empty((size, size, filters, channels))
    cuda.launch_elementwise("conv2d", "turn_weight", weight.size, weight, turned, channels, filters, size**2)
    return forward(grad_output, turned, None, size - 1 - padding, False, rung)


def backward_weight(x, grad_output, padding, size, rung=None):
    _, height, width, channels = x.shape
    filters = grad_output.shape[3]
    rows, columns = grad_output.size // filters, size**2 * channels
    parts = cuda.empty((cuda.blocks(rows, ROWS_A_PART), size, size, channels, filters))
    rung = rung or "naive"
    grid, block = _shape_of_launch(rung, columns, filters)
    cuda.launch(
        "conv2d",
        f"backward_weight_{rung}",
        (*grid, 1, parts.shape[0]) if len(grid) == 1 else (*grid, parts.shape[0]),
        block,
        *(x, grad_output, parts),
        *(height, width, channels, size, padding, filters, rows, ROWS_A_PART),
        flops=2 * rows * columns * filters,
    )
    return sum_parts(parts)


def sum_parts(parts):
    """The sum over the first axis, in order."""
    total = cuda.empty(parts.shape[1:])
    cuda.launch_elementwise("conv2d", "sum_parts", total.size, parts, total, parts.shape[0], flops=parts.size)
    return total


def backward_bias(grad_output):
    filters = grad_output.shape[3]
    rows = grad_output.size // filters
    columns, shares = cuda.blocks(filters, 32), min(256, cuda.blocks(rows, 64))
    parts = cuda.empty((shares, filters), float)
    grad_bias = cuda.empty((filters,))
    cuda.launch(
        "conv2d",
        "backward_bias",
        (columns, shares),
        (32, 8),
        grad_output,
        parts,
        rows,
        filters,
        flops=rows * filters,
    )
    cuda.launch("conv2d", "backward_bias_end", (columns,), (32, 8), parts, grad_bias, shares, filters)
    return grad_bias


def _shape_of_launch(rung, rows, columns):
    """Blocks and threads for a rows × columns matrix of results."""
    return (cuda.blocks(rows * columns, cuda.WIDTH),), (cuda.WIDTH,)
