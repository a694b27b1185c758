"""What processes that share a step lose: to the exchange of gradients, to waiting, and to each other.

    mpiexec -n 2 python -m benchmarks.ranks --base-channels 64 --tile 388 --turns 5

Each process has one tile, of 572 pixels by default, and one thread. In turn, one process alone makes the step
of all tiles while the others sleep; all make it together, exchanging gradients during the backward pass; and
all make it together, exchanging them afterwards. Samples are drawn before. Medians over the turns, of the
first process.

The overhead compares a step with the share of the process alone: with two processes, half its time. A part of
it is exchange that the backward pass does not hide, and waiting for the slowest process. The rest is what the
processes take from each other, such as cache and memory, and what each does for itself, such as the update.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np
from mpi4py import MPI

from tinyunet.backend.cuda_graph import CapturedStep
from tinyunet.data import split, synthetic_cells
from tinyunet.models import make_network
from tinyunet.nn import OPTIMISERS
from tinyunet.sampling import batch
from tinyunet.training.config import TrainConfig, optimiser_options, written_out
from tinyunet.training.mpi_ranks import MpiRanks, MpiSum
from tinyunet.training.ranks import ALONE, Ranks, Sum
from tinyunet.training.setup import Setup
from tinyunet.training.tiles import Drawn, TileSum

ALL = MPI.COMM_WORLD
WAYS = ("alone", "during the backward pass", "after it")


class TimedSum(MpiSum):
    """Notes how long it exchanged and waited, and how much of both came after the backward pass."""

    def __init__(self, notes: dict[str, float], *arguments: Any, **options: Any):
        self.notes, self._finishing = notes, False
        notes.update(exchange=0.0, waited=0.0, exposed=0.0)
        super().__init__(*arguments, **options)

    def finish(self) -> Any:
        """Note the time until the sum is complete."""
        started, self._finishing = time.perf_counter(), True
        total = super().finish()
        self.notes["exposed"] = time.perf_counter() - started - self.notes["waited"]
        return total

    def _exchange(self, part: Any) -> None:
        started = time.perf_counter()
        meet(0.0005)
        met = time.perf_counter()
        super()._exchange(part)
        self.notes["waited"] += (met - started) * self._finishing
        self.notes["exchange"] += time.perf_counter() - met


class TimedRanks(MpiRanks):
    """The processes, with what was noted of the last exchange."""

    def __init__(self, *, background: bool):
        super().__init__(ALL, background=background)
        self.in_background = background
        self.notes: dict[str, float] = {}

    def begin_sum(self, array: Any, add: Any) -> Sum:
        """Begin a sum as `MpiRanks`."""
        return TimedSum(self.notes, self._all, array, add, background=self.in_background)


def meet(pause: float) -> None:
    """Wait for all processes, asleep: MPI's own waiting would keep a core busy."""
    met = ALL.Ibarrier()
    while not met.Test():
        time.sleep(pause)


def steps(options: argparse.Namespace) -> dict[str, Callable[[], dict[str, float]]]:
    """Make for each of `WAYS` a function that makes a step and returns its seconds."""
    config = written_out(TrainConfig(base_channels=options.base_channels, tile=options.tile, batch=ALL.size))
    setup = Setup(config, *split(synthetic_cells(n=3, size=512), "1"))
    model = make_network(**setup.model_options).train()
    optimiser = OPTIMISERS[config.optimiser](model.parameters(), config.lr, **optimiser_options(config))
    drawn = [
        batch.finish(setup.sampler.sample(0, tile), setup.model_options["num_classes"])
        for tile in range(ALL.size)
    ]

    def draw(tile: int) -> Drawn:
        return Drawn(np.random.default_rng(tile), drawn[tile], folded=0)

    def step_of(ranks: Ranks) -> Callable[[], dict[str, float]]:
        tiles = TileSum(model, optimiser, CapturedStep(), config.batch, ranks)

        def step() -> dict[str, float]:
            started = time.perf_counter()
            tiles.step(draw, optimiser.scalars(0))
            return {"step": time.perf_counter() - started, **getattr(ranks, "notes", {})}

        return step

    ways = (ALONE, TimedRanks(background=True), TimedRanks(background=False))
    return {way: step_of(ranks) for way, ranks in zip(WAYS, ways, strict=True)}


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Make the steps in turn; returns the medians of each way."""
    made = steps(options)
    turns: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for turn in range(options.turns + 1):
        for way, step in made.items():
            meet(0.01)
            if way != "alone" or ALL.rank == 0:
                seconds = step()
                if turn:  # the first may compile, and touches all memory for the first time
                    turns[way].append(seconds)
    return {
        way: {name: median(each[name] for each in seconds) for name in seconds[0]}
        for way, seconds in turns.items()
        if seconds
    }


def report(seconds: dict[str, dict[str, float]], processes: int) -> str:
    """Write the table: for each way of exchanging, the step and the parts of its overhead."""
    share = seconds["alone"]["step"] / processes
    lines = [
        f"one process alone: {seconds['alone']['step']:.2f} s, for {processes} of its share: {share:.2f} s",
        "exchanged                    step   overhead   exchange  hidden  exposed  waited",
    ]
    for way in WAYS[1:]:
        each = seconds[way]
        hidden = each["exchange"] - each["exposed"]
        parts = (hidden, each["exposed"], each["waited"])
        lines.append(
            f"{way:26s} {each['step']:6.2f} s {100 * (each['step'] / share - 1):7.1f} % "
            f"{each['exchange']:8.3f} s" + "".join(f" {100 * part / share:6.1f} %" for part in parts)
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base-channels", type=int, default=64)
    parser.add_argument(
        "--tile", type=int, default=388, help="side of the output, 388 for 572 pixels of input"
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the medians, in seconds")
    options = parser.parse_args()
    seconds = measure(options)
    if ALL.rank == 0:
        print(f"{ALL.size} processes, base width {options.base_channels}, tiles of {options.tile} pixels")
        print(report(seconds, ALL.size))
        if options.json:
            record = {"processes": ALL.size, **vars(options), "json": None, "seconds": seconds}
            options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
