"""python -m experiments.misses: why the default recipe misses objects on held-out images.

A network is trained as in `experiments.peers`, for the time of its set, and the
objects are counted by the reasons of `experiments.reasons`. Each set becomes a line in
experiments/records/misses.jsonl, which the page docs/goals.md shows.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments import peers
from experiments.reasons import REASONS, reasons
from tinyunet import command_line
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.segmentation import segment_all

RECORDS = Path("experiments/records/misses.jsonl")


@dataclass(frozen=True)
class Options:
    """Train, and count the reasons."""

    tasks: tuple[str, ...] = ("nuclei", "t98g", "stained")
    """Sets of images with numbered objects."""
    seed: int = 0
    """Decides initial weights and samples."""
    data: Path = Path("../shared/data")
    """Folder of the .npz files."""


def main(options: Options) -> None:
    """Train on the sets that have no record yet."""
    done = {record["task"] for record in read_records()}
    for name in options.tasks:
        if name not in done:
            record = {"task": name, "seed": options.seed, "objects": run(name, options)}
            print(record, flush=True)
            with RECORDS.open("a") as lines:
                lines.write(json.dumps(record) + "\n")


def read_records() -> list[dict[str, Any]]:
    """Read the lines of all sets."""
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


def run(name: str, options: Options) -> dict[str, int]:
    """Train on a set, and return how many true objects of the held-out images there are for each reason."""
    task = peers.TASKS[name]
    config, training_set, held_out = peers.prepare(task, "tinyunet", options.seed, options.data)
    network, _, _ = peers.train_ours(config, training_set, held_out, 60 * task.minutes)
    rule = ObjectRule.of(training_set)
    counts: Counter[str] = Counter()
    assert held_out.labels is not None
    predictions = segment_all([network], held_out, tile=config.tile, rule=rule)
    for labels, prediction in zip(held_out.labels, predictions, strict=True):
        assert prediction.objects is not None
        counts.update(reasons(labels, prediction.objects, rule.min_size))
    return {reason: counts[reason] for reason in REASONS}


if __name__ == "__main__":
    command_line.run(lambda: main(tyro.cli(Options, description=__doc__)))
