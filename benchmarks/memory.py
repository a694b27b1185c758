"""python -m benchmarks.memory: the ops that wait for memory, beside a copy and beside PyTorch.

Max-pool, crop-concat, ReLU with bias, loss, dropout, and the first and last convolution do little with each
number that they fetch: their time is that of moving bytes. Counted is what has to move, each array once:
inputs read, outputs written. The bytes a second are given as a share of those of a large copy of the same
run. That writes past the caches; an op that does not, and first reads what it overwrites, can come to two
thirds of it.

One process; ours and PyTorch's two layouts take turns, medians count, PyTorch is represented by the faster
layout. Shapes are those of the paper's first level, where the maps are largest, batch 1.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numba
import numpy as np
import torch
import tyro

from benchmarks.layers import LAYOUTS, copy_speed, seconds
from benchmarks.step import processor

Task = Callable[[], Any]
ops = {
    name: import_module(f"tinyunet.ops.{name}")
    for name in ("conv2d", "crop_concat", "dropout", "max_pool2d", "softmax_cross_entropy")
}
functional = torch.nn.functional


@dataclass(frozen=True)
class Options:
    """Compare the memory-bound ops with a copy and with PyTorch."""

    base: int = 64
    """Base width; the paper's is 64."""
    turns: int = 9
    """Timed turns, after two for warming up."""
    threads: int = 2
    """Of each."""


@dataclass(frozen=True)
class Row:
    """One op: ours, PyTorch's for a layout, and the bytes that have to move."""

    name: str
    ours: Task
    torch: Callable[[torch.memory_format], Task]
    bytes: int


def rows(base: int) -> list[Row]:
    """All of them."""
    rng = np.random.default_rng(0)

    def maps(size: int, channels: int) -> np.ndarray:
        return rng.standard_normal((1, size, size, channels), dtype=np.float32)

    image, first, half = maps(572, 1), maps(568, base), maps(284, base)
    up, last, logits = maps(392, base), maps(388, base), maps(388, 2)
    return [
        _first_layer(image, maps(570, base), rng),
        _relu_and_bias(maps(568, base), first),
        *_max_pool(first, half),
        *_crop_concat(up, first, maps(392, 2 * base)),
        _last_layer(last, logits, rng),
        _loss(logits, rng),
        _dropout(maps(64, 8 * base)),
    ]


def _nchw(array: np.ndarray, layout: torch.memory_format) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2).clone(memory_format=layout)


def _size(*arrays: np.ndarray) -> int:
    return sum(array.nbytes for array in arrays)


def _convolution(x: np.ndarray, window: int, filters: int, rng: np.random.Generator) -> tuple[Any, ...]:
    weight = rng.standard_normal((window, window, x.shape[3], filters), dtype=np.float32)
    bias = rng.standard_normal(filters, dtype=np.float32)
    return weight, bias, torch.from_numpy(weight).permute(3, 2, 0, 1), torch.from_numpy(bias)


def _first_layer(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Row:
    weight, bias, their_weight, their_bias = _convolution(x, 3, y.shape[3], rng)

    def theirs(layout: torch.memory_format) -> Task:
        image, kernel = _nchw(x, layout), their_weight.clone(memory_format=layout)
        return lambda: torch.relu_(functional.conv2d(image, kernel, their_bias))

    return Row(
        "first convolution",
        lambda: ops["conv2d"].forward_numba(x, weight, bias, 0, True),
        theirs,
        _size(x, y),
    )


def _last_layer(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Row:
    weight, bias, their_weight, their_bias = _convolution(x, 1, y.shape[3], rng)

    def theirs(layout: torch.memory_format) -> Task:
        maps, kernel = _nchw(x, layout), their_weight.clone(memory_format=layout)
        return lambda: functional.conv2d(maps, kernel, their_bias)

    return Row(
        "last convolution",
        lambda: ops["conv2d"].forward_numba(x, weight, bias, 0, False),
        theirs,
        _size(x, y),
    )


def _relu_and_bias(grad: np.ndarray, y: np.ndarray) -> Row:
    def theirs(layout: torch.memory_format) -> Task:
        their_grad, their_y = _nchw(grad, layout), _nchw(y, layout)

        def run() -> Any:
            before = torch.ops.aten.threshold_backward(their_grad, their_y, 0)
            return before, before.sum((0, 2, 3))

        return run

    return Row(
        "ReLU and bias, gradient",
        lambda: ops["conv2d"].backward_relu_numba(grad, y),
        theirs,
        _size(grad, y, grad),
    )


def _max_pool(x: np.ndarray, y: np.ndarray) -> list[Row]:
    pooled, place = ops["max_pool2d"].forward_numba(x)
    shape = [2, 2], [2, 2], [0, 0], [1, 1], False

    def forward(layout: torch.memory_format) -> Task:
        maps = _nchw(x, layout)
        return lambda: functional.max_pool2d(maps, 2, return_indices=True)

    def backward(layout: torch.memory_format) -> Task:
        maps, grad = _nchw(x, layout), _nchw(y, layout)
        _, indices = functional.max_pool2d(maps, 2, return_indices=True)
        return lambda: torch.ops.aten.max_pool2d_with_indices_backward(grad, maps, *shape, indices)

    moved = _size(x, y, place)
    return [
        Row("max-pool", lambda: ops["max_pool2d"].forward_numba(x), forward, moved),
        Row("max-pool, gradient", lambda: ops["max_pool2d"].backward_numba(pooled, place), backward, moved),
    ]


def _crop_concat(up: np.ndarray, skip: np.ndarray, grad: np.ndarray) -> list[Row]:
    border = (skip.shape[1] - up.shape[1]) // 2
    inside = slice(border, -border)
    channels = up.shape[3]

    def forward(layout: torch.memory_format) -> Task:
        ours, theirs = _nchw(up, layout), _nchw(skip, layout)
        return lambda: torch.cat([ours, theirs[:, :, inside, inside]], 1)

    def backward(layout: torch.memory_format) -> Task:
        whole = _nchw(grad, layout)
        return lambda: (
            whole[:, :channels].clone(memory_format=layout),
            functional.pad(whole[:, channels:], [border] * 4),
        )

    return [
        Row("crop-concat", lambda: ops["crop_concat"].forward_numba(up, skip), forward, 2 * _size(grad)),
        Row(
            "crop-concat, gradient",
            lambda: ops["crop_concat"].backward_numba(grad, up.shape, skip.shape),
            backward,
            _size(grad, up, skip),
        ),
    ]


def _loss(logits: np.ndarray, rng: np.random.Generator) -> Row:
    target = rng.integers(0, 2, logits.shape[:3]).astype(np.int32)
    weight = rng.uniform(0.5, 5, target.shape).astype(np.float32)

    def theirs(layout: torch.memory_format) -> Task:
        scores = _nchw(logits, layout).requires_grad_()
        labels, weights = torch.from_numpy(target).long(), torch.from_numpy(weight)
        return lambda: torch.autograd.grad(
            (functional.cross_entropy(scores, labels, reduction="none") * weights).sum(), scores
        )

    return Row(
        "loss and its gradient",
        lambda: ops["softmax_cross_entropy"].forward_numba(logits, target, weight, True),
        theirs,
        _size(logits, target, weight, logits),
    )


def _dropout(x: np.ndarray) -> Row:
    def theirs(layout: torch.memory_format) -> Task:
        maps = _nchw(x, layout)
        return lambda: functional.dropout(maps, 0.5, training=True)

    return Row("dropout", lambda: ops["dropout"].forward_numba(x, 0.5, np.uint64(1)), theirs, 2 * _size(x))


def measure(row: Row, turns: int) -> tuple[float, float]:
    """Median seconds: ours, and PyTorch's in the faster layout."""
    candidates = [row.ours, *(row.torch(layout) for layout in LAYOUTS)]
    times = [[seconds(task, time.perf_counter) for task in candidates] for _ in range(2 + turns)]
    ours, *theirs = (statistics.median(values) for values in zip(*times[2:], strict=True))
    return ours, min(theirs)


def main(options: Options) -> None:
    """Print the table."""
    numba.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    copying = copy_speed(options.turns, time.perf_counter)
    print(f"{processor()}, {options.threads} threads; a copy: {copying / 1e9:.0f} GB/s")
    print(f"{'':26}{'MB':>7}{'ms':>8}{'GB/s':>7}{'of a copy':>11}{'PyTorch ms':>12}")
    for row in rows(options.base):
        ours, theirs = measure(row, options.turns)
        speed = row.bytes / ours
        print(
            f"{row.name:26}{row.bytes / 1e6:7.1f}{1e3 * ours:8.2f}{speed / 1e9:7.1f}{speed / copying:11.0%}"
            f"{1e3 * theirs:12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
