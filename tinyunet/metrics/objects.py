"""Measures that count objects: SEG of the Cell Tracking Challenge, average precision at IoU thresholds.

Both rest on the intersection over union (IoU, Jaccard index) of a predicted and a true object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from tinyunet.metrics.contingency import contingency

IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def seg(segmentation: np.ndarray, labels: np.ndarray) -> float:
    """Compute SEG of the Cell Tracking Challenge, 0 to 1 (best): the mean of `seg_per_object`.

    The challenge averages over the objects of all frames: for several images, join the arrays of
    `seg_per_object` and take their mean. Predicted objects that cover no true one cost nothing.

    Parameters
    ----------
    segmentation, labels : integer array, shape (H, W)
        Label images.

    Returns
    -------
    float
        NaN without any object in the ground truth, whatever was predicted: it is a mean over true objects.

    Raises
    ------
    ShapeError, DtypeError
        The shapes differ; an image does not hold whole numbers.
    DataError
        A label is negative.

    References
    ----------
    .. [1] Maška et al. 2014, Bioinformatics 30:1609, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.array([[1, 1, 1, 0, 2, 2]])
    >>> seg(np.array([[7, 7, 7, 0, 0, 8]]), labels)  # half of the second: too little
    0.5
    """
    scores = seg_per_object(segmentation, labels)
    return float(scores.mean()) if scores.size else float("nan")


def seg_per_object(segmentation: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the IoU of each true object with the predicted one that covers more than half of it.

    Parameters and errors are those of `seg`.

    Returns
    -------
    array, shape (objects,), float64
        In the order of the labels; 0 if no predicted object covers more than half of the true one.
    """
    overlaps = _overlaps("seg", segmentation, labels)
    covers = 2 * overlaps.joint > overlaps.object_size
    scores = np.zeros(overlaps.objects)
    scores[overlaps.object[covers]] = overlaps.iou[covers]
    return scores


def average_precision(
    segmentation: np.ndarray, labels: np.ndarray, thresholds: Sequence[float] | float = IOU_THRESHOLDS
) -> np.ndarray:
    """Compute TP / (TP + FP + FN) at each IoU threshold, 0 to 1 (best).

    A predicted and a true object may match if their IoU is at least the threshold. The true positives are the
    largest possible number of one-to-one matches. The mean over the thresholds is the score of the Data
    Science Bowl 2018 for one image; the caller takes the mean over images.

    Parameters
    ----------
    segmentation, labels : integer array, shape (H, W)
        Label images.
    thresholds : float or sequence of float
        Above 0; 0.5, 0.55, … 0.95 by default.

    Returns
    -------
    array, shape (thresholds,), float64
        NaN where neither image has an object; 0 where only one of them has.

    Raises
    ------
    ShapeError, DtypeError
        The shapes differ; an image does not hold whole numbers.
    DataError
        A label is negative.

    References
    ----------
    .. [1] Caicedo et al. 2019, Nat. Methods 16:1247.
    """
    return average_precision_from_counts(
        _object_counts("average_precision", segmentation, labels, np.atleast_1d(thresholds))
    )


def object_counts(
    segmentation: np.ndarray, labels: np.ndarray, thresholds: Sequence[float] | float = IOU_THRESHOLDS
) -> np.ndarray:
    """Count the objects that were found, added and missed (TP, FP, FN) at each IoU threshold.

    Parameters and errors are those of `average_precision`. The counts of several images add up to those of
    the set.

    Returns
    -------
    array, shape (thresholds, 3), int64
    """
    return _object_counts("object_counts", segmentation, labels, np.atleast_1d(thresholds))


def average_precision_from_counts(counts: np.ndarray) -> np.ndarray:
    """Average precision at each threshold from `object_counts` or the sum of several; 0/0 is NaN."""
    found, total = counts[:, 0], counts.sum(axis=1)
    return np.divide(found, total, out=np.full(len(counts), np.nan), where=total > 0)


def _object_counts(
    where: str, segmentation: np.ndarray, labels: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    overlaps = _overlaps(where, segmentation, labels)
    found = np.array([_most_matches(overlaps, overlaps.iou >= threshold) for threshold in thresholds])
    return np.stack([found, overlaps.segments - found, overlaps.objects - found], axis=1).astype(np.int64)


class _Overlaps(NamedTuple):
    """Pairs of a segment and an object that share pixels; both are numbered from 0."""

    segments: int
    objects: int
    segment: np.ndarray
    object: np.ndarray
    joint: np.ndarray
    object_size: np.ndarray
    iou: np.ndarray


def _overlaps(where: str, segmentation: np.ndarray, labels: np.ndarray) -> _Overlaps:
    table = contingency(where, segmentation, labels)
    pairs = table[1:, 1:].tocoo()
    segment, truth = pairs.coords
    segment_size = table.sum(axis=1)[1:][segment]
    object_size = table.sum(axis=0)[1:][truth]
    iou = pairs.data / (segment_size + object_size - pairs.data)
    segments, objects = pairs.shape
    return _Overlaps(segments, objects, segment, truth, pairs.data, object_size, iou)


def _most_matches(overlaps: _Overlaps, allowed: np.ndarray) -> int:
    """Return the size of the largest one-to-one matching over the allowed pairs.

    Above IoU 0.5 an object has at most one partner, and this is the number of pairs. At 0.5 two halves may
    tie.
    """
    from scipy.sparse.csgraph import maximum_bipartite_matching  # no training is to wait for this import

    pairs = (overlaps.segment[allowed], overlaps.object[allowed])
    graph = sparse.csr_array(
        (np.ones(len(pairs[0]), bool), pairs), shape=(overlaps.segments, overlaps.objects)
    )
    return int(np.count_nonzero(maximum_bipartite_matching(graph) >= 0))
