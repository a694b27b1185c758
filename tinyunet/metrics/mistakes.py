"""The mistakes of a prediction: objects missed, split, merged or added, and pixels at borders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import find_boundaries, relabel_sequential

from tinyunet.metrics.contingency import contingency

MISTAKES = ("border", "confused", "added", "split", "merged", "missed")  # a later one covers an earlier one
SMALLEST_OBJECT = 10  # px: smaller ones are specks; `predict` drops them unless --min-size says otherwise
BORDER = 2  # px: how far from a true border a wrong class only means that the border runs elsewhere


class Mistakes(NamedTuple):
    """The places where a prediction is wrong, for pictures and counts."""

    kinds: NDArray[np.uint8]
    """Shape (H, W): 0 where the prediction is right, else 1 + the index in `MISTAKES`."""
    counts: dict[str, int]
    """By name: objects, or pixels where the labels are "classes"; "border" is always in pixels. "objects" is
    the number of true objects."""


def find_mistakes(
    segmentation: NDArray[np.integer], labels: NDArray[np.integer], known: NDArray[np.bool_] | None = None
) -> Mistakes:
    """Name the objects that were missed, split, merged or added, and the pixels where borders differ.

    A predicted and a true object belong together if more than half of one lies in the other. A true object
    is missed if no predicted object belongs to it, split if two predicted objects lie mostly in it, and
    merged if it lies mostly in a predicted object that also holds most of another true object. A predicted
    object that belongs to no true one was added. Other pixels on which foreground and background differ are
    border.

    Parameters
    ----------
    segmentation, labels : integer array, shape (H, W)
        Label images; the numbers need not be consecutive.
    known : bool array, shape (H, W), optional
        The labelled pixels; all if left out. Elsewhere no border is wrong. A predicted object of which more
        than half is unknown may be right, so it does not count as added.
    """
    segmentation, labels = (relabel_sequential(image)[0] for image in (segmentation, labels))
    table = contingency("find_mistakes", segmentation, labels)
    segments, objects = table.shape
    segment, object_ = (numbers + 1 for numbers in table[1:, 1:].tocoo().coords)
    joint = table[1:, 1:].tocoo().data
    piece = 2 * joint > table.sum(axis=1)[segment]
    covered = 2 * joint > table.sum(axis=0)[object_]

    split = np.bincount(object_[piece], minlength=objects) > 1
    merging = np.bincount(segment[covered], minlength=segments) > 1
    merged = np.bincount(object_[covered & merging[segment]], minlength=objects) > 0
    missed = np.bincount(object_[piece | covered], minlength=objects) == 0
    added = np.bincount(segment[piece | covered], minlength=segments) == 0
    missed[0] = added[0] = False  # number 0 is the background
    if known is not None:
        known_pixels = np.bincount(segmentation.ravel(), known.ravel(), minlength=segments)
        unjudged = added & (2 * known_pixels < table.sum(axis=1))
        added &= ~unjudged
        segmentation = np.where(unjudged[segmentation], 0, segmentation)
    return _as_mistakes(
        {
            "border": ((segmentation > 0) != (labels > 0)) & (True if known is None else known),
            "added": added[segmentation],
            "split": split[labels],
            "merged": merged[labels],
            "missed": missed[labels],
        },
        {
            "objects": objects - 1,
            "missed": int(missed.sum()),
            "split": int(split.sum()),
            "merged": int(merged.sum()),
            "added": int(added.sum()),
        },
    )


def find_class_mistakes(classes: NDArray[np.integer], labels: NDArray[np.integer]) -> Mistakes:
    """Name the wrong pixels: missed (predicted as background), added, confused, and those at a true border.

    Parameters
    ----------
    classes, labels : integer array, shape (H, W)
        Class 0 is the background.
    """
    wrong = classes != labels
    at_border = ndimage.binary_dilation(find_boundaries(labels, mode="thick"), iterations=BORDER - 1)
    inside = wrong & ~at_border
    where = {
        "border": wrong & at_border,
        "confused": inside & (classes > 0) & (labels > 0),
        "added": inside & (labels == 0),
        "missed": inside & (classes == 0),
    }
    return _as_mistakes(where, {name: int(pixels.sum()) for name, pixels in where.items()})


def _as_mistakes(where: dict[str, NDArray[np.bool_]], counts: dict[str, int]) -> Mistakes:
    """The masks of the kinds as one image; the border is counted where no other kind covers it."""
    kinds = np.zeros(where["border"].shape, np.uint8)
    for number, name in enumerate(MISTAKES, 1):
        if name in where:
            kinds[where[name]] = number
    return Mistakes(kinds, {**counts, "border": int(np.sum(kinds == 1 + MISTAKES.index("border")))})
