"""The 3×3 convolution in float32 by Winograd's F(4×4, 3×3): a quarter of the multiplications.

The output is cut into tiles of 4×4 pixels. A tile depends on 6×6 pixels of x, which overlap by two with the
next tile's. With d a tile's input in one channel, g a window of the weights and Y the tile's output,

    Y = Aᵀ [ Σ_c (G g_c Gᵀ) ∘ (Bᵀ d_c B) ] A

where ∘ multiplies element by element; `conv2d_winograd_transforms` derives the small constant matrices. For
each of the 36 elements in the brackets, here called frequencies, the sum over channels is one matrix product
for all tiles and filters:

    v = Bᵀ d B              (36, tiles, C)          u = G g Gᵀ   (36, C, F), once
    m[k] = v[k] u[k]        (36, tiles, F)          36 products, by BLAS
    y = Aᵀ m A + bias       16 pixels per tile; at least 0, with ReLU

The gradients have the same form. That of x is a convolution with the window rotated by 180°. For the weights,
transpose the map g → Y:

    grad_g = Gᵀ [ Σ_tiles (Bᵀ d B) ∘ (A grad_Y Aᵀ) ] G            grad_u[k] = v[k]ᵀ z[k] with z = A grad_Y Aᵀ

**What it saves.** 36 multiply-adds for each tile, channel and filter take the place of 16 · 9 = 144. The
transforms add about 150 operations for each tile and channel, and as many for each tile and filter: little
with 64 filters, nearly half of the time with 16.

**Why blocks.** v and m are 36/16 times as large as x and y: 186 MB each for 568×568 pixels and 64 channels.
So each core takes a block of tiles, about as large as its L2 cache (1 MB), through all three steps. In wide
layers u is far larger than that cache, and would have to be fetched again for every block; there all cores do
one step after the other, for many tiles at once.

**Why channels last.** The transforms of a tile are the same in every channel. So a register holds one element
of 16 channels (or 8), all 36 elements of a tile are transformed in registers (`tinyunet.backend.simd`), and
v[k] and m[k] are plain row-major matrices.

**Two maps as one.** In the expansive path x is an up-sampled map and, behind its channels, the centre of the
skip. A concatenation would copy both. Instead, each tile is gathered from both maps where they lie, into v
side by side, and the gradient of x is scattered to two maps in the same way (`Maps`).

**What is not kept.** u is computed anew in each pass, also for each tile of a prediction. At 64 base channels
that takes 10 of 300 ms per tile on two cores; fetching a stored u of all layers, 452 MB, would take longer.

**What it costs.** Accuracy: the largest error is around 1e-6 of the largest value (at most 3.5e-6 in the
tests); that of the direct algorithm is 2e-7. The bits are the same for any number of threads: blocks, and the
order in which sums are added, depend on shapes alone.

Tutorial: `tutorials/05_conv2d_winograd.py`.

References
----------
.. [1] Lavin and Gray 2015, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import prange

from tinyunet.backend import allocator
from tinyunet.backend.blas import gemm, gemm_routine, gemm_tn
from tinyunet.backend.jit import kernel, parallel_kernel
from tinyunet.backend.simd import prefetch
from tinyunet.errors import OptionError
from tinyunet.ops.conv2d_winograd_transforms import (
    FREQUENCIES,
    INPUTS,
    OUTPUTS,
    TAPS,
    transform_input,
    transform_output,
    transform_output_grad,
    transform_weight,
    transform_weight_grad,
)
from tinyunet.ops.crop_concat import corner

GROUPS = 16  # of tiles; the weight gradients of the groups are added in order
CHUNK = 2**18  # the most tiles × channels, or channels × filters, that a wide layer transforms at once: 38 MB
TILES_PER_TASK = 16


def suits(dtype, size, channels, filters, least=8) -> bool:
    """Decide whether to use this algorithm: for 3×3 windows in float32, from `least` channels and filters on.

    The environment variable TINYUNET_CONV overrides `least`, with ``direct`` or ``winograd``; ``auto`` is the
    default.

    Raises
    ------
    OptionError
        TINYUNET_CONV has another value.
    """
    choice = os.environ.get("TINYUNET_CONV", "auto")
    if choice not in ("auto", "direct", "winograd"):
        raise OptionError(
            f"unknown convolution algorithm {choice!r} in the environment variable TINYUNET_CONV",
            {"expected": "auto | direct | winograd"},
            "choose one of these",
        )
    able = size == TAPS and dtype == np.float32 and choice != "direct"
    return able and (choice == "winograd" or min(channels, filters) >= least)


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


def _alone(x) -> Maps:
    """Pair a map with one that has no channels."""
    return Maps(np.ascontiguousarray(x), np.empty((0, 0, 0, 0), x.dtype), 0, 0)


def forward(x, weight, bias, padding, relu):
    """Compute y as `conv2d.forward`: x (N, H, W, C) or Maps, weight (3, 3, C, F), bias (F,), float32."""
    sources = x if isinstance(x, Maps) else _alone(x)
    batch, height, width, _ = sources.first.shape
    y = allocator.empty((batch, height + 2 * padding - 2, width + 2 * padding - 2, weight.shape[3]))
    _convolve(sources, weight, bias, padding, 0 if relu else -np.inf, _alone(y))
    return y


def _convolve(sources, weight, bias, padding, floor, targets):
    weight, floor = np.ascontiguousarray(weight), np.float32(floor)
    channels, filters = weight.shape[2:]
    with gemm_routine(weight.dtype) as routine:
        if is_narrow(channels, filters):
            u = _planes(channels, filters)
            _transform_weights(weight, 0, filters, u)
            block, v, m = _blocks(channels, filters)
            _convolve_narrow(routine, sources, u, bias, padding, floor, block, v, m, targets)
        else:
            _convolve_wide(routine, sources, weight, bias, padding, floor, targets)


def _convolve_wide(routine, sources, weight, bias, padding, floor, targets):
    (channels, filters), (_, height, width, _) = weight.shape[2:], targets.first.shape
    tiles = _count_tiles(targets.first)
    chunk, part = max(64, CHUNK // max(channels, filters)), max(64, CHUNK // channels)
    for first in range(0, tiles, chunk):
        last = min(tiles, first + chunk)
        v = _planes(last - first, channels)
        _transform_inputs(sources, padding, height, width, first, last, v)
        for left in range(0, filters, part):
            right = min(filters, left + part)
            u, m = _planes(channels, right - left), _planes(last - first, right - left)
            _transform_weights(weight, left, right, u)
            _multiply(routine, v, u, m)
            _transform_outputs(m, left, bias, floor, first, last, targets)
            del u, m  # before the next are made
        del v


def backward_input(grad_output, weight, padding):
    """Compute the gradient of x.

    Every input pixel gathers from the outputs that it went into: a convolution of the padded gradient with
    the window rotated by 180° and its channels exchanged.
    """
    rotated, bias = _rotated(weight)
    return forward(grad_output, rotated, bias, 2 - padding, False)


def backward_joined_input(grad_output, weight, padding, first_shape, second_shape):
    """Compute the gradients of the two maps of `joined`, of these shapes."""
    targets = joined(*(allocator.empty(shape) for shape in (first_shape, second_shape)))
    _clear_border(*targets)
    rotated, bias = _rotated(weight)
    _convolve(_alone(grad_output), rotated, bias, 2 - padding, -np.inf, targets)
    return targets.first, targets.second


def _rotated(weight):
    """The weight and the bias, 0, of the convolution that computes the gradient of x."""
    rotated = allocator.empty((3, 3, weight.shape[3], weight.shape[2]), weight.dtype)
    _rotate(weight, rotated)
    return rotated, np.zeros(weight.shape[2], weight.dtype)


def backward_weight(x, grad_output, padding):
    """Compute the gradient of weight, (3, 3, C, F), from x (N, H, W, C) or Maps."""
    x, grad_output = x if isinstance(x, Maps) else _alone(x), np.ascontiguousarray(grad_output)
    channels, filters = x.first.shape[3] + x.second.shape[3], grad_output.shape[3]
    with gemm_routine(grad_output.dtype) as routine:
        # Each group of tiles ends with a transform of all weights, which does not pay for few tiles.
        if is_narrow(channels, filters) and _count_tiles(grad_output) >= 64 * GROUPS:
            parts = allocator.empty((GROUPS, 3, 3, channels, filters))
            block, v, z = _blocks(channels, filters)
            u = _planes(channels, filters, len(v))
            _correlate_narrow(routine, x, grad_output, padding, block, v, z, u, parts)
            return parts.sum(axis=0, out=allocator.empty_like(parts[0]))
        grad_weight = allocator.empty((3, 3, channels, filters))
        grad_weight[...] = 0
        _correlate_wide(routine, x, grad_output, padding, grad_weight)
        return grad_weight


def _correlate_wide(routine, x, grad_output, padding, grad_weight):
    _, height, width, filters = grad_output.shape
    channels, tiles = grad_weight.shape[2], _count_tiles(grad_output)
    chunk, part = max(64, CHUNK // max(channels, filters)), max(64, CHUNK // channels)
    for first in range(0, tiles, chunk):
        last = min(tiles, first + chunk)
        v, z = _planes(last - first, channels), _planes(last - first, filters)
        _transform_inputs(x, padding, height, width, first, last, v)
        _transform_output_grads(grad_output, first, last, z)
        for left in range(0, filters, part):
            right = min(filters, left + part)
            u = _planes(channels, right - left)
            _multiply_tn(routine, v, z, left, right, u)
            _transform_weight_grads(u, left, right, grad_weight)
            del u
        del v, z


def is_narrow(channels, filters) -> bool:
    """Decide whether the transformed weights, here up to 4.7 MB, may be fetched again for every block.

    Measured on one core: 256 → 128 channels at 200×200, 43 ms in blocks and 52 ms step by step; 256 → 256 at
    138×138, 47 and 41 ms.
    """
    return channels * filters <= 256 * 128


def _blocks(channels, filters):
    """The tiles per block, and memory for each thread: for them in all channels, and in all filters.

    A thread's memory has at most 36 · 8192 elements, 1.2 MB, or room for 16 tiles if that is more.
    """
    workers, block = numba.get_num_threads(), min(256, max(16, 8192 // (channels + filters)))
    return block, _planes(block, channels, workers), _planes(block, filters, workers)


def _planes(rows, columns, *workers):
    """Memory for one matrix per frequency, and per worker if any: (…, 36, rows, columns).

    A transform writes to all 36 in turn. They lie an odd number of cache lines apart: at a distance of, say,
    64 lines, all would compete for the same place in the cache.
    """
    line = allocator.CACHE_LINE // 4  # elements
    size = rows * columns
    memory = allocator.empty((*workers, FREQUENCIES, (size // line + 1 | 1) * line))
    return memory[..., :size].reshape(*workers, FREQUENCIES, rows, columns)


def _count_tiles(y):
    return y.shape[0] * -(-y.shape[1] // OUTPUTS) * -(-y.shape[2] // OUTPUTS)


# Tiles are numbered along rows, row after row, image after image; `start` is the number of the first one in
# an array of transformed tiles.


@kernel
def _down_and_across(height, width):
    """The tiles along both axes of an output."""
    return (height + OUTPUTS - 1) // OUTPUTS, (width + OUTPUTS - 1) // OUTPUTS


@kernel
def _gather(x, top, left, height, width, n, i, j, patch):
    """Find pixels of image n, as many as in a patch, from (i, j) of an area that begins at (top, left) of x.

    Returns an array, and their place in it. It is x where all of them lie inside of the area; otherwise
    `patch`, with a copy of them and zeros around.
    """
    channels, size = x.shape[3], patch.shape[1]
    if i >= 0 and j >= 0 and i + size <= height and j + size <= width:
        return x, ((n * x.shape[1] + top + i) * x.shape[2] + left + j) * channels
    for r in range(size):
        for s in range(size):
            inside = 0 <= i + r < height and 0 <= j + s < width
            for c in range(channels):
                patch[0, r, s, c] = x[n, top + i + r, left + j + s, c] if inside else 0
    return patch, 0


@kernel
def _prefetch(x, at, rows, columns):
    """Fetch a part of a map into the cache."""
    _, _, width, channels = x.shape
    for r in range(rows):
        for e in range(0, columns * channels, 16):  # a cache line
            prefetch(x, at + r * width * channels + e)


@kernel
def _place(tile, down, across):
    """A tile's image, and the row and column of its first output."""
    row = tile // across
    return row // down, row % down * OUTPUTS, tile % across * OUTPUTS


@kernel
def _gather_source(x, top, left, height, width, padding, down, across, first, last, start, patch, v, begin):
    """Write those of one source, of which the area is used, into v from channel `begin` on."""
    channels, plane = x.shape[3], v.strides[0] // 4
    for tile in range(first, last):
        n, i, j = _place(tile, down, across)
        d, at = _gather(x, top, left, height, width, n, i - padding, j - padding, patch)
        pixel = d.shape[3]
        if channels > 16:  # the tile after the next
            _prefetch(d, at + 10 * pixel, 6, 4)
        to = (tile - start) * v.shape[2] + begin
        transform_input(d, at, d.shape[2] * pixel, pixel, v, to, plane, channels)


@kernel
def _gather_inputs(sources, padding, down, across, first, last, start, patch, v):
    """Write the transformed inputs of the tiles first to last - 1 into v. patch : (1, 6, 6, C), scratch."""
    x, skip, top, left = sources
    _, height, width, channels = x.shape
    _gather_source(x, 0, 0, height, width, padding, down, across, first, last, start, patch, v, 0)
    if skip.shape[3]:
        area = (top, left, height, width)
        _gather_source(skip, *area, padding, down, across, first, last, start, patch, v, channels)


@kernel
def _gather_output_grads(grad, down, across, first, last, start, patch, z):
    """Write the transformed output gradients of these tiles into z. patch : (1, 4, 4, F), scratch."""
    _, height, width, filters = grad.shape
    plane = z.strides[0] // 4
    for tile in range(first, last):
        n, i, j = _place(tile, down, across)
        d, at = _gather(grad, 0, 0, height, width, n, i, j, patch)
        if filters > 16:
            _prefetch(d, at + 8 * filters, 4, 4)
        row = d.shape[2] * filters
        transform_output_grad(d, at, row, filters, z, (tile - start) * filters, plane, filters)


@kernel
def _scatter_target(m, left, bias, floor, down, across, first, last, start, patch, y, area, begin):
    """Write those of them into one target, whose channels are the filters from `begin` on."""
    _, rows, columns, channels = y.shape
    above, before, height, width = area
    low, high = max(left, begin), min(left + m.shape[2], begin + channels)
    if low >= high:
        return
    filters, plane, bias = high - low, m.strides[0] // 4, bias[low:high]
    for tile in range(first, last):
        n, i, j = _place(tile, down, across)
        at = (tile - start) * m.shape[2] + low - left
        if i + OUTPUTS <= height and j + OUTPUTS <= width:
            to = ((n * rows + above + i) * columns + before + j) * channels + low - begin
            transform_output(m, at, plane, bias, floor, y, to, columns * channels, channels)
        else:
            pixel = patch.shape[3]
            transform_output(m, at, plane, bias, floor, patch, 0, OUTPUTS * pixel, pixel)
            for r in range(min(OUTPUTS, height - i)):
                for s in range(min(OUTPUTS, width - j)):
                    for f in range(filters):
                        y[n, above + i + r, before + j + s, low - begin + f] = patch[0, r, s, f]


@kernel
def _scatter_outputs(m, left, bias, floor, down, across, first, last, start, patch, targets):
    """Write the outputs of these tiles from m, which has the filters from `left` on, into the targets.

    bias : of all filters. patch : (1, 4, 4, filters of m), scratch.
    """
    y, skip, top, begin = targets
    _, height, width, filters = y.shape
    area = (0, 0, height, width)
    _scatter_target(m, left, bias, floor, down, across, first, last, start, patch, y, area, 0)
    if skip.shape[3]:
        area = (top, begin, height, width)
        _scatter_target(m, left, bias, floor, down, across, first, last, start, patch, skip, area, filters)


@parallel_kernel
def _clear_border(x, skip, top, left):
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


# Weights, one channel at a time


@parallel_kernel
def _rotate(weight, rotated):
    """rotated[2 - p, 2 - q, f, c] = weight[p, q, c, f], in squares that stay in the cache."""
    _, _, channels, filters = weight.shape
    across = (channels + 15) // 16
    for task in prange(9 * across):
        p, q, left = task // across // 3, task // across % 3, task % across * 16
        for top in range(0, filters, 16):
            for f in range(top, min(filters, top + 16)):
                for c in range(left, min(channels, left + 16)):
                    rotated[2 - p, 2 - q, f, c] = weight[p, q, c, f]


@parallel_kernel
def _transform_weights(weight, left, right, u):
    _, _, channels, filters = weight.shape
    count, tap, plane = right - left, channels * filters, u.strides[0] // 4
    for c in prange(channels):
        transform_weight(weight, c * filters + left, tap, u, c * count, plane, count)


@parallel_kernel
def _transform_weight_grads(u, left, right, grad_weight):
    _, _, channels, filters = grad_weight.shape
    count, tap, plane = right - left, channels * filters, u.strides[0] // 4
    for c in prange(channels):
        transform_weight_grad(u, c * count, plane, grad_weight, c * filters + left, tap, count)


# Narrow layers: each core takes blocks of tiles through all three steps


@parallel_kernel
def _convolve_narrow(routine, sources, u, bias, padding, floor, block, vs, ms, targets):
    batch, height, width, _ = targets.first.shape
    workers, channels, filters = len(vs), u.shape[1], u.shape[2]
    down, across = _down_and_across(height, width)
    tiles = batch * down * across
    for worker in prange(workers):
        v, m = vs[worker], ms[worker]
        x_patch = np.empty((1, INPUTS, INPUTS, channels), u.dtype)
        y_patch = np.empty((1, OUTPUTS, OUTPUTS, filters), u.dtype)
        for first in range(worker * block, tiles, workers * block):
            last = min(tiles, first + block)
            size = last - first
            _gather_inputs(sources, padding, down, across, first, last, first, x_patch, v)
            for k in range(FREQUENCIES):
                gemm(routine, v[k, :size], u[k], 0.0, m[k, :size])
            _scatter_outputs(m, 0, bias, floor, down, across, first, last, first, y_patch, targets)


@parallel_kernel
def _correlate_narrow(routine, sources, grad, padding, block, vs, zs, us, parts):
    batch, height, width, filters = grad.shape
    workers, channels = len(vs), parts.shape[3]
    down, across = _down_and_across(height, width)
    tiles, groups = batch * down * across, len(parts)
    for worker in prange(workers):
        v, z, u = vs[worker], zs[worker], us[worker]
        x_patch = np.empty((1, INPUTS, INPUTS, channels), grad.dtype)
        grad_patch = np.empty((1, OUTPUTS, OUTPUTS, filters), grad.dtype)
        for group in range(worker, groups, workers):
            begin, end = tiles * group // groups, tiles * (group + 1) // groups
            u[:], parts[group] = 0, 0
            for first in range(begin, end, block):
                last = min(end, first + block)
                size = last - first
                _gather_inputs(sources, padding, down, across, first, last, first, x_patch, v)
                _gather_output_grads(grad, down, across, first, last, first, grad_patch, z)
                for k in range(FREQUENCIES):
                    gemm_tn(routine, v[k, :size], z[k, :size], 1.0, u[k])
            for c in range(channels):
                at, plane = c * filters, u.strides[0] // 4
                transform_weight_grad(u, at, plane, parts[group], at, channels * filters, filters)


# Wide layers: the steps one after the other, each done by all cores


@parallel_kernel
def _transform_inputs(sources, padding, height, width, first, last, v):
    down, across = _down_and_across(height, width)
    for task in prange((last - first + TILES_PER_TASK - 1) // TILES_PER_TASK):
        patch = np.empty((1, INPUTS, INPUTS, v.shape[2]), v.dtype)
        begin = first + TILES_PER_TASK * task
        end = min(last, begin + TILES_PER_TASK)
        _gather_inputs(sources, padding, down, across, begin, end, first, patch, v)


@parallel_kernel
def _transform_output_grads(grad, first, last, z):
    _, height, width, filters = grad.shape
    down, across = _down_and_across(height, width)
    for task in prange((last - first + TILES_PER_TASK - 1) // TILES_PER_TASK):
        patch = np.empty((1, OUTPUTS, OUTPUTS, filters), grad.dtype)
        begin = first + TILES_PER_TASK * task
        _gather_output_grads(grad, down, across, begin, min(last, begin + TILES_PER_TASK), first, patch, z)


@parallel_kernel
def _multiply(routine, v, u, m):
    for k in prange(FREQUENCIES):
        gemm(routine, v[k], u[k], 0.0, m[k])


@parallel_kernel
def _multiply_tn(routine, v, z, left, right, u):
    for k in prange(FREQUENCIES):
        gemm_tn(routine, v[k], z[k, :, left:right], 0.0, u[k])


@parallel_kernel
def _transform_outputs(m, left, bias, floor, first, last, targets):
    _, height, width, _ = targets.first.shape
    down, across = _down_and_across(height, width)
    for task in prange((last - first + TILES_PER_TASK - 1) // TILES_PER_TASK):
        patch = np.empty((1, OUTPUTS, OUTPUTS, m.shape[2]), m.dtype)
        begin = first + TILES_PER_TASK * task
        end = min(last, begin + TILES_PER_TASK)
        _scatter_outputs(m, left, bias, floor, down, across, begin, end, first, patch, targets)
