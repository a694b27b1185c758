"""Measures of how pixels are grouped: Rand error and mutual information, and the ISBI 2012 challenge's.

Both compare two groupings of the pixels, by pairs of pixels or by a random pixel; the numbers of the labels
do not matter. With p[i,j] the share of pixels that are in segment i of the segmentation S and in object j of
the ground truth T, s[i] = Σ_j p[i,j] and t[j] = Σ_i p[i,j]:

    Rand F-score       Σ p² / (½ Σ s² + ½ Σ t²)
    information score  2 I(S; T) / (H(S) + H(T))

Pixels that are 0 in the ground truth (background, membrane) are left out: the exact course and width of a
border do not matter for the grouping.

Tutorial: `tutorials/14_tiling_metrics.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from tinyunet.errors import DataError, ShapeError, describe
from tinyunet.metrics.contingency import (
    check_binary,
    check_probabilities,
    check_same_shape,
    check_whole_numbers,
    contingency,
)

THRESHOLDS = tuple(i / 10 for i in range(11))
NEAR_0 = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
FINE_THRESHOLDS = tuple(sorted({*THRESHOLDS, *NEAR_0, *(round(1 - threshold, 3) for threshold in NEAR_0)}))
"""The challenge's, and more towards both ends, where a network that is sure of itself has most of its pixels.

They are about evenly spaced in log-odds. A participant could hand in any monotone function of a probability
map, which moves what is found above 0.9 to lower thresholds, so the finer ones ask nothing that the challenge
rules out.
"""


def rand_error(segmentation: np.ndarray, labels: np.ndarray, *, singletons: bool = False) -> float:
    """Compute the adapted Rand error, 0 (best) to 1: 1 − Σ p² / (½ Σ s² + ½ Σ t²).

    That is 1 minus the F-score of the ordered pairs of pixels, pairs "in one segment" against pairs "in one
    object". A pixel's pair with itself counts, as in the challenge; `skimage.metrics.adapted_rand_error`
    leaves it out, and its value differs by about one over the size of an object.

    Parameters
    ----------
    segmentation, labels : integer array, shape (H, W)
        Label images. Pixels with label 0 are left out.
    singletons : bool
        How to treat 0 in the segmentation. True: every such pixel is a segment of its own, as in the
        challenge. False: together they are one segment, as in scikit-image.

    Raises
    ------
    ShapeError, DtypeError
        The shapes differ; an image does not hold whole numbers.
    DataError
        The ground truth has no object, or a label is negative.

    References
    ----------
    .. [1] Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142, "foreground-restricted Rand scoring".
    """
    joint, segments, objects = _group_sizes("rand_error", segmentation, labels, singletons)
    return float(1 - np.sum(joint**2) / (0.5 * np.sum(segments**2) + 0.5 * np.sum(objects**2)))


def information_score(segmentation: np.ndarray, labels: np.ndarray, *, singletons: bool = False) -> float:
    """Compute mutual information over the mean entropy, 0 to 1 (best): 2 I(S; T) / (H(S) + H(T)).

    Parameters and errors are those of `rand_error`. Two groupings that both put all pixels into one group
    are equal and score 1, though their entropies are 0.

    References
    ----------
    .. [1] Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142, "information theoretic scoring".
    """
    joint, segments, objects = _group_sizes("information_score", segmentation, labels, singletons)
    total = _entropy(segments) + _entropy(objects)
    return float(2 * (total - _entropy(joint)) / total) if total > 0 else 1.0


def v_rand(foreground: np.ndarray, labels: np.ndarray, *, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Compute the ISBI 2012 challenge's V_Rand (thinned), 0 to 1 (best).

    For each threshold: label the ground truth's 4-connected cells, thin the prediction's borders
    (`thin_borders` of ``foreground > threshold``), and take the Rand F-score, 1 − `rand_error`, with the
    pixels of the thinned borders as segments of their own. The score is that of the best threshold.

    Parameters
    ----------
    foreground : float array, shape (H, W) or (N, H, W)
        Probability that the pixel is inside a cell (not membrane).
    labels : integer or bool array, same shape
        0 for membrane, one other value (1 or 255) inside cells.
    thresholds : sequence of float
        Those of the challenge by default: 0, 0.1, … 1. `tinyunet.metrics.segments.FINE_THRESHOLDS` has
        more near 0 and 1.

    Returns
    -------
    float
        For a stack, the mean over its N sections at the one threshold where this mean is best, as in the
        challenge.

    Raises
    ------
    ShapeError, DtypeError
        The shapes differ or are neither (H, W) nor (N, H, W); the labels are not whole numbers.
    DataError
        A probability is outside 0 … 1, the labels have more than two values, a section has no cell, or no
        threshold is given.

    References
    ----------
    .. [1] Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142, and the script on the challenge's web page.
    """

    def rand_score(segmentation: np.ndarray, cells: np.ndarray) -> float:
        return 1 - rand_error(segmentation, cells, singletons=True)

    return _best_score_after_thinning("v_rand", rand_score, foreground, labels, thresholds)


def v_info(foreground: np.ndarray, labels: np.ndarray, *, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Compute the ISBI 2012 challenge's V_Info (thinned), 0 to 1 (best).

    Parameters and errors are those of `v_rand`; `information_score` takes the place of the Rand F-score.
    """

    def score(segmentation: np.ndarray, cells: np.ndarray) -> float:
        return information_score(segmentation, cells, singletons=True)

    return _best_score_after_thinning("v_info", score, foreground, labels, thresholds)


def thin_borders(foreground: np.ndarray) -> np.ndarray:
    """Grow segments into the borders between them, until only lines of one pixel are left.

    The 4-connected components of the foreground are the markers of a watershed that floods the rest breadth
    first, 4-connected. A pixel that two segments reach stays 0: the thinned border. A piece of membrane that
    separates nothing vanishes.

    Parameters
    ----------
    foreground : bool array, shape (H, W)
        True inside cells.

    Returns
    -------
    int32 array, shape (H, W)
        1 … n for the segments, 0 for the lines. Without any foreground the image is one segment, because the
        watershed of a flat landscape has one basin.
    """
    from skimage.segmentation import watershed  # here, because `import tinyunet` does without scikit-image

    markers, count = ndimage.label(foreground)
    if count == 0:
        return np.ones(foreground.shape, np.int32)
    flood = watershed(~foreground, markers, connectivity=1, watershed_line=True)
    return flood.astype(np.int32, copy=False)


def _group_sizes(
    where: str, segmentation: np.ndarray, labels: np.ndarray, singletons: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the pixels of each intersection, segment and object, as floats, without the labels' zeros."""
    table = contingency(where, segmentation, labels)[:, 1:]
    if table.shape[1] == 0:
        raise DataError(
            f"{where}: the labels hold no object: all are 0", remedy="leave this image out of the mean"
        )
    objects = table.sum(axis=0).astype(float)
    if not singletons:
        return table.data.astype(float), table.sum(axis=1).astype(float), objects
    single_pixels = np.ones(int(table[[0]].sum()))
    table = table[1:]
    return np.append(table.data, single_pixels), np.append(table.sum(axis=1), single_pixels), objects


def _entropy(sizes: np.ndarray) -> float:
    """Compute the entropy, in nats, of a random pixel's group; empty groups add nothing."""
    share = sizes[sizes > 0] / sizes.sum()
    return float(-np.sum(share * np.log(share)))


def _best_score_after_thinning(
    where: str,
    score: Callable[[np.ndarray, np.ndarray], float],
    foreground: np.ndarray,
    labels: np.ndarray,
    thresholds: Sequence[float],
) -> float:
    foreground, labels = np.asarray(foreground), np.asarray(labels)
    _check_challenge_pair(where, foreground, labels)
    if len(thresholds) == 0:
        raise DataError(f"{where}: no threshold is given", remedy="omit thresholds for 0, 0.1, … 1")
    sections = foreground.reshape(-1, *foreground.shape[-2:])
    scores = np.zeros((len(sections), len(thresholds)))
    for n, truth in enumerate(labels.reshape(sections.shape)):
        cells, _ = ndimage.label(truth != 0)
        scores[n] = [score(thin_borders(sections[n] > threshold), cells) for threshold in thresholds]
    return float(scores.mean(axis=0).max())


def _check_challenge_pair(where: str, foreground: np.ndarray, labels: np.ndarray) -> None:
    check_same_shape(where, foreground, labels)
    check_whole_numbers(where, labels=labels)
    if foreground.ndim not in (2, 3) or foreground.size == 0:
        raise ShapeError(
            f"{where}: needs a section (H, W) or a stack (N, H, W)", {"foreground": describe(foreground)}
        )
    check_probabilities(where, foreground)
    check_binary(where, labels=labels)
