"""python -m tests.campaigns.slides: predictions in windows that are killed, and that two processes write.

A prediction is killed with SIGKILL at one of its operations on files and resumed, until it is through. The
OME-Zarr must then have the files and bytes of one that was never stopped. Likewise after two processes have
written every second region each at the same time: Zarr has no locks, and a file with two writers loses.

    python -m tests.campaigns.slides --count 20 --seed 0
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
import zarr
from numpy.typing import NDArray

from tests.campaigns import forked
from tests.campaigns.operations import Operations
from tests.campaigns.seeds import NETWORK, discs
from tinyunet.data.windows import open_windows
from tinyunet.exchange.exported import load_networks
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.slides import SlideOptions, SlideWriter
from tinyunet.training.stored_run import stored_classes

SIDES = 2, 3  # images of `discs`, side by side
TILE = 16
OUT = "out.ome.zarr"
PREDICT = ("run", "slide.zarr", "--out", OUT, "--tile", str(TILE), "--min-size", "2", "--memory", "1GB")
Files = dict[str, bytes]


@dataclass(frozen=True)
class Options:
    """Kill predictions, and let two processes write; the exit status is 1 if bytes differ."""

    count: int = 20
    """How often to do each."""
    seed: int = 0
    """Decides at which operations predictions are killed."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the campaign."""
    options = tyro.cli(Options, prog="python -m tests.campaigns.slides", args=arguments)
    with tempfile.TemporaryDirectory(prefix="tinyunet-slides-", dir=forked.SCRATCH) as place:
        if campaign(Path(place), options.count, options.seed):
            sys.exit(1)


def campaign(place: Path, count: int, seed: int) -> list[str]:
    """Do each `count` times, with totals on the screen; returns the faults."""
    started, faults, kills = time.perf_counter(), list[str](), 0
    reference, operations = _make_reference(place)
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        stops = [1 + rng.randrange(operations) for _ in range(rng.randint(1, 3))]
        if number == 0:
            stops = [operations]  # the last one
        kills += len(stops)
        fault = _kill_and_resume(place, stops) or difference(read(place / OUT), reference)
        faults += [f"killed at operations {stops}: {fault}"] if fault else []
        shutil.rmtree(place / OUT, ignore_errors=True)
        fault = _write_by_two(place) or difference(read(place / OUT), reference)
        faults += [f"two writers, number {number}: {fault}"] if fault else []
        shutil.rmtree(place / OUT, ignore_errors=True)
    seconds = time.perf_counter() - started
    print("\n".join(faults))
    print(
        f"{kills} kills and {count} predictions by two writers, of {operations} operations and "
        f"{len(reference)} files each, {seconds:.0f} s: {len(faults)} faults"
    )
    return faults


def _make_reference(place: Path) -> tuple[Files, int]:
    """Train, write the slide, and predict it without a stop: its files, and how many operations it takes."""
    from PIL import Image

    for part in ("images", "labels"):
        (place / "data" / part).mkdir(parents=True)
    for number in range(3):
        for part, array in zip(("images", "labels"), discs(number), strict=True):
            Image.fromarray(array).save(place / f"data/{part}/{number}.png")
    train = ["train", "--data", "data", "--out", "run", *NETWORK, "--steps", "60", "--validate-every", "60"]
    forked.warm_up(place, [train, ["predict", "run", "data", "--out", "files"]])
    in_child(_write_slide, place)
    shared = mmap.mmap(-1, 8)
    counting = Operations(place / OUT, 0, shared=shared)
    ending = forked.run(place, place / "log", "predict", PREDICT, counting.install)
    assert ending.status == 0, ending.output
    reference = read(place / OUT)
    shutil.rmtree(place / OUT)
    return reference, int.from_bytes(shared[:8])


def _write_slide(place: Path) -> None:
    rows = [np.hstack([discs(SIDES[1] * i + j)[0] for j in range(SIDES[1])]) for i in range(SIDES[0])]
    image: NDArray[np.uint8] = np.vstack(rows)
    zarr.create_array(place / "slide.zarr", shape=image.shape, chunks=(50, 50), dtype=np.uint8)[...] = image


def _kill_and_resume(place: Path, stops: list[int]) -> str:
    """Predict, killed at each of these operations in turn; then let it end. Returns what went wrong."""
    for number in [*stops, 0]:
        if (place / OUT).exists():
            return ""  # it came to its end before
        resume = ("--resume",) if any(place.glob(f"{OUT}.part*")) else ()
        install = Operations(place / OUT, number).install
        ending = forked.run(place, place / "log", "predict", (*PREDICT, *resume), install)
        if ending.status not in (0, -signal.SIGKILL):
            return f"{ending.fault} {ending.status} {ending.output[-300:]}"
    return ""


def _write_by_two(place: Path) -> str:
    """Let two processes predict every second region each, at the same time; then number and end it."""
    in_child(_work, place, None)
    processes = [_child(_work, place, parity) for parity in (0, 1)]
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        return f"exit status {[process.exitcode for process in processes]}"
    in_child(_work, place, 2)
    return ""


def _work(place: Path, part: int | None) -> None:
    """Begin a prediction (None), predict every second region of it (0, 1), or end it (2)."""
    os.chdir(place)
    (network,) = load_networks(Path("run"))
    regions: list[int] = []
    writer = SlideWriter(
        [network.model],
        open_windows(Path("slide.zarr")),
        Path(OUT),
        SlideOptions(tile=TILE),
        stored_classes(network.checkpoint, network.path),
        10**9,
        # In the beginning nothing is predicted; at the end all has been.
        (lambda step, tasks: iter(regions.extend(tasks) or ())) if part is None else None,
    )
    if part == 2:
        rule = ObjectRule.mean([network.checkpoint.objects])
        writer.number(ObjectRule(2, rule.split_depth))
        writer.finish()
    elif part is None:
        writer.predict()
        Path("regions").write_text("\n".join(map(str, regions)))
    else:
        for number in [int(line) for line in Path("regions").read_text().split()][part::2]:
            writer.write_region(number)


def _child(function: object, *arguments: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)  # type: ignore
    process.start()
    return process


def in_child(function: object, *arguments: object) -> None:
    """Call a function in a child: Zarr starts a thread, and this process must have one only, to be forked."""
    process = _child(function, *arguments)
    process.join()
    assert process.exitcode == 0


def read(folder: Path) -> Files:
    """Every file below a folder with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def difference(found: Files, expected: Files) -> str:
    """Name the first file that is missing, differs, or is too many."""
    names = sorted(found.keys() | expected.keys())
    wrong = [name for name in names if found.get(name) != expected.get(name)]
    return f"{len(wrong)} of {len(names)} files differ, first {wrong[0]}" if wrong else ""


if __name__ == "__main__":
    main()
