"""python -m experiments.peers: trains U-Nets of ours and of PyTorch for the same CPU time on the same images.

All networks have the same layers and width, and learn from the same tiles: those of tinyunet's sampler, whose
time counts for all. One thread; only the CPU seconds of training steps count, so that other work on the
machine does not. Predictions are made and scored by the same code: overlap-tile, then `tinyunet.metrics`.

- tinyunet: its default recipe, which does not turn images that are lit from one side, and has the paper's
  weights of borders where thin walls part the objects, as membranes do.
- tinyunet, fixed statistics: the default recipe with `--fixed-statistics 0.1`: in the last tenth of the steps
  a tile is normalised by the statistics of many tiles.
- tinyunet, no borders: the default recipe without these weights, `--weights.w0 0`.
- tinyunet, borders: the default recipe with these weights on other sets, `--weights.w0 10`: of what lies
  between objects that touch or lie side by side.
- tinyunet, balanced: the default recipe with `--weights.class-balance`, for thin membranes.
- tinyunet, paper: `--recipe paper`.
- PyTorch, SGD: the paper's network and optimiser (momentum 0.99, class balance and border weights).
- PyTorch, Adam: BatchNorm after each convolution with running averages, Adam, no weight map: the form in
  which U-Nets are commonly trained today.
- PyTorch, nnU-Net: the training of nnU-Net v2 (Isensee et al. 2021) in a network of this width: instance
  normalisation, leaky ReLU, zero padding, Dice and cross-entropy with deep supervision, SGD with Nesterov's
  momentum 0.99, clipped gradients. Its batches of several patches, its own augmentation and its search for
  sizes are not there: a batch is one of the same tiles as the others'.

Ours takes as many steps with the weights of borders as without them, and as many with fixed statistics: one
of them was given the minutes. The weights take a hundredth of a step's time; a step with fixed statistics
takes 7 to 19 % less.

V_Rand is the ISBI challenge's, at the best of its thresholds 0, 0.1, … 1. Newer runs have it at the best of
`tinyunet.metrics.segments.FINE_THRESHOLDS` as well, which come closer to 0 and 1: a network that is sure puts
a thin membrane above 0.9.

The last column has the first measure of a prediction in the eight symmetries of a square, turned back and
averaged (`--symmetries 8` of `tinyunet.predict`), on sets whose images a training may turn.

Each run becomes a line in experiments/records/peers.jsonl, and the page docs/peers.md is made of these lines.
They were made on several machines (newer lines name the processor), which take unlike numbers of steps in the
same time. On a slow one, `--recorded-steps` takes as many steps as the recorded runs of the same network on
the same set did.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

import numpy as np
import torch
import tyro

from experiments.digits import comparison, mean_and_range
from experiments.torch_training import RECIPES, train_pytorch
from tinyunet import command_line
from tinyunet.data import ImageSet, split
from tinyunet.data.pixel_sizes import PixelSizes
from tinyunet.diagnosis import find_walls, is_lit_from_one_side
from tinyunet.errors import OptionError
from tinyunet.metrics.naming import readable_name
from tinyunet.metrics.scores import Prediction, score_images, summarise
from tinyunet.models import Network
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.segmentation import segment, segment_all
from tinyunet.reporting.environment import processor
from tinyunet.sampling import WeightMap
from tinyunet.training.config import TrainConfig, read_data
from tinyunet.training.events import Stepped
from tinyunet.training.recipes import recipe
from tinyunet.training.trainer import Trainer

RECORDS = Path("experiments/records/peers.jsonl")
PAGE = Path("docs/peers.md")
TIMED_STEPS = 12  # the first few are not counted: kernels are compiled, memory is touched


@dataclass(frozen=True)
class Task:
    """A set of images, and how long networks train on it.

    Attributes
    ----------
    title : str
    options : dict
        Of `TrainConfig`: data, holdout, kind and tile.
    minutes : float
        CPU minutes of training.
    measures : tuple of str
        Measures of `tinyunet.evaluate`; the first is the goal's.
    turned : bool
        Whether networks learn from turned images, and are scored in eight symmetries as well.
    walls : bool
        Whether the default recipe weights the borders, because thin walls part the objects.
    steps_of : str
        The set whose recorded steps are taken, because a step takes as long; "" for one with minutes.
    """

    title: str
    options: dict[str, Any]
    minutes: float
    measures: tuple[str, ...]
    turned: bool = True
    walls: bool = False
    steps_of: str = ""


# In µm. Those of the images are from the data set's files, sub-rat*_SEM.json; four of ten have 0.1.
ONE_SIZE = {"pixel_size": 0.1, "pixel_sizes": "experiments/axon_pixel_sizes.csv"}
TASKS = {
    "t98g": Task(
        "T98G cells in phase contrast, the last 3 of 16 images held out",
        {"data": "usiigaci_t98g_phase_512x512.npz", "kind": "instances", "holdout": "13-15", "tile": 260},
        4.5,
        ("mean_iou", "average_precision_0.5"),
        turned=False,
    ),
    "axons": Task(
        "axons and myelin in electron micrographs, two of 8 animals held out",
        {"data": "axondeepseg_sem_736x736.npz", "holdout": "20%", "tile": 260},
        3.0,
        ("mean_iou", "iou_1", "iou_2"),
    ),
    "axons, one size": Task(
        "axons and myelin, all images scaled to pixels of 0.1 µm, two of 8 animals held out",
        {"data": "axondeepseg_sem_736x736.npz", "holdout": "20%", "tile": 260, **ONE_SIZE},
        3.0,
        ("mean_iou", "iou_1", "iou_2"),
        steps_of="axons",
    ),
    "smear": Task(
        "sparse nuclei in smears, the last 2 of 6 images held out",
        {"data": "dsb2018_smear_1024x1024.npz", "kind": "instances", "holdout": "4-5", "tile": 260},
        3.0,
        ("iou_1", "mean_iou", "average_precision_0.5"),
    ),
    "stained": Task(
        "stained nuclei, RGB, the last 8 of 40 images held out",
        {"data": "dsb2018_stained_256x320.npz", "kind": "instances", "holdout": "20%", "tile": 196},
        2.0,
        ("mean_iou", "average_precision_0.5"),
    ),
    "nuclei": Task(
        "touching nuclei in fluorescence, the last 18 of 90 images held out",
        {"data": "dsb2018_fluo_360x360.npz", "kind": "instances", "holdout": "20%", "tile": 260},
        5.0,
        ("average_precision_0.5", "average_precision", "mean_iou"),
    ),
    "isbi": Task(
        "ISBI 2012 membranes, sections 24–29 held out",
        {"data": "isbi2012_em_train.npz", "holdout": "24-29", "tile": 260},
        10.0,
        ("v_rand", "v_rand_fine", "v_info", "mean_iou"),
        walls=True,
    ),
    "membranes": Task(
        "synthetic-membranes, the last fifth held out",
        {"data": "synthetic-membranes", "holdout": "20%", "tile": 260},
        3.0,
        ("v_rand", "v_rand_fine", "v_info", "mean_iou"),
        walls=True,
    ),
    "dic": Task(
        "synthetic-dic, the last fifth held out",
        {"data": "synthetic-dic", "holdout": "20%", "tile": 260},
        2.0,
        ("mean_iou", "average_precision_0.5"),
        turned=False,
    ),
}
BALANCED, BORDERS, NO_BORDERS = "tinyunet, balanced", "tinyunet, borders", "tinyunet, no borders"
FIXED = "tinyunet, fixed statistics"
SYMMETRIC = "scores in eight symmetries"
OF_DEFAULT_RECIPE = ("tinyunet", FIXED, NO_BORDERS, BORDERS, BALANCED)
PEERS = (*OF_DEFAULT_RECIPE, "tinyunet, paper", *RECIPES)


@dataclass(frozen=True)
class Options:
    """Train the networks that have no record yet, and write the page."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Sets of images."""
    peers: tuple[str, ...] = PEERS
    """Networks and recipes."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of initial weights and samples."""
    share: float = 1.0
    """Part of each set's minutes, for a quick look; runs of another length than 1 are not recorded."""
    recorded_steps: bool = False
    """Take as many steps as the recorded runs of the same network on the same set took on average, and not
    the minutes: for a machine that is slower than theirs."""
    data: Path = Path("../shared/data")
    """Folder of the .npz files."""


def main(options: Options) -> None:
    """Run what is missing, then write the page."""
    torch.set_num_threads(1)
    records = read_records()
    for seed in options.seeds:
        for task in options.tasks:
            for peer in peers_on(task, options.peers):
                key: dict[str, Any] = {"task": task, "peer": peer, "seed": seed}
                if options.share == 1 and any(key.items() <= record.items() for record in records):
                    continue
                steps = None
                like_default = peer in (FIXED, BORDERS, NO_BORDERS)
                if options.recorded_steps or TASKS[task].steps_of or like_default:
                    like = "tinyunet" if like_default else peer
                    steps = recorded_steps(records, TASKS[task].steps_of or task, like)
                record = key | run(task, peer, seed, options, steps)
                shown = {name: round(value, 4) for name, value in record["scores"].items()}
                print(f"{task}, {peer}, seed {seed}: {record['steps']} steps, {shown}", flush=True)
                if options.share == 1:
                    with RECORDS.open("a") as lines:
                        lines.write(json.dumps(record) + "\n")
    if records := read_records():
        PAGE.write_text(page(records), encoding="utf-8")
        print(f"wrote {PAGE}")


def read_records() -> list[dict[str, Any]]:
    """Read the lines of all runs."""
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


def peers_on(task: str, peers: Sequence[str]) -> list[str]:
    """Return the peers of these that are on a set, where one of `BORDERS` and `NO_BORDERS` is the default."""
    default = BORDERS if TASKS[task].walls else NO_BORDERS
    return [peer for peer in peers if peer != default]


def recorded_steps(records: Sequence[dict[str, Any]], name: str, peer: str) -> int:
    """Return the mean number of steps of a network's recorded runs on a set."""
    steps = [one["steps"] for one in records if (one["task"], one["peer"]) == (name, peer)]
    if not steps:
        raise OptionError(
            f"{peer} has no recorded run on {name}, whose steps could be taken",
            remedy="run it there first, for its minutes",
        )
    return round(statistics.mean(steps))


def run(name: str, peer: str, seed: int, options: Options, steps: int | None = None) -> dict[str, Any]:
    """Train one network for the task's time, or for some steps, and score it on the held-out images."""
    task = TASKS[name]
    config, training_set, held_out = prepare(task, peer, seed, options.data)
    seconds = 60 * task.minutes * options.share
    steps = steps and round(steps * options.share)
    if peer in RECIPES:
        network, made, took = train_pytorch(RECIPES[peer], config, training_set, held_out, seconds, steps)
    else:
        network, made, took = train_ours(config, training_set, held_out, seconds, steps)
    scored = partial(score, network, config, held_out, task.measures, ObjectRule.of(training_set))
    record = {"steps": made, "cpu_seconds": round(took, 1), "processor": processor(), "scores": scored()}
    return record | ({SYMMETRIC: scored(symmetries=8)} if task.turned else {})


def score(
    network: Network,
    config: TrainConfig,
    held_out: ImageSet,
    measures: Sequence[str],
    rule: ObjectRule,
    **options: Any,
) -> dict[str, Any]:
    """Predict the held-out images and score them; the options are those of `segment`."""
    images, predictions = predict_as_they_are(network, config, held_out, rule, **options)
    found, _ = summarise([one.scores for one in score_images(images, predictions)])
    return {measure: found[measure].score for measure in measures if measure in found}


def predict_as_they_are(
    network: Network, config: TrainConfig, held_out: ImageSet, rule: ObjectRule, **options: Any
) -> tuple[ImageSet, Iterator[Prediction]]:
    """Return the held-out images at their own pixels, whatever the network sees, with its predictions."""
    options["tile"] = config.tile
    if config.pixel_size is None:
        return held_out, segment_all([network], held_out, rule=rule, **options)
    sizes = PixelSizes(config.data, config.pixel_sizes, labels=True)
    _, images = split(read_data(replace(config, pixel_size=None, pixel_sizes=None)), config.holdout)
    factors = [sizes.factors(name, config.pixel_size) for name in images.names]
    return images, (
        segment([network], image, factors=each, rule=rule.scaled((1 / each[0], 1 / each[1])), **options)
        for image, each in zip(images.images, factors, strict=True)
    )


def prepare(task: Task, peer: str, seed: int, data: Path) -> tuple[TrainConfig, ImageSet, ImageSet]:
    """Return a peer's configuration, whose steps are still open, the images to train on and the others."""
    values = {**task.options, "seed": seed, "base_channels": 16, "steps": 10**9, "validate_every": 10**9}
    if values["data"].endswith(".npz"):
        values["data"] = str(data / values["data"])
    config = recipe("paper" if peer == "tinyunet, paper" else "default", **values)
    training_set, held_out = split(read_data(config), config.holdout)
    if peer == FIXED:
        config = replace(config, fixed_statistics=0.1)
    if peer == BALANCED:
        config = replace(config, weights=WeightMap(w0=0))
    # As the command does:
    if peer == BORDERS or (peer in ("tinyunet", FIXED) and find_walls(training_set)):
        config = replace(config, weights=WeightMap(class_balance=False))
    if peer in OF_DEFAULT_RECIPE and is_lit_from_one_side(training_set):
        config = replace(config, augmentation=replace(config.augmentation, rotation=0.0, flips=False))
    return config, training_set, held_out


def train_ours(
    config: TrainConfig,
    training_set: ImageSet,
    held_out: ImageSet,
    seconds: float,
    steps: int | None = None,
) -> tuple[Network, int, float]:
    """Train by tinyunet: for some CPU seconds, or for some steps."""
    steps = steps or steps_within(seconds, config, training_set, held_out)
    fitted = replace(config, steps=steps, validate_every=steps)
    trainer = Trainer(fitted, training_set, held_out)
    started = time.process_time()
    for _ in _steps(trainer):
        if trainer.step == steps:
            break
    took = time.process_time() - started
    trainer.checkpoint()  # which estimates the statistics of the population
    return trainer.model, steps, took


def steps_within(seconds: float, config: TrainConfig, training_set: ImageSet, held_out: ImageSet) -> int:
    """Return how many steps take these CPU seconds, measured on a trainer that is thrown away."""
    trial = _steps(Trainer(config, training_set, held_out))
    marks = [time.process_time() for _, _ in zip(range(TIMED_STEPS), trial, strict=False)]
    return max(1, round(seconds / statistics.median(np.diff(marks[2:]))))


def _steps(trainer: Trainer) -> Iterator[Stepped]:
    return (event for event in trainer.run() if isinstance(event, Stepped))


def page(records: list[dict[str, Any]]) -> str:
    """Make the page: a sentence and a table per set, the mean over the seeds and their range."""
    sections = []
    for name, task in TASKS.items():
        of_task = [record for record in records if record["task"] == name]
        if of_task:
            sections.append(f"## {task.title[0].upper()}{task.title[1:]}\n\n{_table(task, of_task)}\n")
    assert __doc__ is not None
    about = __doc__.split("\n\n", 1)[1]
    return "# Beside PyTorch, in equal CPU time\n\nMade by `python -m experiments.peers`.\n\n" + "\n".join(
        [about, *sections]
    )


def _table(task: Task, records: list[dict[str, Any]]) -> str:
    measures = [name for name in task.measures if any(name in record["scores"] for record in records)]
    header = ["", *map(readable_name, measures), "steps", "seeds"]
    lines = [[*header, f"{readable_name(measures[0])}, eight symmetries"], ["---"] * (len(header) + 1)]
    for peer in PEERS:
        found = [record for record in records if record["peer"] == peer]
        if found:
            scores = [mean_and_range([record["scores"].get(name) for record in found]) for name in measures]
            steps = round(statistics.mean(record["steps"] for record in found))
            averaged = [record[SYMMETRIC][measures[0]] if SYMMETRIC in record else None for record in found]
            lines.append([peer, *scores, f"{steps:,}", str(len(found)), mean_and_range(averaged)])
    if all(line[-1] == mean_and_range([None]) for line in lines[2:]):
        lines = [line[:-1] for line in lines]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    ours, theirs = (
        [record["scores"][measures[0]] for record in records if record["peer"] == peer]
        for peer in ("tinyunet", "PyTorch, Adam")
    )
    how_long = f"{task.minutes:g} CPU minutes each."
    if task.steps_of:
        how_long = f"As many steps as the same networks made on the images as they are, in {how_long}"
    return f"**{comparison(measures[0], ours, theirs)}** {how_long}\n\n{table}"


if __name__ == "__main__":
    command_line.run(lambda: main(tyro.cli(Options, description=__doc__)))
