"""The share of a step that processes spend on exchanging gradients, and on waiting for each other.

    mpiexec -n 2 python -m benchmarks.ranks --base-channels 64 --tile 388 --steps 5

Each process has one tile and one thread. The exchange follows the backward pass: a slice of the gradient
from each process to each, the additions, the sums back. Medians over the steps, of the first process.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np
from mpi4py import MPI

from tinyunet.data import split, synthetic_cells
from tinyunet.training.config import TrainConfig
from tinyunet.training.ranks import MpiRanks
from tinyunet.training.trainer import Trainer


class Timed(MpiRanks):
    """Notes how long each exchange takes, and how long the process waited before it for the slowest one."""

    def __init__(self) -> None:
        super().__init__(MPI.COMM_WORLD)
        self.waited: list[float] = []
        self.exchanged: list[float] = []

    def sum_in_slices(self, array: Any, add: Any) -> Any:
        """Sum as `MpiRanks`, once all processes have come here."""
        arrived = time.perf_counter()
        MPI.COMM_WORLD.Barrier()
        started = time.perf_counter()
        total = super().sum_in_slices(array, add)
        self.waited.append(started - arrived)
        self.exchanged.append(time.perf_counter() - started)
        return total


def main() -> None:
    """Make the steps and print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base-channels", type=int, default=64)
    parser.add_argument("--tile", type=int, default=388)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    ranks = Timed()
    config = TrainConfig(
        base_channels=options.base_channels,
        tile=options.tile,
        batch=ranks.size,
        steps=options.steps + 1,
        validate_every=options.steps + 2,
    )
    trainer = Trainer(config, *split(synthetic_cells(n=ranks.size + 1, size=512), "1"), ranks=ranks)
    events = trainer.run()
    next(events)  # may compile, and touches all memory for the first time
    step = float(np.median([next(events).seconds for _ in range(options.steps)]))
    waited, exchanged = (float(np.median(each[1:])) for each in (ranks.waited, ranks.exchanged))
    numbers = sum(parameter.data.size for parameter in trainer.model.parameters())
    if ranks.is_first:
        print(
            f"{ranks.size} processes, {numbers:,} numbers, tile {trainer.output_size}: a step takes "
            f"{step:.2f} s, of it exchanging {exchanged:.3f} s ({100 * exchanged / step:.1f} %) "
            f"and waiting {waited:.3f} s ({100 * waited / step:.1f} %)"
        )


if __name__ == "__main__":
    main()
