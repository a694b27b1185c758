"""python -m tinyunet.report: one HTML page on what a run did, how well, on what, and how to repeat it."""

from __future__ import annotations

import base64
import io
import shlex
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jinja2
import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from tinyunet import command_line
from tinyunet.backend import active_backend, use_backend
from tinyunet.data import ImageSet, LabelKind, split
from tinyunet.diagnosis import diagnose, example_samples
from tinyunet.errors import OptionError, RunError
from tinyunet.metrics.naming import format_value, headline_measure, lower_is_better, readable_name
from tinyunet.metrics.scores import ImageScores, Measure, Prediction, score_image, summarise, worst_first
from tinyunet.models import Network
from tinyunet.reporting import environment, plots
from tinyunet.training.checkpoint import Checkpoint, load_model
from tinyunet.training.config import TrainConfig, read_data
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.setup import Setup
from tinyunet.training.stored_run import predict_images, stored_config

LIGHT_INK, DARK_INK = "#1a1a1a", "#e6e6e6"  # as in the page's style
WIDEST = 720  # px: larger pictures are shrunk, so that the page stays small

PAPER: dict[str, object] = {  # the paper's values of our options
    "base_channels": 64,
    "depth": 4,
    "padding": "valid",
    "momentum": 0.99,
    "tile": 388,
    "augmentation.elastic_sigma": 10,
    "augmentation.elastic_points": 3,
    "weights.w0": 10,
    "weights.sigma": 5,
    "weights.class_balance": True,
}
UNSTATED = {  # where it says something, but no value
    "dropout": "at the end of the contracting path, rate not stated",
    "steps": "not stated; 10 hours",
    "lr": "not stated",
    "weight_decay": "not stated",
    "augmentation.rotation": "some, range not stated",
    "augmentation.brightness": "grey values vary, range not stated",
}

TILES: dict[LabelKind, tuple[str, ...]] = {  # the measures at the head of the page
    "binary": ("mean_iou", "pixel_error", "v_rand"),
    "classes": ("mean_iou", "pixel_error"),
    "instances": ("average_precision", "seg", "mean_iou"),
}
MEANING = {
    "pixel_error": "share of wrong pixels",
    "mean_iou": "intersection over union, mean over the classes",
    "iou": "intersection over union of class {}",
    "dice": "Dice coefficient of class {}",
    "rand_error": "pairs of pixels wrongly joined or parted (Rand)",
    "v_rand": "the challenge's Rand score after thinning, at the best threshold",
    "v_info": "the challenge's information score after thinning, at the best threshold",
    "warping_error": "pixels left wrong after warping (Jain 2010)",
    "split_merge_error": "pixels of splits and mergers left after warping",
    "seg": "the Cell Tracking Challenge's SEG",
    "average_precision": "mean over IoU thresholds from 0.5 to 0.95",
    "average_precision_0.5": "right objects over all objects, at IoU 0.5",
    "average_precision_0.75": "the same at IoU 0.75",
}


@dataclass(frozen=True)
class Options:
    """Write one HTML page about a run, with all pictures in it: to read, to keep, to send.

    It predicts the held-out images with the run's best checkpoint and shows scores, mistakes on the worst and
    the best images, curves, what the doctor finds in the data, the configuration beside the paper's, times,
    machine, versions and the commands. It opens in any browser, without a network.
    """

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    out: Path | None = None
    """The page; report.html in the run's folder when left out."""
    pictures: int = 3
    """How many of the worst images to show, and how many of the best."""
    symmetries: Literal[1, 8] = 1
    """8: average over rotations and mirror images, which takes eight times as long."""
    overwrite: bool = False
    """Replace a page that exists."""
    backend: Literal["numba", "numpy", "cuda", "cuda-emulated"] | None = None
    """Which kernels predict the held-out images; numba when left out."""

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise OptionError(f"pictures is {self.pictures}, expected at least 0")


class Judged(NamedTuple):
    """The held-out images and what became of them."""

    images: ImageSet
    measures: dict[str, Measure]
    scores: list[ImageScores]
    seconds: list[float]
    """Of predicting each image."""


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    command_line.run(lambda: report(tyro.cli(Options, prog="python -m tinyunet.report", args=arguments)))


def report(options: Options) -> None:
    """Predict, score, write the page."""
    use_backend(options.backend or active_backend())
    folder = RunFolder(options.run)
    page = options.out or folder.report
    if page.is_dir():
        raise RunError(
            f"{page}: a folder, expected the page's file", remedy=f"such as {page / 'report.html'}"
        )
    if page.exists() and not options.overwrite:
        raise RunError(
            f"{page}: exists, nothing was overwritten", remedy="choose another --out, or give --overwrite"
        )
    model, checkpoint = load_model(options.run)
    config = stored_config(checkpoint, options.run)
    log = folder.read_log()
    if not any(record["event"] == "step" for record in log):
        raise RunError(
            f"{folder.log}: missing, or no step of the training is in it",
            remedy="give the folder of a run, with all that the training wrote",
        )
    train, held_out = split(read_data(config), config.holdout)
    setup = Setup(config, train, held_out)
    assert held_out.kind is not None
    judged = _judge(model, checkpoint, held_out, options.symmetries)
    text = _render(
        name=options.run.resolve().name,
        made=datetime.now(UTC),
        version=environment.versions()["tinyunet"],
        config=config,
        checkpoint=checkpoint,
        parameters=sum(parameter.data.size for parameter in model.parameters()),
        counts=(len(train), len(held_out)),
        symmetries=options.symmetries,
        commands=_commands(options, log),
        places=_places(log),
        times=_times(log, judged),
        curves=_curves(log),
        collapses=[{"where": (), **record} for record in log if record["event"] == "collapsed"],
        rows=list(_rows(judged.measures)),
        tiles=TILES[held_out.kind],
        order=headline_measure(held_out.kind),
        judged=judged,
        shown=_shown(model, checkpoint, judged, options),
        settings=list(_settings(config, checkpoint)),
        findings=diagnose(setup),
        samples=_samples(setup),
    )
    with command_line.writing(page):
        page.parent.mkdir(parents=True, exist_ok=True)
        beside = page.with_name(page.name + ".part")  # half a page must not pass for one
        beside.write_text(text, encoding="utf-8")
        beside.replace(page)
    print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")


def _render(**facts: Any) -> str:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("tinyunet.reporting"),
        autoescape=True,  # names of files and folders may hold anything
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(value=format_value, plain=_plain, readable=readable_name)
    return templates.get_template("report.html").render(**facts)


def _plain(value: object) -> str:
    """A value of an option for people to read."""
    if value is None:
        return ""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _judge(model: Network, checkpoint: Checkpoint, images: ImageSet, symmetries: int) -> Judged:
    assert images.labels is not None
    assert images.kind is not None
    scores, seconds = [], []
    predictions = predict_images(model, checkpoint, images, symmetries=symmetries)
    names = tqdm(images.names, unit="image", disable=None, leave=False)
    for name, labels in zip(names, images.labels, strict=True):
        started = time.perf_counter()
        prediction = next(predictions)
        seconds.append(time.perf_counter() - started)
        scores.append(score_image(name, prediction, labels, images.kind, images.num_classes))
    return Judged(images, *summarise(scores), seconds)


def _rows(measures: Mapping[str, Measure]) -> Iterator[dict[str, Any]]:
    """The table of scores."""
    for name, measure in measures.items():
        stem, _, number = name.rpartition("_")
        meaning = MEANING[stem].format(number) if number.isdigit() else MEANING[name]
        yield {"name": name, "meaning": meaning, "lower": lower_is_better(name), **asdict(measure)}


def _shown(
    model: Network, checkpoint: Checkpoint, judged: Judged, options: Options
) -> dict[str, list[dict[str, Any]]]:
    """Worst and best images with their pictures. They are predicted again: keeping all takes much memory."""
    assert judged.images.kind is not None
    order = worst_first(judged.scores, headline_measure(judged.images.kind))
    worst, rest = order[: options.pictures], order[options.pictures :]
    best = rest[::-1][: options.pictures]
    shown: dict[str, list[dict[str, Any]]] = {}
    for title, places in {"Worst": worst, "Best": best}.items():
        if not places:
            continue
        images = judged.images.subset(places)
        predictions = predict_images(model, checkpoint, images, symmetries=options.symmetries)
        shown[title] = [
            {
                "scores": judged.scores[place],
                "legend": plots.mistakes_legend(judged.scores[place].mistakes),
                "pictures": _pictures(judged.images, place, judged.scores[place], prediction),
            }
            for place, prediction in zip(places, predictions, strict=True)
        ]
    return shown


def _pictures(images: ImageSet, place: int, scores: ImageScores, prediction: Prediction) -> dict[str, str]:
    assert images.labels is not None
    image, labels = images.images[place], images.labels[place]
    objects = prediction.objects if images.kind == "instances" else prediction.probabilities.argmax(axis=2)
    assert objects is not None
    foreground = (255 * (1 - prediction.probabilities[:, :, [0, 0, 0]])).astype(np.uint8)  # black is 0
    return {
        "truth, outlined": _webp(plots.overlay(image, labels)),
        "predicted probability, outlined": _webp(plots.outlined(foreground, objects)),
        "mistakes": _webp(plots.mistakes_picture(image, scores.mistakes)),
    }


def _curves(log: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The learning curves, each for a light page and for a dark one."""
    light, dark = (plots.curves_as_svg(log, ink=ink) for ink in (LIGHT_INK, DARK_INK))
    return [
        {
            "title": title,
            "light": _embedded(light[title].encode(), "svg+xml"),
            "dark": _embedded(dark[title].encode(), "svg+xml"),
        }
        for title in light
    ]


def _settings(config: TrainConfig, checkpoint: Checkpoint) -> Iterator[dict[str, object]]:
    """The table of options: each as on the command line, its value, the default and the paper's."""
    default = dict(_flat(asdict(TrainConfig())))
    for name, asked in _flat(asdict(config)):
        value = checkpoint.network.get(name) if asked is None else asked  # left out: as the network has it
        yield {
            "option": "--" + name.replace("_", "-"),
            "value": value,
            "changed": asked != default[name],
            "paper": PAPER.get(name, UNSTATED.get(name)),
            "as_paper": name in PAPER and value == PAPER[name],
        }


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of nested dictionaries, names joined by dots."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _samples(setup: Setup) -> dict[str, dict[str, str]]:
    """Pictures of a sample as it is in the file and as training sees it."""
    samples = example_samples(setup)
    most = max(float(sample.weight.max()) for sample in samples.values())
    return {
        title: {head: _webp(picture) for head, picture in plots.sample_pictures(sample, most).items()}
        for title, sample in samples.items()
    }


def _places(log: Sequence[dict[str, Any]]) -> dict[str, dict[str, object]]:
    """Machine and versions of each start of the training, and of this page."""
    places: dict[str, dict[str, object]] = {}
    for record in log:
        if record["event"] == "started":
            title = f"from step {record['step']}, {record['at'].replace('T', ' ').removesuffix('+00:00')} UTC"
            places[title] = {**record["machine"], **record["versions"], "backend": record["backend"]}
    places["this page"] = {**environment.machine(), **environment.versions(), "backend": active_backend()}
    return places


def _times(log: Sequence[dict[str, Any]], judged: Judged) -> list[tuple[str, str]]:
    """The table of times."""
    steps = [record for record in log if record["event"] == "step"]
    validations = [record["seconds"] for record in log if record["event"] == "validation"]
    taken = sum(record["seconds"] for record in steps)
    waited = sum(record["waited"] for record in steps)
    pixels = sum(image.shape[0] * image.shape[1] for image in judged.images.images)
    return [
        ("training", f"{_duration(taken)} in {len(steps):,} steps"),
        ("a step", f"{_duration(statistics.median(record['seconds'] for record in steps))} (median)"),
        ("waiting for samples", f"{100 * waited / taken:.1f} % of it"),
        ("validation", f"{_duration(sum(validations))} in {len(validations)} looks at the held-out images"),
        (
            "prediction",
            f"{_duration(statistics.median(judged.seconds))} an image (median), "
            f"{pixels / sum(judged.seconds) / 1e6:.2f} million pixels a second",
        ),
    ]


def _duration(seconds: float) -> str:
    """Seconds in readable units.

    >>> _duration(0.0421), _duration(9.87), _duration(75), _duration(7384)
    ('42 ms', '9.9 s', '1 min 15 s', '2 h 03 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _commands(options: Options, log: Sequence[dict[str, Any]]) -> list[str]:
    """What was typed to train, and what to type to judge, to predict and to make this page."""
    run = str(options.run)
    started = [record["command"] for record in log if record["event"] == "started"]
    return [
        *started,
        _command("evaluate", run, "--out", f"{run}-scores", *_symmetries(options)),
        _command("predict", run, "NEW-IMAGES", "--out", f"{run}-predicted"),
        _command("report", run, *_symmetries(options)),
    ]


def _command(name: str, *arguments: str) -> str:
    return shlex.join(["python", "-m", f"tinyunet.{name}", *arguments])


def _symmetries(options: Options) -> list[str]:
    return [] if options.symmetries == 1 else ["--symmetries", str(options.symmetries)]


def _webp(picture: NDArray[np.uint8]) -> str:
    """A picture (H, W, 3) as a data URI, shrunk if it is large."""
    image = Image.fromarray(picture)
    image.thumbnail((WIDEST, WIDEST))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return _embedded(file.getvalue(), "webp")


def _embedded(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


if __name__ == "__main__":
    main()
