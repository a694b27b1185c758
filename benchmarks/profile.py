"""python -m benchmarks.profile: where the time of a training step goes, kernel by kernel.

Each entry of the dispatch table is timed at each call, and the median over the turns counts. "The rest" is
Python between the calls; max-pooling adds its gradient to the skip's in its own time. "Products" is the time
that the multiplications of the 3×3 convolutions would take at the speed of a large matrix product measured in
the same run; the time above it goes into Winograd's transforms, memory traffic, ReLUs and small products.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numba
import tyro

from benchmarks.layers import Layer, layers, peak
from benchmarks.step import INPUT, tinyunet_tasks
from tinyunet.backend import Dispatch
from tinyunet.reporting.environment import processor


@dataclass(frozen=True)
class Options:
    """Time every kernel of a training step."""

    base: int = 64
    """Base width; the paper's is 64."""
    turns: int = 7
    """Timed steps, after two for warming up."""
    threads: int = 2


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Collect the seconds spent in each entry of the dispatch table, by name, while the block runs."""
    seconds: dict[str, float] = defaultdict(float)
    call = Dispatch.__call__

    def timed_call(dispatch: Dispatch, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = call(dispatch, *arguments)
        seconds[dispatch.name] += time.perf_counter() - start
        return result

    Dispatch.__call__ = timed_call  # type: ignore[method-assign, assignment]
    try:
        yield seconds
    finally:
        Dispatch.__call__ = call  # type: ignore[method-assign]


def winograd_flop(layer: Layer) -> float:
    """Floating-point operations of the 36 products, in each of the three directions."""
    return 36 * 2.0 * math.ceil((layer.size - 2) / 4) ** 2 * layer.channels * layer.filters


def main(options: Options) -> None:
    """Print the table."""
    numba.set_num_threads(options.threads)
    step = tinyunet_tasks(options.base, options.threads)["step"]
    turns = []
    for _ in range(2 + options.turns):
        start = time.perf_counter()
        with timed() as seconds:
            step()
        turns.append({**seconds, "step": time.perf_counter() - start})
    medians = {name: statistics.median(turn[name] for turn in turns[2:]) for name in turns[-1]}
    whole = medians.pop("step")
    speed = peak(options.threads, 5, time.perf_counter)
    flop = 3 * sum(map(winograd_flop, layers(options.base, INPUT)[1:-1]))
    print(f"{processor()}, {options.threads} threads; a matrix product: {speed / 1e9:.0f} GFLOP/s")
    print(f"base {options.base}: a step takes {whole:.3f} s")
    for name, one in sorted(medians.items(), key=lambda item: -item[1]):
        print(f"{name:32}{1e3 * one:9.1f} ms {one / whole:6.1%}")
    rest = whole - sum(medians.values())
    print(f"{'the rest':32}{1e3 * rest:9.1f} ms {rest / whole:6.1%}")
    all_of_them = sum(one for name, one in medians.items() if name.split(".")[0] in CONVOLUTIONS)
    print(f"{'the 3×3 convolutions':32}{1e3 * all_of_them:9.1f} ms {all_of_them / whole:6.1%}", end="")
    print(f"   products: {1e3 * flop / speed:.0f} ms")


CONVOLUTIONS = ("conv2d", "crop_concat_conv2d")

if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
