"""Computes the paper's weight map: how much each pixel counts in the loss (section 3, equation 2).

    w(x) = w_c(x) + w0 · exp(−(d1(x) + d2(x))² / 2σ²)

w_c balances the classes; the second term, the separation border, makes the narrow background between two
cells count. d1 and d2 are the distances to the nearest and to the second nearest cell.

One distance transform per cell would find them, in seconds. `nearest_two_cells` finds them for all cells at
once, exactly, by searching along columns and then along rows.

Tutorial: `tutorials/10_cross_entropy_weight_map.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet.backend.jit import kernel
from tinyunet.errors import DataError, DtypeError, OptionError, ShapeError, describe

NEGLIGIBLE = 1e-6  # smaller border weights may be left out: it is the spacing of float32 numbers near 10


def weight_map(
    labels: NDArray[np.integer],
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_balance: bool | Sequence[float] = True,
    classes: NDArray[np.integer] | None = None,
    ignore_label: int | None = None,
) -> NDArray[np.float32]:
    """Compute the weight of each pixel in the loss.

    Parameters
    ----------
    labels : ndarray, shape (H, W), integer
        0 is background, each other value one cell, in one piece or several. A binary mask is a single cell
        and gets no border: number it with `label_cells` first. Touching cells have no background between them
        to weight: separate them with `separate_touching` first.
    w0 : float
        Largest weight of the border, where 1 leaves a pixel's loss as it is.
    sigma : float
        Width of the border term, in pixels.
    class_balance : bool or sequence of float
        The weights w_c by class. True: those of `class_weights` for this image. False: 1 for all.
    classes : ndarray, shape (H, W), integer, optional
        The class of each pixel, from 0. Without it: background 0 and foreground 1, from `labels`.
    ignore_label : int, optional
        Pixels of this class (with this label, if `classes` is not given) weigh 0 and belong to no cell.

    Returns
    -------
    ndarray, shape (H, W), float32
        The border term is 0 in an image of fewer than two cells, and inside cells: the paper's term is there
        to teach "the small separation borders", which are background. Inside a cell d1 = 0, and the rim that
        faces a neighbour would weigh more than the border itself, in favour of the other class.

    Raises
    ------
    ShapeError, DtypeError, DataError, OptionError
        Not (H, W) integers, `classes` of another shape, a class without a weight, w0 or sigma out of range.

    Examples
    --------
    Between two cells two pixels apart d1 + d2 = 3, and 1 + 10 exp(−9/50) = 9.35.

    >>> weight_map(np.array([[1, 1, 0, 0, 2]]), class_balance=False).round(2)
    array([[1.  , 1.  , 9.35, 9.35, 1.  ]], dtype=float32)
    """
    labels = _check_labels("weight_map", labels)
    if not (w0 >= 0 and sigma > 0):
        raise OptionError(f"weight_map: w0 must be at least 0 and sigma above 0, got {w0} and {sigma}")
    target = labels if classes is None else _check_labels("weight_map", classes)
    if target.shape != labels.shape:
        raise ShapeError(
            "weight_map: classes and labels differ in shape",
            {"labels": describe(labels, "H W"), "classes": describe(target, "H W")},
        )
    ignored = np.zeros(labels.shape, bool) if ignore_label is None else target == ignore_label
    cells = np.where(ignored, 0, labels)
    target = np.where(ignored, 0, cells != 0 if classes is None else target)

    weights = _weights_by_class(class_balance, target, ignored)[target]
    weights += _border(cells, w0, sigma)
    weights[ignored] = 0
    return weights


def _weights_by_class(
    class_balance: bool | Sequence[float], target: NDArray[np.integer], ignored: NDArray[np.bool_]
) -> NDArray[np.float32]:
    if target.min() < 0:
        raise DataError(f"weight_map: classes count from 0, found {target.min()}")
    num_classes = int(target.max()) + 1
    if class_balance is True:
        return class_weights([target[~ignored]], num_classes)
    if class_balance is False:
        return np.ones(num_classes, np.float32)
    given = np.asarray(class_balance, np.float32)
    if given.ndim != 1 or len(given) < num_classes or not (given >= 0).all():
        raise DataError(
            f"weight_map: class_balance {class_balance} has no weight for class {num_classes - 1}",
            remedy="give a weight of at least 0 for each class",
        )
    return given


def _border(cells: NDArray[np.integer], w0: float, sigma: float) -> NDArray[np.float32]:
    """Compute w0 exp(−(d1 + d2)² / 2σ²) outside cells; 0 where d2 alone brings it below `NEGLIGIBLE`."""
    reach = border_reach(w0, sigma)
    if reach == 0:
        return np.zeros(cells.shape, np.float32)
    d1, d2 = nearest_two_cells(cells, max_distance=reach, only_background=True)
    return np.float32(w0) * np.exp(-((d1 + d2) ** 2) / np.float32(2 * sigma**2))


def border_reach(w0: float, sigma: float) -> float:
    """Return the distance in pixels where the border term falls to `NEGLIGIBLE`; 0 if it is never above."""
    return float(sigma * np.sqrt(2 * np.log(max(w0 / NEGLIGIBLE, 1))))


def class_weights(label_images: Iterable[NDArray[np.integer]], num_classes: int) -> NDArray[np.float32]:
    """Compute weights w_c that give every class the same total weight: w_c = n / (K n_c).

    n_c of all n pixels are of class c, and K classes occur, so the mean weight of a pixel is 1. The paper
    demands a balance and gives no formula; this one is ours.

    Parameters
    ----------
    label_images : iterable of integer arrays
        The class of each pixel, in 0 … num_classes − 1; for the whole training set, or for one image.
    num_classes : int

    Returns
    -------
    ndarray, shape (num_classes,), float32
        0 for a class that does not occur.

    Raises
    ------
    DataError
        A class outside 0 … num_classes − 1.
    """
    counts = np.zeros(num_classes, np.int64)
    for image in label_images:
        if image.size and not 0 <= image.min() <= image.max() < num_classes:
            found = f"{image.min()} to {image.max()}"
            raise DataError(f"class_weights: classes run from 0 to {num_classes - 1}, found {found}")
        counts += np.bincount(image.ravel().astype(np.int64, copy=False), minlength=num_classes)
    return balance(counts)


def balance(counts: NDArray[np.integer]) -> NDArray[np.float32]:
    """Compute the weights of `class_weights` from the number of pixels of each class."""
    present = counts > 0
    weights = np.zeros(len(counts), np.float32)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def nearest_two_cells(
    labels: NDArray[np.integer], *, max_distance: float = np.inf, only_background: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute each pixel's Euclidean distance to the nearest cell, d1, and to the second nearest, d2.

    Parameters
    ----------
    labels : ndarray, shape (H, W), integer
        0 is background, each other value one cell.
    max_distance : float
        Cells further away than this, in pixels, are ignored. The smaller, the faster.
    only_background : bool
        Whether to leave out the pixels in cells, where both distances are then infinite. In a large cell the
        search for another takes longest.

    Returns
    -------
    d1, d2 : ndarray, shape (H, W), float32
        Between pixel centres: 1 next to a cell, 0 inside it (where d2 is the distance to the nearest other
        cell). Infinite where no such cell lies within `max_distance`.

    Raises
    ------
    ShapeError, DtypeError
        Not (H, W) integers.

    Notes
    -----
    First, find for each pixel the two nearest different cells of its own column, and their distances dy.
    Then take in those of the columns dx = 0, 1, 2 … to its left and right, while dx² is less than the second
    smallest dx² + dy² so far. Two cells per column suffice: if the second nearest cell overall were only the
    third of its column, the two before it would be nearer to the pixel as well.
    """
    labels = _check_labels("nearest_two_cells", labels)
    cell, dy = _nearest_two_of_columns(labels)
    d1, d2 = _nearest_two_of_rows(cell, dy, squared_limit(labels.shape, max_distance), only_background)
    return d1, d2


def squared_limit(shape: tuple[int, ...], max_distance: float) -> int:
    """Return a bound that is above the squares of the distances to search; no distance exceeds H + W."""
    most = min(max_distance, sum(shape))
    return int(most * most) + 1


@kernel
def _insert(first, d_first, second, d_second, label, d):
    """Return the two nearest distinct cells of three candidates. The first two are in order; 0 is no cell."""
    if label == 0:
        return first, d_first, second, d_second
    if label == first:
        return first, min(d, d_first), second, d_second
    if d < d_first:
        return label, d, first, d_first
    if d < d_second:
        return first, d_first, label, d
    return first, d_first, second, d_second


@kernel
def _nearest_two_of_columns(labels):
    """Find each pixel's two nearest cells in its column, and their distances dy: both (H, W, 2), int32."""
    height, width = labels.shape
    cell = np.zeros((height, width, 2), np.int32)
    dy = np.full((height, width, 2), height, np.int32)  # further than any cell: none was found
    for i in range(height):
        for j in range(width):
            if labels[i, j] != 0:
                cell[i, j, 0], dy[i, j, 0] = labels[i, j], 0
    for i in range(1, height):
        _update_from_row(cell, dy, i, i - 1)
    for i in range(height - 2, -1, -1):
        _update_from_row(cell, dy, i, i + 1)
    return cell, dy


@kernel
def _update_from_row(cell, dy, i, neighbour):
    """Take over the cells of the neighbouring row, which are one pixel further away."""
    for j in range(cell.shape[1]):
        first, d_first, second, d_second = cell[i, j, 0], dy[i, j, 0], cell[i, j, 1], dy[i, j, 1]
        for k in range(2):
            first, d_first, second, d_second = _insert(
                first, d_first, second, d_second, cell[neighbour, j, k], dy[neighbour, j, k] + 1
            )
        cell[i, j, 0], dy[i, j, 0], cell[i, j, 1], dy[i, j, 1] = first, d_first, second, d_second


@kernel
def _nearest_two_of_rows(cell, dy, limit, only_background):
    """Find d1 and d2 among the candidates of the columns; infinite where the square is not below `limit`."""
    height, width, _ = cell.shape
    distances = np.full((2, height, width), np.inf, np.float32)
    for i in range(height):
        for j in range(width):
            if only_background and cell[i, j, 0] != 0 and dy[i, j, 0] == 0:
                continue
            # Squared distances are whole numbers, so the comparisons are exact.
            first, d_first, second, d_second = 0, limit, 0, limit
            dx = 0
            while dx * dx < d_second and dx < width:
                for column in (j - dx, j + dx):
                    if 0 <= column < width:
                        for k in range(2):
                            squared = dx * dx + np.int64(dy[i, column, k]) ** 2
                            first, d_first, second, d_second = _insert(
                                first, d_first, second, d_second, np.int64(cell[i, column, k]), squared
                            )
                dx += 1
            if d_first < limit:
                distances[0, i, j] = np.sqrt(d_first)
            if d_second < limit:
                distances[1, i, j] = np.sqrt(d_second)
    return distances


def separate_touching(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """Separate touching cells: pixels in contact become background.

    This is the paper's "separation border", computed "using morphological operations": both cells lose the
    pixels that have a pixel of the other among their eight neighbours, so a gap of two pixels opens. A cell
    two pixels wide or less may vanish.

    Parameters
    ----------
    labels : ndarray, shape (H, W), integer
        0 is background, each other value one cell.

    Returns
    -------
    ndarray, shape (H, W), dtype of labels

    Raises
    ------
    ShapeError, DtypeError
        Not (H, W) integers.
    """
    return np.where(_touches_other_cell(_check_labels("separate_touching", labels)), 0, labels)


@kernel
def _touches_other_cell(labels):
    height, width = labels.shape
    touches = np.zeros((height, width), np.bool_)
    for i in range(height):
        for j in range(width):
            for y in range(max(i - 1, 0), min(i + 2, height)):
                for x in range(max(j - 1, 0), min(j + 2, width)):
                    if labels[i, j] != 0 and labels[y, x] != 0 and labels[y, x] != labels[i, j]:
                        touches[i, j] = True
    return touches


def label_cells(mask: NDArray) -> NDArray[np.int32]:
    """Number the cells of a binary mask (H, W): its 4-connected components."""
    cells, _ = ndimage.label(mask != 0, output=np.int32)
    return cells


def _check_labels(where: str, labels: NDArray) -> NDArray[np.int32]:
    if labels.ndim != 2 or labels.size == 0:
        raise ShapeError(f"{where}: needs one label image (H, W)", {"labels": describe(labels)})
    if labels.dtype.kind not in "iub":
        raise DtypeError(f"{where}: labels must be integers, they are {labels.dtype}")
    numbers = labels.astype(np.int32)
    if not (numbers == labels).all():
        raise DataError(f"{where}: labels must fit in 32 bits, the largest is {labels.max()}")
    return numbers
