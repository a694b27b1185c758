"""The CUDA convolution: chooses a rung of `kernels/conv2d*.cu` and launches it.

All rungs compute the same values up to rounding. Each should be faster than the one before, and may restrict
the sizes. By default (`rung=None`) the last rung runs that takes the arrays and keeps the precision set by
`tinyunet.use_backend`. In float32 and bf16 the GPU decides, too, so that the bits are the same on GPUs of one
compute capability only.

Tutorial: `tutorials/07_conv2d_cuda.py`.
"""

from __future__ import annotations

import math

import numpy as np

from tinyunet.backend import active_backend, active_precision, compute_capability, cuda
from tinyunet.ops import conv2d_winograd_cuda, relu
from tinyunet.ops.conv2d_winograd import suits
from tinyunet.ops.conv2d_winograd_cuda import WINOGRAD, WINOGRAD_TENSOR

# For each rung the rows and columns of the result that a block computes, and its threads.
TILES = {
    "tiled": ((16, 16), (16, 16)),
    "few_channels": ((256, 32), (256,)),
    "blocked": ((128, 64), (128,)),
    "tensor": ((128, 64), (128,)),
    "tensor_bf16": ((128, 64), (128,)),
    "tensor_copies": ((128, 128), (256,)),
    "wgmma": ((128, 128), (256,)),
}
# The same for the gradient of a weight, whose rows are those of the weight.
WEIGHT_TILES = TILES | {"few_channels": ((9, 32), (256,))}
# By precision. "tensor_copies" was chosen by the model of `benchmarks.gpu_model`, not by a clock.
FASTEST = {"float32": "blocked", "tf32": "tensor", "bf16": "tensor_copies"}
RUNGS = ("naive", *TILES)
FEW_CHANNELS = "few_channels"  # the rung that reads x number by number, for images
MAX_FEW = 4  # channels for it, by the same model, where "blocked" would run
COPIES = "tensor_copies"  # the rung that multiplies copies rounded to bfloat16
WGMMA, WGMMA_CAPABILITY = "wgmma", (9, 0)  # multiplies the same copies, on GPUs of this kind only
OF_COPIES = (COPIES, WGMMA)
# Filters from which "wgmma" is chosen there, by the same model: with 64, half of its products would be idle.
MIN_FOR_WGMMA = 128
WITHOUT_COPIES = "tensor_bf16"  # in place of it where its blocks are too large
MIN_COPIED = 64  # channels and filters for "tensor_copies", by the same model: half of a block idles then
MIN_MULTIPLICATIONS = 2**30  # for "tensor_copies": with less to do, its few blocks leave processors idle
WINOGRADS = (WINOGRAD, WINOGRAD_TENSOR)  # rungs in float32 for windows of 3×3 only
# Compute capabilities, those of an A100 and of an H100 or H200, for which the same model chooses
# "winograd_tensor". There tensor cores multiply five to eight times as fast in TF32 as the other units in
# float32, and each product takes three. With 8.6, 8.9 and 12.0 they are as fast as these, or twice as fast on
# some cards, which is too slow by the model. With 10.0 and 10.3, no source was found for `mma.sync`.
FAST_IN_TF32 = ((8, 0), (9, 0))
MIN_CHANNELS = 32  # and filters, for these: by counts of bytes and operations, not by a clock
# A sum over the rows of a matrix is split into shares.
ROWS_PER_SHARE, MOST_SHARES = 64, 256
MOST_PARTS = 640  # rows that one launch adds: more are added in two, which have less to wait for
ROWS_PER_PART = 2048  # pixels that one thread adds in a weight gradient: a multiple of every tile


def forward(x, weight, bias, padding, relu, rung=None, rounded=False):
    """Convolve; with `rounded`, to a copy rounded to bfloat16."""
    _, height, width, channels = x.shape
    size, filters = weight.shape[0], weight.shape[3]
    bias = cuda.zeros((filters,)) if bias is None else bias
    rung = rung or _forward_rung(x, filters, size, padding)
    if rounded and rung != COPIES:
        return _rounded_to_bf16(forward(x, weight, bias, padding, relu, rung))
    if rung in WINOGRADS:
        return conv2d_winograd_cuda.forward(x, weight, bias, padding, relu, rung)
    y = cuda.empty(output_shape(x, filters, size, padding), np.uint16 if rounded else np.float32)
    rows = y.size // filters
    cuda.launch(
        "conv2d",
        f"rounded_forward_{rung}" if rounded else f"forward_{rung}",
        *_grid_and_block(rung, rows, filters),
        *(*_factors(rung, x, weight), bias, y),
        *(height, width, channels, size, padding, filters, int(relu), rows),
        flops=2 * rows * weight.size,
    )
    return y


def multiplies_copies(x, weight_shape, padding):
    """Tell whether a rung of copies is chosen for x and a weight of this shape."""
    return _forward_rung(x, weight_shape[3], weight_shape[0], padding) in OF_COPIES


def as_multiplied(x, weight_shape, padding):
    """Return what kernels multiply with a weight of this shape: x, or a copy rounded to bfloat16."""
    return _rounded_to_bf16(x) if multiplies_copies(x, weight_shape, padding) else x


def backward_input(grad_output, weight, padding, rung=None):
    # Every input pixel gathers from the outputs that it contributed to: a convolution of the padded gradient
    # with the window rotated by 180°, and channels and filters exchanged.
    size, _, channels, _ = weight.shape
    padding = size - 1 - padding
    rung = rung or _forward_rung(grad_output, channels, size, padding)
    return forward(grad_output, _flipped(weight, rung in OF_COPIES), None, padding, False, rung)


def backward_input_and_relu(grad_output, weight, padding, x, rounded):
    """The gradient of x before the ReLU whose result it is, and its sum over pixels, by `tensor_copies`.

    The copy x, rounded to bfloat16, is 0 where the ReLU was, and where its result was below 2^-134. With
    `rounded`, the gradient is such a copy, too.
    """
    _, height, width, filters = grad_output.shape
    size, channels, rows = weight.shape[0], weight.shape[2], x.size // x.shape[3]
    (blocks, across), block = _grid_and_block(COPIES, rows, channels)
    grad_x = cuda.empty(x.shape, np.uint16 if rounded else np.float32)
    parts = cuda.empty((blocks, channels), float)
    cuda.launch(
        "conv2d",
        f"rounded_backward_input_{COPIES}" if rounded else f"backward_input_{COPIES}",
        (blocks, across),
        block,
        *(*_factors(COPIES, grad_output), _flipped(weight, True), x, grad_x, parts),
        *(height, width, filters, size, size - 1 - padding, channels, rows),
        flops=2 * rows * weight.size + x.size,
    )
    return grad_x, sum_rows(parts)


def _flipped(weight, rounded):
    """Rotate the window by 180°, and exchange channels and filters, perhaps in a copy rounded to bfloat16."""
    size, _, channels, filters = weight.shape
    flipped = cuda.empty((size, size, filters, channels), np.uint16 if rounded else np.float32)
    grid, block = (cuda.blocks(filters, 32), cuda.blocks(channels, 32), size**2), (32, 8)
    direction = "flip_to_bf16" if rounded else "flip_weight"
    cuda.launch("conv2d", direction, grid, block, weight, flipped, channels, filters)
    return flipped


def backward_weight(x, grad_output, padding, size, rung=None):
    _, height, width, channels = x.shape
    filters = grad_output.shape[3]
    fits = conv2d_winograd_cuda.backward_weight_fits
    rung = rung or _rung_for(x, filters) or _rung_for(grad_output, filters)
    rung = rung or _rung_that_fits(fits, grad_output.shape, channels, size)
    if rung in WINOGRADS:
        return conv2d_winograd_cuda.backward_weight(x, grad_output, padding, rung)
    rows, columns = grad_output.size // filters, size**2 * channels
    parts = cuda.empty((cuda.blocks(rows, ROWS_PER_PART), size, size, channels, filters))
    (across, down), block = _grid_and_block(rung, columns, filters, WEIGHT_TILES)
    cuda.launch(
        "conv2d",
        f"backward_weight_{rung}",
        (across, down, parts.shape[0]),
        block,
        *(*_factors(rung, x, grad_output), parts),
        *(height, width, channels, size, padding, filters, rows, ROWS_PER_PART),
        flops=2 * rows * columns * filters,
    )
    return sum_parts(parts)


def backward_relu(grad_output, y, weight_shape=None, in_place=False, rung=None):
    """The gradient before the ReLU, and that of the bias.

    The first is a copy rounded to bfloat16 where only products of such copies use it: those with x and with a
    weight of this shape, if a rung of copies is chosen for them.
    """
    if rung is None and weight_shape is not None:
        size, _, channels, _ = weight_shape
        rung = _rung_that_fits(conv2d_winograd_cuda.backward_weight_fits, y.shape, channels, size)
    if rung not in OF_COPIES:
        grad_output = relu.backward_cuda(grad_output, y)
        return grad_output, backward_bias(grad_output)
    before = cuda.empty(y.shape, np.uint16)
    return before, _copy_and_add("backward_relu", (grad_output, y), before)


def gather_and_add(grad_output, channels, rung=None):
    """The squares of an up-convolution's gradient as rows of 4F numbers, and the gradient of the bias.

    The first is a copy rounded to bfloat16. Both are None where no rung of copies is chosen for products of
    such rows with maps of so many channels.
    """
    n, height, width, filters = grad_output.shape
    shape = (n, height // 2, width // 2, 4 * filters)
    rung = rung or _rung_that_fits(conv2d_winograd_cuda.backward_weight_fits, shape, channels, 1)
    if rung not in OF_COPIES or filters % 4:
        return None, None
    rows = cuda.empty(shape, np.uint16)
    return rows, _copy_and_add("gather_to_bf16", (grad_output,), rows, width)


def _copy_and_add(direction, arrays, copy, *sizes):
    """Launch a kernel that copies the gradient of maps in bfloat16, and return its sum over pixels."""
    rows, filters, shares = _shares(arrays[0])
    parts = cuda.empty((shares, filters), float)
    grid, block = (cuda.blocks(filters, 64), shares), (16, 16)
    arguments = (*arrays, copy, parts, *sizes, rows, filters)
    cuda.launch("conv2d", direction, grid, block, *arguments, flops=rows * filters)
    return sum_rows(parts)


def backward_bias(grad_output):
    rows, filters, shares = _shares(grad_output)
    columns = cuda.blocks(filters, 32)
    parts = cuda.empty((shares, filters), float)
    grid, block = (columns, shares), (32, 8)
    cuda.launch(
        "conv2d", "backward_bias", grid, block, grad_output, parts, rows, filters, flops=rows * filters
    )
    return sum_rows(parts)


def _shares(maps):
    """Return the pixels of maps, their channels, and the shares of the pixels that blocks sum separately."""
    rows = maps.size // maps.shape[3]
    return rows, maps.shape[3], min(MOST_SHARES, cuda.blocks(rows, ROWS_PER_SHARE))


def sum_rows(parts):
    """Add the rows of a float64 matrix in order, into float32. Many rows are added in two launches."""
    num_parts, columns = parts.shape
    if num_parts > MOST_PARTS:
        shares = cuda.blocks(num_parts, ROWS_PER_SHARE)
        parts, of_all = cuda.empty((shares, columns), float), parts
        arguments = (of_all, parts, num_parts, columns)
        grid = (cuda.blocks(columns, 32), shares)
        cuda.launch("conv2d", "backward_bias_middle", grid, (32, 8), *arguments, flops=of_all.size)
        num_parts = shares
    total = cuda.empty((columns,))
    arguments = (parts, total, num_parts, columns)
    end = (cuda.blocks(columns, 32),)
    cuda.launch("conv2d", "backward_bias_end", end, (32, 8), *arguments, flops=parts.size)
    return total


def sum_parts(parts):
    """Add over the first axis, in order."""
    if parts.shape[0] == 1:
        return parts[0]
    total, num_parts = cuda.empty(parts.shape[1:]), parts.shape[0]
    cuda.launch_elementwise("conv2d", "sum_parts", total.size, parts, total, num_parts, flops=parts.size)
    return total


def takes(rung, channels, filters):
    """Tell whether a rung has kernels for this GPU and these sizes.

    Most load four numbers at once, or copy eight.
    """
    if rung == WGMMA and active_backend() == "cuda" and compute_capability() != WGMMA_CAPABILITY:
        return False
    copied = dict.fromkeys(OF_COPIES, (8, 8))
    at_once = {"naive": (1, 1), "tiled": (1, 1), FEW_CHANNELS: (1, 4), **copied}.get(rung, (4, 4))
    return channels % at_once[0] == 0 and filters % at_once[1] == 0


def fastest_rung(channels, filters, size):
    """Choose the rung for the precision and these sizes: 128-bit loads need multiples of 4.

    Where only the filters are such a multiple, factors keep their 24 bits in all precisions.

    The environment variable TINYUNET_CONV turns Winograd's algorithm on and off, as on the CPU.
    """
    if filters % 4:
        return "tiled"
    if channels % 4:
        return FEW_CHANNELS
    precision = active_precision()
    if precision == "float32" and suits(np.float32, size, channels, filters, MIN_CHANNELS):
        return fastest_winograd()
    if precision == "float32" and channels <= MAX_FEW:
        return FEW_CHANNELS
    rung = FASTEST[precision]
    too_few = min(channels, filters) < MIN_COPIED or not takes(COPIES, channels, filters)
    return WITHOUT_COPIES if rung == COPIES and too_few else rung


def fastest_winograd():
    """Choose one of `WINOGRADS` by the GPU. For the emulator, the one that takes less time to emulate."""
    on_fast_gpu = active_backend() == "cuda" and compute_capability() in FAST_IN_TF32
    return WINOGRAD_TENSOR if on_fast_gpu else WINOGRAD


def output_shape(x, filters, size, padding):
    """Return the shape of y."""
    n, height, width, _ = x.shape
    return n, height + 2 * padding - size + 1, width + 2 * padding - size + 1, filters


def _forward_rung(x, filters, size, padding):
    """Choose the rung of a convolution of x."""
    shape, fits = output_shape(x, filters, size, padding), conv2d_winograd_cuda.forward_fits
    return _rung_for(x, filters) or _rung_that_fits(fits, shape, x.shape[3], size)


def _rung_that_fits(winograd_fits, output_shape, channels, size):
    """Choose `fastest_rung`, or another for this output.

    Winograd's arrays may exceed what a kernel can index, and copies may be too much effort for few products.
    """
    filters = output_shape[3]
    rung = fastest_rung(channels, filters, size)
    if rung in WINOGRADS and not winograd_fits(output_shape, channels, filters):
        return FASTEST["float32"]
    if rung == COPIES and math.prod(output_shape) * channels * size**2 < MIN_MULTIPLICATIONS:
        return WITHOUT_COPIES
    return fastest_of_copies(filters) if rung == COPIES else rung


def fastest_of_copies(filters):
    """Choose one of `OF_COPIES` by the GPU, for a product with so many columns."""
    on_its_gpu = active_backend() == "cuda" and compute_capability() == WGMMA_CAPABILITY
    return WGMMA if on_its_gpu and filters >= MIN_FOR_WGMMA else COPIES


def _rung_for(factor, filters):
    """Return the rung that multiplies copies for one, else None."""
    return fastest_of_copies(filters) if factor.dtype == np.uint16 else None


def _factors(rung, *arrays):
    """Return what the kernels of a rung multiply."""
    return [_rounded_to_bf16(array) for array in arrays] if rung in OF_COPIES else arrays


def _rounded_to_bf16(array):
    """Make a copy, unless it is one: NumPy has no bfloat16, so its elements are integers of 16 bits."""
    if array.dtype == np.uint16:
        return array
    rounded = cuda.empty(array.shape, np.uint16)
    cuda.launch_elementwise("conv2d", "round_to_bf16", array.size // 4, array, rounded)
    return rounded


def _grid_and_block(rung, rows, columns, tiles=TILES):
    """Return blocks (along rows, along columns) and threads for a result of rows × columns."""
    if rung == "naive":
        return (cuda.blocks(rows * columns, cuda.THREADS_PER_BLOCK), 1), (cuda.THREADS_PER_BLOCK,)
    (tile_rows, tile_columns), block = tiles[rung]
    return (cuda.blocks(rows, tile_rows), cuda.blocks(columns, tile_columns)), block
