"""python -m tinyunet.compare: the U-Net and what it replaced, on the same images for the same time."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from tinyunet import command_line, train
from tinyunet.autograd import Tensor
from tinyunet.backend import active_backend, use_backend
from tinyunet.data import ImageSet, class_labels, normalise, split
from tinyunet.errors import OptionError
from tinyunet.metrics.naming import format_value, lower_is_better
from tinyunet.metrics.scores import Measure, Prediction, score_image, summarise
from tinyunet.models import ModelName, Network, SlidingWindowClassifier
from tinyunet.prediction.instances import label_instances
from tinyunet.prediction.tiling import multiplications_per_pixel, predict_tiled
from tinyunet.reporting import environment
from tinyunet.sampling import WeightMap
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.config import DataOptions, TrainConfig, config_from, read_data
from tinyunet.training.events import Stepped
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.trainer import Trainer

TRIAL = 0.05  # share of the time that a trial may take, in which the steps that fit are found
SHOWN = 3  # held-out images in the picture
TIMED = 8  # windows squared that are slid over, to time brute force


@dataclass(frozen=True)
class Recipe:
    """What is a network's own in the comparison."""

    base_channels: int
    """Channels of the first level."""
    lr: float
    """Learning rate at the start."""


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Train U-Net, FCN and sliding-window classifier on the same images for the same time, and compare them.

    A short trial of each network finds how many steps fit into the minutes; then these steps are made, and
    the last weights are judged on the held-out images: none is chosen by its score there. Prints a table with
    the seconds that the steps really took, and writes comparison.json, comparison.png and the folder of a run
    for each network. Keep the machine otherwise idle, or the times will not be the same.
    """

    out: Path
    """Folder for the results; one that holds files is refused."""
    minutes: float = 10.0
    """Time to train each network."""
    networks: tuple[ModelName, ...] = ("unet", "fcn", "sliding-window")
    """Which networks."""
    unet: Recipe = Recipe(base_channels=16, lr=0.003)
    fcn: Recipe = Recipe(base_channels=16, lr=0.001)
    sliding_window: Recipe = Recipe(base_channels=16, lr=0.001)
    momentum: float = TrainConfig.momentum
    """Of all networks."""
    tile: int = TrainConfig.tile
    """Side of the output tile, in pixels; the sliding window draws its windows from it."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    weights: WeightMap = field(default_factory=WeightMap)
    seed: int = 0
    """Decides initial weights, samples and dropout."""
    overwrite: bool = False
    """Replace the results in a folder that holds files."""
    backend: Literal["numba", "numpy", "cuda", "cuda-emulated"] | None = None
    """Which kernels run; numba when left out."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise OptionError(f"minutes is {self.minutes}, expected more than 0")
        if not self.networks or len(set(self.networks)) < len(self.networks):
            raise OptionError(
                f"networks is {' '.join(self.networks) or 'empty'}, expected one or more, each once"
            )


@dataclass(frozen=True)
class Result:
    """What was found of one network.

    Attributes
    ----------
    network : dict
        Its options, as `make_network` takes them.
    measures : dict of str to Measure
        Over the held-out images.
    seconds_per_image, multiplications_per_pixel : float
        Of the prediction, mean over the held-out images.
    brute_force : dict of str to float or None
        Of the classifier: these two if each window is computed by itself; the seconds are those of some
        windows, multiplied.
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
    """The command."""
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "tinyunet.compare", *given])
    command_line.run(
        lambda: compare(tyro.cli(Options, prog="python -m tinyunet.compare", args=arguments), command)
    )


def compare(options: Options, command: str) -> None:
    """Train, judge, tell; `command` is what was typed, for the records."""
    use_backend(options.backend or active_backend())
    command_line.require_empty(options.out, overwrite=options.overwrite)
    images = read_data(_config(options, options.networks[0]))  # which are the same for all
    print(f"{options.data}: {images.summary()}")
    training, held_out = split(images, options.holdout)
    results: dict[str, Result] = {}
    pictures: dict[str, list[Prediction]] = {}
    for name in options.networks:
        print(f"\n{name}", flush=True)
        trainer = Trainer(_config(options, name), training, held_out)
        trainer = _with_steps(trainer, _steps_that_fit(trainer, 60 * options.minutes))
        folder = RunFolder(options.out / name)
        with command_line.writing(folder.path):
            folder.create(asdict(trainer.config))
        train.run(trainer, folder, command)
        results[name], pictures[name] = _judge(trainer, folder)
    print(f"\n{len(held_out)} held-out images, mean of each measure\n{_table(results)}")
    _write(options, command, held_out, results, pictures)


def _config(options: Options, name: ModelName) -> TrainConfig:
    recipe: Recipe = getattr(options, name.replace("-", "_"))
    return config_from(options, model=name, base_channels=recipe.base_channels, lr=recipe.lr)


def _with_steps(trainer: Trainer, steps: int) -> Trainer:
    """A new trainer that makes this many steps and validates only after the last one."""
    config = replace(trainer.config, steps=steps, validate_every=steps)
    return Trainer(config, trainer.training_set, trainer.validation_set)


def _steps_that_fit(trainer: Trainer, seconds: float) -> int:
    """How many steps fit into this time, by the median of a few: one that was held up does not distort it."""
    print("finding out how long a step takes …", flush=True)
    events = _with_steps(trainer, steps=2**31).run()
    next(events)  # the first may compile kernels
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < TRIAL * seconds:
        event = next(events)
        assert isinstance(event, Stepped)
        taken.append(event.seconds)
    return max(1, round(seconds / float(np.median(taken))))


def _judge(trainer: Trainer, folder: RunFolder) -> tuple[Result, list[Prediction]]:
    """The scores of the last weights, and what they cost; and the predictions of the images to show."""
    model, held_out, tile = trainer.model, trainer.validation_set, trainer.config.tile
    assert held_out.labels is not None
    assert held_out.kind is not None
    predictions, seconds = [], []
    for image in tqdm(held_out.images, unit="image", disable=None, leave=False):
        started = time.perf_counter()
        probabilities = predict_tiled(model, normalise(image), tile=tile)
        seconds.append(time.perf_counter() - started)
        predictions.append(Prediction(probabilities, label_instances(probabilities)))
    measures, _ = summarise(
        [
            score_image(name, prediction, labels, held_out.kind, held_out.num_classes)
            for name, prediction, labels in zip(held_out.names, predictions, held_out.labels, strict=True)
        ]
    )
    shapes = [image.shape[:2] for image in held_out.images]
    steps = (record for record in folder.read_log() if record["event"] == "step")
    result = Result(
        network=trainer.model_options,
        parameters=sum(parameter.data.size for parameter in model.parameters()),
        lr=trainer.config.lr,
        steps=trainer.step,
        train_seconds=sum(record["seconds"] for record in steps),
        seconds_per_image=float(np.mean(seconds)),
        multiplications_per_pixel=float(
            np.mean([multiplications_per_pixel(model, shape, tile=tile) for shape in shapes])
        ),
        brute_force=_brute_force(model, float(np.mean([height * width for height, width in shapes]))),
        measures=measures,
    )
    return result, predictions[:SHOWN]


def _brute_force(model: Network, pixels: float) -> dict[str, float] | None:
    """What an image of this many pixels costs if each window is computed by itself."""
    if not isinstance(model, SlidingWindowClassifier):
        return None
    side = model.window + TIMED - 1
    started = time.perf_counter()
    model.slide(Tensor(np.zeros((1, side, side, model.in_channels), np.float32)))
    return {
        "seconds_per_image": (time.perf_counter() - started) / TIMED**2 * pixels,
        "multiplications_per_pixel": model.multiplications(model.window, model.window),
    }


def _table(results: Mapping[str, Result]) -> str:
    """A column for each network, a row for each figure."""
    columns = [_column(result) for result in results.values()]
    lines = [f"{'':<27}" + "".join(f"{name:>16}" for name in results)]
    for row in zip(*columns, strict=True):
        lines.append(f"{row[0][0]:<27}" + "".join(f"{value:>16}" for _, value in row))
    return "\n".join(lines)


def _column(result: Result) -> list[tuple[str, str]]:
    """Names and figures of one network, in the order of the table."""
    slid = result.brute_force
    return [
        ("parameters", f"{result.parameters:,}"),
        ("steps", f"{result.steps:,}"),
        ("seconds of training", f"{result.train_seconds:.1f}"),
        ("seconds per image", f"{result.seconds_per_image:.3f}"),
        ("  window by window", f"{slid['seconds_per_image']:,.1f}" if slid else ""),
        ("multiplications per pixel", f"{result.multiplications_per_pixel:,.0f}"),
        ("  window by window", f"{slid['multiplications_per_pixel']:,.0f}" if slid else ""),
        *(
            (f"{name} {'↓' if lower_is_better(name) else '↑'}", format_value(measure.mean))
            for name, measure in result.measures.items()
        ),
    ]


def _write(
    options: Options,
    command: str,
    held_out: ImageSet,
    results: Mapping[str, Result],
    pictures: Mapping[str, Sequence[Prediction]],
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
        "holdout": options.holdout,
        "held_out_images": held_out.names,
        "minutes": options.minutes,
        "seed": options.seed,
        "networks": {name: asdict(result) for name, result in results.items()},
    }
    path = options.out / "comparison.json"
    with command_line.writing(path):
        path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")

    from tinyunet.reporting import plots  # here, because matplotlib takes long to import

    assert held_out.labels is not None
    assert held_out.kind is not None
    path = options.out / "comparison.png"
    with command_line.writing(path):
        plots.plot_comparison(
            held_out.images[:SHOWN],
            [class_labels(labels, held_out.kind) for labels in held_out.labels[:SHOWN]],
            {
                f"{name}: mean IoU {format_value(results[name].measures['mean_iou'].mean)}": [
                    prediction.probabilities for prediction in shown
                ]
                for name, shown in pictures.items()
            },
            path,
            title=f"held-out images after {options.minutes:g} minutes of training each",
        )
    print(f"wrote comparison.json, comparison.png and the runs to {options.out}")


if __name__ == "__main__":
    main()
