"""The table of overlaps from which all measures of segments and objects start, and checks of their input."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from tinyunet.errors import DataError, DtypeError, ShapeError, describe

ROUNDING = 1e-5  # how far rounding may move float32 probabilities out of 0 … 1


def check_same_shape(where: str, prediction: np.ndarray, labels: np.ndarray) -> None:
    """Raise ShapeError unless the prediction and the ground truth have the same pixels."""
    if prediction.shape != labels.shape:
        raise ShapeError(
            f"{where}: the prediction and the labels differ in shape",
            {"prediction": describe(prediction), "labels": describe(labels)},
            "give both for the same pixels",
        )


def check_whole_numbers(where: str, **arrays: np.ndarray) -> None:
    """Raise DtypeError unless every array is of an integer type or bool."""
    for name, array in arrays.items():
        if array.dtype.kind not in "iub":
            raise DtypeError(
                f"{where}: {name} must hold whole numbers, but it is {array.dtype}",
                remedy="argmax(axis=-1) turns probabilities into classes, label_instances into objects",
            )


def check_binary(where: str, **arrays: np.ndarray) -> None:
    """Raise DataError unless every array, none of them empty, holds 0 and at most one other value.

    That may be 1, 255 or True.
    """
    for name, array in arrays.items():
        if np.any((array != 0) & (array != array.max())):
            raise DataError(
                f"{where}: {name} must be binary, but it holds more than two values",
                remedy="compare label images with rand_error, information_score, seg or average_precision",
            )


def check_probabilities(where: str, probabilities: np.ndarray) -> None:
    """Raise DataError unless all numbers of an array, which must not be empty, are from 0 to 1."""
    lowest, highest = probabilities.min(), probabilities.max()
    if not (lowest >= -ROUNDING and highest <= 1 + ROUNDING):  # in this form NaN fails too
        raise DataError(
            f"{where}: probabilities run from 0 to 1, found {lowest} to {highest}",
            remedy="apply softmax to scores, or divide 8-bit maps by 255",
        )


def contingency(where: str, segmentation: np.ndarray, labels: np.ndarray) -> sparse.csr_array:
    """Count the pixels that each segment shares with each object of the ground truth.

    Parameters
    ----------
    where : str
        The caller's name, for its errors.
    segmentation, labels : integer array, shape (H, W)
        Label images; the numbers need not be consecutive.

    Returns
    -------
    csr_array, shape (1 + segments, 1 + objects), int64
        Entry ``[i, j]`` counts the pixels in both segment i and object j. Row 0 and column 0 stand for the
        zeros of the label images, present or not; every other row and column has at least one pixel.

    Raises
    ------
    ShapeError
        The shapes differ.
    DtypeError
        An image does not hold whole numbers.
    DataError
        A label is negative, or the images are empty.
    """
    segmentation, labels = np.asarray(segmentation), np.asarray(labels)
    check_same_shape(where, segmentation, labels)
    check_whole_numbers(where, segmentation=segmentation, labels=labels)
    if labels.size == 0:
        raise DataError(f"{where}: the images have no pixels", {"labels": describe(labels)})
    rows, row_count = _consecutive(where, segmentation)
    columns, column_count = _consecutive(where, labels)
    ones = np.ones(labels.size, np.int64)
    return sparse.coo_array((ones, (rows, columns)), shape=(row_count, column_count)).tocsr()


def _consecutive(where: str, labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Return flat labels, renumbered 0 … count − 1 in their order, and count. 0 stays 0, present or not."""
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0:
        raise DataError(f"{where}: labels start at 0 (background), found {lowest}")
    flat = labels.ravel()
    if highest > flat.size:  # a table over all numbers up to the highest would be larger than the image
        values, flat = np.unique(np.append(flat, flat.dtype.type(0)), return_inverse=True)
        return flat[:-1], len(values)
    flat = flat.astype(np.int64, copy=False)  # Booleans would select instead of index
    present = np.zeros(highest + 1, bool)
    present[0] = True
    present[flat] = True
    return (np.cumsum(present) - 1)[flat], int(present.sum())
