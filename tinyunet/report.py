"""Pictures of a training run and of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

INK, ACCENT, GOOD, FAINT = "#1a1a1a", "#c0392b", "#2471a3", "#b8b8b8"


def grey_or_colour(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image (H, W, C) as 8-bit RGB to look at, its darkest and brightest percent clipped.

    Three channels are taken as red, green and blue; of any other number the first is shown in grey.
    """
    channels = image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)
    low, high = np.percentile(channels, (1, 99))
    scaled = np.clip((channels - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    return (255 * scaled).astype(np.uint8)


def overlay(image: NDArray[Any], instances: NDArray[Any]) -> NDArray[np.uint8]:
    """The image in grey with the outline of each object in red, (H, W, 3)."""
    picture = grey_or_colour(image)
    picture[find_boundaries(instances, mode="inner")] = (230, 57, 70)
    return picture


def plot_curves(log: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss at each step with its running mean, and the scores on the held-out images."""
    steps = [record for record in log if record["event"] == "step"]
    validations = [record for record in log if record["event"] == "validation"]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = np.array([record["loss"] for record in steps])
    numbers = np.array([record["step"] for record in steps])
    left.plot(numbers, losses, color=FAINT, lw=0.7)
    window = max(1, len(losses) // 20)
    if len(losses) >= window:
        mean = np.convolve(losses, np.full(window, 1 / window), "valid")
        left.plot(numbers[window - 1 :], mean, color=INK, label=f"mean of {window} steps")
        left.legend(frameon=False)
    left.set(xlabel="step", ylabel="weighted cross-entropy", title="training")
    at = [record["step"] for record in validations]
    right.plot(at, [record["mean_iou"] for record in validations], "o-", ms=3, color=GOOD, label="mean IoU")
    right.plot(
        at, [record["pixel_error"] for record in validations], "o-", ms=3, color=ACCENT, label="pixel error"
    )
    right.set(xlabel="step", ylim=(0, 1), title="held-out images")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


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
    heads = ("image", "label", "predicted probability", "wrong pixels")
    for axes, image, label, probability in zip(grid, images, labels, probabilities, strict=False):
        picture = grey_or_colour(image)
        wrong = picture.copy()
        predicted = probability.argmax(axis=2)
        wrong[(predicted != label) & (label > 0)] = (36, 113, 163)
        wrong[(predicted != label) & (label == 0)] = (192, 57, 43)
        axes[0].imshow(picture)
        axes[1].imshow(label, cmap="gray", vmin=0, vmax=probability.shape[2] - 1)
        axes[2].imshow(probability[:, :, -1], cmap="gray", vmin=0, vmax=1)
        axes[3].imshow(wrong)
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=10)
    for axes in grid.flat:
        axes.set_axis_off()
    figure.suptitle(f"{title}    red: background taken for a class, blue: the other mistakes", fontsize=10)
    figure.savefig(path, dpi=100)
