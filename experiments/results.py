"""python -m experiments.results: run the comparisons of the results page, and write it.

Each run is two commands that anyone can type, `tinyunet.train` and `tinyunet.evaluate`. Their results become
a line of JSON in a folder of records, and the page is made of these lines. A run that has a line is not
repeated, and a training that was stopped continues: this command can be stopped and started at any time.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from experiments.page import write_page
from experiments.tasks import COMPARE, TASKS, Comparison, Run
from tinyunet import command_line
from tinyunet.errors import OptionError, RunError
from tinyunet.training.run_folder import RunFolder

Job = Run | Comparison


@dataclass(frozen=True)
class Options:
    """Run the missing comparisons of the results page, one run after the other, and write the page."""

    tasks: tuple[str, ...] = (*TASKS, COMPARE)
    """Tasks to run: isbi, nuclei, compare. The page always shows all tasks that have records."""
    seeds: int = 3
    """Runs of each variant, with the seeds 0, 1, …"""
    steps: int | None = None
    """Steps of each training; those of the task if omitted."""
    minutes: float = 2.0
    """Training time of each network in tinyunet.compare."""
    data: Path = Path("../shared/data")
    """Folder of the .npz files; the commands on the page show it as given."""
    runs: Path = Path("runs/results")
    """Folder for the trainings and their scores."""
    records: Path = Path("experiments/records")
    """Folder for the records, one file of JSON lines per task."""
    page: Path = Path("docs/results.md")
    """File of the page; its pictures go into images/ beside it."""
    dry: bool = False
    """Run nothing: list the missing commands, and write the page from the existing records."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.tasks if name not in (*TASKS, COMPARE)]:
            raise OptionError(f"unknown task {unknown[0]!r}", {"expected": " | ".join((*TASKS, COMPARE))})
        for name, value in (("seeds", self.seeds), ("steps", self.steps)):
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}, expected at least 1")


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    command_line.run(lambda: results(tyro.cli(Options, prog="python -m experiments.results", args=arguments)))


def results(options: Options) -> None:
    """Make the missing runs, record them, and write the page."""
    planned = list(plan(options))
    missing = [job for job in planned if find_record(options.records, job) is None]
    print(f"{len(planned)} runs, {len(missing)} of them missing", flush=True)
    for number, job in enumerate(missing, 1):
        print(f"\n{number} of {len(missing)}: {job.name}", flush=True)
        if options.dry:
            print("\n".join(job.commands))
        else:
            append_record(options.records, job, carry_out(job))
    everything = list(plan(replace(options, tasks=(*TASKS, COMPARE))))
    records = {job: record for job in everything if (record := find_record(options.records, job))}
    with command_line.writing(options.page):
        write_page(options.page, records)
    print(f"wrote {options.page}, of {len(records)} of {len(everything)} runs")


def plan(options: Options) -> Iterator[Job]:
    """All runs: every variant with one seed, then with the next, so that a part of them is useful."""
    for name in options.tasks:
        for seed in range(options.seeds):
            if name == COMPARE:
                yield Comparison(
                    next(iter(TASKS.values())), seed, options.minutes, options.data, options.runs
                )
                continue
            task = TASKS[name]
            for variant in task.variants:
                yield Run(task, variant, seed, options.steps or task.steps, options.data, options.runs)


def carry_out(job: Job) -> dict[str, Any]:
    """Run the commands; returns their results, for the record."""
    if isinstance(job, Comparison):
        _call("tinyunet.compare", *job.compare, "--overwrite")
        return json.loads((job.folder / "comparison.json").read_text())
    complete(job.folder, job.train)
    _call("tinyunet.evaluate", *job.evaluate, "--overwrite")
    return read_results(job)


def complete(path: Path, arguments: Sequence[str]) -> None:
    """Train with these arguments into a folder, unless that is finished; continue it if it was stopped."""
    folder = RunFolder(path)
    log = folder.read_log()
    started = next((record["command"] for record in log if record["event"] == "started"), "")
    if not started.startswith(shlex.join(("python", "-m", "tinyunet.train", *arguments))):
        _call("tinyunet.train", *arguments, "--overwrite")  # a training with other options, or none
    elif not any(record["event"] == "finished" for record in log):
        again = ("--resume", str(path)) if folder.last.exists() else (*arguments, "--overwrite")
        _call("tinyunet.train", *again)


def _call(module: str, *arguments: str) -> None:
    """Run a command in its own process, which shares the output."""
    process = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    if process.returncode:
        raise RunError(
            f"{module} ended with status {process.returncode}",
            {"arguments": " ".join(arguments)},
            "correct the error above, then start this command again: finished runs are kept",
        )


def read_results(run: Run) -> dict[str, Any]:
    """Read what the page needs of a run from the files of the two commands."""
    log = RunFolder(run.folder).read_log()
    scores = json.loads((run.scores / "scores.json").read_text())
    started = next(record for record in log if record["event"] == "started")
    steps = [record for record in log if record["event"] == "step"]
    return {
        "scores": {name: measure["mean"] for name, measure in scores["measures"].items()},
        "images": len(scores["images"]),
        "train_seconds": sum(record["seconds"] for record in steps),
        "at": started["at"],
        "machine": started["machine"],
        "versions": started["versions"],
    }


def append_record(folder: Path, job: Job, results: dict[str, Any]) -> None:
    """Add a line to the task's file of records."""
    record = {"name": job.name, "options": job.options, "commands": job.commands, **results}
    file = _file(folder, job)
    with command_line.writing(file):
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lines:
            lines.write(json.dumps(record) + "\n")


def find_record(folder: Path, job: Job) -> dict[str, Any] | None:
    """The newest record of a run with the same options, wherever its files were."""
    file = _file(folder, job)
    lines: Sequence[str] = file.read_text().splitlines() if file.exists() else ()
    return next((r for r in map(json.loads, reversed(lines)) if r["options"] == list(job.options)), None)


def _file(folder: Path, job: Job) -> Path:
    return folder / f"{COMPARE if isinstance(job, Comparison) else job.task.name}.jsonl"


if __name__ == "__main__":
    main()
