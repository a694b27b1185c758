"""Tiles of maps for Winograd's convolution: gathered into transformed inputs, scattered from products.

Tiles are numbered along rows, row after row, image after image; `start` is the number of the first one in an
array of transformed tiles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from tinyunet.backend import allocator
from tinyunet.backend.jit import kernel, parallel_kernel
from tinyunet.backend.products import PANEL, panel_width
from tinyunet.backend.simd import LANES, prefetch
from tinyunet.ops.conv2d_winograd_transforms import (
    FREQUENCIES,
    OUTPUTS,
    transform_input,
    transform_output,
    transform_output_grad,
)
from tinyunet.ops.crop_concat import corner

# The channels from which on a tile's pixels are fetched into the cache two tiles ahead. On one core of a
# third-generation EPYC, which has AVX2, 570×570 pixels of 16 channels took 12.0 ms to gather without this and
# 4.8 with it, 6.5 and 3.6 ms to scatter. With AVX-512, only wide inputs have been measured.
PREFETCHED_INPUT, PREFETCHED_OUTPUT = (17, 2**30) if LANES == 16 else (1, 1)


class Maps(NamedTuple):
    """Two maps whose channels stand side by side: all of the first, and the centre of the second."""

    first: Any
    """(N, H, W, C)"""
    second: Any
    """(N, H', W', C') with H' >= H and W' >= W"""
    top: int
    """The row of the second at which the centre begins."""
    left: int
    """Its column."""


def joined(first, second) -> Maps:
    """Pair an up-sampled map with a skip, as `crop_concat` does."""
    return Maps(np.ascontiguousarray(first), np.ascontiguousarray(second), *corner(first.shape, second.shape))


def alone(x) -> Maps:
    """Pair a map with one that has no channels."""
    return Maps(np.ascontiguousarray(x), np.empty((0, 0, 0, 0), x.dtype), 0, 0)


def planes(rows, columns, count):
    """Make memory for some groups of matrices, one matrix per frequency: (count, 36, rows, columns).

    A group is that of a thread, or of a panel of channels. A transform writes to all 36 matrices in turn.
    They lie an odd number of cache lines apart: at a distance of, say, 64 lines, all would compete for the
    same place in the cache.
    """
    line = allocator.CACHE_LINE // 4  # elements
    size = rows * columns
    memory = allocator.empty((count, FREQUENCIES, (size // line + 1 | 1) * line))
    return memory[..., :size].reshape(count, FREQUENCIES, rows, columns)


def count_tiles(y):
    """Count the tiles of an output."""
    return y.shape[0] * -(-y.shape[1] // OUTPUTS) * -(-y.shape[2] // OUTPUTS)


@kernel
def down_and_across(height, width):
    """The tiles along both axes of an output."""
    return (height + OUTPUTS - 1) // OUTPUTS, (width + OUTPUTS - 1) // OUTPUTS


@kernel
def lies_inside(i, j, size, height, width):
    """Whether size × size pixels from (i, j) on lie inside a map."""
    return i >= 0 and j >= 0 and i + size <= height and j + size <= width


@kernel
def gather(x, top, left, height, width, n, i, j, patch):
    """Find pixels of image n, as many as in a patch, from (i, j) of an area that begins at (top, left) of x.

    Returns an array, and their place in it. It is x where all of them lie inside of the area; otherwise
    `patch`, with a copy of them and zeros around.
    """
    channels, size = x.shape[3], patch.shape[1]
    if lies_inside(i, j, size, height, width):
        return x, ((n * x.shape[1] + top + i) * x.shape[2] + left + j) * channels
    for r in range(size):
        for s in range(size):
            inside = 0 <= i + r < height and 0 <= j + s < width
            for c in range(channels):
                patch[0, r, s, c] = x[n, top + i + r, left + j + s, c] if inside else 0
    return patch, 0


@kernel
def prefetch_pixels(x, at, rows, columns):
    """Fetch a part of a map into the cache."""
    _, _, width, channels = x.shape
    for r in range(rows):
        for e in range(0, columns * channels, 16):  # a cache line
            prefetch(x, at + r * width * channels + e)


@kernel
def place_of(tile, down, across):
    """A tile's image, and the row and column of its first output."""
    row = tile // across
    return row // down, row % down * OUTPUTS, tile % across * OUTPUTS


@kernel
def _gather_source(x, top, left, height, width, padding, down, across, first, last, start, patch, v, begin):
    """Write those of one source, of which the area is used, into v from channel `begin` on."""
    channels, columns, group, plane = x.shape[3], v.shape[3], v.strides[0] // 4, v.strides[1] // 4
    for tile in range(first, last):
        n, i, j = place_of(tile, down, across)
        d, at = gather(x, top, left, height, width, n, i - padding, j - padding, patch)
        pixel = d.shape[3]
        if channels >= PREFETCHED_INPUT:  # the tile after the next
            prefetch_pixels(d, at + 10 * pixel, 6, 4)
        c = 0
        while c < channels:
            panel, column = (begin + c) // columns, (begin + c) % columns
            count, to = min(channels - c, columns - column), panel * group + (tile - start) * columns + column
            transform_input(d, at + c, d.shape[2] * pixel, pixel, v, to, plane, count)
            c += count


@kernel
def gather_inputs(sources, padding, down, across, first, last, start, patch, v):
    """Write the transformed inputs of the tiles first to last - 1 into v.

    v : (panels, 36, tiles, channels of a panel). patch : (1, 6, 6, C), scratch.
    """
    x, skip, top, left = sources
    _, height, width, channels = x.shape
    _gather_source(x, 0, 0, height, width, padding, down, across, first, last, start, patch, v, 0)
    if skip.shape[3]:
        area = (top, left, height, width)
        _gather_source(skip, *area, padding, down, across, first, last, start, patch, v, channels)


@kernel
def gather_output_grads(grad, left, right, down, across, first, last, start, rows, patch, z):
    """Write the transformed output gradients of these tiles, and of the filters left to right - 1, into z.

    z : 36 right factors of some rows, in panels (`tinyunet.backend.products`). patch : (1, 4, 4, F), scratch.
    """
    _, height, width, filters = grad.shape
    plane = z.strides[0] // 4
    for tile in range(first, last):
        n, i, j = place_of(tile, down, across)
        d, at = gather(grad, 0, 0, height, width, n, i, j, patch)
        if filters >= PREFETCHED_INPUT:
            prefetch_pixels(d, at + 8 * filters, 4, 4)
        row = d.shape[2] * filters
        for f in range(left, right, PANEL):
            room = panel_width(right, f)
            to = (f - left) * rows + (tile - start) * room
            transform_output_grad(d, at + f, row, filters, z, to, plane, min(PANEL, right - f), room)


@kernel
def _scatter_target(m, bias, floor, down, across, first, last, start, patch, y, area, begin):
    """Write those of them into one target, whose channels are the filters from `begin` on."""
    _, rows, width, channels = y.shape
    above, before, bottom, right = area
    columns, group, plane, pixel = m.shape[3], m.strides[0] // 4, m.strides[1] // 4, patch.shape[3]
    for tile in range(first, last):
        n, i, j = place_of(tile, down, across)
        whole = i + OUTPUTS <= bottom and j + OUTPUTS <= right
        to = ((n * rows + above + i) * width + before + j) * channels
        if channels >= PREFETCHED_OUTPUT:
            prefetch_pixels(y, to + 8 * channels, 4, 4)
        c = 0
        while c < channels:
            panel, column = (begin + c) // columns, (begin + c) % columns
            count, at = min(channels - c, columns - column), panel * group + (tile - start) * columns + column
            some = bias[begin + c : begin + c + count]
            if whole:
                transform_output(m, at, plane, some, floor, y, to + c, width * channels, channels)
            else:
                transform_output(m, at, plane, some, floor, patch, c, OUTPUTS * pixel, pixel)
            c += count
        if not whole:
            for r in range(min(OUTPUTS, bottom - i)):
                for s in range(min(OUTPUTS, right - j)):
                    for f in range(channels):
                        y[n, above + i + r, before + j + s, f] = patch[0, r, s, f]


@kernel
def scatter_outputs(m, bias, floor, down, across, first, last, start, patch, targets):
    """Write the outputs of these tiles from m into the targets.

    m : (panels, 36, tiles, filters of a panel). patch : (1, 4, 4, F), scratch.
    """
    y, skip, top, left = targets
    _, height, width, filters = y.shape
    _scatter_target(m, bias, floor, down, across, first, last, start, patch, y, (0, 0, height, width), 0)
    if skip.shape[3]:
        area = (top, left, height, width)
        _scatter_target(m, bias, floor, down, across, first, last, start, patch, skip, area, filters)


@parallel_kernel
def clear_border(x, skip, top, left):
    """Set skip to 0 around its centre, which is as large as x."""
    batch, rows, _, _ = skip.shape
    height, width = x.shape[1:3]
    for row in prange(batch * rows):
        n, i = row // rows, row % rows
        line = skip[n, i].reshape(-1)
        begin, end = left * skip.shape[3], (left + width) * skip.shape[3]
        if not top <= i < top + height:
            begin = end = line.size
        for e in range(begin):
            line[e] = 0
        for e in range(end, line.size):
            line[e] = 0
