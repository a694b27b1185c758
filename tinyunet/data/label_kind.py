"""The meaning of label values: a mask, classes, or objects. Files do not state it; this rule infers it.

It looks at the values of the whole set, never at one image alone:

1. At most two values are a mask ("binary"). The larger one is foreground, whatever the numbers are.
2. More than 16 values in an image, nearly all of them one connected piece, are objects ("instances"). So are
   values beyond 255, unless a few of them recur in many pieces, and more than 32 values that are mostly one
   piece.
3. At most 32 values of which many are in several pieces are classes, numbered with or without gaps.
4. A few values that are one connected piece each can be objects or classes. Objects lie elsewhere in every
   image and differ in number; classes have the same values in the same places. Otherwise `kind=` decides.
5. Anything else is refused, such as a mask with smoothed edges.

Objects of which every image holds one at most look like a mask. `kind="instances"` overrides that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet.data.image_set import UNKNOWN, Image, LabelKind, Labels
from tinyunet.errors import DataError, describe

KINDS: tuple[LabelKind, ...] = ("binary", "classes", "instances")
ONE_PIECE = 0.9  # share of connected values above which they are objects: annotators leave stray pixels
MOSTLY_ONE_PIECE = 0.7  # the same share where there are too many values for classes
WHOLE = 0.8  # share of an object that its largest piece holds
MANY_OBJECTS = 16  # more connected values than this in one image are hardly classes
MANY_CLASSES = 32  # more values than this are hardly classes, unless `kind` says so
HIGHEST_INFERRED_CLASS = 255
MOST_CLASSES = 256
SAME_PLACE, OTHER_PLACE = 0.5, 0.2  # mean overlap (IoU) of a value with itself in the next image
GRID = 128  # images are compared at this many rows and columns
TOUCHING = np.ones((3, 3))  # pixels that share a corner are connected


class AppliedKind(NamedTuple):
    """Labels as `ImageSet` holds them, and the files' value for each class (classes and colour masks)."""

    labels: list[Labels]
    num_classes: int
    class_values: tuple[int, ...] | None


def label_image(pixels: Image, where: str, ignore: Collection[int] = ()) -> Labels:
    """Convert a decoded file to label values.

    Parameters
    ----------
    pixels : array, shape (H, W, C)
        C > 1 only if all channels are equal, as drawing programs write them.
    where : str
        The file, for messages.
    ignore : collection of int
        Values that become `UNKNOWN`; -1 always does.

    Returns
    -------
    int32 array, shape (H, W)

    Raises
    ------
    DataError
        Colours, fractions, values below -1 or beyond int32.
    """
    if (pixels[..., 1:] != pixels[..., :1]).any():
        raise DataError(
            f"{where}: a label image has one value per pixel, found colours or several channels",
            {"found": describe(pixels, "H W C")},
            "save one integer per pixel: the class (argmax of one-hot channels) or the object's number",
        )
    labels = pixels[..., 0]
    if labels.dtype.kind not in "buif":
        raise DataError(f"{where}: labels must be numbers, found {labels.dtype}", remedy="save integers")
    unknown = np.isin(labels, [UNKNOWN, *ignore])
    with np.errstate(invalid="ignore"):  # NaN becomes some integer and differs from it
        integers = labels.astype(np.int32)
    wrong = ((integers != labels) | (integers < 0)) & ~unknown
    if wrong.any():
        raise DataError(
            f"{where}: labels must be whole numbers from 0 to 2147483647, or -1 for unknown, "
            f"found {labels[wrong][0]}",
            remedy="save class numbers or object numbers as 8- or 16-bit integers",
        )
    integers[unknown] = UNKNOWN
    return integers


def is_coloured(pixels: Image) -> bool:
    """Return whether a decoded label file shows colours: three 8-bit channels that differ."""
    return pixels.shape[2] == 3 and pixels.dtype == np.uint8 and bool((pixels != pixels[..., :1]).any())


def colour_numbers(pixels: Image, where: str, ignore: Collection[int] = ()) -> Labels:
    """Convert a colour mask (H, W, 3) to one number per colour, 0xRRGGBB."""
    if pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise DataError(
            f"{where}: a grey label image among colour masks",
            {"found": describe(pixels, "H W C")},
            "save all label images in colours, or all with one integer per pixel",
        )
    numbers = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    numbers[np.isin(numbers, list(ignore))] = UNKNOWN
    return numbers


def occurring(pixels: Image, values: Collection[int], where: str, *, coloured: bool = False) -> set[int]:
    """Return which of these values, or of these colours, a decoded label file has."""
    found = colour_numbers(pixels, where) if coloured else pixels[..., 0]
    return {value for value in values if (found == value).any()}


def infer_kind(labels: Sequence[Labels], source: str, *, coloured: bool = False) -> tuple[LabelKind, str]:
    """Infer the kind of a whole set of label images by the rule above, and say why.

    Raises
    ------
    DataError
        No kind fits, several do, or all pixels have one value.
    """
    values = _values(labels)
    if len(values) < 2:
        only = _listing(values, coloured) or "unknown"
        raise DataError(
            f"{source}: every label pixel is {only}, there is nothing to learn or to judge",
            remedy="check the label files; if this is right, give --kind binary",
        )
    if coloured:
        return _infer_colours(labels, values, source)
    if len(values) == 2:
        return "binary", f"two values, {values[1]} is foreground"
    high = values[-1] > HIGHEST_INFERRED_CLASS
    if high and len(values) > MANY_CLASSES:
        return "instances", f"values up to {values[-1]}"
    pieces = [_pieces(label) for label in labels]
    most = max(map(len, pieces))
    connected = float(np.mean(np.concatenate(pieces) == 1))
    if high and (len(values) > most + 1 or connected >= MOSTLY_ONE_PIECE):
        return "instances", f"values up to {values[-1]}"
    percent = f"{100 * connected:.0f} % of the values are one connected piece of their image"
    if connected >= ONE_PIECE and most > MANY_OBJECTS:
        return "instances", percent
    if len(values) <= MANY_CLASSES:
        _require_one_foreground(labels, values, source)
        if connected >= ONE_PIECE:
            return _objects_or_classes(labels, values, source)
        if most <= MANY_OBJECTS or _whole(labels) < ONE_PIECE:
            _require_no_smoothed_edges(labels, values, source)
            return "classes", f"values {_listing(values)}"
    if most > MANY_OBJECTS and (connected >= MOSTLY_ONE_PIECE or _whole(labels) >= ONE_PIECE):
        return "instances", percent
    raise DataError(
        f"{source}: cannot tell what the labels mean",
        {
            "expected": f"two values, up to {MANY_CLASSES} classes, or one connected piece per number",
            "found": f"values {_listing(values)}; {100 * connected:.0f} % of them connected",
        },
        "threshold masks with smoothed edges, renumber classes 0..K-1, or give --kind classes or instances",
    )


def _infer_colours(labels: Sequence[Labels], values: NDArray, source: str) -> tuple[LabelKind, str]:
    """Take distinct colours for classes, unless there are so many that they number objects."""
    if len(values) > MANY_CLASSES:
        raise DataError(
            f"{source}: cannot tell what the colours of the labels mean",
            {"expected": f"up to {MANY_CLASSES} colours, one per class", "found": len(values)},
            "if each object has its own colour, give --kind instances; save masks with smoothed edges again",
        )
    if len(values) == 2 and values[0] == 0:
        return "binary", f"two colours, {_listing(values[1:], coloured=True)} is foreground"
    return "classes", f"colours {_listing(values, coloured=True)}"


def _objects_or_classes(labels: Sequence[Labels], values: NDArray, source: str) -> tuple[LabelKind, str]:
    """Decide what a few values mean that are one connected piece each: by their number and their places."""
    counts = {len(np.unique(label[label > 0])) for label in labels}
    overlap = _overlap(labels)
    if len(counts) > 1 and overlap < OTHER_PLACE:
        return "instances", "each value is one connected piece, elsewhere in every image"
    if len(counts) == 1 and overlap >= SAME_PLACE:
        return "classes", f"values {_listing(values)}, in the same places of all images"
    raise DataError(
        f"{source}: the labels can be objects or classes",
        {
            "objects": f"each value is one connected piece, {min(counts)} to {max(counts)} per image",
            "classes": f"there are only {len(values)} values: {_listing(values)}",
            "places": f"a value overlaps with itself in the next image by {100 * overlap:.0f} % (IoU)",
        },
        "give --kind instances if the values number objects, --kind classes if they name classes",
    )


def apply_kind(
    labels: Sequence[Labels],
    kind: LabelKind,
    source: str,
    class_values: Sequence[int] | None = None,
    *,
    coloured: bool = False,
) -> AppliedKind:
    """Number labels as `ImageSet` holds them. Unknown pixels stay unknown.

    "binary": the larger of two values becomes 1; a single value is foreground unless it is 0, or known to be
    background. Two values that are not those known are a mask of another program, and read on their own.
    "classes": values become 0..K-1 in their order. "instances": renumbered 1..n in each image, without gaps.

    Parameters
    ----------
    labels : sequence of integer arrays, each (H, W)
    kind : "binary", "classes" or "instances"
    source : str
        The set, for messages.
    class_values : sequence of int, optional
        The value of each class, of another set; by default those that occur.
    coloured : bool
        The values are colours. Those of a mask are kept.

    Raises
    ------
    DataError
        More than two values for "binary"; a single one, more than 256 or other values for "classes"; an
        unknown kind.
    """
    if kind not in KINDS:
        raise DataError(f"unknown kind of labels: {kind!r}", remedy=f"choose one of {', '.join(KINDS)}")
    if kind == "instances":
        return AppliedKind([renumber(label) for label in labels], 2, None)
    values = _values(labels)
    if kind == "classes":
        return _number_classes(labels, values, source, class_values, coloured)
    if len(values) > 2:
        raise DataError(
            f"{source}: binary labels have two values, found {len(values)}: {_listing(values)}",
            remedy="threshold them, or leave the kind to the reader",
        )
    if coloured and len(values if class_values is None else class_values) == 2:
        return _number_classes(labels, values, source, class_values, coloured)  # keeps the colours
    pair = tuple(values.tolist())
    if class_values is not None and len(class_values) == 2 and set(pair) <= set(class_values):
        pair = tuple(class_values)  # of two values that are known, one is enough to tell which it is
    foreground = (pair[-1] if pair else 0) or 1
    binary = [np.where(label < 0, label, label == foreground).astype(label.dtype) for label in labels]
    return AppliedKind(binary, 2, pair if len(pair) == 2 and pair != (0, 1) else None)


def _number_classes(
    labels: Sequence[Labels],
    values: NDArray,
    source: str,
    class_values: Sequence[int] | None,
    coloured: bool,
) -> AppliedKind:
    known = values if class_values is None else np.array(class_values, values.dtype)
    if len(known) > MOST_CLASSES:
        raise DataError(
            f"{source}: up to {MOST_CLASSES} classes, found {len(known)} values: {_listing(known)}",
            remedy="renumber the classes, or give --kind instances",
        )
    if len(known) < 2:
        raise DataError(
            f"{source}: the labels show one class everywhere, there is nothing to tell apart",
            {"found": _listing(known, coloured)},
            "label a second class; values given with --ignore are none",
        )
    foreign = np.setdiff1d(values, known)
    if foreign.size:
        raise DataError(
            f"{source}: labels have values that are no known class",
            {
                "not known": _listing(foreign, coloured),
                "these labels": _listing(values, coloured),
                "known classes": _listing(known, coloured),
            },
            "correct the labels, or give the values that mean unknown with --ignore",
        )
    order = np.argsort(known)
    numbered = []
    for label in labels:
        classes = order[np.searchsorted(known[order], label).clip(0, len(known) - 1)]
        numbered.append(np.where(label < 0, label, classes).astype(label.dtype))
    return AppliedKind(numbered, len(known), tuple(map(int, known)))


def renumber(label: Labels) -> Labels:
    """Number the objects of one image 1..n without gaps, in the order of their values; 0 and -1 stay."""
    highest = int(label.max(initial=0))
    if label.dtype.kind == "i" and highest < label.size and label.min(initial=0) >= UNKNOWN:
        table = np.zeros(highest + 2, np.int64)  # by value; UNKNOWN, -1, is the last
        table[label.ravel()] = 1
        table[0], table[-1] = 0, 0
        table = np.cumsum(table)
        table[-1] = UNKNOWN
        return table[label].astype(label.dtype)
    values, inverse = np.unique(label, return_inverse=True)  # numbers beyond a table, and slower
    numbers = np.where(values > 0, np.cumsum(values > 0), values)
    return numbers[inverse].reshape(label.shape).astype(label.dtype)


def _values(labels: Sequence[Labels]) -> NDArray[np.integer]:
    values = np.unique(np.concatenate([np.unique(label) for label in labels]))
    return values[values >= 0]


def _objects(label: Labels) -> list[NDArray[np.bool_]]:
    """Cut out each value of one image as a mask; 0 is background and left out."""
    compact = renumber(label)  # so that a high value does not make find_objects walk through millions
    boxes = ndimage.find_objects(compact.clip(0))
    return [compact[box] == number for number, box in enumerate(boxes, 1)]


def _pieces(label: Labels) -> list[int]:
    """Count the connected pieces of each value of one image."""
    return [ndimage.label(mask, TOUCHING)[1] for mask in _objects(label)]


def _whole(labels: Sequence[Labels]) -> float:
    """Return the share of values whose largest piece holds most of their pixels."""
    whole = [
        np.bincount(ndimage.label(mask, TOUCHING)[0].ravel())[1:].max() >= WHOLE * mask.sum()
        for label in labels
        for mask in _objects(label)
    ]
    return float(np.mean(whole))


def _overlap(labels: Sequence[Labels]) -> float:
    """Return the mean IoU of a value with itself in the next image; 0 where no value occurs in both."""
    small = []
    for label in labels:
        rows, columns = ((np.arange(GRID) * size) // GRID for size in label.shape)
        small.append(label[np.ix_(rows, columns)])
    overlaps = [
        np.count_nonzero((a == value) & (b == value)) / np.count_nonzero((a == value) | (b == value))
        for a, b in pairwise(small)
        for value in np.intersect1d(a[a > 0], b[b > 0])
    ]
    return float(np.mean(overlaps)) if overlaps else 0.0


def _require_one_foreground(labels: Sequence[Labels], values: NDArray, source: str) -> None:
    """Raise a DataError for masks whose foreground differs, such as 0 and 1 here, 0 and 255 there."""
    if _without_gaps(values) or any(len(_values([label])) > 2 for label in labels):
        return
    raise DataError(
        f"{source}: the labels can be masks or classes",
        {
            "masks": "no image has more than two values",
            "classes": f"the images have the values {_listing(values)} together",
        },
        "save all masks with the same two values, or give --kind classes",
    )


def _without_gaps(values: NDArray) -> bool:
    return bool(values[-1] == len(values) - 1)


def _require_no_smoothed_edges(labels: Sequence[Labels], values: NDArray, source: str) -> None:
    """Raise a DataError if values between others are nothing but thin fringes: smoothed or lossy edges."""
    if _without_gaps(values):  # numbers that somebody chose
        return
    solid = {
        int(value)
        for label in labels
        for value in np.unique(label[ndimage.minimum_filter(label, 3) == ndimage.maximum_filter(label, 3)])
    }
    thin = [int(value) for value in values[1:-1] if int(value) not in solid]
    if thin:
        raise DataError(
            f"{source}: cannot tell what the labels mean",
            {
                "smoothed edges": f"only thin lines have the values {_listing(np.array(thin))}",
                "classes": f"values {_listing(values)}",
            },
            "threshold masks with smoothed edges; if these are classes, give --kind classes or renumber them",
        )


def _listing(values: NDArray[np.integer], coloured: bool = False) -> str:
    texts = [f"#{value:06x}" if coloured else str(value) for value in values]
    if values.size > 2 and not coloured and _without_gaps(values):
        return f"0..{values[-1]}"
    return ", ".join(texts if len(texts) <= 8 else [*texts[:8], f"... {texts[-1]}"])
