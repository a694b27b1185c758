"""Each convolution and up-convolution of the U-Net on a GPU: all rungs, all directions, beside PyTorch's.

Rates are effective: FLOP/s count the multiplications and additions of the direct algorithm, bytes/s each
array once. Both are also given as shares of the peaks of the same run: a large product in the same precision,
and a large copy. "winograd" may exceed the peak, because it needs a quarter of the products; so may
"winograd_tensor", whose products run on tensor cores. PyTorch's convolutions are cuDNN's, in the faster of
its two layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks import gpu_clock
from benchmarks.gpu_clock import Task, milliseconds, set_precision
from benchmarks.layers import DIRECTIONS, LAYOUTS, Layer, layers, pytorchs, random_arrays
from benchmarks.roofline import Series, draw
from tinyunet.backend import PRECISIONS, to_backend
from tinyunet.ops import conv2d_cuda, conv_transpose2d_cuda

PYTORCHS = {f"PyTorch {precision}": precision for precision in PRECISIONS}
# Of the other rungs: float32.
PRECISION_OF = {"tensor": "tf32", "tensor_bf16": "bf16", "tensor_copies": "bf16", "wgmma": "bf16", **PYTORCHS}
COLOURS = {
    "naive": "tab:brown",
    "tiled": "tab:pink",
    "few_channels": "tab:gray",
    "blocked": "tab:blue",
    "product": "tab:purple",
    "winograd": "tab:cyan",
    "winograd_tensor": "tab:red",
    "tensor": "tab:orange",
    "tensor_bf16": "tab:green",
    "tensor_copies": "tab:olive",
    "wgmma": "black",
    **dict(zip(PYTORCHS, ("tab:blue", "tab:orange", "tab:green"), strict=True)),
}
Tasks = dict[str, Task]  # by direction


@dataclass(frozen=True)
class Case:
    """A layer, its work, and for each rung a function that makes its tasks.

    A rung may have several variants, of which the fastest counts in each direction.
    """

    name: str
    flop: float
    bytes: float
    rungs: Mapping[str, Callable[[], list[Tasks]]]


def cases(base: int, tile: int, rungs: tuple[str, ...]) -> list[Case]:
    """List all layers of the U-Net."""
    convolutions = layers(base, tile)
    after_up = [layer for layer in convolutions if layer.window == 3 and layer.channels > layer.filters]
    ups = [up_convolution(layer.size // 2, layer.channels) for layer in after_up]
    return [*(convolution(layer, rungs) for layer in convolutions), *ups]


def measured(case: Case, turns: int, peaks: Mapping[str, float]) -> dict[str, Any]:
    """Measure a case for the results."""
    figures = {}
    for rung, make in case.rungs.items():
        with set_precision(PYTORCHS.get(rung, "float32")):
            took = fastest(make(), turns)
        moved = case.bytes / 2 if rung == "PyTorch bf16" else case.bytes
        figures[rung] = {name: rates(t, case.flop, moved, rung, peaks) for name, t in took.items()}
        cells = (f"{f['ms']:9.3f} ms {f['tflops']:6.1f} {f['share']:4.0%}" for f in figures[rung].values())
        print(f"{case.name:<16}{rung:<16}" + "".join(cells), flush=True)
    return {"name": case.name, "flop": case.flop, "bytes": case.bytes, "rungs": figures}


def fastest(variants: list[Tasks], turns: int) -> dict[str, float]:
    """Return milliseconds per direction of the fastest of several variants, which take turns."""
    took = milliseconds(
        {(variant, d): tasks[d] for variant, tasks in enumerate(variants) for d in tasks}, turns
    )
    return {d: min(took[variant, d] for variant in range(len(variants))) for d in variants[0]}


def rates(took: float, flop: float, size: float, rung: str, peaks: Mapping[str, float]) -> dict[str, float]:
    """Convert a time in milliseconds to TFLOP/s, GB/s and their shares of the peaks."""
    flops, speed = flop / took * 1e3, size / took * 1e3
    return {
        "ms": took,
        "tflops": flops / 1e12,
        "share": flops / peaks[PRECISION_OF.get(rung, "float32")],
        "gbytes": speed / 1e9,
        "share_of_copy": speed / peaks["copy"],
    }


def convolution(layer: Layer, rungs: tuple[str, ...]) -> Case:
    """Make the case of a convolution: all rungs that take its channels, and PyTorch in each precision."""
    suited = [rung for rung in rungs if conv2d_cuda.takes(rung, layer.channels, layer.filters)]
    if layer.window != 3:
        suited = [rung for rung in suited if rung not in conv2d_cuda.WINOGRADS]

    def pytorch(dtype: torch.dtype) -> list[Tasks]:
        arrays = random_arrays(layer)
        return [_by_direction(pytorchs(layer, arrays, layout, gpu_clock.DEVICE, dtype)) for layout in LAYOUTS]

    name = f"{layer.size}: {layer.channels}→{layer.filters}"
    ours = {rung: partial(conv2d_tasks, rung, layer) for rung in suited}
    return Case(name, layer.flop, layer.bytes, {**ours, **_in_each_precision(pytorch)})


def up_convolution(size: int, channels: int) -> Case:
    """Make the case of a 2×2 up-convolution of a square, which halves the channels."""
    filters, rng = channels // 2, np.random.default_rng(0)
    shapes = [
        (1, size, size, channels),
        (2, 2, channels, filters),
        (filters,),
        (1, 2 * size, 2 * size, filters),
    ]
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    x, weight, _, grad = arrays
    ours = {rung: partial(up_tasks, rung, arrays) for rung in conv_transpose2d_cuda.RUNGS}
    return Case(
        f"up {size}: {channels}→{filters}",
        8.0 * size**2 * channels * filters,
        x.nbytes + weight.nbytes + grad.nbytes,
        {**ours, **_in_each_precision(partial(pytorch_up_tasks, arrays))},
    )


def _by_direction(tasks: Sequence[Task]) -> Tasks:
    return dict(zip(DIRECTIONS, tasks, strict=True))


def _in_each_precision(make: Callable[[torch.dtype], list[Tasks]]) -> dict[str, Callable[[], list[Tasks]]]:
    dtypes = {"bf16": torch.bfloat16}
    return {name: partial(make, dtypes.get(precision, torch.float32)) for name, precision in PYTORCHS.items()}


def conv2d_tasks(rung: str, layer: Layer) -> list[Tasks]:
    """Make the tasks of a convolution."""
    x, weight, bias, grad = map(to_backend, random_arrays(layer))
    tasks = (
        lambda: conv2d_cuda.forward(x, weight, bias, 0, True, rung),
        lambda: conv2d_cuda.backward_input(grad, weight, 0, rung),
        lambda: conv2d_cuda.backward_weight(x, grad, 0, layer.window, rung),
    )
    return [_by_direction(tasks)]


def up_tasks(rung: str, arrays: list[np.ndarray]) -> list[Tasks]:
    """Make the tasks of an up-convolution."""
    x, weight, bias, grad = map(to_backend, arrays)
    tasks = (
        lambda: conv_transpose2d_cuda.forward(x, weight, bias, True, rung),
        lambda: conv_transpose2d_cuda.backward_input(grad, weight, rung),
        lambda: conv_transpose2d_cuda.backward_weight(x, grad, rung),
    )
    return [_by_direction(tasks)]


def pytorch_up_tasks(arrays: list[np.ndarray], dtype: torch.dtype) -> list[Tasks]:
    """Make PyTorch's tasks of an up-convolution, in each layout."""
    variants = []
    for layout in LAYOUTS:
        x, weight, bias, grad = (torch.from_numpy(a).to(gpu_clock.DEVICE, dtype) for a in arrays)
        x, grad = (a.permute(0, 3, 1, 2).clone(memory_format=layout) for a in (x, grad))
        weight = weight.permute(2, 3, 0, 1).clone(memory_format=layout)
        variants.append(_by_direction(_pytorch_up_tasks(x, weight, bias, grad)))
    return variants


def _pytorch_up_tasks(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, grad: torch.Tensor
) -> tuple[Task, Task, Task]:
    def backward(*which: bool) -> object:
        return torch.ops.aten.convolution_backward(
            grad, x, weight, [weight.shape[1]], [2, 2], [0, 0], [1, 1], True, [0, 0], 1, which
        )

    return (
        lambda: torch.relu_(torch.nn.functional.conv_transpose2d(x, weight, bias, stride=2)),
        lambda: backward(True, False, False),
        lambda: backward(False, True, False),
    )


def draw_ladder(results: Mapping[str, Any], path: Path) -> None:
    """Draw the TFLOP/s of each rung, with one column per layer and one panel per direction."""
    figure = Figure(figsize=(14, 11), layout="constrained")
    layers = results["layers"]
    for axes, direction in zip(figure.subplots(3, sharex=True), DIRECTIONS, strict=True):
        for rung, colour in COLOURS.items():
            found = {x: layer["rungs"][rung] for x, layer in enumerate(layers) if rung in layer["rungs"]}
            rates = [figures[direction]["tflops"] for figures in found.values()]
            style = {"facecolors": "none"} if rung in PYTORCHS else {"color": colour}
            axes.scatter(list(found), rates, s=36, edgecolors=colour, label=rung, **style)
        axes.set(title=direction, ylabel="TFLOP/s", yscale="log")
        axes.grid(alpha=0.3)
    axes.set_xticks(range(len(layers)), [layer["name"].replace(": ", "\n") for layer in layers], fontsize=6)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS))
    figure.suptitle(f"Convolutions by rung: {results['device']}, {results['date']}")
    figure.savefig(path, dpi=120)


def draw_roofline(results: Mapping[str, Any], path: Path) -> None:
    """Draw each layer by its work per byte, with one panel per direction."""
    figure = Figure(figsize=(15, 6), layout="constrained")
    peaks = results["peaks"]
    roofs = {f"copy, product in {precision}": peaks[precision] for precision in PRECISIONS}
    for axes, direction in zip(figure.subplots(1, 3, sharey=True), DIRECTIONS, strict=True):
        series = [
            Series(rung, colour, _points(results["layers"], rung, direction), filled=rung not in PYTORCHS)
            for rung, colour in COLOURS.items()
        ]
        draw(axes, series, roofs, peaks["copy"])
        axes.set_title(direction)
        axes.label_outer()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.suptitle(f"Convolutions: {results['device']}, {results['date']}")
    figure.savefig(path, dpi=120)


def _points(layers: list[dict[str, Any]], rung: str, direction: str) -> list[tuple[float, float]]:
    timed = [layer for layer in layers if direction in layer["rungs"].get(rung, {})]
    return [
        (layer["flop"] / layer["bytes"], 1e12 * layer["rungs"][rung][direction]["tflops"]) for layer in timed
    ]
