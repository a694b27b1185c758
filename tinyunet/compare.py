"""python -m tinyunet.compare: the U-Net and what it replaced, on the same images, for the same time."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from tinyunet import command_line
from tinyunet.autograd import Tensor
from tinyunet.backend import active_backend, use_backend
from tinyunet.data import ImageSet, class_labels, split
from tinyunet.data.atomic_write import write_text
from tinyunet.errors import OptionError
from tinyunet.metrics.naming import format_value, lower_is_better
from tinyunet.metrics.scores import Measure, Prediction, score_images, summarise
from tinyunet.models import ModelName, Network, SlidingWindowClassifier
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.segmentation import segment_all
from tinyunet.prediction.tiling import multiplications_per_pixel
from tinyunet.reporting import environment
from tinyunet.reporting.progress import over_images
from tinyunet.reporting.recorder import record_training
from tinyunet.reporting.trial import MakeTrainer, seconds_per_step
from tinyunet.sampling import WeightMap
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.config import DataOptions, TrainConfig, config_from, read_data
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.trainer import Trainer

PICTURED_IMAGES = 3  # held-out images in the picture
TIMED_SIDE = 8  # to time brute force, a square of this side is classified window by window


@dataclass(frozen=True)
class Recipe:
    """The options that differ from network to network."""

    base_channels: int
    """Channels of the first level."""
    lr: float
    """Learning rate at the start."""


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Train U-Net, FCN and sliding-window classifier on the same images for the same time, and compare them.

    A short trial of each network finds how many steps fit into the minutes. Then the network makes these
    steps, and its last weights are scored on the held-out images: no checkpoint is chosen by its score.
    Prints a table with the seconds that the steps really took, and writes comparison.json, comparison.png and
    a run folder for each network. Keep the machine otherwise idle, or the times will not be equal.
    """

    ignore: tyro.conf.UseAppendAction[tuple[int | str, ...]] = ()
    out: Path
    """Folder for the results, new or empty."""
    minutes: float = 10.0
    """Time to train each network."""
    networks: tuple[ModelName, ...] = ("unet", "fcn", "sliding-window")
    """Networks to compare."""
    unet: Recipe = Recipe(base_channels=16, lr=0.003)
    fcn: Recipe = Recipe(base_channels=16, lr=0.001)
    sliding_window: Recipe = Recipe(base_channels=16, lr=0.001)
    momentum: float | None = None
    """Momentum of SGD, for all networks; 0.99 if omitted."""
    tile: int = TrainConfig.tile
    """Side of the output tile, in pixels; the sliding window draws its windows from it."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    weights: WeightMap = field(default_factory=WeightMap)
    seed: int = 0
    """Decides initial weights, samples and dropout."""
    overwrite: bool = False
    """Replace the results in a folder that holds files."""
    backend: command_line.BackendName | None = None
    """Kernels to use; numba if omitted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.minutes < float("inf"):
            raise OptionError(f"minutes is {self.minutes}, expected more than 0")
        if not self.networks or len(set(self.networks)) < len(self.networks):
            raise OptionError(
                f"networks is {' '.join(self.networks) or 'empty'}, expected one or more, each once"
            )


@dataclass(frozen=True)
class Result:
    """The measurements of one network.

    Attributes
    ----------
    network : dict
        Its options, as `make_network` takes them.
    measures : dict of str to Measure
        Over the held-out images.
    seconds_per_image, multiplications_per_pixel : float
        Cost of the prediction, mean over the held-out images.
    brute_force : dict of str to float or None
        For the classifier: the same two if each window is computed by itself. The seconds are extrapolated
        from some windows.
    """

    network: dict[str, Any]
    parameters: int
    lr: float
    steps: int
    train_seconds: float
    seconds_per_image: float
    multiplications_per_pixel: float
    brute_force: dict[str, float] | None
    measures: dict[str, Measure]


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "tinyunet.compare", *given])
    command_line.run(
        lambda: compare(tyro.cli(Options, prog="python -m tinyunet.compare", args=arguments), command)
    )


def compare(options: Options, command: str) -> None:
    """Train and score each network; `command` is what was typed, for the records."""
    use_backend(options.backend or active_backend())
    command_line.require_empty(options.out, overwrite=options.overwrite)
    images = read_data(options)
    print(f"{options.data}: {images.summary()}")
    training, held_out = split(images, options.holdout)
    make = partial(Trainer, training_set=training, validation_set=held_out)
    results: dict[str, Result] = {}
    predictions: dict[str, list[Prediction]] = {}
    for name in options.networks:
        print(f"\n{name}", flush=True)
        trainer = make(_with_steps(options, _config(options, name), make))
        folder = RunFolder(options.out / name)
        with command_line.writing(folder.path):
            folder.create(asdict(trainer.config))
        record_training(trainer, folder, command)
        results[name], predictions[name] = _measure(trainer, folder)
    try:
        _write(options, command, held_out, results, predictions)
    finally:  # a file that cannot be written must not cost the table
        print(f"\n{len(held_out)} held-out images, each measure over all of them\n{_table(results)}")
    print(f"\nwrote comparison.json, comparison.png and the runs to {options.out}")


def _config(options: Options, name: ModelName) -> TrainConfig:
    recipe: Recipe = getattr(options, name.replace("-", "_"))
    return config_from(options, model=name, base_channels=recipe.base_channels, lr=recipe.lr)


def _with_steps(options: Options, config: TrainConfig, make: MakeTrainer) -> TrainConfig:
    """The steps that fit into the minutes, which are for steps alone: validation comes after the last one."""
    print("measuring the time of a step …", flush=True)
    seconds = 60 * options.minutes
    steps = max(1, round(seconds / seconds_per_step(make, config, seconds)))
    return replace(config, steps=steps, validate_every=steps)


def _measure(trainer: Trainer, folder: RunFolder) -> tuple[Result, list[Prediction]]:
    """Scores and cost of the last weights, and the predictions for the picture."""
    model, held_out, tile = trainer.model, trainer.validation_set, trainer.config.tile
    predictions = segment_all([model], held_out, tile=tile, rule=ObjectRule.of(trainer.training_set))
    scored = list(over_images(score_images(held_out, predictions), len(held_out)))
    measures, _ = summarise([one.scores for one in scored])
    shapes = [image.shape[:2] for image in held_out.images]
    steps = (record for record in folder.read_log() if record["event"] == "step")
    result = Result(
        network=trainer.model_options,
        parameters=sum(parameter.data.size for parameter in model.parameters()),
        lr=trainer.config.lr,
        steps=trainer.step,
        train_seconds=sum(record["seconds"] for record in steps),
        seconds_per_image=float(np.mean([one.prediction.seconds for one in scored])),
        multiplications_per_pixel=float(
            np.mean([multiplications_per_pixel(model, shape, tile=tile) for shape in shapes])
        ),
        brute_force=_brute_force(model, float(np.mean([height * width for height, width in shapes]))),
        measures=measures,
    )
    return result, [one.prediction for one in scored[:PICTURED_IMAGES]]


def _brute_force(model: Network, pixels: float) -> dict[str, float] | None:
    """The cost of an image of this many pixels if each window is computed by itself."""
    if not isinstance(model, SlidingWindowClassifier):
        return None
    side = model.window + TIMED_SIDE - 1
    started = time.perf_counter()
    model.slide(Tensor(np.zeros((1, side, side, model.in_channels), np.float32)))
    return {
        "seconds_per_image": (time.perf_counter() - started) / TIMED_SIDE**2 * pixels,
        "multiplications_per_pixel": model.multiplications(model.window, model.window),
    }


def _table(results: Mapping[str, Result]) -> str:
    """A column for each network, a row for each number."""
    columns = [_column(result) for result in results.values()]
    lines = [f"{'':<27}" + "".join(f"{name:>16}" for name in results)]
    for row in zip(*columns, strict=True):
        lines.append(f"{row[0][0]:<27}" + "".join(f"{value:>16}" for _, value in row))
    return "\n".join(lines)


def _column(result: Result) -> list[tuple[str, str]]:
    """Names and numbers of one network, in the order of the table."""
    brute_force = result.brute_force
    return [
        ("parameters", f"{result.parameters:,}"),
        ("steps", f"{result.steps:,}"),
        ("seconds of training", f"{result.train_seconds:.1f}"),
        ("seconds per image", f"{result.seconds_per_image:.3f}"),
        ("  window by window", f"{brute_force['seconds_per_image']:,.1f}" if brute_force else ""),
        ("multiplications per pixel", f"{result.multiplications_per_pixel:,.0f}"),
        ("  window by window", f"{brute_force['multiplications_per_pixel']:,.0f}" if brute_force else ""),
        *(
            (f"{name} {'↓' if lower_is_better(name) else '↑'}", format_value(measure.score))
            for name, measure in result.measures.items()
        ),
    ]


def _write(
    options: Options,
    command: str,
    held_out: ImageSet,
    results: Mapping[str, Result],
    predictions: Mapping[str, Sequence[Prediction]],
) -> None:
    record = {
        "command": command,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": environment.machine(),
        "versions": environment.versions(),
        "data": options.data,
        "kind": held_out.kind,
        "truth": options.truth,
        "partly_annotated": options.partly_annotated,
        "ignore": options.ignore,
        "classes": [held_out.class_name(number) for number in range(held_out.num_classes)],
        "holdout": options.holdout,
        "held_out_images": held_out.names,
        "minutes": options.minutes,
        "seed": options.seed,
        "networks": {name: asdict(result) for name, result in results.items()},
    }
    path = options.out / "comparison.json"
    with command_line.writing(path):
        write_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")

    from tinyunet.reporting import plots  # here, because Matplotlib takes long to import

    assert held_out.labels is not None
    assert held_out.kind is not None
    path = options.out / "comparison.png"
    with command_line.writing(path):
        plots.plot_comparison(
            held_out.images[:PICTURED_IMAGES],
            [class_labels(labels, held_out.kind) for labels in held_out.labels[:PICTURED_IMAGES]],
            {
                f"{name}: mean IoU {format_value(results[name].measures['mean_iou'].score)}": [
                    prediction.probabilities for prediction in of_network
                ]
                for name, of_network in predictions.items()
            },
            path,
            title=f"held-out images after {options.minutes:g} minutes of training each",
        )


if __name__ == "__main__":
    main()
