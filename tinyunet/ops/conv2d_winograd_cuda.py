"""The rungs "winograd" and "winograd_tensor" of the CUDA convolution, for 3×3 windows.

They launch the transforms of `kernels/conv2d_winograd.cu`, and the products there or, on tensor cores, in
`kernels/conv2d_winograd_tensor.cu`. The equations are in `conv2d_winograd`. Here whole maps are transformed
at once: the transformed tiles go through the GPU's memory, 36/16 times as large as the maps.
"""

from __future__ import annotations

import math

from tinyunet.backend import cuda
from tinyunet.ops.conv2d_winograd_transforms import FREQUENCIES, OUTPUTS

WINOGRAD, WINOGRAD_TENSOR = "winograd", "winograd_tensor"
# For each rung the rows and columns of a product that a block computes, and its threads.
BLOCKS = {WINOGRAD: ((128, 64), (128,)), WINOGRAD_TENSOR: ((64, 64), (64,))}
TILES_PER_PART = 512  # that one thread adds in a weight gradient: a multiple of what a block fetches
# The operations of each transform of a tile in one channel: transforms of one axis, times the operations of
# each.
INPUT_FLOPS, WEIGHT_FLOPS, OUTPUT_FLOPS = 12 * 22, 9 * 13, 10 * 16
OUTPUT_GRAD_FLOPS, WEIGHT_GRAD_FLOPS = 10 * 14, 9 * 16


def forward(x, weight, bias, padding, relu, rung=WINOGRAD):
    n, height, width, channels = x.shape
    filters = weight.shape[3]
    y = cuda.empty((n, height + 2 * padding - 2, width + 2 * padding - 2, filters))
    v, u = _inputs(x, padding, y.shape), _planes(channels * filters)
    _transform("weights", channels * filters, WEIGHT_FLOPS, weight, u)
    tiles = v.size // FREQUENCIES // channels
    m = _planes(tiles * filters)
    arguments = (v, u, m, tiles, channels, filters)
    _multiply(rung, "multiply", (tiles, filters), FREQUENCIES, channels, *arguments)
    sizes = (*y.shape[1:], int(relu), *_tiles(y.shape)[1:])
    _transform("outputs", tiles * filters, OUTPUT_FLOPS, m, bias, y, *sizes)
    return y


def backward_weight(x, grad_output, padding, rung=WINOGRAD):
    channels, filters = x.shape[3], grad_output.shape[3]
    v = _inputs(x, padding, grad_output.shape)
    tiles = v.size // FREQUENCIES // channels
    z = _planes(tiles * filters)
    sizes = (*grad_output.shape[1:], *_tiles(grad_output.shape)[1:])
    _transform("output_grads", tiles * filters, OUTPUT_GRAD_FLOPS, grad_output, z, *sizes)
    num_parts = cuda.blocks(tiles, TILES_PER_PART)
    parts = cuda.empty((num_parts * FREQUENCIES, channels, filters))
    arguments = (v, z, parts, tiles, channels, filters, TILES_PER_PART)
    products = num_parts * FREQUENCIES
    _multiply(rung, "multiply_transposed", (channels, filters), products, tiles / num_parts, *arguments)
    grad_weight = cuda.empty((3, 3, channels, filters))
    operations = WEIGHT_GRAD_FLOPS + FREQUENCIES * num_parts
    _transform("weight_grad", channels * filters, operations, parts, grad_weight, num_parts)
    return grad_weight


def forward_fits(output_shape, channels, filters):
    """Return True if the kernels can index the transformed maps."""
    return FREQUENCIES * math.prod(_tiles(output_shape)) * max(channels, filters) <= cuda.INDEX_LIMIT


def backward_weight_fits(output_shape, channels, filters):
    """Return True if the kernels can index the transformed maps and the products of all parts."""
    products = FREQUENCIES * cuda.blocks(math.prod(_tiles(output_shape)), TILES_PER_PART)
    return (
        forward_fits(output_shape, channels, filters)
        and products * channels * filters <= cuda.INDEX_LIMIT
        and products <= cuda.MAX_BLOCKS
    )


def _tiles(shape):
    """Count images, and tiles down and across, of an output."""
    n, height, width, _ = shape
    return n, cuda.blocks(height, OUTPUTS), cuda.blocks(width, OUTPUTS)


def _planes(count):
    return cuda.empty((FREQUENCIES, count))


def _inputs(x, padding, shape_of_output):
    """Transform the tiles of x into v."""
    n, down, across = _tiles(shape_of_output)
    v = _planes(n * down * across * x.shape[3])
    _transform("inputs", v.shape[1], INPUT_FLOPS, x, v, *x.shape[1:], padding, down, across)
    return v


def _transform(direction, count, operations, *arguments):
    cuda.launch_elementwise("conv2d", f"winograd_{direction}", count, *arguments, flops=operations * count)


def _multiply(rung, direction, shape, products, depth, *arguments):
    """Launch some products of matrices whose results have this shape."""
    (rows, columns), ((tile_rows, tile_columns), threads) = shape, BLOCKS[rung]
    grid = (cuda.blocks(rows, tile_rows), cuda.blocks(columns, tile_columns), products)
    flops = int(2 * rows * columns * depth * products)
    cuda.launch("conv2d", f"{rung}_{direction}", grid, threads, *arguments, flops=flops)
