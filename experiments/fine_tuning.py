"""python -m experiments.fine_tuning: from a network of 30 images to five new ones, at several learning rates.

A network learns nuclei from 30 images of 256 pixels. Training then goes on with 5 images of 360 pixels, from
its weights or from random ones, and is judged on 18 others of these. All trainings use the default recipe,
width 16. Prints a table: the mean over the seeds, and in brackets the smallest and the largest value.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.digits import mean_and_range
from tinyunet import command_line
from tinyunet.data import ImageSet, read_images
from tinyunet.exchange.start import Start, read_start
from tinyunet.metrics.naming import format_value
from tinyunet.metrics.scores import score_images, summarise
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.segmentation import segment_all
from tinyunet.training.checkpoint import save_checkpoint
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Stepped
from tinyunet.training.recipes import recipe
from tinyunet.training.trainer import Trainer

FIRST, SECOND = "dsb2018_fluo_256x256.npz", "dsb2018_fluo_360x360.npz"
FIRST_IMAGES, SECOND_IMAGES, JUDGED = 30, 5, 18
RANDOM = "random weights"
MEASURES = ("average_precision_0.5", "average_precision", "mean_iou")


@dataclass(frozen=True)
class Options:
    """Train, go on with other images, and print the scores."""

    first_steps: int = 300
    """Steps on the 30 images."""
    steps: int = 50
    """Steps on the five."""
    rates: tuple[float, ...] = (0.003, 0.001, 0.0003)
    """Learning rates from the network's weights."""
    random_rates: tuple[float, ...] = (0.003, 0.001)
    """Learning rates from random weights."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Decide weights and samples."""
    data: Path = Path("../shared/data")
    """Folder of the .npz files."""


def main(options: Options) -> None:
    """Train everything, and print the table."""
    first = read_images(options.data / FIRST, kind="instances").subset(range(FIRST_IMAGES))
    second = read_images(options.data / SECOND, kind="instances")
    five, judged = (
        second.subset(range(SECOND_IMAGES)),
        second.subset(range(len(second) - JUDGED, len(second))),
    )
    scores: dict[str, list[list[float | None]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "first.safetensors"
        for seed in options.seeds:
            trainer = trained(config(options.first_steps, 196, seed, 0.003), first, judged)
            save_checkpoint(path, trainer.checkpoint())
            results = {"30 images, not trained further": score(trainer, judged)}
            for name, settings, start in _variants(options, seed, read_start(path)):
                results[name] = score(trained(settings, five, judged, start), judged)
            for name, found in results.items():
                scores.setdefault(name, []).append(found)
                print(
                    f"seed {seed}, {name}: " + ", ".join(format_value(value) for value in found), flush=True
                )
    print(table(scores))


def _variants(options: Options, seed: int, start: Start) -> Iterator[tuple[str, TrainConfig, Start | None]]:
    for rate in options.rates:
        yield f"its weights, lr {rate:g}", config(options.steps, 260, seed, rate), start
    for rate in options.random_rates:
        yield f"{RANDOM}, lr {rate:g}", config(options.steps, 260, seed, rate), None


def config(steps: int, tile: int, seed: int, lr: float) -> TrainConfig:
    """Return the default recipe with these values."""
    return recipe(steps=steps, tile=tile, seed=seed, lr=lr, base_channels=16, validate_every=steps)


def trained(config: TrainConfig, images: ImageSet, judged: ImageSet, start: Start | None = None) -> Trainer:
    """Train for all steps; `judged` only gives the trainer the channels and classes of its held-out set."""
    trainer = Trainer(config, images, judged)
    if start:
        start.load_into(trainer.model, trainer.model_options)
    for event in trainer.run():
        if isinstance(event, Stepped) and event.step == config.steps:
            break
    trainer.checkpoint()  # which estimates the statistics of the population
    return trainer


def score(trainer: Trainer, judged: ImageSet) -> list[float | None]:
    """Return the measures on the images that nothing was trained on."""
    rule = ObjectRule.of(trainer.training_set)
    predictions = segment_all([trainer.model], judged, tile=trainer.config.tile, rule=rule)
    measures, _ = summarise([one.scores for one in score_images(judged, predictions)])
    return [measures[name].score for name in MEASURES]


def table(scores: dict[str, list[list[float | None]]]) -> str:
    """Make a Markdown table of all variants."""
    lines = ["| | average precision at 0.5 | average precision | mean IoU |", "| --- | --- | --- | --- |"]
    for name, of_seeds in scores.items():
        cells = [mean_and_range(values) for values in zip(*of_seeds, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    command_line.run(lambda: main(tyro.cli(Options, description=__doc__)))
