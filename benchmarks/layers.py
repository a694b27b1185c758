"""python -m benchmarks.layers: each convolution of the U-Net beside PyTorch's, in all three directions.

All run in one process. Ours and PyTorch's two layouts (default, channels last) take turns, and the median
over the turns counts. PyTorch is represented by its faster layout for each layer and direction. GFLOP/s are
effective: they count the direct convolution, 2 · 9 · C · F per pixel, whatever the algorithm did, and so may
exceed the machine's peak, which is that of a large matrix product in the same run. A large copy is timed too;
from both, `--picture` draws a roofline. On a busy machine `--threads 1 --cpu-time` is steadier.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.roofline import Series, draw
from benchmarks.step import processor
from tinyunet.ops import conv2d

DIRECTIONS = ("forward", "input gradient", "weight gradient")
Clock = Callable[[], float]
LAYOUTS = (torch.contiguous_format, torch.channels_last)


@dataclass(frozen=True)
class Options:
    """Compare every convolution of the U-Net with PyTorch's."""

    base: int = 64
    """Base width; the paper's is 64."""
    tile: int = 572
    """Side of the input tile."""
    turns: int = 5
    """Timed turns, after one for warming up."""
    threads: int = 2
    """Threads per engine."""
    cpu_time: bool = False
    """Measure CPU seconds of the process instead of elapsed ones, so that other programs do not count."""
    out: Path | None = None
    """Where to write the figures as JSON."""
    picture: Path | None = None
    """Where to draw the roofline, as PNG."""


@dataclass(frozen=True)
class Layer:
    """A valid convolution of a square."""

    size: int
    channels: int
    filters: int
    window: int = 3

    @property
    def flop(self) -> float:
        """Floating-point operations of the direct method, in one direction."""
        return 2.0 * self.window**2 * self.channels * self.filters * (self.size - self.window + 1) ** 2

    @property
    def bytes(self) -> float:
        """Bytes that one direction must move, each array once: input, weights and output, float32."""
        outputs = (self.size - self.window + 1) ** 2 * self.filters
        return 4.0 * (self.size**2 * self.channels + self.window**2 * self.channels * self.filters + outputs)


def layers(base: int, tile: int) -> list[Layer]:
    """The 18 convolutions of 3×3 and the last one, of 1×1, in their order."""
    widths = [base * 2**level for level in range(5)]
    found, size = [], tile
    for channels, width in zip([1, *widths], widths, strict=False):
        found += [Layer(size, channels, width), Layer(size - 2, width, width)]
        size = (size - 4) // 2
    size = found[-1].size - 2
    for width in reversed(widths[:-1]):
        found += [Layer(2 * size, 2 * width, width), Layer(2 * size - 2, width, width)]
        size = 2 * size - 4
    return [*found, Layer(size, base, 2, window=1)]


def random_arrays(layer: Layer) -> list[np.ndarray]:
    """x, weight, bias and the output's gradient."""
    rng = np.random.default_rng(0)
    side = layer.size - layer.window + 1
    shapes = [
        (1, layer.size, layer.size, layer.channels),
        (layer.window, layer.window, layer.channels, layer.filters),
        (layer.filters,),
        (1, side, side, layer.filters),
    ]
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def ours(layer: Layer, arrays: list[np.ndarray]) -> list[Callable[[], object]]:
    """The three directions, as the op calls them."""
    x, weight, bias, grad = arrays
    return [
        lambda: conv2d.forward_numba(x, weight, bias, 0, True),
        lambda: conv2d.backward_input_numba(grad, weight, 0),
        lambda: conv2d.backward_weight_numba(x, grad, 0, layer.window),
    ]


def pytorchs(
    layer: Layer,
    arrays: list[np.ndarray],
    layout: torch.memory_format,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Callable[[], object]]:
    """The same for PyTorch, with its arrays in one of the two layouts."""
    order = [(0, 3, 1, 2), (3, 2, 0, 1), (0,), (0, 3, 1, 2)]
    x, weight, bias, grad = (
        torch.from_numpy(a).permute(o).to(device, dtype) for a, o in zip(arrays, order, strict=True)
    )
    x, weight, grad = (a.clone(memory_format=layout) for a in (x, weight, grad))

    def backward(*which: bool) -> object:
        return torch.ops.aten.convolution_backward(
            grad, x, weight, [layer.filters], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, which
        )

    return [
        lambda: torch.relu_(torch.nn.functional.conv2d(x, weight, bias)),
        lambda: backward(True, False, False),
        lambda: backward(False, True, False),
    ]


def seconds(task: Callable[[], object], clock: Clock) -> float:
    """Time one call."""
    time.sleep(0.02)  # until the idle threads of the task before have stopped spinning
    start = clock()
    task()
    return clock() - start


def measure(layer: Layer, turns: int, clock: Clock) -> dict[str, dict[str, float]]:
    """Return the median seconds by direction: ours, and PyTorch's best."""
    arrays = random_arrays(layer)
    candidates = [ours(layer, arrays), *(pytorchs(layer, arrays, layout) for layout in LAYOUTS)]
    times = np.array(
        [[[seconds(task, clock) for task in tasks] for tasks in candidates] for _ in range(1 + turns)]
    )
    medians = np.median(times[1:], axis=0)
    return {
        direction: {"ours": medians[0, d], "torch": medians[1:, d].min()}
        for d, direction in enumerate(DIRECTIONS)
    }


def peak(threads: int, turns: int, clock: Clock, size: int = 3000) -> float:
    """Return the FLOP/s of a large matrix product."""
    a = np.ones((size, size), np.float32)
    with threadpool_limits(threads):
        return 2 * size**3 / statistics.median(seconds(lambda: a @ a, clock) for _ in range(turns))


def copy_speed(turns: int, clock: Clock, size: int = 2**26) -> float:
    """Return the bytes/s of a large copy, read and written, with PyTorch's number of threads."""
    source, target = torch.ones(size), torch.ones(size)
    return (
        2 * 4 * size / statistics.median(seconds(lambda: target.copy_(source), clock) for _ in range(turns))
    )


def main(options: Options) -> None:
    """Print the table, one line per layer, and write JSON on request."""
    numba.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    top = peak(options.threads, options.turns, clock)
    copying = copy_speed(options.turns, clock)
    machine = f"{processor()}, {options.threads} threads"
    print(f"{machine}; a matrix product: {top / 1e9:.0f} GFLOP/s, a copy: {copying / 1e9:.0f} GB/s")
    print("size  C → F        " + "".join(f"{d + ': ours, PyTorch ms':<40}" for d in DIRECTIONS))
    rows = []
    for layer in layers(options.base, options.tile):
        times = measure(layer, options.turns, clock)
        rows.append({**asdict(layer), "flop": layer.flop, "bytes": layer.bytes, "seconds": times})
        cells = [
            f"{t['ours'] * 1e3:6.1f} {t['torch'] * 1e3:6.1f}  {t['torch'] / t['ours']:4.1f}×"
            f" {layer.flop / t['ours'] / 1e9:5.0f} GFLOP/s {layer.flop / t['ours'] / top:4.0%}"
            for t in times.values()
        ]
        print(
            f"{layer.size:4}  {layer.channels:4} → {layer.filters:4}  " + " ".join(f"{c:<39}" for c in cells),
            flush=True,
        )
    _print_sum("3×3, from the second on", [t for row in rows[1:-1] for t in row["seconds"].values()])
    del rows[0]["seconds"]["input gradient"]  # the image's: no training asks for it
    _print_sum("all that a step needs", [t for row in rows for t in row["seconds"].values()])
    if options.out:
        options.out.write_text(
            json.dumps({"peak": top, "copy": copying, "threads": options.threads, "layers": rows}, indent=1)
        )
    if options.picture:
        title = f"Convolutions at base width {options.base}, {machine}, {date.today()}"
        draw_roofline(rows, top, copying, title, options.picture)


def draw_roofline(rows: list[dict[str, Any]], top: float, copying: float, title: str, path: Path) -> None:
    """Write the picture; Winograd's algorithm needs a quarter of the direct way's multiplications."""
    from matplotlib.figure import Figure

    def points(direction: str, who: str) -> list[tuple[float, float]]:
        timed = [row for row in rows if direction in row["seconds"]]
        return [(row["flop"] / row["bytes"], row["flop"] / row["seconds"][direction][who]) for row in timed]

    series = [
        Series(f"{direction}, {name}", colour, points(direction, who), filled=who == "ours")
        for direction, colour in zip(DIRECTIONS, ("tab:blue", "tab:orange", "tab:green"), strict=True)
        for who, name in (("ours", "tinyunet"), ("torch", "PyTorch"))
    ]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    draw(axes, series, {"copy, matrix product": top, "with a quarter of the products": 4 * top}, copying)
    axes.set_title(title)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _print_sum(name: str, times: list[dict[str, float]]) -> None:
    mine, theirs = (sum(t[who] for t in times) for who in ("ours", "torch"))
    print(f"{name}: {mine:.3f} s, PyTorch {theirs:.3f} s, {theirs / mine:.2f}×")


if __name__ == "__main__":
    import tyro  # here, because benchmarks.first_day needs the rest where tyro is missing

    main(tyro.cli(Options, description=__doc__))
