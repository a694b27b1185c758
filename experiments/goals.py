"""python -m experiments.goals: how the default recipe learns from validation to validation, with many seeds.

A score after the last step hides a training that swings, or one that begins to learn late. Each line of
experiments/records/goals.jsonl is a training, with its score at each validation on held-out images. The page
docs/goals.md and its picture are made of these lines, and of those of `experiments.peers` and
`experiments.best_effort`. The trainings have one thread; times are CPU seconds of training steps, so that
other work on the machine does not count.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

import matplotlib
import matplotlib.pyplot as plt
import tyro

from experiments import best_effort, misses, peers
from experiments.courses import failures, largest_fall, second_half, steps_until
from experiments.digits import mean_and_range
from experiments.reasons import REASONS
from experiments.templates import render
from tinyunet import command_line
from tinyunet.data import ImageSet, split
from tinyunet.metrics.naming import readable_name
from tinyunet.training.config import TrainConfig, read_data
from tinyunet.training.events import Validated
from tinyunet.training.recipes import recipe
from tinyunet.training.trainer import Trainer
from tinyunet.training.validation import Scores, score_of_constant

RECORDS = Path("experiments/records/goals.jsonl")
PAGE = Path("docs/goals.md")
PICTURE = Path("docs/images/goals.png")
SYMMETRIES = "the same, predicted in eight symmetries"
BEGINNING = 100  # steps after which a network is asked whether it has begun to learn

Record = dict[str, Any]
Prepared = tuple[TrainConfig, ImageSet, ImageSet]


@dataclass(frozen=True)
class Course:
    """A training that is scored on its way.

    Attributes
    ----------
    title : str
    measure : str
        What the score is.
    score : callable
        From the scores of a validation.
    prepare : callable
        From a seed and the folder of the data to a configuration and the images.
    """

    title: str
    measure: str
    score: Callable[[Scores], float | None]
    prepare: Callable[[int, Path], Prepared]


def first_line(seed: int, data: Path) -> Prepared:
    """The README's first line."""
    config = recipe(seed=seed)
    return config, *split(read_data(config), config.holdout)


def smear(seed: int, data: Path) -> Prepared:
    """Three CPU minutes with twenty validations."""
    task = peers.TASKS["smear"]
    config, training_set, held_out = peers.prepare(task, "tinyunet", seed, data)
    steps = peers.steps_within(60 * task.minutes, config, training_set, held_out)
    return replace(config, steps=steps, validate_every=-(-steps // 20)), training_set, held_out


def dic(seed: int, data: Path) -> Prepared:
    """The first 300 steps."""
    config, training_set, held_out = peers.prepare(peers.TASKS["dic"], "tinyunet", seed, data)
    return replace(config, steps=300, validate_every=25), training_set, held_out


def beginning(task: str) -> Callable[[int, Path], Prepared]:
    """The first steps on a set."""

    def prepared(seed: int, data: Path) -> Prepared:
        config, training_set, held_out = peers.prepare(peers.TASKS[task], "tinyunet", seed, data)
        return replace(config, steps=BEGINNING, validate_every=BEGINNING), training_set, held_out

    return prepared


def mean_iou(scores: Scores) -> float:
    """Mean over the classes."""
    return scores.mean_iou


COURSES = {
    "first line": Course("the README's first line", "mean IoU", mean_iou, first_line),
    "smear": Course("sparse nuclei in smears", "IoU of the nuclei", lambda scores: scores.iou[1], smear),
    "dic": Course("synthetic-dic", "mean IoU", mean_iou, dic),
}
BEGINNINGS = {
    f"beginning of {task}": Course(peers.TASKS[task].title, "mean IoU", mean_iou, beginning(task))
    for task in peers.TASKS
    if not peers.TASKS[task].steps_of  # otherwise it is the set that has its steps, prepared in another way
}


@dataclass(frozen=True)
class Options:
    """Train what has no record yet, and write the page."""

    seeds: int = 3
    """Seeds of each course, 0, 1, …"""
    beginnings: int = 10
    """Seeds with which each set is begun."""
    data: Path = Path("../shared/data")
    """Folder of the .npz files."""


def main(options: Options) -> None:
    """Run what is missing, then write the page."""
    planned = [(name, course, seed) for seed in range(options.seeds) for name, course in COURSES.items()]
    planned += [(name, each, seed) for seed in range(options.beginnings) for name, each in BEGINNINGS.items()]
    done = {(record["course"], record["seed"]) for record in read_records()}
    for name, course, seed in planned:
        if (name, seed) not in done:
            record: Record = {"course": name, "seed": seed} | run(course, seed, options.data)
            print(f"{name}, seed {seed}: {record['scores'][-1]}", flush=True)
            with RECORDS.open("a") as lines:
                lines.write(json.dumps(record) + "\n")
    records = read_records()
    draw(records)
    text = page(records, peers.read_records(), best_effort.read_records())
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")


def read_records() -> list[Record]:
    """Read the lines of all trainings."""
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


def run(course: Course, seed: int, data: Path) -> Record:
    """Train, and return the steps and scores of all validations but the one before the first step."""
    config, training_set, held_out = course.prepare(seed, data)
    found = [
        (event.step, round(course.score(event.scores) or 0.0, 4))
        for event in Trainer(config, training_set, held_out).run()
        if isinstance(event, Validated) and event.step
    ]
    return {"constant": round(score_of_constant(held_out), 4), "scores": found}


def of_course(records: Sequence[Record], name: str) -> list[Record]:
    """Return the records of a course, by their seeds."""
    return sorted((r for r in records if r["course"] == name), key=lambda r: r["seed"])


def draw(records: Sequence[Record]) -> None:
    """Draw the courses of all seeds."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, len(COURSES), figsize=(11, 3.2), layout="constrained")
    for axis, (name, course) in zip(axes, COURSES.items(), strict=True):
        for record in of_course(records, name):
            axis.plot(*zip(*record["scores"], strict=True), marker=".", label=f"seed {record['seed']}")
        axis.set(title=course.title, xlabel="step", ylabel=course.measure, ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


def page(records: Sequence[Record], peer_records: Sequence[Record], efforts: Sequence[Record] = ()) -> str:
    """Make the page: the goals and what was reached, the courses, and the beginnings."""
    rows = [*goals_on_the_way(records), *goals_of_effort(efforts), *goals_at_the_end(peer_records)]
    header = ["", "constant prediction", f"after {BEGINNING} steps", "seeds", "fail"]
    return render(
        "goals.md.jinja",
        goals=_table(["what", "goal", "reached", "met", "seeds"], [row.cells() for row in rows]),
        effort_steps=f"{best_effort.STEPS:,}",
        efforts=_table(*_efforts(efforts)),
        missed=_table(["", "true objects", *REASONS], list(_missed())),
        beginning=BEGINNING,
        begun=_table(header, list(_beginnings(records))),
    )


def _missed() -> Iterator[list[str]]:
    for record in misses.read_records():
        objects = record["objects"]
        title = peers.TASKS[record["task"]].title
        counts = [str(objects[reason]) for reason in REASONS]
        yield [f"{title[0].upper()}{title[1:]}", str(sum(objects.values())), *counts]


@dataclass(frozen=True)
class Row:
    """A row of the table of goals."""

    what: str
    goal: str
    reached: str
    met: bool
    seeds: str

    def cells(self) -> list[str]:
        """Return the row as text."""
        return [self.what, self.goal, self.reached, "yes" if self.met else "no", self.seeds]


def goals_on_the_way(records: Sequence[Record]) -> Iterator[Row]:
    """Yield the rows that look at all validations."""
    if first := of_course(records, "first line"):
        yield _mean_row(
            "README's first line: mean IoU at the end", 0.96, [record["scores"][-1][1] for record in first]
        )
        fall = max(largest_fall(record["scores"]) for record in first)
        what = "its largest fall below the best so far, second half"
        yield Row(what, "0.02 at most", f"{fall:.3f}", fall <= 0.02, str(len(first)))
    if sparse := of_course(records, "smear"):
        least = min(min(second_half(record["scores"])) for record in sparse)
        what = "sparse nuclei, 3 min: least IoU of the nuclei at a validation of the second half"
        yield Row(what, "0.5", f"{least:.3f}", least >= 0.5, str(len(sparse)))
    if lit := of_course(records, "dic"):
        steps = [steps_until(record["scores"], 0.6) for record in lit]
        reached = ", ".join("never" if step is None else str(step) for step in steps)
        met = all(step is not None and step <= 300 for step in steps)
        what = "`synthetic-dic`: steps until the mean IoU passes 0.6"
        yield Row(what, "300 at most", reached, met, str(len(lit)))
    begun = [of_course(records, name) for name in BEGINNINGS]
    if begun := [one for one in begun if one]:
        failed, seeds = sum(map(_failed, begun)), sorted({len(one) for one in begun})
        what = f"seeds that fail to learn within {BEGINNING} steps, on any of {len(begun)} sets"
        reached = f"{failed} of {sum(map(len, begun))}"
        yield Row(what, "0", reached, failed == 0, "–".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))))


def _mean_row(what: str, goal: float, scores: Sequence[float]) -> Row:
    """Return the row of a goal for the mean over the seeds."""
    met = statistics.mean(scores) >= goal
    return Row(what, f"{goal:.3g}", mean_and_range(scores), met, str(len(scores)))


PLAIN = "scores"
WITH_FIXED = "ISBI hold-out with `--fixed-statistics 0.1`, as many steps"
WITH_BORDERS = "touching nuclei with `--weights.w0 10`, as many steps: average precision"
GOALS_AT_THE_END = (
    ("ISBI hold-out, 10 min: V_Rand", "isbi", "tinyunet", PLAIN, "v_rand", 0.965),
    ("the same at finer thresholds", "isbi", "tinyunet", PLAIN, "v_rand_fine", 0.965),
    (f"{WITH_FIXED}: V_Rand", "isbi", peers.FIXED, PLAIN, "v_rand", 0.965),
    (SYMMETRIES, "isbi", peers.FIXED, peers.SYMMETRIC, "v_rand", 0.965),
    ("ISBI hold-out without weights of borders: V_Rand", "isbi", peers.NO_BORDERS, PLAIN, "v_rand", 0.965),
    ("ISBI hold-out with `--weights.class-balance`: V_Rand", "isbi", peers.BALANCED, PLAIN, "v_rand", 0.965),
    ("ISBI hold-out with `--recipe paper`: V_Rand", "isbi", "tinyunet, paper", PLAIN, "v_rand", 0.965),
    (
        "touching nuclei, 5 min: average precision at 0.5",
        "nuclei",
        "tinyunet",
        PLAIN,
        "average_precision_0.5",
        0.86,
    ),
    (SYMMETRIES, "nuclei", "tinyunet", peers.SYMMETRIC, "average_precision_0.5", 0.86),
    (f"{WITH_BORDERS} at 0.5", "nuclei", peers.BORDERS, PLAIN, "average_precision_0.5", 0.86),
    ("touching nuclei, 5 min: average precision", "nuclei", "tinyunet", PLAIN, "average_precision", 0.70),
    (WITH_BORDERS, "nuclei", peers.BORDERS, PLAIN, "average_precision", 0.70),
    ("phase contrast, 4.5 min: mean IoU", "t98g", "tinyunet", PLAIN, "mean_iou", 0.79),
    ("axons and myelin, 3 min: mean IoU", "axons", "tinyunet", PLAIN, "mean_iou", 0.70),
    (SYMMETRIES, "axons", "tinyunet", peers.SYMMETRIC, "mean_iou", 0.70),
    (
        "axons and myelin with `--pixel-size 0.1`, as many steps: mean IoU",
        "axons, one size",
        "tinyunet",
        PLAIN,
        "mean_iou",
        0.70,
    ),
    (SYMMETRIES, "axons, one size", "tinyunet", peers.SYMMETRIC, "mean_iou", 0.70),
)  # what, set, peer, which scores, measure, goal


def goals_at_the_end(records: Sequence[Record]) -> Iterator[Row]:
    """Yield the rows that count after the last step, from the records of `experiments.peers`."""
    for what, name, peer, which, measure, goal in GOALS_AT_THE_END:
        of_peer = [r for r in records if (r["task"], r["peer"]) == (name, peer)]
        if found := [r[which][measure] for r in of_peer if which in r]:
            yield _mean_row(what, goal, found)
    what = "sets on which the mean is above that of PyTorch with BatchNorm and Adam"
    yield _ahead(records, "tinyunet", what)
    if any(record["peer"] == peers.FIXED for record in records):
        yield _ahead(records, peers.FIXED, "the same with `--fixed-statistics 0.1`")


def _ahead(records: Sequence[Record], ours: str, what: str) -> Row:
    """Return the row that counts on how many sets one of ours is ahead of PyTorch's network."""
    ahead: list[str] = []
    behind: list[str] = []
    for name, task in peers.TASKS.items():
        of_both = [
            [r["scores"][task.measures[0]] for r in records if (r["task"], r["peer"]) == (name, peer)]
            for peer in (ours, "PyTorch, Adam")
        ]
        if all(of_both) and not task.steps_of:
            (ahead if statistics.mean(of_both[0]) > statistics.mean(of_both[1]) else behind).append(name)
    reached = f"{len(ahead)} of {len(ahead) + len(behind)}" + (f", not {', '.join(behind)}" if behind else "")
    return Row(what, "all", reached, not behind, "3")


def goals_of_effort(efforts: Sequence[Record]) -> Iterator[Row]:
    """Yield the rows of single networks, which train for about ten minutes, and of the most together."""
    if alone := [record["scores"] for record in efforts if len(record["seeds"]) == 1]:
        what = f"ISBI hold-out, balanced classes, {best_effort.STEPS:,} steps, eight symmetries: V_Rand"
        yield _mean_row(what, 0.965, [scores["v_rand"] for scores in alone])
        yield _mean_row("the same at finer thresholds", 0.965, [scores["v_rand_fine"] for scores in alone])
    if efforts:
        most = max(efforts, key=lambda record: len(record["seeds"]))
        score, number = most["scores"]["v_rand"], len(most["seeds"])
        what = "ISBI hold-out, best effort, `python -m experiments.best_effort`: V_Rand"
        together = f"{number} together" if number > 1 else "1"
        yield Row(what, "0.975", mean_and_range([score]), score >= 0.975, together)


def _efforts(efforts: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows: one network, with each seed, and the means of several."""
    measures = ("v_rand", "v_rand_fine", "v_info", "v_info_fine", "mean_iou")
    header = ["networks", *map(readable_name, measures)]
    rows = []
    for number in sorted({len(record["seeds"]) for record in efforts}):
        found = [record["scores"] for record in efforts if len(record["seeds"]) == number]
        what = f"1, with {len(found)} seeds" if len(found) > 1 else str(number)
        rows.append([what, *(mean_and_range([scores[name] for scores in found]) for name in measures)])
    return header, rows


def _beginnings(records: Sequence[Record]) -> Iterator[list[str]]:
    for name, course in BEGINNINGS.items():
        if found := of_course(records, name):
            ends = mean_and_range([record["scores"][-1][1] for record in found])
            constant = f"{found[0]['constant']:.3f}"
            title = f"{course.title[0].upper()}{course.title[1:]}"
            yield [title, constant, ends, str(len(found)), str(_failed(found))]


def _failed(records: Sequence[Record]) -> int:
    """Return how many trainings of one set failed to learn."""
    return failures([record["scores"][-1][1] for record in records], records[0]["constant"])


def _table(header: list[str], rows: Sequence[list[str]]) -> str:
    """Make a table, or nothing if it has no rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    command_line.run(lambda: main(tyro.cli(Options, description=__doc__)))
