"""python -m benchmarks.memory: the ops that wait for memory, beside a copy and beside PyTorch.

Max-pool, crop-concat, ReLU with bias, loss, dropout, SGD, and the first and last convolution do little with
each number that they fetch: they take as long as moving the bytes takes. Each array counts once: inputs read,
outputs written. The bytes per second are given as a share of those of a large copy in the same run. The copy
writes past the caches; an op that does not, and so first reads what it overwrites, can reach two thirds of
its speed.

All run in one process. Ours and PyTorch's two layouts take turns, medians count, and PyTorch is represented
by its faster layout. The shapes are those of the paper's first level, where maps are largest, with batch 1.
The rows use the kernels of the active backend: `benchmarks.gpu` measures the same rows on a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch

import tinyunet as tu
from benchmarks.layers import LAYOUTS, copy_speed, seconds
from benchmarks.step import INPUT, processor
from tinyunet.backend import DISPATCH_TABLE, to_backend

Task = Callable[[], Any]
functional = torch.nn.functional


@dataclass(frozen=True)
class Options:
    """Compare the memory-bound ops with a copy and with PyTorch."""

    base: int = 64
    """Base width; the paper's is 64."""
    turns: int = 9
    """Timed turns, after two for warming up."""
    threads: int = 2
    """Threads per engine."""


@dataclass(frozen=True)
class Row:
    """One op: ours, PyTorch's for a layout, and the bytes that have to move."""

    name: str
    ours: Task
    torch: Callable[[torch.memory_format], Task]
    bytes: int


def rows(base: int, tile: int = INPUT, device: str = "cpu") -> list[Row]:
    """Return all rows, ours on the active backend and PyTorch's on a device."""
    rng = np.random.default_rng(0)

    def maps(size: int, channels: int) -> np.ndarray:
        return rng.standard_normal((1, size, size, channels), dtype=np.float32)

    image, first, half = maps(tile, 1), maps(tile - 4, base), maps(tile // 2 - 2, base)
    up, last, logits = maps(tile - 180, base), maps(tile - 184, base), maps(tile - 184, 2)
    return [
        _convolution("first convolution", image, maps(tile - 2, base), 3, rng, device),
        _relu_and_bias(maps(tile - 4, base), first, device),
        *_max_pool(first, half, device),
        *_crop_concat(up, first, maps(tile - 180, 2 * base), device),
        _convolution("last convolution", last, logits, 1, rng, device),
        _loss(logits, rng, device),
        _last_convolution_and_loss(last, rng, device),
        _dropout(maps(64, 8 * base), device),
        _sgd(base, rng, device),
    ]


def _ours(op: str, direction: str, *arguments: Any) -> Task:
    """A kernel of the active backend, with its arrays where that backend computes."""
    there = [to_backend(a) if isinstance(a, np.ndarray) else a for a in arguments]
    return lambda: DISPATCH_TABLE[op, direction](*there)


def _nchw(array: np.ndarray, layout: torch.memory_format, device: str) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2).to(device).clone(memory_format=layout)


def _size(*arrays: np.ndarray) -> int:
    return sum(array.nbytes for array in arrays)


def _convolution(
    name: str, x: np.ndarray, y: np.ndarray, window: int, rng: np.random.Generator, device: str
) -> Row:
    weight = rng.standard_normal((window, window, x.shape[3], y.shape[3]), dtype=np.float32)
    bias = rng.standard_normal(y.shape[3], dtype=np.float32)
    relu = window > 1

    def theirs(layout: torch.memory_format) -> Task:
        maps, their_bias = _nchw(x, layout, device), torch.from_numpy(bias).to(device)
        kernel = torch.from_numpy(weight).permute(3, 2, 0, 1).to(device).clone(memory_format=layout)

        def run() -> Any:
            result = functional.conv2d(maps, kernel, their_bias)
            return torch.relu_(result) if relu else result

        return run

    return Row(name, _ours("conv2d", "forward", x, weight, bias, 0, relu), theirs, _size(x, y))


def _relu_and_bias(grad: np.ndarray, y: np.ndarray, device: str) -> Row:
    def theirs(layout: torch.memory_format) -> Task:
        their_grad, their_y = _nchw(grad, layout, device), _nchw(y, layout, device)

        def run() -> Any:
            before = torch.ops.aten.threshold_backward(their_grad, their_y, 0)
            return before, before.sum((0, 2, 3))

        return run

    ours = _ours("conv2d", "backward_relu", grad, y)
    return Row("ReLU and bias, gradient", ours, theirs, _size(grad, y, grad))


def _max_pool(x: np.ndarray, y: np.ndarray, device: str) -> list[Row]:
    pooled, place = DISPATCH_TABLE["max_pool2d", "forward"](to_backend(x))
    shape = [2, 2], [2, 2], [0, 0], [1, 1], False

    def forward(layout: torch.memory_format) -> Task:
        maps = _nchw(x, layout, device)
        return lambda: functional.max_pool2d(maps, 2, return_indices=True)

    def backward(layout: torch.memory_format) -> Task:
        maps, grad = _nchw(x, layout, device), _nchw(y, layout, device)
        _, indices = functional.max_pool2d(maps, 2, return_indices=True)
        return lambda: torch.ops.aten.max_pool2d_with_indices_backward(grad, maps, *shape, indices)

    moved = _size(x, y) + place.nbytes
    return [
        Row("max-pool", _ours("max_pool2d", "forward", x), forward, moved),
        Row("max-pool, gradient", _ours("max_pool2d", "backward", pooled, place), backward, moved),
    ]


def _crop_concat(up: np.ndarray, skip: np.ndarray, grad: np.ndarray, device: str) -> list[Row]:
    border = (skip.shape[1] - up.shape[1]) // 2
    inside = slice(border, -border)
    channels = up.shape[3]

    def forward(layout: torch.memory_format) -> Task:
        ours, theirs = _nchw(up, layout, device), _nchw(skip, layout, device)
        return lambda: torch.cat([ours, theirs[:, :, inside, inside]], 1)

    def backward(layout: torch.memory_format) -> Task:
        whole = _nchw(grad, layout, device)
        return lambda: (
            whole[:, :channels].clone(memory_format=layout),
            functional.pad(whole[:, channels:], [border] * 4),
        )

    ours_backward = _ours("crop_concat", "backward", grad, up.shape, skip.shape)
    return [
        Row("crop-concat", _ours("crop_concat", "forward", up, skip), forward, 2 * _size(grad)),
        Row("crop-concat, gradient", ours_backward, backward, _size(grad, up, skip)),
    ]


def _pixels(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Classes and weights."""
    return rng.integers(0, 2, shape).astype(np.int32), rng.uniform(0.5, 5, shape).astype(np.float32)


def _their_loss(scores: torch.Tensor, target: np.ndarray, weight: np.ndarray) -> Callable[..., torch.Tensor]:
    labels, weights = torch.from_numpy(target).long(), torch.from_numpy(weight)
    labels, weights = labels.to(scores.device), weights.to(scores.device)
    return lambda scores: (functional.cross_entropy(scores, labels, reduction="none") * weights).sum()


def _loss(logits: np.ndarray, rng: np.random.Generator, device: str) -> Row:
    target, weight = _pixels(logits.shape[:3], rng)

    def theirs(layout: torch.memory_format) -> Task:
        scores = _nchw(logits, layout, device).requires_grad_()
        loss = _their_loss(scores, target, weight)
        return lambda: torch.autograd.grad(loss(scores), scores)

    ours = _ours("softmax_cross_entropy", "forward", logits, target, weight, True)
    return Row("loss and its gradient", ours, theirs, _size(logits, target, weight, logits))


def _last_convolution_and_loss(x: np.ndarray, rng: np.random.Generator, device: str) -> Row:
    target, pixel_weight = _pixels(x.shape[:3], rng)
    weight, bias = rng.standard_normal((1, 1, x.shape[3], 2), np.float32), np.zeros(2, np.float32)

    def theirs(layout: torch.memory_format) -> Task:
        maps, their_bias = _nchw(x, layout, device).requires_grad_(), torch.zeros(2, device=device)
        kernel = torch.from_numpy(weight).permute(3, 2, 0, 1).to(device).requires_grad_()
        parameters = [maps, kernel, their_bias.requires_grad_()]
        loss = _their_loss(maps, target, pixel_weight)
        return lambda: torch.autograd.grad(loss(functional.conv2d(maps, kernel, their_bias)), parameters)

    ours = _ours("linear_cross_entropy", "forward", x, weight, bias, target, pixel_weight, True)
    return Row(
        "the last two, all gradients", ours, theirs, _size(x, weight, bias, target, pixel_weight, x, weight)
    )


def _dropout(x: np.ndarray, device: str) -> Row:
    def theirs(layout: torch.memory_format) -> Task:
        maps = _nchw(x, layout, device)
        return lambda: functional.dropout(maps, 0.5, training=True)

    return Row("dropout", _ours("dropout", "forward", x, 0.5, np.uint64(1)), theirs, 2 * _size(x))


def _sgd(base: int, rng: np.random.Generator, device: str) -> Row:
    """All parameters at once: weights and velocities read and written, gradients read.

    On a GPU ours sends the list of all addresses before each step, which a captured step has done once.
    """
    shapes = [parameter.shape for parameter in tu.UNet(base_channels=base).parameters()]
    weights, grads, velocities = (
        [to_backend(rng.standard_normal(shape, np.float32)) for shape in shapes] for _ in range(3)
    )

    def theirs(layout: torch.memory_format) -> Task:
        parameters = [torch.zeros(shape, device=device).requires_grad_() for shape in shapes]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        return torch.optim.SGD(parameters, lr=1e-5, momentum=0.99).step

    moved = 5 * sum(weight.nbytes for weight in weights)
    return Row(
        "SGD with momentum",
        _ours("sgd", "step", weights, grads, velocities, 1e-5, 0.99, 0.0),
        theirs,
        moved,
    )


def measure(row: Row, turns: int) -> tuple[float, float]:
    """Median seconds: ours, and PyTorch's in the faster layout."""
    candidates = [row.ours, *(row.torch(layout) for layout in LAYOUTS)]
    times = [[seconds(task, time.perf_counter) for task in candidates] for _ in range(2 + turns)]
    ours, *theirs = (statistics.median(values) for values in zip(*times[2:], strict=True))
    return ours, min(theirs)


def main(options: Options) -> None:
    """Print the table."""
    tu.use_backend("numba")
    numba.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    copying = copy_speed(options.turns, time.perf_counter)
    print(f"{processor()}, {options.threads} threads; a copy: {copying / 1e9:.0f} GB/s")
    print(f"{'':28}{'MB':>7}{'ms':>8}{'GB/s':>7}{'of a copy':>11}{'PyTorch ms':>12}")
    for row in rows(options.base):
        ours, theirs = measure(row, options.turns)
        speed = row.bytes / ours
        print(
            f"{row.name:28}{row.bytes / 1e6:7.1f}{1e3 * ours:8.2f}{speed / 1e9:7.1f}{speed / copying:11.0%}"
            f"{1e3 * theirs:12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    import tyro  # here, because benchmarks.first_day needs the rest where tyro is missing

    main(tyro.cli(Options, description=__doc__))
