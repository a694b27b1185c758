"""python -m tests.campaigns.soak: train, predict and evaluate in one process until its memory levels off.

Every round resumes a training for a few steps, predicts a set and evaluates the result. Arrays that are kept,
files left open and threads left running show as growth from the middle of the rounds to their end.

    python -m tests.campaigns.soak --count 300
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.campaigns import forked
from tests.campaigns.seeds import write_library

GROWTH = 8 * 2**20  # bytes in half of the rounds: an image of 40 × 36 pixels per round is less than a tenth


@dataclass(frozen=True)
class Options:
    """Repeat commands in one process; the exit status is 1 if it keeps growing."""

    count: int = 300
    """Number of rounds."""


@dataclass(frozen=True)
class Holding:
    """What a process holds."""

    memory: int
    files: int
    threads: int


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the rounds."""
    options = tyro.cli(Options, prog="python -m tests.campaigns.soak", args=arguments)
    with tempfile.TemporaryDirectory(prefix="tinyunet-soak-", dir=forked.SCRATCH) as place:
        library = Path(place) / "library"
        library.mkdir()
        forked.warm_up(library, write_library(library))
        if growing := soak(library, options.count):
            print("\n".join(growing))
            sys.exit(1)


def soak(library: Path, count: int) -> list[str]:
    """Run the rounds, with what the process holds on the screen; returns what has grown."""
    held = []
    for number in range(count):
        steps = str(3 + number)
        forked.repeat(
            library,
            [
                ["train", "--resume", "run", "--steps", steps],
                ["predict", "run", "data", "--out", "predicted", "--overwrite"],
                ["evaluate", "predicted", "data", "--out", "scores", "--pictures", "1", "--overwrite"],
            ],
        )
        held.append(_holding())
        if number % max(1, count // 10) == 0 or number == count - 1:
            print(
                f"round {number + 1}: {held[-1].memory / 2**20:.1f} MB, {held[-1].files} files, "
                f"{held[-1].threads} threads",
                flush=True,
            )
    middle, end = held[len(held) // 2], held[-1]
    growing = []
    if end.memory - middle.memory > GROWTH:
        growing.append(f"memory grew from {middle.memory:,} to {end.memory:,} bytes")
    if end.files > middle.files:
        growing.append(f"open files grew from {middle.files} to {end.files}")
    if end.threads > middle.threads:
        growing.append(f"threads grew from {middle.threads} to {end.threads}")
    return growing


def _holding() -> Holding:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
    return Holding(pages * resource.getpagesize(), files, threads)


if __name__ == "__main__":
    main()
