"""Scores of a cross-validation: of each fold, their mean and spread, and of all images together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyunet.metrics.scores import ImageScores, Measure, measure_over, pixel_measures, summarise

Values = Mapping[str, float | None]


class FoldScores(NamedTuple):
    """The scores of a cross-validation."""

    folds: list[Values]
    """By measure, for each fold: the value of all its held-out images."""
    measures: dict[str, Measure]
    """Mean, spread and worst over the folds; set-wide: the value of the held-out images of all folds."""


def summarise_folds(scores: Sequence[ImageScores], sizes: Sequence[int]) -> FoldScores:
    """Find the score of each fold and of all of them.

    Parameters
    ----------
    scores : sequence of ImageScores
        In the order of the folds.
    sizes : sequence of int
        How many images each fold holds out.
    """
    edges = np.cumsum([0, *sizes]).tolist()
    parts = [scores[first:last] for first, last in pairwise(edges)]
    return _over_folds([_values(part) for part in parts], _values(scores))


def pixel_scores_of_folds(matrices: Sequence[NDArray[np.integer]]) -> FoldScores:
    """Find the measures of pixels, from the `confusion_matrix` of each fold."""
    return _over_folds(list(map(pixel_measures, matrices)), pixel_measures(np.sum(matrices, axis=0)))


def _values(scores: Sequence[ImageScores]) -> Values:
    return {name: measure.score for name, measure in summarise(scores)[0].items()}


def _over_folds(folds: list[Values], together: Values) -> FoldScores:
    measures = {}
    for name, value in together.items():
        of_folds = {f"fold-{number}": fold.get(name) for number, fold in enumerate(folds)}
        measures[name] = measure_over(name, of_folds, set_wide=value)
    return FoldScores(folds, measures)
