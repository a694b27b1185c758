"""Measures of single pixels: pixel error, and the IoU and Dice of each class."""

from __future__ import annotations

import numpy as np

from tinyunet.errors import DataError
from tinyunet.metrics.contingency import check_same_shape, check_whole_numbers


def pixel_error(prediction: np.ndarray, labels: np.ndarray, *, ignore_label: int | None = None) -> float:
    """Compute the share of the pixels whose class is wrong, 0 (best) to 1.

    Parameters
    ----------
    prediction, labels : integer or bool array, same shape
        Classes.
    ignore_label : int, optional
        Pixels with this label do not count.

    Raises
    ------
    ShapeError, DtypeError
        The shapes differ; an array does not hold whole numbers.
    DataError
        No pixel counts.

    Notes
    -----
    The ISBI 2012 challenge reported this error for a probability map at its best threshold [1]_.

    References
    ----------
    .. [1] Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142.
    """
    prediction, labels = _counted_pixels("pixel_error", prediction, labels, ignore_label)
    return float(np.mean(prediction != labels))


def iou(
    prediction: np.ndarray, labels: np.ndarray, num_classes: int, *, ignore_label: int | None = None
) -> np.ndarray:
    """Compute the intersection over union of each class, 0 to 1 (best): TP / (TP + FP + FN).

    Parameters
    ----------
    prediction, labels : integer or bool array, same shape
        Classes 0 … num_classes − 1.
    num_classes : int
    ignore_label : int, optional
        Pixels with this label do not count.

    Returns
    -------
    array, shape (num_classes,), float64
        NaN for a class that neither array has.

    Raises
    ------
    ShapeError, DtypeError
        The shapes differ; an array does not hold whole numbers.
    DataError
        A class outside 0 … num_classes − 1, or no pixel counts.

    Notes
    -----
    Where there was nothing to find and nothing was found the quotient is 0/0. To call that 1 would reward a
    network that predicts nothing, the more so the rarer the class is. Leave NaN out of means
    (`numpy.nanmean`), or score a set of images as one: `iou_from_counts` of the sum of their
    confusion matrices.

    Examples
    --------
    >>> import numpy as np
    >>> prediction, labels = np.array([[0, 1, 1, 1]]), np.array([[0, 0, 1, 1]])
    >>> iou(prediction, labels, num_classes=2).round(2)
    array([0.5 , 0.67])
    """
    return iou_from_counts(confusion_matrix(prediction, labels, num_classes, ignore_label=ignore_label))


def dice(
    prediction: np.ndarray, labels: np.ndarray, num_classes: int, *, ignore_label: int | None = None
) -> np.ndarray:
    """Compute each class's Dice coefficient, 0 to 1 (best): 2 TP / (2 TP + FP + FN), the pixels' F-score.

    Parameters, result, errors and the reason for NaN are those of `iou`.
    """
    return dice_from_counts(confusion_matrix(prediction, labels, num_classes, ignore_label=ignore_label))


def iou_from_counts(matrix: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of each class from a `confusion_matrix` or the sum of several.

    Parameters
    ----------
    matrix : integer array, shape (num_classes, num_classes)

    Returns
    -------
    array, shape (num_classes,), float64
        NaN for a class without any pixel, true or predicted.

    Examples
    --------
    The scores of two images together:

    >>> first, second = np.array([[1, 1, 0, 0]]), np.array([[0, 0, 0, 0]])
    >>> truth = np.array([[1, 0, 0, 0]])
    >>> iou_from_counts(confusion_matrix(first, truth, 3) + confusion_matrix(second, truth, 3))
    array([0.71428571, 0.33333333,        nan])
    """
    hits, predicted, true = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    return _quotient(hits, predicted + true - hits)


def dice_from_counts(matrix: np.ndarray) -> np.ndarray:
    """Compute the Dice coefficient of each class from a `confusion_matrix`, as `iou_from_counts`."""
    return _quotient(2 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1))


def confusion_matrix(
    prediction: np.ndarray, labels: np.ndarray, num_classes: int, *, ignore_label: int | None = None
) -> np.ndarray:
    """Count pixels by class: entry ``[t, p]`` counts those of class t that were predicted as p.

    Parameters and errors are those of `iou`. The matrices of several images add up to that of the set.

    Returns
    -------
    array, shape (num_classes, num_classes), int64
    """
    prediction, labels = _counted_pixels("confusion_matrix", prediction, labels, ignore_label)
    for name, array in {"prediction": prediction, "labels": labels}.items():
        if array.min() < 0 or array.max() >= num_classes:
            raise DataError(
                f"confusion_matrix: {name} holds {array.min()} to {array.max()}, "
                f"the classes are 0 to {num_classes - 1}",
                remedy="renumber the classes, or give the extra one as ignore_label",
            )
    pairs = labels.astype(np.int64) * num_classes + prediction.astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide counts of pixels; 0/0 is NaN."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _counted_pixels(
    where: str, prediction: np.ndarray, labels: np.ndarray, ignore_label: int | None
) -> tuple[np.ndarray, np.ndarray]:
    prediction, labels = np.asarray(prediction), np.asarray(labels)
    check_same_shape(where, prediction, labels)
    check_whole_numbers(where, prediction=prediction, labels=labels)
    prediction, labels = prediction.ravel(), labels.ravel()
    if ignore_label is not None:
        counts = labels != ignore_label
        prediction, labels = prediction[counts], labels[counts]
    if labels.size == 0:
        raise DataError(
            f"{where}: no pixel counts",
            {"ignore_label": ignore_label},
            "leave this image out of the mean",
        )
    return prediction, labels
