"""python -m experiments.best_effort: segments the held-out membranes of ISBI 2012 with all that helps them.

Several networks, which differ in their seeds only, learn with balanced classes. Each predicts the held-out
sections in the eight symmetries, and the probabilities of all of them are averaged. Each network alone and
the mean of the first 2, 3, … of them become lines of experiments/records/best_effort.jsonl, which the page
docs/goals.md shows. The trainings are runs of tinyunet.train: one that is finished is not repeated, and one
that was stopped goes on, so this command can be stopped and started at any time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

import numpy as np
import tyro
from numpy.typing import NDArray

from experiments import peers, results
from tinyunet import command_line
from tinyunet.errors import OptionError
from tinyunet.metrics.scores import Prediction, score_images, summarise
from tinyunet.training.config import read_data
from tinyunet.training.folds import Loaded, load_networks, predict_held_out
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.stored_run import stored_data

RECORDS = Path("experiments/records/best_effort.jsonl")
STEPS = 2000
SYMMETRIES = 8
MEASURES = ("v_rand", "v_rand_fine", "v_info", "v_info_fine", "mean_iou", "pixel_error")

Maps = list[NDArray[np.floating]]


@dataclass(frozen=True)
class Options:
    """Train what is missing, and score the networks alone and together."""

    networks: int = 2
    """How many, with the seeds 0, 1, …"""
    data: Path = Path("../shared/data")
    """Folder of the .npz files."""
    runs: Path = Path("runs/best-effort")
    """Folder for the trainings."""

    def __post_init__(self) -> None:
        if self.networks < 1:
            raise OptionError(f"networks is {self.networks}, expected at least 1")


def main(options: Options) -> None:
    """Train network after network, and score each as soon as it is there."""
    total: Maps = []
    for seed in range(options.networks):
        folder = options.runs / f"seed-{seed}"
        results.complete(folder, training(seed, folder, options.data))
        [network] = load_networks(RunFolder(folder).last)
        maps = predict(network)
        total = [a + b for a, b in zip(total, maps, strict=True)] if total else maps
        record(network, [seed], maps)
        if seed:
            record(network, list(range(seed + 1)), [one / (seed + 1) for one in total])


def training(seed: int, folder: Path, data: Path) -> Sequence[str]:
    """Arguments of tinyunet.train."""
    task = peers.TASKS["isbi"].options
    where = ("--data", str(data / task["data"]), "--holdout", task["holdout"], "--tile", str(task["tile"]))
    how = ("--base-channels", "16", "--weights.class-balance", "--steps", str(STEPS))
    return (*where, *how, "--validate-every", str(STEPS // 4), "--seed", str(seed), "--out", str(folder))


def predict(network: Loaded) -> Maps:
    """Predict the held-out sections."""
    images = read_data(stored_data(network.checkpoint))
    held_out = predict_held_out([network], images, symmetries=SYMMETRIES)
    return [prediction.probabilities for prediction in held_out.predictions]


def record(network: Loaded, seeds: list[int], maps: Maps) -> None:
    """Score the maps of these seeds, and add the line unless there is one."""
    if any(line["seeds"] == seeds for line in read_records()):
        return
    held_out = predict_held_out([network], read_data(stored_data(network.checkpoint))).images
    predictions = (Prediction(one, None) for one in maps)
    measures, _ = summarise([one.scores for one in score_images(held_out, predictions)])
    scores = {name: measures[name].score for name in MEASURES}
    thresholds = {name: measures[name].threshold for name in ("v_rand", "v_rand_fine")}
    line = {"seeds": seeds, "steps": STEPS, "scores": scores, "thresholds": thresholds}
    print(json.dumps(line), flush=True)
    with RECORDS.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def read_records() -> list[dict[str, Any]]:
    """Read the lines of all networks and of their means."""
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


if __name__ == "__main__":
    command_line.run(lambda: main(tyro.cli(Options, description=__doc__)))
