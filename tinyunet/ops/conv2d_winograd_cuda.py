"""The rung "winograd" of the CUDA convolution: 3×3 windows by `kernels/conv2d_winograd.cu`.

The equations are those of `conv2d_winograd`, but here each step takes whole maps: the transformed tiles go
through the GPU's memory, 36/16 times as large as the maps.
"""

from __future__ import annotations

from tinyunet.backend import cuda
from tinyunet.ops.conv2d_winograd_transforms import FREQUENCIES, OUTPUTS

TILE, THREADS = (128, 64), (128,)  # rows and columns of a product that a block computes, and its threads
TILES_PER_PART = 512  # summed by one thread for the gradient of a weight: a multiple of what a block fetches
# Operations to transform a tile in one channel: the transforms along one axis, times the operations of each.
INPUT_OPERATIONS, OUTPUT_OPERATIONS, OUTPUT_GRAD_OPERATIONS = 12 * 22, 10 * 16, 10 * 14
WEIGHT_OPERATIONS, WEIGHT_GRAD_OPERATIONS = 9 * 13, 9 * 16


def forward(x, weight, bias, padding, relu):
    n, height, width, channels = x.shape
    filters = weight.shape[3]
    y = cuda.empty((n, height + 2 * padding - 2, width + 2 * padding - 2, filters))
    v, u = _inputs(x, padding, y.shape), _planes(channels * filters)
    _transform("weights", channels * filters, WEIGHT_OPERATIONS, weight, u)
    tiles = v.size // FREQUENCIES // channels
    m = _planes(tiles * filters)
    _multiply("multiply", (tiles, filters), FREQUENCIES, channels, v, u, m, tiles, channels, filters)
    sizes = (*y.shape[1:], int(relu), *_tiles(y.shape)[1:])
    _transform("outputs", tiles * filters, OUTPUT_OPERATIONS, m, bias, y, *sizes)
    return y


def backward_weight(x, grad_output, padding):
    channels, filters = x.shape[3], grad_output.shape[3]
    v = _inputs(x, padding, grad_output.shape)
    tiles = v.size // FREQUENCIES // channels
    z = _planes(tiles * filters)
    sizes = (*grad_output.shape[1:], *_tiles(grad_output.shape)[1:])
    _transform("output_grads", tiles * filters, OUTPUT_GRAD_OPERATIONS, grad_output, z, *sizes)
    number = cuda.blocks(tiles, TILES_PER_PART)
    parts = cuda.empty((number * FREQUENCIES, channels, filters))
    arguments = (v, z, parts, tiles, channels, filters, TILES_PER_PART)
    _multiply("multiply_transposed", (channels, filters), number * FREQUENCIES, tiles / number, *arguments)
    grad_weight = cuda.empty((3, 3, channels, filters))
    operations = WEIGHT_GRAD_OPERATIONS + FREQUENCIES * number
    _transform("weight_grad", channels * filters, operations, parts, grad_weight, number)
    return grad_weight


def _tiles(shape):
    """The images of an output, and its tiles down and across."""
    n, height, width, _ = shape
    return n, cuda.blocks(height, OUTPUTS), cuda.blocks(width, OUTPUTS)


def _planes(count):
    return cuda.empty((FREQUENCIES, count))


def _inputs(x, padding, shape_of_output):
    """v, the transformed tiles of x."""
    n, down, across = _tiles(shape_of_output)
    v = _planes(n * down * across * x.shape[3])
    _transform("inputs", v.shape[1], INPUT_OPERATIONS, x, v, *x.shape[1:], padding, down, across)
    return v


def _transform(direction, count, operations, *arguments):
    cuda.launch_elementwise("conv2d", f"winograd_{direction}", count, *arguments, flops=operations * count)


def _multiply(direction, shape, products, depth, *arguments):
    """Launch so many products of matrices, each with a result of this shape."""
    (rows, columns), (tile_rows, tile_columns) = shape, TILE
    grid = (cuda.blocks(rows, tile_rows), cuda.blocks(columns, tile_columns), products)
    flops = int(2 * rows * columns * depth * products)
    cuda.launch("conv2d", f"winograd_{direction}", grid, THREADS, *arguments, flops=flops)
