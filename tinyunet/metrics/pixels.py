"""Measures that look at one pixel at a time: pixel error, IoU and Dice of each class."""

from __future__ import annotations

import numpy as np

from tinyunet.errors import DataError
from tinyunet.metrics.contingency import check_same_shape, check_whole_numbers


def pixel_error(prediction: np.ndarray, labels: np.ndarray, *, ignore_label: int | None = None) -> float:
    """Share of the pixels whose class is wrong, 0 (best) to 1.

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
    The ISBI 2012 challenge reported the same of a probability map at its best threshold [1]_.

    References
    ----------
    .. [1] Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142.
    """
    prediction, labels = _counted_pixels("pixel_error", prediction, labels, ignore_label)
    return float(np.mean(prediction != labels))


def iou(
    prediction: np.ndarray, labels: np.ndarray, num_classes: int, *, ignore_label: int | None = None
) -> np.ndarray:
    """Intersection over union of each class, 0 to 1 (best): TP / (TP + FP + FN).

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
        A class that neither array has gets 1: there was nothing to find, and nothing was found.

    Raises
    ------
    ShapeError, DtypeError
        The shapes differ; an array does not hold whole numbers.
    DataError
        A class outside 0 … num_classes − 1, or no pixel counts.
    """
    hits, predicted, true = _hits(
        confusion_matrix(prediction, labels, num_classes, ignore_label=ignore_label)
    )
    union = predicted + true - hits
    return np.divide(hits, union, out=np.ones(num_classes), where=union > 0)


def dice(
    prediction: np.ndarray, labels: np.ndarray, num_classes: int, *, ignore_label: int | None = None
) -> np.ndarray:
    """Dice coefficient of each class, 0 to 1 (best): 2 TP / (2 TP + FP + FN), the F-score of its pixels.

    Parameters, the value of an absent class and errors are those of `iou`.
    """
    hits, predicted, true = _hits(
        confusion_matrix(prediction, labels, num_classes, ignore_label=ignore_label)
    )
    total = predicted + true
    return np.divide(2 * hits, total, out=np.ones(num_classes), where=total > 0)


def confusion_matrix(
    prediction: np.ndarray, labels: np.ndarray, num_classes: int, *, ignore_label: int | None = None
) -> np.ndarray:
    """Pixels by class: entry ``[t, p]`` counts those of class t that were predicted as p.

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
                remedy="renumber the classes, or name the odd one as ignore_label",
            )
    pairs = labels.astype(np.int64) * num_classes + prediction.astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _hits(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class: pixels found rightly, pixels predicted, pixels there are."""
    return np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)


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
            f"{where}: no pixel to compare",
            {"ignore_label": ignore_label},
            "leave this image out of the mean",
        )
    return prediction, labels
