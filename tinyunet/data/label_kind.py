"""What label values mean: a mask, classes, or single objects. Files do not say; this rule does.

It looks at the values of the whole set, never at one image alone:

1. at most two values: "binary", the larger one is foreground, however the two are numbered;
2. nearly every value of every image is one connected piece, and the images hold different numbers of
   them, or more than 16: "instances". So are values beyond 255;
3. 0..K-1 without a gap, K no more than 32: "classes";
4. anything else is refused, such as 0, 128, 255, or the 256 values of a mask whose edges were smoothed.

What it cannot tell, so that `kind=` has to say it: objects of which every image holds one at most (they look
binary), and classes that form one piece per image and are missing in some images (they look like instances).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet.data.image_set import Image, LabelKind, Labels
from tinyunet.errors import DataError, describe

KINDS: tuple[LabelKind, ...] = ("binary", "classes", "instances")
ONE_PIECE = 0.9  # the share of connected values above which they are objects: annotators leave stray pixels
MANY_OBJECTS = 16  # more connected values than this in one image are hardly classes
MANY_CLASSES = 32  # more values than this are hardly classes, unless somebody says so
HIGHEST_CLASS = 255
TOUCHING = np.ones((3, 3))  # pixels that share a corner are connected


def label_image(pixels: Image, where: str) -> Labels:
    """The label values of a decoded file, as integers.

    Parameters
    ----------
    pixels : array, shape (H, W, C)
        C > 1 only if all the channels are equal, as drawing programs write them.
    where : str
        The file, for messages.

    Returns
    -------
    int32 array, shape (H, W)

    Raises
    ------
    DataError
        Colours, fractions, negative values, or values beyond int32.
    """
    if (pixels[..., 1:] != pixels[..., :1]).any():
        raise DataError(
            f"{where}: a label image has one value a pixel, found colours or several channels",
            {"found": describe(pixels, "H W C")},
            "save one integer a pixel: the class (argmax of one-hot channels) or the object's number",
        )
    labels = pixels[..., 0]
    if labels.dtype.kind not in "buif":
        raise DataError(f"{where}: labels must be numbers, found {labels.dtype}", remedy="save integers")
    with np.errstate(invalid="ignore"):  # NaN becomes some integer and differs from it
        integers = labels.astype(np.int32)
    if (integers != labels).any() or (integers < 0).any():
        wrong = labels[(integers != labels) | (integers < 0)][0]
        raise DataError(
            f"{where}: labels must be whole numbers from 0 to 2147483647, found {wrong}",
            remedy="save class indices or object numbers as 8- or 16-bit integers",
        )
    return integers


def infer_kind(labels: Sequence[Labels], source: str) -> tuple[LabelKind, str]:
    """The kind of a whole set of label images by the rule above, and the reason in words.

    Raises
    ------
    DataError
        The rule cannot tell, or all the pixels have one value.
    """
    values = _values(labels)
    if len(values) == 1:
        raise DataError(
            f"{source}: every label pixel is {values[0]}, there is nothing to learn or to judge",
            remedy="check the label files; if this is right, say so with --kind binary",
        )
    if len(values) == 2:
        return "binary", f"two values, {values[1]} is foreground"
    if values[-1] > HIGHEST_CLASS:
        return "instances", f"values up to {values[-1]}"
    pieces = [_pieces(label) for label in labels]
    counts = [len(piece) for piece in pieces]
    connected = np.mean(np.concatenate(pieces) == 1)
    if connected >= ONE_PIECE and (len(set(counts)) > 1 or max(counts) > MANY_OBJECTS):
        return "instances", f"{100 * connected:.0f} % of the values are one connected piece of their image"
    if values[-1] == len(values) - 1 < MANY_CLASSES:
        return "classes", f"values 0..{values[-1]}"
    raise DataError(
        f"{source}: cannot tell what the labels mean",
        {
            "expected": f"two values, up to {MANY_CLASSES} classes 0..K-1, or a connected piece a number",
            "found": f"values {_listing(values)}; {100 * connected:.0f} % of them connected",
        },
        "threshold masks with smoothed edges, renumber classes 0..K-1, or give --kind classes or instances",
    )


def apply_kind(labels: Sequence[Labels], kind: LabelKind, source: str) -> tuple[list[Labels], int]:
    """Labels numbered as `ImageSet` wants them, and the number of classes. What is unknown stays so.

    "binary": the larger of two values becomes 1; a value that stands alone is foreground unless it is 0.
    "classes": kept. "instances": renumbered 1..n in each image, without gaps.

    Raises
    ------
    DataError
        More than two values for "binary", a value beyond 255 for "classes", an unknown kind.
    """
    if kind not in KINDS:
        raise DataError(f"unknown kind of labels: {kind!r}", remedy=f"choose one of {', '.join(KINDS)}")
    if kind == "instances":
        return [renumber(label) for label in labels], 2
    values = _values(labels)
    if kind == "classes":
        if values[-1] > HIGHEST_CLASS:
            raise DataError(
                f"{source}: classes go up to {HIGHEST_CLASS}, found {values[-1]}",
                remedy="renumber the classes 0..K-1, or give --kind instances",
            )
        return list(labels), int(values[-1]) + 1
    if len(values) > 2:
        raise DataError(
            f"{source}: binary labels have two values, found {len(values)}: {_listing(values)}",
            remedy="threshold them, or leave the kind to the reader",
        )
    foreground = values[-1] or 1
    return [np.where(label < 0, label, label == foreground).astype(label.dtype) for label in labels], 2


def _values(labels: Sequence[Labels]) -> NDArray[np.integer]:
    values = np.unique(np.concatenate([np.unique(label) for label in labels]))
    return values[values >= 0]


def _pieces(label: Labels) -> list[int]:
    """The number of connected pieces of each value of one image; 0 is background and left out."""
    compact = renumber(label)  # so that a high value does not make find_objects walk through millions
    boxes = ndimage.find_objects(compact)
    return [ndimage.label(compact[box] == i, TOUCHING)[1] for i, box in enumerate(boxes, 1)]


def renumber(label: Labels) -> Labels:
    """Number the objects of one image 1..n without gaps, in the order of their values; 0 and -1 stay."""
    values, inverse = np.unique(label, return_inverse=True)
    numbers = np.where(values > 0, np.cumsum(values > 0), values)
    return numbers[inverse].reshape(label.shape).astype(label.dtype)


def _listing(values: NDArray[np.integer]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return shown if len(values) <= 8 else f"{shown}, ... {values[-1]}"
