"""Draw the pictures of the results page: scores of all seeds, and one image as all variants predict it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from experiments.tasks import EIGHT, UNCUT, Run, Task, Variant
from tinyunet.data import ImageSet, read_images, split
from tinyunet.metrics.naming import format_value, lower_is_better, readable_name
from tinyunet.metrics.scores import score_images
from tinyunet.reporting.pictures import MISTAKE_COLOURS, mistakes_picture, overlay
from tinyunet.training.checkpoint import load_model
from tinyunet.training.stored_run import predict_unseen

INK, SOFT, ACCENT = "#1a1a1a", "#9aa0a6", "#2471a3"
COLUMNS = 4


def of_variant(variant: Variant, records: Mapping[Run, dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of a variant, one per seed."""
    return [record for run, record in records.items() if run.variant == variant]


def plot_scores(task: Task, records: Mapping[Run, dict[str, Any]], path: Path) -> None:
    """Draw a row per variant and a panel per measure, three at most: a dot per seed, a bar at the mean."""
    variants = [variant for variant in task.variants if of_variant(variant, records)]
    names = task.measures[:3]
    drawing = Figure(figsize=(11, 0.9 + 0.42 * len(variants)), layout="constrained")
    for axes, name in zip(drawing.subplots(1, len(names), sharey=True), names, strict=True):
        for row, variant in enumerate(variants):
            scores = [record["scores"][name] for record in of_variant(variant, records)]
            values = [value for value in scores if value is not None]
            axes.plot(values, np.full(len(values), row), "o", ms=5, color=ACCENT, alpha=0.6, clip_on=False)
            if values:
                axes.plot(2 * [statistics.mean(values)], [row - 0.28, row + 0.28], color=INK, lw=2)
        axes.set_title(f"{readable_name(name)} {'↓' if lower_is_better(name) else '↑'}", fontsize=10)
        axes.set_yticks(range(len(variants)), [variant.title for variant in variants])
        axes.set_ylim(len(variants) - 0.5, -0.5)
        axes.grid(axis="y", color=SOFT, alpha=0.3)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    drawing.savefig(path, dpi=110)


def plot_examples(runs: Sequence[Run], path: Path) -> None:
    """Draw one held-out image: its true outlines, then every run's mistakes.

    It is the image with the first run's median score, so that nobody picks it. Runs whose files are gone are
    left out; without those of the first run, an earlier picture stays.
    """
    kept = [run for run in runs if (run.folder / "last.safetensors").is_file() and run.scores.is_dir()]
    if not kept or kept[0] != runs[0]:
        return
    runs = kept
    task, measure = runs[0].task, runs[0].task.measures[0]
    values = [_values(run, measure) for run in runs]
    name = sorted(values[0], key=lambda image: values[0][image] or 0)[len(values[0]) // 2]
    _, held_out = split(read_images(runs[0].data / task.file), task.holdout)
    image = held_out.subset([held_out.names.index(name)])
    assert image.labels is not None
    panels = {"true outlines": overlay(image.images[0], image.labels[0])}
    for run, of_run in zip(runs, values, strict=True):
        panels[f"{run.variant.title}: {format_value(of_run[name])}"] = _mistakes(run, image)
    _draw_panels(panels, f"{name}: {readable_name(measure)} and mistakes of each", path)


def _values(run: Run, measure: str) -> dict[str, float | None]:
    """The values of a measure by image name."""
    images = json.loads((run.scores / "scores.json").read_text())["images"]
    return {image["name"]: image["scores"][measure] for image in images}


def _mistakes(run: Run, image: ImageSet) -> NDArray[np.uint8]:
    """A picture of a run's mistakes in a set of one image."""
    model, checkpoint = load_model(run.folder / "last.safetensors")
    symmetries = 8 if run.variant.evaluate == EIGHT else 1
    split_objects = run.variant.evaluate != UNCUT
    predictions = predict_unseen(model, checkpoint, image, symmetries=symmetries, split=split_objects)
    ((_, scores),) = score_images(image, predictions)
    return mistakes_picture(image.images[0], scores.mistakes)


def _draw_panels(panels: Mapping[str, NDArray[np.uint8]], title: str, path: Path) -> None:
    lines = -(-len(panels) // COLUMNS)
    drawing = Figure(figsize=(3.4 * COLUMNS, 3.7 * lines + 0.6), layout="constrained")
    places = drawing.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, (title_of_panel, picture) in zip(places, panels.items(), strict=False):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title_of_panel, fontsize=9)
    handles = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*MISTAKE_COLOURS[kind]), label=kind)
        for kind in ("missed", "merged", "split", "added", "border")
    ]
    drawing.suptitle(title, fontsize=10)
    drawing.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    drawing.savefig(path, dpi=100)
