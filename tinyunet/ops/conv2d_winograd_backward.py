"""All gradients of a narrow 3×3 convolution in one pass over its maps, by Winograd's F(4×4, 3×3).

Step by step, a backward pass goes over the gradient of y four times: the ReLU's gradient is written over it,
while its pixels are added up for the bias; then it is transformed in one way for the gradient of the weights,
and in another for that of x. In narrow layers memory and transforms take most of the time. Here the gradient
is read and transformed once, and the ReLU is applied to what is read.

**One transform for both.** The gradient of x is a convolution, too: of the padded gradient of y, with the
window ĝ, which is g rotated. In the terms of `conv2d_winograd`, with d its tiles of 6×6 pixels,

    grad_X = Aᵀ [ Σ_f (G ĝ_f Gᵀ) ∘ v_f ] A       v = Bᵀ d B

Transpose this map once more, for the gradient of ĝ. X are the 4×4 pixels of x that lie where grad_X does:

    grad_ĝ = Gᵀ [ Σ_tiles v ∘ z ] G              z = A X Aᵀ

So v serves both. Step by step, there are two transforms of the gradient, and 6×6 pixels of x are transformed
in place of 4×4.

**The bias.** If x has at most one pixel of padding, the 4×4 pixels in the middle of the tiles d cover the
gradient once. They are added up while they are in registers.

On a Xeon with AVX-512, step by step took 1.2 to 1.4 times as long for 16 and 32 channels, and as long from
64 → 64 on, where products are most of the work. There the steps need less memory: they drop y before the
gradient of x is made.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import prange

from tinyunet.backend import allocator
from tinyunet.backend.jit import kernel, new_tasks, next_task, parallel_kernel
from tinyunet.backend.products import PANEL, multiply, multiply_transposed, padded, panel_width
from tinyunet.ops import conv2d_winograd
from tinyunet.ops.conv2d_winograd_tiles import (
    PREFETCHED_INPUT,
    alone,
    clear_border,
    count_tiles,
    down_and_across,
    gather,
    joined,
    lies_inside,
    place_of,
    planes,
    prefetch_pixels,
    scatter_outputs,
)
from tinyunet.ops.conv2d_winograd_transforms import (
    FREQUENCIES,
    INPUTS,
    OUTPUTS,
    transform_input,
    transform_input_where_positive,
    transform_output_grad,
    transform_weight_grad,
)

LARGEST = 32 * 64  # channels × filters
TILES_PER_GROUP = 64  # at least: each group of tiles ends with a transform of all weights


def suits(x, weight, padding) -> bool:
    """Decide whether one pass is possible, and faster than the steps: where channels are few and tiles many.

    x : the map, or the first of two that stand side by side.
    """
    size, _, channels, filters = weight.shape
    able = padding <= 1 and conv2d_winograd.suits(weight.dtype, size, channels, filters)
    return able and channels * filters <= LARGEST and count_tiles(x) >= 4 * TILES_PER_GROUP


def backward(x, grad_output, y, weight, padding):
    """Compute the gradients of x, weight and bias.

    y : (N, H, W, F), the output if a ReLU made it, or None. Then the gradient of the bias is not computed: 0.
    """
    grad_x = allocator.empty(x.shape)
    return grad_x, *_backward(alone(x), grad_output, y, weight, padding, alone(grad_x))


def backward_joined(first, second, grad_output, y, weight, padding):
    """Compute the gradients of the two maps of `joined`, of weight and of bias, as `backward`."""
    targets = joined(*(allocator.empty(x.shape) for x in (first, second)))
    clear_border(*targets)
    grads = _backward(joined(first, second), grad_output, y, weight, padding, targets)
    return targets.first, targets.second, *grads


def _backward(sources, grad_output, y, weight, padding, targets):
    grad, weight = np.ascontiguousarray(grad_output), np.ascontiguousarray(weight)
    y = grad[:0] if y is None else np.ascontiguousarray(y)
    channels, filters = weight.shape[2:]
    workers, block = numba.get_num_threads(), _block(channels, filters)
    groups = min(conv2d_winograd.GROUPS, count_tiles(targets.first) // TILES_PER_GROUP)
    u = planes(filters, padded(channels), 1)[0]
    conv2d_winograd.transform_weights(weight, True, u, new_tasks())
    v, m = planes(block, filters, workers), planes(block, channels, workers)
    z, grad_u = planes(block, padded(channels), workers), planes(filters, channels, workers)
    z[...] = 0  # the room after the last channel, where nothing is written
    parts, sums = allocator.empty((groups, 3, 3, filters, channels)), np.zeros((groups, filters))
    bias = np.zeros(channels, grad.dtype)
    _in_blocks(sources, grad, y, u, 2 - padding, v, z, m, grad_u, parts, sums, bias, targets, new_tasks())
    grad_weight = parts.sum(axis=0)[::-1, ::-1].transpose(0, 1, 3, 2)  # the gradient of the rotated window
    return np.ascontiguousarray(grad_weight), sums.sum(axis=0).astype(grad.dtype)


def _block(channels, filters):
    """The tiles that are transformed at once: v, z and m share the cache with the transformed weights."""
    return max(48, 4096 // (channels + filters) // 24 * 24)


@parallel_kernel
def _in_blocks(sources, grad, y, u, padding, vs, zs, ms, grads, parts, sums, bias, targets, tasks):
    batch, height, width, _ = targets.first.shape
    filters, block, channels, groups = grad.shape[3], vs.shape[2], bias.size, len(parts)
    down, across = down_and_across(height, width)
    tiles, floor = batch * down * across, np.float32(-np.inf)
    for worker in prange(tasks.workers):
        v, z, m, grad_u = vs[worker], zs[worker], ms[worker : worker + 1], grads[worker]
        grad_patch = np.empty((1, INPUTS, INPUTS, filters), grad.dtype)
        x_patch = np.empty((1, OUTPUTS, OUTPUTS, channels), grad.dtype)
        block_sums = np.empty(filters, grad.dtype)
        group = next_task(tasks.taken)
        while group < groups:
            begin, end = tiles * group // groups, tiles * (group + 1) // groups
            grad_u[:], parts[group] = 0, 0
            for first in range(begin, end, block):
                last = min(end, first + block)
                size = last - first
                block_sums[:] = 0
                _gather_grads(grad, y, padding, down, across, first, last, grad_patch, v, block_sums)
                _gather_x(sources, down, across, first, last, size, x_patch, z)
                for f in range(filters):
                    sums[group, f] += block_sums[f]
                for k in range(FREQUENCIES):
                    multiply_transposed(v[k, :size], z[k], True, grad_u[k])
                    multiply(v[k, :size], u[k], False, m[0, k, :size])
                scatter_outputs(m, bias, floor, down, across, first, last, first, x_patch, targets)
            for f in range(filters):
                at, plane = f * channels, grad_u.strides[0] // 4
                transform_weight_grad(grad_u, at, plane, parts[group], at, filters * channels, channels)
            group = next_task(tasks.taken)


@kernel
def _gather_grads(grad, y, padding, down, across, first, last, patch, v, sums):
    """Write the transformed tiles of the gradient before the ReLU into v, and add the pixels to sums.

    Without a ReLU y is empty, and nothing is added. patch : (1, 6, 6, F), scratch.
    """
    _, height, width, filters = grad.shape
    plane = v.strides[0] // 4
    for tile in range(first, last):
        n, i, j = place_of(tile, down, across)
        i, j, to = i - padding, j - padding, (tile - first) * filters
        d, at = gather(grad, 0, 0, height, width, n, i, j, patch)
        row = d.shape[2] * filters
        if filters >= PREFETCHED_INPUT:  # the tile after the next
            prefetch_pixels(d, at + 10 * filters, 6, 4)
            prefetch_pixels(y, at + 10 * filters, 6, 4)
        if len(y) and lies_inside(i, j, INPUTS, height, width):
            transform_input_where_positive(y, d, at, row, filters, v, to, plane, sums, filters)
            continue
        if len(y):
            _apply_relu(y, n, i, j, patch, sums)
        transform_input(d, at, row, filters, v, to, plane, filters)


@kernel
def _apply_relu(y, n, i, j, patch, sums):
    """Do to a patch what `transform_input_where_positive` does on the way."""
    _, height, width, filters = y.shape
    for r in range(INPUTS):
        for s in range(INPUTS):
            if 0 <= i + r < height and 0 <= j + s < width:
                for f in range(filters):
                    patch[0, r, s, f] = patch[0, r, s, f] if y[n, i + r, j + s, f] > 0 else 0
    for r in range(1, OUTPUTS + 1):
        for s in range(1, OUTPUTS + 1):
            for f in range(filters):
                sums[f] += patch[0, r, s, f]


@kernel
def _gather_x(sources, down, across, first, last, rows, patch, z):
    """Write the transformed 4×4 pixels of x into z.

    z : 36 right factors of some rows, in panels (`tinyunet.backend.products`). patch : (1, 4, 4, C), scratch.
    """
    x, skip, top, left = sources
    _, height, width, channels = x.shape
    columns = channels + skip.shape[3]
    area = (0, 0, height, width)
    _gather_source(x, *area, down, across, first, last, rows, patch, z, 0, columns)
    if skip.shape[3]:
        area = (top, left, height, width)
        _gather_source(skip, *area, down, across, first, last, rows, patch, z, channels, columns)


@kernel
def _gather_source(x, top, left, height, width, down, across, first, last, rows, patch, z, begin, columns):
    """Write those of one source, of which the area is used, into z from column `begin` on."""
    channels, plane = x.shape[3], z.strides[0] // 4
    for tile in range(first, last):
        n, i, j = place_of(tile, down, across)
        d, at = gather(x, top, left, height, width, n, i, j, patch)
        pixel = d.shape[3]
        if channels >= PREFETCHED_INPUT:
            prefetch_pixels(d, at + 8 * pixel, 4, 4)
        c = 0
        while c < channels:
            column = (begin + c) % PANEL
            panel = begin + c - column
            room = panel_width(columns, panel)
            count, to = min(channels - c, room - column), panel * rows + (tile - first) * room + column
            transform_output_grad(d, at + c, d.shape[2] * pixel, pixel, z, to, plane, count, count)
            c += count
