"""Warping error: the disagreement that is left if borders may move, but nothing may split or merge.

The ground truth is warped towards the prediction by flipping *simple points*: pixels whose flip changes
neither the number of objects nor that of holes. This removes the difference between shifted borders. A gap in
a membrane, which merges two cells, stays.

As in the ISBI 2012 challenge, objects are 4-connected, the background is 8-connected, and everything outside
the image is background.

References
----------
.. [1] Jain et al. 2010, "Boundary learning by optimization with topological constraints", CVPR.
.. [2] Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tinyunet.backend.jit import kernel
from tinyunet.errors import ShapeError, describe
from tinyunet.metrics.contingency import check_binary, check_same_shape, check_whole_numbers

EIGHT_CONNECTED = np.ones((3, 3), bool)


class Mistake(StrEnum):
    """A kind of mistake in the topology of a prediction."""

    SPLIT = "split"
    MERGER = "merger"
    OBJECT_ADDED = "object added"
    OBJECT_DELETED = "object deleted"
    HOLE_ADDED = "hole added"
    HOLE_DELETED = "hole deleted"


class MistakeCount(NamedTuple):
    """The number of pixels of one kind of mistake, and of their 8-connected groups."""

    pixels: int
    groups: int


def warping_error(prediction: np.ndarray, labels: np.ndarray) -> float:
    """Compute the share of pixels that still disagree after warping, 0 (best) to 1.

    Parameters
    ----------
    prediction, labels : integer or bool array, shape (H, W)
        Binary: 0 for membrane or background, one other value inside cells.

    Raises
    ------
    ShapeError, DtypeError
        The shapes differ or are not (H, W); an array does not hold whole numbers.
    DataError
        An array has more than two values.

    Notes
    -----
    This is Jain's definition [1]_, without a limit on how far a border may move. The search for the best warp
    is greedy (`warp_labels`), so the value is an upper bound. The challenge's leader board, and with it the
    U-Net paper, counts only splits and mergers, at the best threshold: divide the pixels of these two in
    `warping_mistakes` by H·W. The challenge's script flips the most certain pixels first, which needs the
    probabilities, so its values can differ slightly.

    References
    ----------
    .. [1] Jain et al. 2010, CVPR.
    """
    target, source = _binary_pair("warping_error", prediction, labels)
    return float(np.mean(_warp_padded(source, target)[1:-1, 1:-1] != target))


def warp_labels(prediction: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Warp the ground truth towards the prediction without changing its topology.

    Simple pixels that disagree with the prediction are flipped, pass after pass, until none are left. A pass
    first finds all such pixels, then flips them in row order, each only if it is still simple: borders move
    by one pixel per pass, equally from all sides. The search is greedy: it ends where no single flip helps,
    which may not be the best warp.

    Parameters and errors are those of `warping_error`.

    Returns
    -------
    bool array, shape (H, W)
    """
    target, source = _binary_pair("warp_labels", prediction, labels)
    return _warp_padded(source, target)[1:-1, 1:-1]


def warping_mistakes(prediction: np.ndarray, labels: np.ndarray) -> dict[Mistake, MistakeCount]:
    """Count the mistakes that are left after warping, by kind.

    Each pixel that still disagrees is named after what its flip alone would do to the warped ground truth.
    Filling a background pixel can join objects (merger), start one, close a ring or fill a hole. Clearing an
    object's pixel can cut it (split), delete it, open a hole or join a hole with other background.

    Parameters and errors are those of `warping_error`.
    """
    target, source = _binary_pair("warping_mistakes", prediction, labels)
    kinds = _name_mistakes(_warp_padded(source, target), np.pad(target, 1))
    return {
        kind: MistakeCount(int(np.sum(kinds == kind)), int(ndimage.label(kinds == kind, EIGHT_CONNECTED)[1]))
        for kind in Mistake
    }


def _binary_pair(where: str, prediction: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prediction, labels = np.asarray(prediction), np.asarray(labels)
    check_same_shape(where, prediction, labels)
    check_whole_numbers(where, prediction=prediction, labels=labels)
    if labels.ndim != 2 or labels.size == 0:
        raise ShapeError(
            f"{where}: needs one image (H, W)", {"labels": describe(labels)}, "give the images one by one"
        )
    check_binary(where, prediction=prediction, labels=labels)
    return prediction != 0, labels != 0


def _warp_padded(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Warp the source towards the target. The result has a ring of background around it."""
    warped = np.pad(source, 1).astype(np.int8)
    _flip_simple_points(warped, np.pad(target, 1).astype(np.int8))
    return warped.astype(bool)


@kernel
def _flip_simple_points(warped, target):
    """Warp in place. Both arrays are (H + 2, W + 2), int8, 0 or 1, with 0 in their outermost ring."""
    rows, columns = warped.shape
    front = np.empty((rows * columns, 2), np.int64)
    while True:
        count = 0
        for i in range(1, rows - 1):
            for j in range(1, columns - 1):
                if warped[i, j] != target[i, j] and _is_simple(warped, i, j):
                    front[count, 0], front[count, 1] = i, j
                    count += 1
        if count == 0:
            return
        for k in range(count):
            i, j = front[k]
            if _is_simple(warped, i, j):  # earlier flips may have changed that
                warped[i, j] = 1 - warped[i, j]


@kernel
def _is_simple(image, i, j):
    """Return whether flipping (i, j) keeps objects and holes as they are: Yokoi's connectivity number is 1.

    The number is Σ x[k] − x[k] x[k+1] x[k+2] over the four direct neighbours k, in order around the pixel. It
    counts the 4-connected pieces of foreground that touch the pixel. With 0 the pixel is alone or surrounded,
    with 2 or more it is a bridge.
    """
    east, west, north, south = image[i, j + 1], image[i, j - 1], image[i - 1, j], image[i + 1, j]
    pieces = east + north + west + south
    pieces -= east & image[i - 1, j + 1] & north
    pieces -= north & image[i - 1, j - 1] & west
    pieces -= west & image[i + 1, j - 1] & south
    pieces -= south & image[i + 1, j + 1] & east
    return pieces == 1


def _name_mistakes(warped: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Name each pixel's kind of mistake, "" where the arrays agree. All have the ring of background."""
    kinds = np.full(warped.shape, "", f"<U{max(map(len, Mistake))}")
    rows, columns = np.nonzero(warped != target)
    objects = _distinct_around(ndimage.label(warped)[0], rows, columns, diagonals=False)
    backgrounds = _distinct_around(ndimage.label(~warped, EIGHT_CONNECTED)[0], rows, columns, diagonals=True)
    kinds[rows, columns] = np.where(
        target[rows, columns],
        np.select(
            [objects == 0, objects > 1, backgrounds == 0],
            [Mistake.OBJECT_ADDED, Mistake.MERGER, Mistake.HOLE_DELETED],
            Mistake.HOLE_ADDED,
        ),
        np.select(
            [backgrounds == 0, backgrounds > 1, objects == 0],
            [Mistake.HOLE_ADDED, Mistake.HOLE_DELETED, Mistake.OBJECT_DELETED],
            Mistake.SPLIT,
        ),
    )
    return kinds


def _distinct_around(
    components: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, diagonals: bool
) -> np.ndarray:
    """Count the different components, other than 0, among the neighbours of each pixel."""
    around = [
        components[rows + di, columns + dj]
        for di in (-1, 0, 1)
        for dj in (-1, 0, 1)
        if (di or dj) and (diagonals or not (di and dj))
    ]
    numbers = np.sort(np.stack([np.zeros_like(rows), *around]), axis=0)
    return np.count_nonzero(np.diff(numbers, axis=0), axis=0)
