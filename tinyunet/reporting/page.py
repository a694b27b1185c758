"""One HTML page about a run, with all pictures in it."""

from __future__ import annotations

import base64
import io
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tinyunet.backend import active_backend
from tinyunet.data import ImageSet, LabelKind
from tinyunet.metrics.naming import format_value, headline_measure, lower_is_better, readable_name
from tinyunet.metrics.scores import ImageScores, Measure, Prediction, worst_first
from tinyunet.reporting import environment, pictures, plots
from tinyunet.sampling import Sample
from tinyunet.training.checkpoint import Checkpoint
from tinyunet.training.config import TrainConfig, written_out
from tinyunet.training.recipes import recipe

Log = Sequence[dict[str, Any]]

LIGHT_INK, DARK_INK = "#1a1a1a", "#e6e6e6"  # as in the page's style
MAX_SIDE = 720  # px: larger pictures are shrunk, to keep the page small

PAPER: dict[str, object] = {  # the paper's values of options
    "base_channels": 64,
    "depth": 4,
    "padding": "valid",
    "normalisation": "none",
    "optimiser": "sgd",
    "momentum": 0.99,
    "tile": 388,
    "augmentation.elastic_sigma": 10,
    "augmentation.elastic_points": 3,
    "weights.w0": 10,
    "weights.sigma": 5,
    "weights.class_balance": True,
}
UNSTATED = {  # options that the paper mentions without a value
    "dropout": "at the end of the contracting path, rate not stated",
    "steps": "not stated; 10 hours",
    "lr": "not stated",
    "weight_decay": "not stated",
    "augmentation.rotation": "applied, range not stated",
    "augmentation.brightness": "grey values vary, range not stated",
}

HEADLINES: dict[LabelKind, tuple[str, ...]] = {  # the measures at the top of the page
    "binary": ("mean_iou", "pixel_error", "v_rand"),
    "classes": ("mean_iou", "pixel_error"),
    "instances": ("average_precision", "seg", "mean_iou"),
}
MEANINGS = {
    "pixel_error": "share of wrong pixels",
    "mean_iou": "intersection over union, mean over the classes",
    "iou": "intersection over union of class {}",
    "dice": "Dice coefficient of class {}",
    "rand_error": "pairs of pixels wrongly joined or separated (Rand)",
    "v_rand": "the challenge's Rand score after thinning, at the best of its thresholds 0, 0.1, … 1",
    "v_info": "the challenge's information score after thinning, at the best of its thresholds",
    "v_rand_fine": "the same as v_rand, with more thresholds near 0 and 1",
    "v_info_fine": "the same as v_info, with more thresholds near 0 and 1",
    "warping_error": "pixels left wrong after warping (Jain 2010)",
    "split_merge_error": "pixels of splits and mergers left after warping",
    "seg": "the Cell Tracking Challenge's SEG",
    "average_precision": "mean over IoU thresholds from 0.5 to 0.95",
    "average_precision_0.5": "correct objects over all objects, at IoU 0.5",
    "average_precision_0.75": "the same at IoU 0.75",
}


class Results(NamedTuple):
    """The held-out images and their scores."""

    images: ImageSet
    measures: dict[str, Measure]
    scores: list[ImageScores]
    seconds: list[float]
    """Time to predict each image."""


class Example(NamedTuple):
    """One image on the page."""

    scores: ImageScores
    legend: dict[str, tuple[str, str]]
    pictures: dict[str, str]
    """Data URIs by their captions."""


@dataclass(frozen=True)
class Content:
    """The contents of the page.

    Attributes
    ----------
    name : str
        The run's.
    data : str
        The summary of its images and labels.
    config : TrainConfig
    checkpoint : Checkpoint
        The one that made the predictions.
    parameters : int
        How many the network has.
    training_images : int
    symmetries : {1, 8}
    results : Results
    examples : dict of str to list of Example
        By section, such as "Worst".
    log : sequence of dict
        The run's.
    findings : sequence of Finding
        Of the doctor.
    samples : mapping of str to Sample
        Training samples by their titles.
    commands : sequence of str
        To repeat the run.
    """

    name: str
    data: str
    config: TrainConfig
    checkpoint: Checkpoint
    parameters: int
    training_images: int
    symmetries: int
    results: Results
    examples: dict[str, list[Example]]
    log: Log
    findings: Sequence[Any]
    samples: Mapping[str, Sample]
    commands: Sequence[str]


def render(content: Content) -> str:
    """The page as HTML. It needs no other file and no network."""
    kind, log = content.results.images.kind, content.log
    assert kind is not None
    return fill_template(
        "report.html",
        **vars(content),
        headlines=HEADLINES[kind],
        order=headline_measure(kind),
        rows=list(rows_of(content.results.measures)),
        curves=_curves(log),
        collapses=[{"where": (), **record} for record in log if record["event"] in ("collapsed", "plateau")],
        settings=list(settings_of(content.config, content.checkpoint)),
        sample_pictures=_sample_pictures(content.samples),
        places=_places(log),
        times=_times(log, content.results),
    )


def fill_template(template: str, **values: Any) -> str:
    """Fill one of the templates; it also gets when, and by which version, the page is made."""
    made, version = datetime.now(UTC), environment.versions()["tinyunet"]
    return _templates().get_template(template).render(made=made, version=version, **values)


@cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("tinyunet.reporting"),
        autoescape=True,  # names of files and folders may hold anything
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(value=format_value, plain=_plain, readable=readable_name, duration=duration)
    return templates


def make_examples(
    results: Results, predict: Callable[[ImageSet], Iterator[Prediction]], number: int
) -> dict[str, list[Example]]:
    """The worst and the best images.

    Parameters
    ----------
    results : Results
    predict : callable
        Predicts the images of a set again: keeping all predictions would take much memory.
    number : int
        How many of each.
    """
    kind = results.images.kind
    assert kind is not None
    order = worst_first(results.scores, headline_measure(kind))
    worst, rest = order[:number], order[number:]
    chosen = {"Worst": worst, "Best": rest[::-1][:number]}
    return {
        title: [
            _example(results.images, index, results.scores[index], prediction)
            for index, prediction in zip(indices, predict(results.images.subset(indices)), strict=True)
        ]
        for title, indices in chosen.items()
        if indices
    }


def _example(images: ImageSet, index: int, scores: ImageScores, prediction: Prediction) -> Example:
    assert images.labels is not None
    image, labels = images.images[index], images.labels[index]
    objects = prediction.objects if images.kind == "instances" else prediction.probabilities.argmax(axis=2)
    assert objects is not None
    foreground = (255 * (1 - prediction.probabilities[:, :, [0, 0, 0]])).astype(np.uint8)  # black is 0
    panels = {
        "truth, outlined": pictures.overlay(image, labels),
        "predicted probability, outlined": pictures.outlined(foreground, objects),
        "mistakes": pictures.mistakes_picture(image, scores.mistakes),
    }
    return Example(
        scores,
        pictures.mistakes_legend(scores.mistakes),
        {caption: _as_webp(picture) for caption, picture in panels.items()},
    )


def _plain(value: object) -> str:
    """A value of an option for people to read."""
    if value is None:
        return ""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def rows_of(measures: Mapping[str, Measure]) -> Iterator[dict[str, Any]]:
    """The rows of the table of scores."""
    for name, measure in measures.items():
        stem, _, number = name.rpartition("_")
        meaning = MEANINGS[stem].format(number) if number.isdigit() else MEANINGS[name]
        row = {"name": name, "meaning": meaning, "lower": lower_is_better(name), "score": measure.score}
        yield {**row, **asdict(measure)}


def _curves(log: Log) -> list[dict[str, str]]:
    """The learning curves, each for a light page and for a dark one."""
    light, dark = (plots.curves_as_svg(log, ink=ink) for ink in (LIGHT_INK, DARK_INK))
    return [
        {
            "title": title,
            "light": _data_uri(light[title].encode(), "svg+xml"),
            "dark": _data_uri(dark[title].encode(), "svg+xml"),
        }
        for title in light
    ]


def settings_of(config: TrainConfig, checkpoint: Checkpoint) -> Iterator[dict[str, object]]:
    """The table of options: each as on the command line, its value, the default and the paper's."""
    default = dict(_flat(asdict(written_out(recipe(model=config.model)))))
    for name, given in _flat(asdict(config)):
        value = checkpoint.network.get(name) if given is None else given  # omitted: the network's own default
        yield {
            "option": "--" + name.replace("_", "-"),
            "value": value,
            "changed": given != default[name],
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


def _sample_pictures(samples: Mapping[str, Sample]) -> dict[str, dict[str, str]]:
    """Pictures of each training sample by their captions; weights are drawn on one scale."""
    most = max(float(sample.weight.max()) for sample in samples.values())
    return {
        title: {head: _as_webp(picture) for head, picture in plots.sample_pictures(sample, most).items()}
        for title, sample in samples.items()
    }


def _places(log: Log) -> dict[str, dict[str, object]]:
    """Machine and versions of each start of the training, and of this page."""
    places: dict[str, dict[str, object]] = {}
    for record in log:
        if record["event"] == "started":
            title = f"from step {record['step']}, {record['at'].replace('T', ' ').removesuffix('+00:00')} UTC"
            places[title] = {**record["machine"], **record["versions"], "backend": record["backend"]}
    places["this page"] = {**environment.machine(), **environment.versions(), "backend": active_backend()}
    return places


def _times(log: Log, results: Results) -> list[tuple[str, str]]:
    """The rows of the table of times."""
    steps = [record for record in log if record["event"] == "step"]
    validations = [record["seconds"] for record in log if record["event"] == "validation"]
    training = sum(record["seconds"] for record in steps)
    waiting = sum(record["waited"] for record in steps)
    pixels = results.images.pixels
    return [
        ("training", f"{duration(training)} in {len(steps):,} steps"),
        ("one step", f"{duration(statistics.median(record['seconds'] for record in steps))} (median)"),
        ("waiting for samples", f"{100 * waiting / training:.1f} % of the training"),
        ("validation", f"{duration(sum(validations))} in {len(validations)} validations"),
        (
            "prediction",
            f"{duration(statistics.median(results.seconds))} per image (median), "
            f"{pixels / sum(results.seconds) / 1e6:.2f} million pixels per second",
        ),
    ]


def duration(seconds: float) -> str:
    """Seconds in readable units.

    >>> duration(0.0421), duration(9.87), duration(75), duration(7384)
    ('42 ms', '9.9 s', '1 min 15 s', '2 h 03 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _as_webp(picture: NDArray[np.uint8]) -> str:
    """A picture (H, W, 3) as a data URI, shrunk if it is large."""
    image = Image.fromarray(picture)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return _data_uri(file.getvalue(), "webp")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
