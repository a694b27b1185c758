"""python -m benchmarks.gpu_model: how fast the machine code of the kernels lets a training step be.

    python -m benchmarks.gpu_model              # tables for four GPUs, of rungs, and beside what an H200 took
    python -m benchmarks.gpu_model --launches   # each launch of a step on an H200
    python -m benchmarks.gpu_model --winograd winograd   # float32 by this rung on all GPUs
    python -m benchmarks.gpu_model --write      # the tables, into kernels/README.md

A launch takes about as long as the largest of these, and an overhead:

    issue           the instructions of its warps, of which a multiprocessor issues four in a cycle
    fma, imad, …    the work of a unit of the multiprocessors (`machine_code.UNITS`), or of the tensor cores
    shared memory   its wavefronts, of 128 bytes in a cycle
    L2              bytes that blocks fetch in their main loops, and what is written
    DRAM            bytes of the arrays that are not in L2 from earlier launches
    latency         the waits of one block, one after the other, times the rounds in which all blocks fit

So the model is the best case, in which all others pass while the largest lasts. How far a measured time is
from it says what there is to gain, and the name of the largest says by what.

**From the machine code** (`benchmarks/machine_code.py`; made by NVRTC, so this needs the wheels
nvidia-cuda-nvrtc and nvidia-cuda-nvdisasm of tests/requirements.txt): the instructions of a pass of the main
loop and around it, bytes per load, loads in flight, registers and shared memory, and so the blocks that a
multiprocessor holds. **From the engine** (`benchmarks/dry_run.py`): launches, grids and arrays. How often the
main loop runs follows from both: `passes`. **From others**: `benchmarks/gpu_machines.py`, which names its
sources.

Assumed:

- L2 keeps whole arrays, those used last; what is written and not there goes to DRAM;
- outside of main loops each number comes from L2 once, and further reads of it from L1;
- the lanes of a warp access neighbours, and no banks of shared memory conflict (the emulator counts both);
- no multiprocessor has more than one block more than another; clocks are the highest;
- both ways of an if take place; loops that search run once;
- loads take as long as where nothing else is loaded.

An **expected** time is that of the model, times the ratio of measured to modelled that the kernel had on the
H200 in the same precision; for a kernel that the H200 did not run as it is now, that of all others together.
That other GPUs stay as far behind the model as the H200 is assumed, too.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import gpu, machine_code
from benchmarks.dry_run import ADD, Array, Launch, launches
from benchmarks.gpu_machines import H200, MACHINES, Machine
from benchmarks.gpu_pages import SHOWN_LAYERS, markdown_table, replaced
from benchmarks.layers import Layer, layers
from benchmarks.machine_code import WARP, Cost
from tests.helpers.nvrtc import compiled_text, disassembled
from tinyunet.backend import PRECISIONS
from tinyunet.backend.cuda import COMPILED_FOR, KERNEL_FOLDER
from tinyunet.backend.cuda_emulator import text_of
from tinyunet.ops import conv2d_cuda, conv2d_winograd_cuda
from tinyunet.ops.conv2d_winograd_cuda import WINOGRAD, WINOGRAD_TENSOR

RESULTS = Path(__file__).parent / "results" / "gpu.json"
PAGE = KERNEL_FOLDER / "README.md"
SCHEDULERS, REGISTERS = 4, 65536  # of a multiprocessor, on all GPUs here
SHARED_CYCLE = 128  # bytes that shared memory serves in a cycle
RESERVED = 1024  # bytes of shared memory that the system takes for a block
OVERHEAD = 2.2e-6  # seconds of each launch
PRODUCTS_OF_SPLIT = 3  # on tensor cores, for each product of float32: high · high, high · low, low · high
RETURNS_AT_ONCE = "linear_cross_entropy_backward"  # in training, where the gradient of the loss is 1
BASE, TILE = 64, 572  # the paper's
# The threads of a naive block read the same numbers, which the model would count as many times.
RUNGS_IN_TABLE = (*(rung for rung in conv2d_cuda.RUNGS if rung != "naive"), *conv2d_cuda.WINOGRADS)
SHOWN = 1e-4  # seconds that a kernel took on the H200 to be in the table
# What the H200 ran where another rung is chosen now: by precision, for 3×3 windows in float32, for images.
RUNGS_THAT_RAN, WINOGRAD_THAT_RAN, RUNG_OF_IMAGES_THAT_RAN = {"bf16": "tensor_bf16"}, WINOGRAD, "tiled"
# Kernels rewritten since it ran them: what they took says nothing about the code that is there now.
REWRITTEN = frozenset(
    {"conv2d_backward_bias", "conv2d_backward_bias_end", "conv2d_flip_weight", "relu_backward", "sgd_step"}
)
# How the names of products with a weight, and of those for its gradient, begin.
FORWARD = (
    "conv2d_forward_",
    "conv2d_rounded_forward_",
    "conv2d_backward_input_",
    "conv2d_rounded_backward_input_",
)
FOR_WEIGHT = "conv2d_backward_weight_"


@dataclass(frozen=True)
class Code:
    """A kernel's machine code: registers of a thread, shared memory of a block, main loop, and the rest."""

    registers: int
    shared: int
    loop: Cost
    rest: Cost


@cache
def code_of(stem: str, architecture: str) -> dict[str, Code]:
    """Compile and disassemble the kernels of a file."""
    text, architecture = text_of(KERNEL_FOLDER / f"{stem}.cu"), COMPILED_FOR.get(stem, architecture)
    succeeded, _, _, log = compiled_text(text, architecture)
    assert succeeded, log
    used = machine_code.resources(log)
    return {
        name: Code(*used[name], *map(machine_code.cost, machine_code.sections(code)))
        for name, code in disassembled(text, architecture).items()
    }


def depth(launch: Launch) -> int | None:
    """Return the multiplications of each number that the launch computes, or None if it is no product."""
    scalars, kernel = launch.scalars, launch.kernel
    if kernel.startswith(FORWARD):
        return scalars["size"] ** 2 * scalars["channels"]
    products = PRODUCTS_OF_SPLIT if (rung := winograd_rung(launch)) == WINOGRAD_TENSOR else 1
    if kernel.startswith(FOR_WEIGHT) or kernel == f"conv2d_{rung}_multiply_transposed":
        return products * min(scalars["rows"], scalars["rows_per_part"])
    return products * scalars["channels"] if kernel == f"conv2d_{rung}_multiply" else None


def winograd_rung(launch: Launch) -> str | None:
    """Return which of the rungs by Winograd's algorithm multiplies in the launch, if one does."""
    match = re.fullmatch(r"conv2d_(\w+?)_multiply(_transposed)?", launch.kernel)
    return match and match[1]


def loads(launch: Launch) -> float | None:
    """Return the loads of each thread in the main loop of a kernel that sums, or None."""
    scalars = launch.scalars
    match launch.kernel:
        case "conv2d_backward_bias_middle":
            return scalars["num_parts"] / (scalars["grid"][1] * launch.threads / WARP)
        case "conv2d_backward_bias":
            return scalars["rows"] / (scalars["grid"][1] * launch.threads / WARP)
        case "conv2d_backward_relu":  # of the gradient and of y, for four filters each
            return 2 * scalars["rows"] / (scalars["grid"][1] * 16)
        case "conv2d_gather_to_bf16":
            return scalars["rows"] / (scalars["grid"][1] * 16)
        case "conv2d_backward_bias_end":
            return scalars["num_parts"] / (launch.threads / WARP)
        case "conv2d_sum_parts":
            return scalars["num_parts"]
        case "conv2d_winograd_weight_grad":
            return scalars["num_parts"] * conv2d_winograd_cuda.FREQUENCIES
        case "linear_cross_entropy_forward":  # of features, class and weight of a pixel
            return 3 * scalars["pixels_per_part"] * scalars["lanes"] / launch.threads
        case kernel if kernel == RETURNS_AT_ONCE:
            return 0
    return None


def results_of_a_block(launch: Launch) -> int:
    """Return how many numbers a block of a product computes."""
    if rung := winograd_rung(launch):
        return math.prod(conv2d_winograd_cuda.BLOCKS[rung][0])
    tiles = conv2d_cuda.WEIGHT_TILES if launch.kernel.startswith(FOR_WEIGHT) else conv2d_cuda.TILES
    rung = re.sub("|".join((*FORWARD, FOR_WEIGHT)), "", launch.kernel)
    return math.prod(tiles[rung][0]) if rung in tiles else launch.threads


def passes(launch: Launch, loop: Cost) -> float:
    """Return how often a thread passes through its main loop.

    A product's block makes `depth` multiplications for each of its results, a pass those that stand in the
    code. A sum makes `loads`. The loops of other kernels, which search, count once.
    """
    if not loop.fetches:
        return 0
    if (wanted := depth(launch)) is not None:
        in_a_pass = sum(loop.multiplications.values()) * launch.threads / WARP
        return math.ceil(wanted * results_of_a_block(launch) / in_a_pass)
    loaded = loads(launch)
    return 1 if loaded is None else loaded / loop.fetches


def resident(machine: Machine, code: Code, threads: int) -> int:
    """Return how many blocks a multiprocessor holds; registers are given to warps in pieces of 256."""
    warps = math.ceil(threads / WARP)
    of_warp = math.ceil(code.registers * WARP / 256) * 256
    return min(
        machine.blocks,
        machine.threads // (warps * WARP),
        REGISTERS // of_warp // warps,
        machine.shared // (code.shared + RESERVED),
    )


class Cache:
    """The arrays that L2 holds, those used last at the end."""

    def __init__(self, size: float):
        self.size, self.held = size, OrderedDict[int, int]()

    def missed(self, arrays: Iterable[tuple[int, int]]) -> int:
        """Use arrays, and return the bytes of those that were not there."""
        missed = 0
        for place, size in arrays:
            missed += 0 if self.held.pop(place, -1) >= size else size
            self.held[place] = size
            while self.held and sum(self.held.values()) > self.size:
                self.held.popitem(last=False)
        return missed


@dataclass(frozen=True)
class Prediction:
    """The times of a launch in seconds, by what takes them."""

    launch: Launch
    times: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """The largest of them, and the overhead."""
        return max(self.times.values()) + OVERHEAD

    @property
    def limit(self) -> str:
        """What takes most."""
        name = max(self.times, key=lambda name: self.times[name])
        return name if self.times[name] > OVERHEAD else "overhead"


def predicted(machine: Machine, task: Sequence[Launch], turns: int = 2) -> list[Prediction]:
    """Predict the launches of a task in its second turn, when L2 holds what the first has left."""
    kept, found = Cache(machine.cache), list[Prediction]()
    for _ in range(turns):
        found = [_predicted(machine, launch, kept) for launch in task]
    return found


def _predicted(machine: Machine, launch: Launch, kept: Cache) -> Prediction:
    arrays = () if launch.kernel == RETURNS_AT_ONCE else (*launch.read, *launch.written)
    moved, missed = float(sum(size for _, size in arrays)), kept.missed(arrays)
    if not launch.stem:  # CuPy's own
        return Prediction(launch, _of_memory(machine, moved, missed))
    code = code_of(launch.stem, machine.architecture)[launch.kernel]
    times = passes(launch, code.loop)
    if fetched := times * code.loop.fetched * launch.threads * launch.blocks:
        moved = max(moved, fetched + sum(size for _, size in launch.written))
    warps = math.ceil(launch.threads / WARP) * math.ceil(launch.blocks / machine.processors)
    cycles = {unit: warps * number for unit, number in _cycles_of_a_warp(machine, code, times).items()}
    rounds = math.ceil(launch.blocks / (machine.processors * resident(machine, code, launch.threads)))
    share = missed / max(moved, 1)
    cycles["latency"] = rounds * _waited(machine, code, times, share, len(launch.read))
    found = {name: number / machine.clock for name, number in cycles.items()}
    return Prediction(launch, found | _of_memory(machine, moved, missed))


def _of_memory(machine: Machine, moved: float, missed: float) -> dict[str, float]:
    return {"L2": moved / machine.cache_speed, "DRAM": missed / machine.memory_speed}


def _cycles_of_a_warp(machine: Machine, code: Code, times: float) -> dict[str, float]:
    """Return the cycles of a multiprocessor in which each unit works for a warp."""
    cycles: dict[str, float] = defaultdict(float)
    for section, number in ((code.loop, times), (code.rest, 1)):
        cycles["issue"] += number * section.issued / SCHEDULERS
        for unit, count in section.units.items():
            cycles[unit] += number * count * WARP / machine.lanes[unit]
        for factors, speed in machine.tensor.items():
            cycles["tensor cores"] += number * section.multiplications.get(factors, 0) / speed
        cycles["shared memory"] += number * section.shared * WARP / SHARED_CYCLE
    return cycles


def _waited(machine: Machine, code: Code, times: float, share: float, arrays: int) -> float:
    """Return the cycles that a warp waits for loads, of which this share comes from DRAM.

    With more copies in flight than a pass issues, a pass waits for a part of the latency only. Outside of the
    loop the first wait for each array goes to L2 or DRAM; after that its line is in L1.
    """
    near, cached, far = machine.latencies
    latency = cached + share * (far - cached)
    loop, others = code.loop, code.rest.waits
    of_pass = loop.waits * min(1, loop.fetches / max(loop.in_flight, 1))
    first = min(others, arrays)
    return (times * of_pass + first) * latency + (others - first) * near


def total(predictions: Iterable[Prediction]) -> float:
    """Return the seconds of all."""
    return sum(each.seconds for each in predictions)


# Beside what was measured


@dataclass(frozen=True)
class Measured:
    """How often a step on the H200 launched a kernel, and the seconds of all its launches."""

    launches: float
    seconds: float

    def is_of(self, found: Sequence[Prediction]) -> bool:
        """Tell whether these launches, all those of one kernel, are of the same code and as many."""
        return len(found) == self.launches and found[0].launch.kernel not in REWRITTEN


def measured(precision: str) -> dict[str, Measured]:
    """Return what each kernel took in a step on the H200."""
    kernels = json.loads(RESULTS.read_text())["profile"][precision]["kernels_us"]
    return {_short(name): Measured(number, 1e-6 * took) for name, (number, took) in kernels.items()}


def _short(name: str) -> str:
    return ADD if name.startswith(ADD) else name


def by_kernel(predictions: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    """Group predictions by kernel."""
    found = defaultdict(list)
    for each in predictions:
        found[each.launch.kernel].append(each)
    return found


@cache
def ratios(precision: str) -> dict[str, float]:
    """Return measured over modelled for each kernel of a step on the H200, and under "" for all together.

    Kernels are left out that were rewritten since, or are launched more or less often.
    """
    took = measured(precision)
    of_step = by_kernel(predicted(H200, recorded_as_measured(precision)))
    same = [name for name, each in of_step.items() if name in took and took[name].is_of(each)]
    modelled = {name: total(of_step[name]) for name in same}
    found = {name: took[name].seconds / modelled[name] for name in same}
    return found | {"": sum(took[name].seconds for name in same) / sum(modelled.values())}


def expected(predictions: Iterable[Prediction], precision: str) -> float:
    """Return the seconds to expect: each kernel as far behind the model as on the H200."""
    known = ratios(precision)
    return sum(each.seconds * known.get(each.launch.kernel, known[""]) for each in predictions)


@cache
def recorded(base: int, task: str, precision: str, architecture: str) -> list[Launch]:
    """Record a task of `benchmarks.gpu` on the paper's tile, by the rungs chosen for an architecture."""
    return launches(lambda: gpu.our_tasks(base, TILE, None)[task], precision, architecture)


@cache
def recorded_as_measured(precision: str) -> list[Launch]:
    """Record a step by the rungs that the H200 ran."""
    with (
        mock.patch.dict(conv2d_cuda.FASTEST, RUNGS_THAT_RAN),
        mock.patch.object(conv2d_cuda, "FEW_CHANNELS", RUNG_OF_IMAGES_THAT_RAN),
        winograd_by(WINOGRAD_THAT_RAN),
    ):
        return launches(lambda: gpu.our_tasks(BASE, TILE, None)["step"], precision)


def winograd_by(rung: str) -> AbstractContextManager[Any]:
    """Run this rung in place of the one chosen for the GPU, inside a ``with`` block."""
    return mock.patch.object(conv2d_cuda, "fastest_winograd", return_value=rung)


# Tables


def table_of_gpus() -> str:
    """Make the table of steps and predictions on all GPUs."""
    rows = []
    for machine in MACHINES:
        for base, task in ((BASE, "step"), (BASE, "prediction"), (16, "step")):
            cells = [f"{machine.name}, base {base}, {task}"]
            for precision in PRECISIONS:
                of_task = predicted(machine, recorded(base, task, precision, machine.architecture))
                cells.append(f"{_ms(total(of_task))}, expected {_ms(expected(of_task, precision))}")
            rows.append(cells)
    return markdown_table(("task, in ms", *PRECISIONS), rows)


def table_of_kernels() -> str:
    """Make the table of the kernels that took longest on the H200, beside the model."""
    rows: dict[str, tuple[float, list[str]]] = {}
    for precision in PRECISIONS:
        of_step = predicted(H200, recorded_as_measured(precision))
        took = measured(precision)
        for name, found in by_kernel(of_step).items():
            if name in took and took[name].seconds > SHOWN and name not in rows:  # one for all precisions
                limits = Counter(each.limit for each in found for _ in range(round(1e9 * each.seconds)))
                cells = [f"`{name}` ×{len(found)}", limits.most_common(1)[0][0], _ms(total(found))]
                ratio = f"{ratios(precision)[name]:.2f}" if took[name].is_of(found) else "changed since"
                rows[name] = took[name].seconds, [*cells, _ms(took[name].seconds), ratio]
        graph = 1e-3 * json.loads(RESULTS.read_text())["profile"][precision]["graph_ms"]
        cells = [f"**the step in {precision}** ×{len(of_step)}", "", _ms(total(of_step)), _ms(graph)]
        rows[precision] = graph, [*cells, f"{ratios(precision)['']:.2f}"]
    longest = sorted(rows.values(), key=lambda row: -row[0])
    header = ("kernel, launches", "limited by", "model, ms", "H200, ms", "ratio")
    return markdown_table(header, [cells for _, cells in longest])


def table_of_rungs() -> str:
    """Make the table of the rungs: forward TFLOP/s of three layers on the H200."""
    shown = {f"{each.size}: {each.channels}→{each.filters}": each for each in layers(BASE, TILE)}
    rows = []
    for rung in RUNGS_IN_TABLE:
        took = {name: total(predicted(H200, launches_of(shown[name], rung))) for name in SHOWN_LAYERS}
        rows.append([rung, *(f"{1e-12 * shown[name].flop / took[name]:.1f}" for name in SHOWN_LAYERS)])
    return markdown_table(("rung", *SHOWN_LAYERS), rows)


def launches_of(layer: Layer, rung: str) -> list[Launch]:
    """Record the forward pass of a layer by a rung."""

    def make() -> Callable[[], Any]:
        x = Array((1, layer.size, layer.size, layer.channels), np.float32)
        weight = Array((layer.window, layer.window, layer.channels, layer.filters), np.float32)
        bias = Array((layer.filters,), np.float32)
        return lambda: conv2d_cuda.forward(x, weight, bias, 0, True, rung)

    return launches(make)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def print_launches(precision: str) -> None:
    """Print each launch of a step on the H200, with all its times in microseconds."""
    for each in predicted(H200, recorded(BASE, "step", precision, H200.architecture)):
        times = sorted(each.times.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {1e6 * seconds:.1f}" for name, seconds in times[:4])
        sizes = f"{each.launch.blocks} × {each.launch.threads}"
        print(f"{each.launch.kernel:<38}{sizes:>14}{1e6 * each.seconds:9.1f} µs: {parts}")


def main() -> None:
    """Print the tables, or each launch, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--launches", action="store_true", help="print each launch of a step on an H200")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of these launches")
    parser.add_argument("--write", action="store_true", help="write the tables into kernels/README.md")
    parser.add_argument(
        "--winograd", choices=conv2d_cuda.WINOGRADS, help="float32 with this rung, whatever the GPU"
    )
    options = parser.parse_args()
    with winograd_by(options.winograd) if options.winograd else nullcontext():
        if options.launches:
            print_launches(options.precision)
            return
        if options.winograd:
            print(table_of_gpus())
            return
    tables = {"kernels": table_of_kernels(), "gpus": table_of_gpus(), "ladder": table_of_rungs()}
    print("\n\n".join(tables.values()))
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        for name, made in tables.items():
            text = replaced(text, name, made, "modelled")
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
