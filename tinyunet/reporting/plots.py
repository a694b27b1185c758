"""Pictures of a training run and of predictions."""

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
from tinyunet.metrics.mistakes import MISTAKES, Mistakes
from tinyunet.sampling import Sample

Log = Sequence[dict[str, Any]]

INK, ACCENT, GOOD, FAINT = "#1a1a1a", "#c0392b", "#2471a3", "#b8b8b8"
RED, BLUE = (230, 57, 70), (86, 180, 233)  # on grey images
SAND = (214, 190, 138)
TALLEST = 24  # inches, of a picture whose width is given: as tall as four squares
MISTAKE_COLOURS = {  # Okabe and Ito's, which colour-blind readers can tell apart
    "border": (240, 228, 66),
    "confused": (86, 180, 233),
    "added": (204, 121, 167),
    "split": (0, 158, 115),
    "merged": (213, 94, 0),
    "missed": (0, 114, 178),
}


def grey_or_colour(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image (H, W, C) as 8-bit RGB to look at, its darkest and brightest percent clipped.

    Three channels are taken as red, green and blue; of any other number the first is shown in grey.
    """
    channels = (image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)).astype(np.float32)
    low, high = np.percentile(channels, (1, 99))
    scaled = np.clip((channels - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    return (255 * scaled).astype(np.uint8)


def overlay(image: NDArray[Any], instances: NDArray[Any]) -> NDArray[np.uint8]:
    """The image in grey with the outline of each object in red, (H, W, 3)."""
    return outlined(grey_or_colour(image), instances)


def outlined(picture: NDArray[np.uint8], instances: NDArray[Any]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with the outline of each object in red; none around what is unknown."""
    outlines = find_boundaries(instances.clip(0), mode="inner")
    return np.where(outlines[:, :, np.newaxis], np.array(RED, np.uint8), picture)


def class_picture(classes: NDArray[np.integer], num_classes: int) -> NDArray[np.uint8]:
    """Classes (H, W) as 8-bit RGB from black, class 0, to white; sand where they are `UNKNOWN`."""
    grey = (255.0 * classes.clip(0) / max(num_classes - 1, 1)).astype(np.uint8)
    picture = np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    picture[classes == UNKNOWN] = SAND
    return picture


def _literal(text: str) -> str:
    """Text that is drawn as it stands: Matplotlib takes what is between two dollar signs for a formula."""
    return text.replace("$", r"\$")


def plot_curves(log: Log, path: Path) -> None:
    """Loss at each step with its running mean, and the scores on the held-out images."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, (title, draw) in zip((left, right), HALVES.items(), strict=True):
        draw(axes, log, INK)
        axes.set_title(title)
    figure.savefig(path, dpi=110)


def curves_as_svg(log: Log, *, ink: str = INK) -> dict[str, str]:
    """The two halves of `plot_curves` by their titles, as SVG without background; lines and text in `ink`."""
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
    losses = np.array([record["loss"] for record in steps])
    numbers = np.array([record["step"] for record in steps])
    axes.plot(numbers, losses, color=FAINT, lw=0.7)
    window = max(1, len(losses) // 20)
    mean = np.convolve(losses, np.full(window, 1 / window), "valid")
    axes.plot(numbers[window - 1 :], mean, color=ink, label=f"mean of {window} steps")
    axes.legend(frameon=False)
    highest = 1.3 * float(np.percentile(losses, 98))  # the first steps would squeeze all others
    axes.set(xlabel="step", ylabel="weighted cross-entropy", ylim=(0, highest))
    axes.spines[["top", "right"]].set_visible(False)


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
    """A row for each image: the image, its classes, the probability of the last class, and the mistakes."""
    rows = len(probabilities)
    figure = Figure(figsize=(11, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False)
    heads = ("image", "label", _which_probability(probabilities[0]), "wrong pixels")
    for axes, image, label, probability in zip(grid, images, labels, probabilities, strict=False):
        axes[0].imshow(grey_or_colour(image))
        axes[1].imshow(class_picture(label, probability.shape[2]))
        axes[2].imshow(probability[:, :, -1], cmap="gray", vmin=0, vmax=1)
        axes[3].imshow(wrong_pixels(image, label, probability))
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=10)
    for axes in grid.flat:
        axes.set_axis_off()
    figure.suptitle(f"{title}    {_colours_of(labels[:rows])}", fontsize=10)
    figure.savefig(path, dpi=100)


def _which_probability(probabilities: NDArray[np.floating]) -> str:
    """What the picture of the last class's probability shows."""
    classes = probabilities.shape[2]
    return "predicted probability" + (f" of class {classes - 1}" if classes > 2 else "")


def _colours_of(labels: Sequence[NDArray[np.integer]]) -> str:
    """What the colours of `wrong_pixels` mean, and that of `class_picture`."""
    unknown = ", sand: not labelled" if any((label == UNKNOWN).any() for label in labels) else ""
    return f"red: background taken for a class, blue: the other mistakes{unknown}"


def wrong_pixels(
    image: NDArray[Any], label: NDArray[np.integer], probability: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """The image, dark so that single pixels are seen, with wrong ones in red and blue, (H, W, 3)."""
    picture = grey_or_colour(image) // 2
    wrong = probability.argmax(axis=2) != label
    picture[wrong & (label > 0)] = BLUE
    picture[wrong & (label == 0)] = RED
    return picture


def plot_comparison(
    images: Sequence[NDArray[Any]],
    labels: Sequence[NDArray[np.integer]],
    probabilities: Mapping[str, Sequence[NDArray[np.floating]]],
    path: Path,
    *,
    title: str,
) -> None:
    """Two rows for each image: itself and each network's probability, its classes and each one's mistakes.

    Parameters
    ----------
    images, labels : sequence of array, (H, W, C) and (H, W)
        Labels are classes.
    probabilities : mapping of str to sequence of array, each (H, W, K)
        By the head of the column; of these images.
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
    above = _which_probability(next(iter(probabilities.values()))[0])
    figure.suptitle(f"{title}\nabove: {above}; below: {_colours_of(labels)}", fontsize=10)
    figure.savefig(path, dpi=100)


def mistakes_picture(image: NDArray[Any], mistakes: Mistakes) -> NDArray[np.uint8]:
    """The image in grey with the mistakes coloured by kind, (H, W, 3)."""
    grey = grey_or_colour(image).astype(np.float32)
    coloured = grey.copy()
    for number, name in enumerate(MISTAKES, 1):
        share = 1.0 if name == "border" else 0.7  # a line is seen when solid, an area is seen through
        here = mistakes.kinds == number
        coloured[here] = (1 - share) * grey[here] + share * np.array(MISTAKE_COLOURS[name], np.float32)
    return coloured.astype(np.uint8)


def mistakes_legend(mistakes: Mistakes) -> dict[str, tuple[str, str]]:
    """Of each kind of mistake, the gravest first: its colour as #rrggbb and its count with the unit."""
    pixels = "objects" not in mistakes.counts
    return {
        name: (
            "#{:02x}{:02x}{:02x}".format(*MISTAKE_COLOURS[name]),
            f"{mistakes.counts[name]:,}{' px' if pixels or name == 'border' else ''}",
        )
        for name in reversed(MISTAKES)
        if name in mistakes.counts
    }


def plot_mistakes(
    image: NDArray[Any], labels: NDArray[np.integer], mistakes: Mistakes, path: Path, *, title: str
) -> None:
    """The image with the true outlines, and beside it with the mistakes coloured by kind and counted."""
    height, width = image.shape[:2]
    figure = Figure(figsize=(12, min(6 * height / width, TALLEST) + 0.8), layout="constrained")
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
    figure.savefig(path, dpi=100)


def sample_pictures(sample: Sample, most: float) -> dict[str, NDArray[np.uint8]]:
    """The parts of `plot_samples` as pictures (H, W, 3): white in the weight map is the weight `most`."""
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
    """A row for each sample: the image tile, the classes in its middle, and their weights in the loss."""
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
    figure.savefig(path, dpi=110)
