"""Turns class probabilities into numbered objects, and into a label image that Fiji and napari open.

The network gives each pixel a probability of being inside a cell. Connected pixels above the threshold are
one object, unless the distance to the background has two summits with a neck between them: then the object
is cut at the neck.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet.backend.jit import kernel
from tinyunet.errors import DataError, ShapeError, describe
from tinyunet.metrics.contingency import check_probabilities
from tinyunet.metrics.mistakes import SMALLEST_OBJECT
from tinyunet.prediction.necks import cut_at_necks

EIGHT_CONNECTED = np.ones((3, 3), bool)


def label_instances(
    probabilities: np.ndarray,
    *,
    threshold: float = 0.5,
    min_size: int = SMALLEST_OBJECT,
    max_hole: int = 30,
    split_depth: float | None = 1.0,
) -> np.ndarray:
    """Number the objects of a probability map: threshold, fill holes, split, drop specks.

    Parameters
    ----------
    probabilities : float array, shape (H, W) or (H, W, K), or bool mask (H, W)
        Probability of the foreground; or of K ≥ 2 classes, of which class 0 is the background.
    threshold : float
        Pixels with a higher probability are foreground.
    min_size : int
        Smallest object to keep, in pixels.
    max_hole : int
        Largest hole to fill, in pixels; 0 for none. Choose it smaller than the gaps that rings of touching
        cells enclose, because these are holes too.
    split_depth : float or None
        How deep a neck must be to cut there, in pixels of distance to the background: a neck of width w
        between two discs of diameter d is about (d − w)/2 deep. None never cuts, which is right for objects
        that are not round, such as neurites.

    Returns
    -------
    int32 array, shape (H, W)
        0 for the background, 1 … n for the objects in the order of their first pixels, row by row.

    Raises
    ------
    ShapeError
        Neither (H, W) nor (H, W, K ≥ 2).
    DataError
        A probability is outside 0 … 1 or NaN, or `split_depth` is not above 0.
    """
    probabilities = np.asarray(probabilities)
    _check(probabilities, split_depth)
    mask = above(probabilities, threshold)
    fill_holes(mask, max_hole)
    objects, count = ndimage.label(mask, output=np.int32)
    if split_depth is not None:
        count = cut_at_necks(objects, split_depth)
    _number_by_first_pixel(objects, sizes_of(objects, count) >= min_size)
    return objects


def _check(probabilities: np.ndarray, split_depth: float | None) -> None:
    if probabilities.ndim not in (2, 3) or probabilities.size == 0 or probabilities.shape[2:] == (1,):
        raise ShapeError(
            "label_instances: needs the foreground (H, W) or K >= 2 classes (H, W, K)",
            {"probabilities": describe(probabilities)},
            "label one image at a time; of a single channel pass probabilities[..., 0]",
        )
    check_probabilities("label_instances", probabilities)
    if split_depth is not None and not split_depth > 0:
        raise DataError(
            f"label_instances: split_depth must be above 0, is {split_depth}", remedy="None never cuts"
        )


def above(probabilities: np.ndarray, threshold: float) -> NDArray[np.bool_]:
    """Mask the pixels whose probability of the foreground is above the threshold."""
    mask = np.empty(probabilities.shape[:2], bool)
    for row, probability in zip(
        mask, probabilities, strict=True
    ):  # row by row, to need no second float image
        row[...] = (probability if probability.ndim == 1 else 1 - probability[:, 0]) > threshold
    return mask


def fill_holes(mask: NDArray[np.bool_], max_hole: int) -> None:
    """Fill the small holes of a mask in place. Background at the edge of the image is no hole."""
    background, count = ndimage.label(~mask, EIGHT_CONNECTED, output=np.int32)
    is_hole = sizes_of(background, count) <= max_hole
    for edge in (background[0], background[-1], background[:, 0], background[:, -1]):
        is_hole[edge] = False
    is_hole[0] = False  # the foreground
    mask |= is_hole[background]


@kernel
def sizes_of(labels, count):
    """Count the pixels of each label from 0 to `count`."""
    sizes = np.zeros(count + 1, np.int64)
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            sizes[labels[i, j]] += 1
    return sizes


@kernel
def _number_by_first_pixel(labels, kept):
    """Renumber labels in place, 1 … n in the order of their first pixels; those not kept become 0."""
    numbers = np.zeros(len(kept), labels.dtype)
    count = 0
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            label = labels[i, j]
            if label != 0 and kept[label] and numbers[label] == 0:
                count += 1
                numbers[label] = count
            labels[i, j] = numbers[label]
