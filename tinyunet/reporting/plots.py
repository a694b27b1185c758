"""Figures of a training run and of predictions, drawn by Matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from tinyunet.data import UNKNOWN
from tinyunet.data.atomic_write import replacing
from tinyunet.metrics.mistakes import Mistakes
from tinyunet.reporting.pictures import (
    RED,
    class_picture,
    grey_or_colour,
    mistakes_legend,
    mistakes_picture,
    overlay,
    wrong_pixels,
)
from tinyunet.sampling import Sample

Log = Sequence[dict[str, Any]]

MAX_HEIGHT = 24  # inches, four times the width of a panel
INK, ACCENT, GOOD, FAINT = "#1a1a1a", "#c0392b", "#2471a3", "#b8b8b8"


def _save(figure: Figure, path: Path, *, dpi: int) -> None:
    with replacing(path) as file:
        figure.savefig(file, dpi=dpi, format=path.suffix.removeprefix("."))


def _literal(text: str) -> str:
    """Escape dollar signs, which Matplotlib takes for formulas, and replace bytes that are no text by "?"."""
    return text.encode(errors="replace").decode().replace("$", r"\$")


def plot_curves(log: Log, path: Path) -> None:
    """Draw the loss at each step with its running mean, and the scores on the held-out images."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    _draw_halves(figure.subplots(1, 2), log)
    _save(figure, path, dpi=110)


def curves_as_png(log: Log) -> bytes:
    """Draw the halves of `plot_curves` one above the other, for a narrow window."""
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    _draw_halves(figure.subplots(2, 1), log)
    file = io.BytesIO()
    figure.savefig(file, dpi=100, format="png")
    return file.getvalue()


def _draw_halves(both: NDArray[Any], log: Log) -> None:
    for axes, (title, draw) in zip(both, HALVES.items(), strict=True):
        draw(axes, log, INK)
        axes.set_title(title)


def curves_as_svg(log: Log, *, ink: str = INK) -> dict[str, str]:
    """Draw the halves of `plot_curves` as SVG, by their titles; no background, lines and text in `ink`."""
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {
        **dict.fromkeys(names, ink),
        "svg.fonttype": "none",
        "svg.hashsalt": "tinyunet",
    }
    pictures = {}
    for title, draw in HALVES.items():
        with matplotlib.rc_context(settings):
            figure = Figure(figsize=(5, 3.2), layout="constrained")
            draw(figure.subplots(), log, ink)
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        pictures[title] = file.getvalue()
    return pictures


def _draw_losses(axes: Axes, log: Log, ink: str) -> None:
    steps = [record for record in log if record["event"] == "step"]
    axes.set(xlabel="step", ylabel="weighted cross-entropy")
    axes.spines[["top", "right"]].set_visible(False)
    if not steps:  # the log was lost
        return
    losses = np.array([record["loss"] for record in steps])
    numbers = np.array([record["step"] for record in steps])
    axes.plot(numbers, losses, color=FAINT, lw=0.7)
    window = max(1, len(losses) // 20)
    mean = np.convolve(losses, np.full(window, 1 / window), "valid")
    axes.plot(numbers[window - 1 :], mean, color=ink, label=f"mean of {window} steps")
    axes.legend(frameon=False)
    highest = 1.3 * float(np.percentile(losses, 98))  # the first steps would squash all others
    axes.set_ylim(0, highest)


def _draw_scores(axes: Axes, log: Log, ink: str) -> None:
    validations = [record for record in log if record["event"] == "validation"]
    at = [record["step"] for record in validations]
    for name, colour in (("mean_iou", GOOD), ("pixel_error", ACCENT)):
        label = {"mean_iou": "mean IoU", "pixel_error": "pixel error"}[name]
        axes.plot(at, [record[name] for record in validations], "o-", ms=3, color=colour, label=label)
    axes.set(xlabel="step", ylim=(0, 1))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


HALVES = {"training": _draw_losses, "held-out images": _draw_scores}


def plot_examples(
    images: Sequence[NDArray[Any]],
    labels: Sequence[NDArray[Any]],
    probabilities: Sequence[NDArray[np.float32]],
    path: Path,
    *,
    title: str,
) -> None:
    """Draw a row for each image: image, classes, probability of the last class, and mistakes."""
    rows = len(probabilities)
    figure = Figure(figsize=(11, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False)
    titles = ("image", "label", _probability_title(probabilities[0]), "wrong pixels")
    for axes, image, label, probability in zip(grid, images, labels, probabilities, strict=False):
        axes[0].imshow(grey_or_colour(image))
        axes[1].imshow(class_picture(label, probability.shape[2]))
        axes[2].imshow(probability[:, :, -1], cmap="gray", vmin=0, vmax=1)
        axes[3].imshow(wrong_pixels(image, label, probability))
    for axes, column in zip(grid[0], titles, strict=True):
        axes.set_title(column, fontsize=10)
    for axes in grid.flat:
        axes.set_axis_off()
    figure.suptitle(f"{title}    {_colour_key(labels[:rows])}", fontsize=10)
    _save(figure, path, dpi=100)


def _probability_title(probabilities: NDArray[np.floating]) -> str:
    """The title of the picture of the last class's probability."""
    classes = probabilities.shape[2]
    return "predicted probability" + (f" of class {classes - 1}" if classes > 2 else "")


def _colour_key(labels: Sequence[NDArray[np.integer]]) -> str:
    """The meaning of the colours of `wrong_pixels` and `class_picture`."""
    unknown = ", sand: not labelled" if any((label == UNKNOWN).any() for label in labels) else ""
    return f"red: background predicted as a class, blue: other mistakes{unknown}"


def plot_comparison(
    images: Sequence[NDArray[Any]],
    labels: Sequence[NDArray[np.integer]],
    probabilities: Mapping[str, Sequence[NDArray[np.floating]]],
    path: Path,
    *,
    title: str,
) -> None:
    """Draw two rows for each image: the image and each network's probability; the classes and its mistakes.

    Parameters
    ----------
    images, labels : sequence of array, (H, W, C) and (H, W)
        Labels are classes.
    probabilities : mapping of str to sequence of array, each (H, W, K)
        Of these images, by the title of the network's column.
    path : Path
    title : str
    """
    rows, columns = 2 * len(images), 1 + len(probabilities)
    figure = Figure(figsize=(2.9 * columns, 2.9 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for upper, lower, i in zip(grid[::2], grid[1::2], range(len(images)), strict=True):
        upper[0].imshow(grey_or_colour(images[i]))
        for above, below, of_network in zip(upper[1:], lower[1:], probabilities.values(), strict=True):
            above.imshow(of_network[i][:, :, -1], cmap="gray", vmin=0, vmax=1)
            below.imshow(wrong_pixels(images[i], labels[i], of_network[i]))
            lower[0].imshow(class_picture(labels[i], of_network[i].shape[2]))
    for axes, head in zip(grid[0], ("image, and label below", *probabilities), strict=True):
        axes.set_title(head, fontsize=10)
    for axes in grid.flat:
        axes.set_axis_off()
    above = _probability_title(next(iter(probabilities.values()))[0])
    figure.suptitle(f"{title}\nabove: {above}; below: {_colour_key(labels)}", fontsize=10)
    _save(figure, path, dpi=100)


def plot_mistakes(
    image: NDArray[Any], labels: NDArray[np.integer], mistakes: Mistakes, path: Path, *, title: str
) -> None:
    """Draw the image with the true outlines, and beside it with the mistakes, coloured and counted."""
    height, width = image.shape[:2]
    figure = Figure(figsize=(12, min(6 * height / width, MAX_HEIGHT) + 0.8), layout="constrained")
    panels = {"true outlines": overlay(image, labels), "mistakes": mistakes_picture(image, mistakes)}
    for axes, (head, picture) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(head, fontsize=10)
        axes.set_axis_off()
    total = f" ({mistakes.counts['objects']:,} objects)" if "objects" in mistakes.counts else ""
    figure.suptitle(_literal(title) + total, fontsize=10)
    handles = [
        Patch(color=colour, label=f"{name}: {count}")
        for name, (colour, count) in mistakes_legend(mistakes).items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    _save(figure, path, dpi=100)


def sample_pictures(sample: Sample, most: float) -> dict[str, NDArray[np.uint8]]:
    """The parts of `plot_samples` as pictures (H, W, 3); in the weight map, `most` is the brightest."""
    tile, target, weight = grey_or_colour(sample.image[0]), sample.target[0], sample.weight[0]
    margin = (tile.shape[0] - target.shape[0]) // 2
    frame = np.zeros(tile.shape[:2], bool)
    frame[margin : tile.shape[0] - margin, margin : tile.shape[1] - margin] = True
    tile[find_boundaries(frame, mode="inner")] = RED
    return {
        "image tile": tile,
        "labels of the square": class_picture(target, int(target.max()) + 1),
        "weights of the square": (255 * matplotlib.colormaps["magma"](weight / most)[:, :, :3]).astype(
            np.uint8
        ),
    }


def plot_samples(samples: Mapping[str, Sample], path: Path) -> None:
    """Draw a row for each sample: the image tile, the classes in its middle, and their weights."""
    figure = Figure(figsize=(11, 3.9 * len(samples)), layout="constrained")
    most = max(float(sample.weight.max()) for sample in samples.values())
    for axes, (name, sample) in zip(
        figure.subplots(len(samples), 3, squeeze=False), samples.items(), strict=True
    ):
        image, target, weight = sample.image[0], sample.target[0], sample.weight[0]
        margin, side = (image.shape[0] - target.shape[0]) / 2, target.shape[0]
        axes[0].imshow(grey_or_colour(image))
        axes[0].add_patch(Rectangle((margin - 0.5, margin - 0.5), side, side, fill=False, color=ACCENT))
        axes[0].set_title(f"image tile {name}", fontsize=9)
        axes[1].imshow(class_picture(target, int(target.max()) + 1), interpolation="nearest")
        names = ["unknown (sand)" if value == UNKNOWN else str(value) for value in np.unique(target)]
        axes[1].set_title(f"labels of the square: classes {', '.join(names)}", fontsize=9)
        shown = axes[2].imshow(weight, cmap="magma", vmin=0, vmax=most, interpolation="nearest")
        axes[2].set_title("weight map: loss per pixel", fontsize=9)
        figure.colorbar(shown, ax=axes[2], shrink=0.8)
        for panel in axes:
            panel.set_axis_off()
    shown_images = " and ".join({sample.name: None for sample in samples.values()})
    figure.suptitle(
        f"{_literal(shown_images)}: the network sees the tile and predicts the square", fontsize=10
    )
    _save(figure, path, dpi=110)
