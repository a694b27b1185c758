"""python -m tests.campaigns.kills: trainings that are killed and resumed, again and again.

A training is killed with SIGKILL at a random moment or at its n-th operation on a file, or finds the disk
full there, and is resumed, until it is through. Its checkpoints must then have the bytes of a run that was
never stopped, its log every step once, with the same losses, and its pictures must be whole and new. At every
stop the checkpoints that are there must be whole.

    python -m tests.campaigns.kills --count 1000 --seed 0
    python -m tests.campaigns.kills --seed 0 --only 17       # one run, whose folder is kept
"""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

from tests.campaigns import forked
from tests.campaigns.operations import Operations
from tests.campaigns.seeds import TRAINING, write_library
from tinyunet.data.atomic_write import replacing
from tinyunet.training.checkpoint import load_checkpoint

STEPS = 6
START = ("train", "--data", "data", "--out", "run", "--steps", str(STEPS), *TRAINING, "--patience", "0")
RESUME = ("train", "--resume", "run")
DRAWN = 20  # pictures are drawn in one run of this many; in others they are empty PNG
MOST_STOPS = 4  # of one run


@dataclass(frozen=True)
class Options:
    """Kill trainings and resume them; the exit status is 1 if a run did not end with the same bits."""

    count: int = 1000
    """Number of kills."""
    seed: int = 0
    """Decides their moments; those at random times differ a little from machine to machine."""
    only: int | None = None
    """Make this run alone, and keep its folder."""


@dataclass(frozen=True)
class Stop:
    """When a training is stopped.

    Attributes
    ----------
    way : str
        "killed at a time", "killed at an operation" or "disk full".
    at : float
        Seconds, or which operation on files, counted from 1.
    """

    way: str
    at: float


@dataclass
class Run:
    """What happened to one training."""

    stops: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """A run that was never stopped."""

    folder: Path
    operations: int
    seconds: float


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the campaign."""
    options = tyro.cli(Options, prog="python -m tests.campaigns.kills", args=arguments)
    with tempfile.TemporaryDirectory(prefix="tinyunet-kills-", dir=forked.SCRATCH) as place:
        reference = make_reference(Path(place) / "library")
        if options.only is not None:
            kept = Path(tempfile.mkdtemp(prefix="tinyunet-run-"))
            run = stop_and_resume(reference, kept / "case", options.seed, options.only)
            print("\n".join([*run.stops, *run.faults, f"in {kept}"]))
        elif campaign(reference, Path(place), options.count, options.seed):
            sys.exit(1)


def make_reference(library: Path) -> Reference:
    """Write a data set, import and compile everything, and make the run that is never stopped."""
    library.mkdir()
    forked.warm_up(library, write_library(library)[:1])
    shutil.rmtree(library / "run")
    started = time.perf_counter()
    shared = mmap.mmap(-1, 8)
    counting = Operations(library / "run", 0, shared=shared)
    ending = forked.run(library, library / "log", *_call(START), partial(_prepare, counting, False))
    assert ending.status == 0, ending.output
    return Reference(library, int.from_bytes(shared[:8]), time.perf_counter() - started)


def campaign(reference: Reference, place: Path, count: int, seed: int) -> list[str]:
    """Make runs until there were `count` kills, with totals on the screen; returns the faults."""
    started, totals, faults, number = time.perf_counter(), Counter[str](), list[str](), 0
    kills = 0
    while kills < count:
        run = stop_and_resume(reference, place / "case", seed, number)
        shutil.rmtree(place / "case")
        totals.update(stop.partition(":")[0] for stop in run.stops)
        kills = sum(number for kind, number in totals.items() if kind.startswith("killed"))
        for fault in run.faults:
            faults.append(f"--seed {seed} --only {number}: {fault}: {'; '.join(run.stops)}")
            print(faults[-1][:500], flush=True)
        number += 1
        if number % 50 == 0:
            print(f"{kills} kills in {time.perf_counter() - started:.0f} s", flush=True)
    for kind, stops in sorted(totals.items()):
        print(f"{kind:<24} {stops:>6}")
    print(
        f"{kills} kills in {number} runs of seed {seed}, {time.perf_counter() - started:.0f} s: "
        f"{len(faults)} faults"
    )
    return faults


def stop_and_resume(reference: Reference, folder: Path, seed: int, number: int) -> Run:
    """Make the run of this number, with stops that are drawn from seed and number."""
    rng, draws = random.Random(f"{seed} {number}"), number % DRAWN == 0
    stops = [_drawn(reference, rng, draws) for _ in range(rng.randint(1, MOST_STOPS))]
    return train_with(stops, reference, folder, draws)


def train_with(stops: Sequence[Stop], reference: Reference, folder: Path, draws: bool = False) -> Run:
    """Start a training, stop it a few times, let it end, and compare it with the one never stopped."""
    shutil.copytree(reference.folder / "data", folder / "data")
    run = Run()
    for stop in stops:
        ended = _stop_once(folder, stop, draws, run)
        run.faults += _damaged(folder / "run")
        if ended or run.faults:
            break
    if not run.faults:
        ending = forked.run(
            folder,
            folder / "log",
            *_next_call(folder),
            partial(_prepare, Operations(folder / "run", 0), draws),
        )
        if ending.fault or ending.status:
            run.faults.append(f"the last resume: {ending.fault} {ending.status} {ending.output[-300:]}")
        else:
            run.faults += _differences(folder / "run", reference.folder / "run")
    return run


def _drawn(reference: Reference, rng: random.Random, draws: bool) -> Stop:
    way = rng.choices(("killed at a time", "killed at an operation", "disk full"), (40, 50, 10))[0]
    if way == "killed at a time":
        return Stop(way, rng.uniform(0, reference.seconds * (1.5 if draws else 1)))
    return Stop(way, 1 + int(reference.operations * rng.random() ** 1.5))  # a resumed run has fewer


def _stop_once(folder: Path, stop: Stop, draws: bool, run: Run) -> bool:
    """Run until a stop; returns whether the training came to its end before."""
    if stop.way == "killed at a time":
        prepare = partial(_killed_after, stop.at, Operations(folder / "run", 0), draws)
    else:
        operations = Operations(folder / "run", int(stop.at), full=stop.way == "disk full")
        prepare = partial(_prepare, operations, draws)
    ending = forked.run(folder, folder / "log", *_next_call(folder), prepare)
    if ending.status == 0:
        return True
    expected = 2 if stop.way == "disk full" else -signal.SIGKILL
    if ending.status != expected or (expected == 2 and ending.fault):
        run.faults.append(f"{stop.way}: {ending.fault} {ending.status} {ending.output[-300:]}")
    run.stops.append(f"{stop.way}: {stop.at:.6g}")
    return False


def _next_call(folder: Path) -> tuple[str, list[str]]:
    """Resume where there is a checkpoint; otherwise start again, as the message says."""
    return _call(RESUME if (folder / "run/last.safetensors").exists() else (*START, "--overwrite"))


def _call(words: tuple[str, ...]) -> tuple[str, list[str]]:
    return words[0], list(words[1:])


def _prepare(operations: Operations, draws: bool) -> None:
    if not draws:
        from tinyunet.reporting import plots

        plots.plot_curves = lambda log, path: _blank(path)
        plots.plot_examples = lambda images, labels, examples, path, title: _blank(path)
    operations.install()


def _blank(path: Path) -> None:
    with replacing(path) as file:
        Image.new("L", (8, 8)).save(file, "PNG")


def _killed_after(seconds: float, operations: Operations, draws: bool) -> None:
    _prepare(operations, draws)

    def kill() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


def _damaged(run: Path) -> list[str]:
    """Find files that are not whole, of those that are always written whole."""
    faults = []
    for name in ("best.safetensors", "last.safetensors", "config.json", "curves.png", "examples.png"):
        if not (run / name).exists():
            continue
        try:
            _read(run / name)
        except Exception as error:
            faults.append(f"{name} is damaged: {error}")
    return faults


def _read(file: Path) -> None:
    if file.suffix == ".safetensors":
        load_checkpoint(file)
    elif file.suffix == ".png":
        with Image.open(file) as picture:
            picture.load()
    else:
        json.loads(file.read_text())


def _differences(run: Path, reference: Path) -> list[str]:
    """Compare a run that has ended with the one that was never stopped."""
    faults = [
        f"{name} differs"
        for name in ("best.safetensors", "last.safetensors", "config.json")
        if (run / name).read_bytes() != (reference / name).read_bytes()
    ]
    if _events(run) != _events(reference):
        faults.append("the log differs")
    newest = (run / "last.safetensors").stat().st_mtime
    for name in ("curves.png", "examples.png"):
        if not (run / name).exists() or (run / name).stat().st_mtime < newest:
            faults.append(f"{name} is missing or older than the checkpoint")
    if left := {file.name for file in run.iterdir()} - {file.name for file in reference.iterdir()}:
        faults.append(f"left over: {sorted(left)}")
    return faults + _damaged(run)


def _events(run: Path) -> list[Any]:
    """Every step with its loss, and every validation with its scores; not when, nor how long.

    A run that is killed after its end and resumed says twice that it has finished.
    """
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    volatile = ("seconds", "waited")
    return [
        {name: value for name, value in record.items() if name not in volatile}
        for record in records
        if record["event"] not in ("started", "finished")
    ]


if __name__ == "__main__":
    main()
