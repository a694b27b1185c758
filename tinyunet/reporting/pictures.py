"""Images, labels and mistakes as 8-bit RGB pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from tinyunet.data import UNKNOWN
from tinyunet.metrics.mistakes import MISTAKES, Mistakes

RED, BLUE = (230, 57, 70), (86, 180, 233)  # on grey images
SAND = (214, 190, 138)
STRIP = 256  # rows
MISTAKE_COLOURS = {  # Okabe and Ito's, which colour-blind readers can distinguish
    "border": (240, 228, 66),
    "confused": (86, 180, 233),
    "added": (204, 121, 167),
    "split": (0, 158, 115),
    "merged": (213, 94, 0),
    "missed": (0, 114, 178),
}


def grey_or_colour(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image (H, W, C) as 8-bit RGB to look at, its darkest and brightest percent clipped.

    Three channels are shown as red, green and blue; otherwise the first channel is shown in grey.
    """
    channels = image if image.shape[2] == 3 else image[:, :, :1]
    low, high = np.percentile(channels.astype(np.float32), (1, 99), overwrite_input=True)
    scale = max(high - low, np.finfo(np.float32).tiny)
    picture = np.empty((*image.shape[:2], 3), np.uint8)
    for row, grey in zip(picture, channels, strict=True):  # row by row, to need no float picture
        row[...] = 255 * np.clip((grey.astype(np.float32) - low) / scale, 0, 1)
    return picture


def overlay(image: NDArray[Any], instances: NDArray[Any]) -> NDArray[np.uint8]:
    """The image in grey with the outline of each object in red, (H, W, 3)."""
    return outlined(grey_or_colour(image), instances)


def outlined(picture: NDArray[np.uint8], instances: NDArray[Any]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with the outline of each object in red; unknown pixels get none."""
    marked = picture.copy()
    for top in range(0, len(instances), STRIP):  # in strips, because it takes forty bytes per pixel
        first = max(top - 1, 0)
        outlines = find_boundaries(instances[first : top + STRIP + 1].clip(0), mode="inner")
        marked[top : top + STRIP][outlines[top - first :][:STRIP]] = RED
    return marked


def class_picture(classes: NDArray[np.integer], num_classes: int) -> NDArray[np.uint8]:
    """Classes (H, W) as 8-bit RGB from black, class 0, to white; sand where they are `UNKNOWN`."""
    grey = (255.0 * classes.clip(0) / max(num_classes - 1, 1)).astype(np.uint8)
    picture = np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    picture[classes == UNKNOWN] = SAND
    return picture


def wrong_pixels(
    image: NDArray[Any], label: NDArray[np.integer], probability: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """The image, darkened so that single pixels stand out, with wrong ones in red and blue, (H, W, 3)."""
    picture = grey_or_colour(image) // 2
    wrong = probability.argmax(axis=2) != label
    picture[wrong & (label > 0)] = BLUE
    picture[wrong & (label == 0)] = RED
    return picture


def mistakes_picture(image: NDArray[Any], mistakes: Mistakes) -> NDArray[np.uint8]:
    """The image in grey with the mistakes coloured by kind, (H, W, 3)."""
    grey = grey_or_colour(image).astype(np.float32)
    coloured = grey.copy()
    for number, name in enumerate(MISTAKES, 1):
        share = 1.0 if name == "border" else 0.7  # lines are solid, areas transparent
        here = mistakes.kinds == number
        coloured[here] = (1 - share) * grey[here] + share * np.array(MISTAKE_COLOURS[name], np.float32)
    return coloured.astype(np.uint8)


def mistakes_legend(mistakes: Mistakes) -> dict[str, tuple[str, str]]:
    """The colour, as #rrggbb, and the count with its unit of each kind of mistake, the gravest first."""
    pixels = "objects" not in mistakes.counts
    return {
        name: (
            "#{:02x}{:02x}{:02x}".format(*MISTAKE_COLOURS[name]),
            f"{mistakes.counts[name]:,}{' px' if pixels or name == 'border' else ''}",
        )
        for name in reversed(MISTAKES)
        if name in mistakes.counts
    }
