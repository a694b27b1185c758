"""python -m tests.campaigns.inputs: damaged inputs of every kind, through every command that reads them.

No input may end a command with a traceback, kill it, make it hang or take more than 2 GB, and no command may
change an input or write anywhere but where it was told to. Case n of seed s is the same in every run:

    python -m tests.campaigns.inputs --count 10000 --seed 0
    python -m tests.campaigns.inputs --seed 0 --only 4711    # one case, whose files and output are kept
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.campaigns import forked
from tests.campaigns.cases import Case, make_case
from tests.campaigns.seeds import write_library

DRAWN = 25  # pictures are drawn in one case of this many: they take most of the time


@dataclass(frozen=True)
class Options:
    """Try damaged inputs; the exit status is 1 if a command did what it may not."""

    count: int = 10_000
    """Number of cases."""
    seed: int = 0
    """Decides them."""
    only: int | None = None
    """Run this case alone, and keep its folder."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the campaign."""
    options = tyro.cli(Options, prog="python -m tests.campaigns.inputs", args=arguments)
    with tempfile.TemporaryDirectory(prefix="tinyunet-inputs-", dir=forked.SCRATCH) as place:
        library = Path(place) / "library"
        library.mkdir()
        forked.warm_up(library, write_library(library))
        if options.only is not None:
            _show(library, Path(tempfile.mkdtemp(prefix="tinyunet-case-")), options)
        elif failures := campaign(library, Path(place), options.count, options.seed):
            print("\n".join(failures))
            sys.exit(1)


def campaign(library: Path, place: Path, count: int, seed: int) -> list[str]:
    """Run cases 0 … count - 1, with totals on the screen; returns a line for each that failed."""
    started, totals, failures, memory = time.perf_counter(), Counter[tuple[str, str]](), list[str](), 0
    for number in range(count):
        case, ending, fault = run_case(library, place / "case", seed, number)
        _remove(place / "case")
        totals[case.kind, fault or f"exit status {ending.status}"] += 1
        memory = max(memory, ending.peak)
        if fault:
            last = ending.output.strip().splitlines()[-1:] or [""]
            where = f"{case.kind}, {case.what}: {case.command[0]}"
            failures.append(f"{fault}: --seed {seed} --only {number}: {where}: {last[0]}")
            print(failures[-1][:300], flush=True)
        if (number + 1) % 500 == 0:
            print(f"{number + 1} cases in {time.perf_counter() - started:.0f} s", flush=True)
    for (kind, outcome), cases in sorted(totals.items()):
        print(f"{kind:<20} {outcome:<16} {cases:>6}")
    seconds = time.perf_counter() - started
    print(f"{count} cases of seed {seed} in {seconds:.0f} s, at most {memory / 2**20:.0f} MB")
    print(f"{len(failures)} failed")
    return failures


def run_case(library: Path, folder: Path, seed: int, number: int) -> tuple[Case, forked.Ending, str]:
    """Make a case and run it; returns what it did that no command may do, or ""."""
    case = make_case(library, folder, seed, number)
    before = _contents(folder, case.outputs)
    name, *arguments = case.command
    prepare = None if number % DRAWN == 0 else _draw_nothing
    ending = forked.run(folder, folder.with_name("log"), name, arguments, prepare)
    fault = ending.fault
    if not fault and _contents(folder, case.outputs) != before:
        fault = "changed files"
    return case, ending, fault


def _contents(folder: Path, outputs: tuple[str, ...]) -> dict[str, bytes]:
    """The checksum of every file and link that the command may not change, and every folder."""
    found = {}
    for top, folders, files in os.walk(folder):
        if top == str(folder):
            folders[:] = [name for name in folders if name not in outputs]
            files = [name for name in files if name not in outputs]
        for name in files:
            file = Path(top, name)
            found[str(file)] = hashlib.blake2b(file.read_bytes()).digest()
        found[top] = b""
    return found


def _draw_nothing() -> None:
    """Let the pictures of a command be empty files."""
    from tinyunet.reporting import plots

    def draw(*arguments: object, **options: object) -> None:
        for argument in arguments:
            if isinstance(argument, Path):
                argument.write_bytes(b"")

    for name in ("plot_curves", "plot_examples", "plot_samples", "plot_mistakes"):
        setattr(plots, name, draw)


def _remove(folder: Path) -> None:
    """Remove a folder; `shutil.rmtree` fails below a thousand levels, which a command may well make."""
    subprocess.run(["rm", "-rf", folder], check=True)


def _show(library: Path, place: Path, options: Options) -> None:
    assert options.only is not None
    case, ending, fault = run_case(library, place / "case", options.seed, options.only)
    print(f"{case.kind}: {case.what}\nin {place / 'case'}: {' '.join(case.command)[:500]}")
    print(
        f"{ending.output}\nexit status {ending.status}, {fault or 'no fault'}; {ending.peak / 2**20:.0f} MB"
    )


if __name__ == "__main__":
    main()
