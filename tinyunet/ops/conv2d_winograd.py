"""The 3×3 convolution in float32 by Winograd's F(4×4, 3×3): a quarter of the multiplications.

The output is cut into tiles of 4×4 pixels. A tile depends on 6×6 pixels of x, which overlap by two with the
next tile's. With d a tile's input in one channel, g a window of the weights and Y the tile's output,

    Y = Aᵀ [ Σ_c (G g_c Gᵀ) ∘ (Bᵀ d_c B) ] A

where ∘ multiplies element by element; `conv2d_winograd_transforms` derives the small constant matrices. For
each of the 36 elements in the brackets, here called frequencies, the sum over channels is one matrix product
for all tiles and filters:

    v = Bᵀ d B              (36, tiles, C)          u = G g Gᵀ   (36, C, F), once
    m[k] = v[k] u[k]        (36, tiles, F)          36 products
    y = Aᵀ m A + bias       16 pixels per tile; at least 0, with ReLU

The gradients have the same form. That of x is a convolution with the window rotated by 180°. For the weights,
transpose the map g → Y:

    grad_g = Gᵀ [ Σ_tiles (Bᵀ d B) ∘ (A grad_Y Aᵀ) ] G            grad_u[k] = v[k]ᵀ z[k] with z = A grad_Y Aᵀ

**What it saves.** 36 multiply-adds for each tile, channel and filter take the place of 16 · 9 = 144. The
transforms add about 150 operations for each tile and channel, and as many for each tile and filter: little
with 64 filters, nearly half of the time with 16.

**Why blocks.** v and m are 36/16 times as large as x and y: 186 MB each for 568×568 pixels and 64 channels.
So each core takes a block of tiles, about as large as its L2 cache, through all three steps, and fetches u
again for each block. In wide layers u is the largest, 151 MB for 1024 → 1024 channels. There all tiles are
transformed first; then each core takes the weights in blocks of 64 channels and 64 filters, transforms a
block, which stays in its cache, and multiplies all tiles by it.

**Why channels last.** The transforms of a tile are the same in every channel. So a register holds one element
of 16 channels (or 8), all 36 elements of a tile are transformed in registers (`tinyunet.backend.simd`), and
v[k] and m[k] are plain matrices; u[k] is written in the order in which `tinyunet.backend.products` needs it.

**Two maps as one.** In the expansive path x is an up-sampled map and, behind its channels, the centre of the
skip. A concatenation would copy both. Instead, each tile is gathered from both maps where they lie, into v
side by side, and the gradient of x is scattered to two maps in the same way (`conv2d_winograd_tiles`).

**All gradients in one pass.** Where channels are few and tiles many, `conv2d_winograd_backward` computes all
gradients at once, which share a transform.

**What is not kept.** u is computed anew in each pass, also for each tile of a prediction: fetching a stored u
of all layers, 452 MB at 64 base channels, would take longer.

**What it costs.** Accuracy: the largest error is around 1e-6 of the largest value (at most 1.6e-6 in the
tests); that of the direct algorithm is 2e-7. The bits are the same for any number of threads: no output
depends on the tiles that share its block, and the order in which sums are added depends on shapes alone.

Tutorial: `tutorials/05_conv2d_winograd.py`.

References
----------
.. [1] Lavin and Gray 2015, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308.
"""

from __future__ import annotations

import os

import numba
import numpy as np
from numba import prange

from tinyunet.backend import allocator
from tinyunet.backend.jit import kernel, new_tasks, next_task, parallel_kernel
from tinyunet.backend.products import PANEL, multiply, multiply_transposed, padded, panel_width
from tinyunet.backend.simd import LANES, transpose
from tinyunet.errors import OptionError
from tinyunet.ops.conv2d_winograd_tiles import (
    Maps,
    alone,
    clear_border,
    count_tiles,
    down_and_across,
    gather_inputs,
    gather_output_grads,
    joined,
    planes,
    scatter_outputs,
)
from tinyunet.ops.conv2d_winograd_transforms import (
    FREQUENCIES,
    INPUTS,
    OUTPUTS,
    TAPS,
    transform_weight,
    transform_weight_grad,
)

GROUPS = 16  # of tiles; the weight gradients of the groups are added in order
CHUNK = 2**18  # the most tiles × channels, or channels × filters, that a wide layer transforms at once: 38 MB
# The most channels × filters of a narrow layer, whose transformed weights are fetched again for each block.
# Measured on one core, in blocks and step by step: forward 256 → 256 at 138×138, 46 and 59 ms; the weights'
# gradient there, 78 and 62 ms, and for 256 → 128 at 200×200, 73 and 76 ms.
NARROW_FORWARD, NARROW_BACKWARD = 256 * 256, 256 * 128
# The most channels × filters whose transformed weights stay in the cache from block to block. Larger ones are
# fetched for each block, so blocks are large. Where all tiles are one such block, a layer goes step by step:
# on one core of an EPYC of the third generation, 256 → 256 at 16×16 took 3.5 ms as a block and 2.8 in steps.
CACHED, LARGE_BLOCK = 64 * 128, 96
BLOCK = 64  # channels, and filters, of which a wide layer transforms the weights at once
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


def forward(x, weight, bias, padding, relu):
    """Compute y as `conv2d.forward`: x (N, H, W, C) or Maps, weight (3, 3, C, F), bias (F,), float32."""
    sources = x if isinstance(x, Maps) else alone(x)
    batch, height, width, _ = sources.first.shape
    y = allocator.empty((batch, height + 2 * padding - 2, width + 2 * padding - 2, weight.shape[3]))
    _convolve(sources, weight, False, bias, padding, 0 if relu else -np.inf, alone(y))
    return y


def backward_input(grad_output, weight, padding):
    """Compute the gradient of x.

    Every input pixel gathers from the outputs that it went into: a convolution of the padded gradient with
    the window rotated by 180° and its channels exchanged.
    """
    batch, height, width, _ = grad_output.shape
    grad_x = allocator.empty((batch, height + 2 - 2 * padding, width + 2 - 2 * padding, weight.shape[2]))
    _convolve_back(grad_output, weight, padding, alone(grad_x))
    return grad_x


def backward_joined_input(grad_output, weight, padding, first_shape, second_shape):
    """Compute the gradients of the two maps of `joined`, of these shapes."""
    targets = joined(*(allocator.empty(shape) for shape in (first_shape, second_shape)))
    clear_border(*targets)
    _convolve_back(grad_output, weight, padding, targets)
    return targets.first, targets.second


def _convolve_back(grad_output, weight, padding, targets):
    bias = np.zeros(weight.shape[2], weight.dtype)
    _convolve(alone(grad_output), weight, True, bias, 2 - padding, -np.inf, targets)


def _convolve(sources, weight, rotated, bias, padding, floor, targets):
    """Convolve with the weight, or with the rotated one, whose channels are the weight's filters."""
    weight, floor = np.ascontiguousarray(weight), np.float32(floor)
    channels, filters = weight.shape[2:][:: -1 if rotated else 1]
    workers = numba.get_num_threads()
    tiles = count_tiles(targets.first)
    if channels * filters <= NARROW_FORWARD and (channels * filters <= CACHED or tiles > LARGE_BLOCK):
        u = planes(channels, padded(filters), 1)[0]
        transform_weights(weight, rotated, u, new_tasks())
        block = _equal(_block(channels, filters), tiles, workers)
        v, m = planes(block, channels, workers), planes(block, filters, workers)
        _convolve_narrow(sources, u, bias, padding, floor, v, m, targets, new_tasks())
        return
    u, chunk = planes(BLOCK, BLOCK, workers), _chunk(channels, filters)
    for first in range(0, tiles, chunk):
        last = min(tiles, first + chunk)
        v, m = (planes(last - first, BLOCK, -(-count // BLOCK)) for count in (channels, filters))
        _transform_inputs(sources, padding, *targets.first.shape[1:3], first, last, v, new_tasks())
        _multiply_wide(v, weight, rotated, channels, filters, u, m, new_tasks())
        _transform_outputs(m, bias, floor, first, last, targets, new_tasks())
        del v, m  # before the next are made


def backward_weight(x, grad_output, padding):
    """Compute the gradient of weight, (3, 3, C, F), from x (N, H, W, C) or Maps."""
    x, grad_output = x if isinstance(x, Maps) else alone(x), np.ascontiguousarray(grad_output)
    channels, filters = x.first.shape[3] + x.second.shape[3], grad_output.shape[3]
    # Each group of tiles ends with a transform of all weights, which does not pay for few tiles.
    if channels * filters <= NARROW_BACKWARD and count_tiles(grad_output) >= 64 * GROUPS:
        parts, workers = allocator.empty((GROUPS, 3, 3, channels, filters)), numba.get_num_threads()
        block = _block(channels, filters)
        v, z = planes(block, channels, workers), planes(block, padded(filters), workers)
        u = planes(channels, filters, workers)
        _correlate_narrow(x, grad_output, padding, v, z, u, parts, new_tasks())
        return parts.sum(axis=0, out=allocator.empty_like(parts[0]))
    grad_weight = allocator.empty((3, 3, channels, filters))
    grad_weight[...] = 0
    _correlate_wide(x, grad_output, padding, grad_weight)
    return grad_weight


def _correlate_wide(x, grad_output, padding, grad_weight):
    _, height, width, filters = grad_output.shape
    channels, tiles = grad_weight.shape[2], count_tiles(grad_output)
    chunk, part = _chunk(channels, filters), max(PANEL, CHUNK // channels // PANEL * PANEL)
    for first in range(0, tiles, chunk):
        last = min(tiles, first + chunk)
        v = planes(last - first, BLOCK, -(-channels // BLOCK))
        _transform_inputs(x, padding, height, width, first, last, v, new_tasks())
        for left in range(0, filters, part):
            right = min(filters, left + part)
            z, u = planes(last - first, padded(right - left), 1)[0], planes(channels, right - left, 1)[0]
            _transform_output_grads(grad_output, left, right, first, last, z, new_tasks())
            _multiply_transposed(v, z, u, new_tasks())
            _transform_weight_grads(u, left, right, grad_weight)
            del z, u  # before the next are made
        del v


def _block(channels, filters):
    """The tiles that a narrow layer transforms at once.

    The transformed tiles of both maps share the cache with the transformed weights. Where these are larger
    than it, and fetched again for each block, larger blocks are faster: 200×200 with 256 → 128 channels took
    61 ms in blocks of 24 tiles, and 53 ms in blocks of 96, with an L2 cache of 2 MB.
    """
    if channels * filters > CACHED:
        return LARGE_BLOCK
    return max(48, min(240, 8192 // (channels + filters) // 24 * 24))


def _equal(block, tiles, workers):
    """The most tiles, up to a block, of which each worker takes equally many blocks.

    Otherwise some of three blocks' time is waiting: 128 → 128 at 64×64 took 4.3 ms on two cores in blocks of
    96, 96 and 64 tiles, and 3.8 in four of 64. No output depends on it: tiles are computed one by one.
    """
    rounds = max(1, -(-tiles // (block * workers)))
    return max(1, -(-tiles // (rounds * workers)))


def _chunk(channels, filters):
    """The tiles that a wide layer transforms at once."""
    return max(64, CHUNK // max(channels, filters))


# Weights


@parallel_kernel
def transform_weights(weight, rotated, u, tasks):
    channels, filters = weight.shape[3 if rotated else 2], weight.shape[2 if rotated else 3]
    for _worker in prange(tasks.workers):
        window = np.empty((3, 3, 16, BLOCK), weight.dtype)
        first = 16 * next_task(tasks.taken)
        while first < channels:
            last = min(channels, first + 16)
            for f in range(0, filters, BLOCK):
                right = min(filters, f + BLOCK)
                _transform_block(
                    weight, rotated, first, last, f, right, window, u, f * channels, channels, first
                )
            first = 16 * next_task(tasks.taken)


@kernel
def _transform_block(weight, rotated, first, last, left, right, window, u, to, rows, row):
    """Write the transformed weights of some channels and filters into u, at `to`.

    There lie panels with some rows; the weights of the first channel go to `row`. window : (3, 3, last -
    first, right - left), scratch.
    """
    _, _, channels, filters = window.shape if rotated else weight.shape
    tap, at = channels * filters, 0 if rotated else first * filters + left
    if rotated:
        _rotate(weight, first, last, left, right, window)
    source = window if rotated else weight
    for f in range(left, right, PANEL):
        width, count = panel_width(right, f), min(PANEL, right - f)
        begin = to + (f - left) * rows + row * width
        for c in range(last - first):
            place = at + c * filters + f - left
            transform_weight(source, place, tap, u, begin + c * width, u.strides[0] // 4, count)


@kernel
def _rotate(weight, first, last, left, right, window):
    """window[2 - p, 2 - q, c, f] = weight[p, q, left + f, first + c]."""
    columns, rows = weight.shape[3], window.shape[3]
    for tap in range(TAPS * TAPS):
        p, q = tap // TAPS, tap % TAPS
        for f in range(0, right - left, LANES):
            for c in range(0, last - first, LANES):
                if left + f + LANES <= right and first + c + LANES <= last:
                    at = (tap * weight.shape[2] + left + f) * columns + first + c
                    to = ((TAPS * TAPS - 1 - tap) * window.shape[2] + c) * rows + f
                    transpose(weight, at, columns, window, to, rows)
                    continue
                for g in range(f, min(f + LANES, right - left)):
                    for d in range(c, min(c + LANES, last - first)):
                        window[2 - p, 2 - q, d, g] = weight[p, q, left + g, first + d]


@parallel_kernel
def _transform_weight_grads(u, left, right, grad_weight):
    _, _, channels, filters = grad_weight.shape
    count, tap, plane = right - left, channels * filters, u.strides[0] // 4
    for c in prange(channels):
        transform_weight_grad(u, c * count, plane, grad_weight, c * filters + left, tap, count)


# Narrow layers: each core takes blocks of tiles through all three steps


@parallel_kernel
def _convolve_narrow(sources, u, bias, padding, floor, vs, ms, targets, tasks):
    batch, height, width, _ = targets.first.shape
    _, _, block, channels = vs.shape
    filters = ms.shape[3]
    down, across = down_and_across(height, width)
    tiles = batch * down * across
    blocks = (tiles + block - 1) // block
    for worker in prange(tasks.workers):
        v, m = vs[worker : worker + 1], ms[worker : worker + 1]
        x_patch = np.empty((1, INPUTS, INPUTS, channels), u.dtype)
        y_patch = np.empty((1, OUTPUTS, OUTPUTS, filters), u.dtype)
        task = next_task(tasks.taken)
        while task < blocks:
            first = task * block
            last = min(tiles, first + block)
            size = last - first
            gather_inputs(sources, padding, down, across, first, last, first, x_patch, v)
            for k in range(FREQUENCIES):
                multiply(v[0, k, :size], u[k], False, m[0, k, :size])
            scatter_outputs(m, bias, floor, down, across, first, last, first, y_patch, targets)
            task = next_task(tasks.taken)


@parallel_kernel
def _correlate_narrow(sources, grad, padding, vs, zs, us, parts, tasks):
    batch, height, width, filters = grad.shape
    _, _, block, channels = vs.shape
    down, across = down_and_across(height, width)
    tiles, groups = batch * down * across, len(parts)
    for worker in prange(tasks.workers):
        v, z, u = vs[worker : worker + 1], zs[worker], us[worker]
        x_patch = np.empty((1, INPUTS, INPUTS, channels), grad.dtype)
        grad_patch = np.empty((1, OUTPUTS, OUTPUTS, filters), grad.dtype)
        group = next_task(tasks.taken)
        while group < groups:
            begin, end = tiles * group // groups, tiles * (group + 1) // groups
            u[:], parts[group] = 0, 0
            for first in range(begin, end, block):
                last = min(end, first + block)
                size = last - first
                gather_inputs(sources, padding, down, across, first, last, first, x_patch, v)
                gather_output_grads(grad, 0, filters, down, across, first, last, first, size, grad_patch, z)
                for k in range(FREQUENCIES):
                    multiply_transposed(v[0, k, :size], z[k], True, u[k])
            for c in range(channels):
                at, plane = c * filters, u.strides[0] // 4
                transform_weight_grad(u, at, plane, parts[group], at, channels * filters, filters)
            group = next_task(tasks.taken)


# Wide layers: the steps one after the other, each done by all cores


@parallel_kernel
def _transform_inputs(sources, padding, height, width, first, last, v, tasks):
    down, across = down_and_across(height, width)
    for _worker in prange(tasks.workers):
        patch = np.empty((1, INPUTS, INPUTS, len(v) * v.shape[3]), v.dtype)
        begin = first + TILES_PER_TASK * next_task(tasks.taken)
        while begin < last:
            end = min(last, begin + TILES_PER_TASK)
            gather_inputs(sources, padding, down, across, begin, end, first, patch, v)
            begin = first + TILES_PER_TASK * next_task(tasks.taken)


@parallel_kernel
def _transform_output_grads(grad, left, right, first, last, z, tasks):
    _, height, width, filters = grad.shape
    down, across = down_and_across(height, width)
    for _worker in prange(tasks.workers):
        patch = np.empty((1, OUTPUTS, OUTPUTS, filters), grad.dtype)
        begin = first + TILES_PER_TASK * next_task(tasks.taken)
        while begin < last:
            end = min(last, begin + TILES_PER_TASK)
            gather_output_grads(grad, left, right, down, across, begin, end, first, last - first, patch, z)
            begin = first + TILES_PER_TASK * next_task(tasks.taken)


@parallel_kernel
def _multiply_wide(v, weight, rotated, channels, filters, us, m, tasks):
    """Multiply by the weights, transformed in blocks that stay in the cache."""
    blocks, tiles = len(m), m.shape[2]
    groups = (tasks.workers + blocks - 1) // blocks  # of tiles, where there are fewer blocks than threads
    for worker in prange(tasks.workers):
        u, window = us[worker], np.empty((3, 3, BLOCK, BLOCK), weight.dtype)
        task = next_task(tasks.taken)
        while task < blocks * groups:
            block, group = task // groups, task % groups
            begin, end = tiles * group // groups, tiles * (group + 1) // groups
            left, right = block * BLOCK, min(filters, block * BLOCK + BLOCK)
            for c in range(0, channels, BLOCK):
                last = min(channels, c + BLOCK)
                _transform_block(weight, rotated, c, last, left, right, window, u, 0, last - c, 0)
                for k in range(FREQUENCIES):
                    rows = v[c // BLOCK, k, begin:end, : last - c]
                    multiply(rows, u[k], c > 0, m[block, k, begin:end, : right - left])
            task = next_task(tasks.taken)


@parallel_kernel
def _multiply_transposed(v, z, u, tasks):
    channels = u.shape[1]
    for _worker in prange(tasks.workers):
        k = next_task(tasks.taken)
        while k < FREQUENCIES:
            for c in range(0, channels, BLOCK):
                last = min(channels, c + BLOCK)
                multiply_transposed(v[c // BLOCK, k, :, : last - c], z[k], False, u[k, c:last])
            k = next_task(tasks.taken)


@parallel_kernel
def _transform_outputs(m, bias, floor, first, last, targets, tasks):
    _, height, width, _ = targets.first.shape
    down, across = down_and_across(height, width)
    for _worker in prange(tasks.workers):
        patch = np.empty((1, OUTPUTS, OUTPUTS, bias.size), m.dtype)
        begin = first + TILES_PER_TASK * next_task(tasks.taken)
        while begin < last:
            end = min(last, begin + TILES_PER_TASK)
            scatter_outputs(m, bias, floor, down, across, begin, end, first, patch, targets)
            begin = first + TILES_PER_TASK * next_task(tasks.taken)
