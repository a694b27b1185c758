"""Scores of folds: mean and spread over folds, and of all images together from added counts."""

from itertools import pairwise

import numpy as np
import pytest
from segmentations import membranes, noisy
from sklearn.metrics import confusion_matrix, jaccard_score

from tinyunet.metrics.folds import pixel_scores_of_folds, summarise_folds
from tinyunet.metrics.scores import Prediction, score_image, summarise

SIZES = [2, 1, 3]


@pytest.fixture(scope="module")
def images():
    """Truth and prediction of six images of different sizes."""
    truths = [membranes((30 + 5 * i, 40)) for i in range(sum(SIZES))]
    return truths, [noisy(truth, seed) for seed, truth in enumerate(truths)]


def by_fold(values):
    edges = np.cumsum([0, *SIZES])
    return [values[a:b] for a, b in pairwise(edges)]


def test_against_scikit_learn(images):
    truths, predictions = images
    flat = [(truth.ravel(), p.argmax(axis=2).ravel()) for truth, p in zip(truths, predictions, strict=True)]
    pooled = [tuple(np.concatenate(part) for part in zip(*fold, strict=True)) for fold in by_fold(flat)]
    of_folds = [jaccard_score(*fold) for fold in pooled]
    of_all = jaccard_score(*(np.concatenate(part) for part in zip(*flat, strict=True)))
    scores = [
        score_image(str(i), Prediction(p, None), truth, "binary", 2)
        for i, (truth, p) in enumerate(zip(truths, predictions, strict=True))
    ]
    matrices = [confusion_matrix(*fold) for fold in pooled]
    for found in (summarise_folds(scores, SIZES), pixel_scores_of_folds(matrices)):
        assert [fold["iou_1"] for fold in found.folds] == pytest.approx(of_folds, abs=1e-12)
        measure = found.measures["iou_1"]
        assert measure.mean == pytest.approx(np.mean(of_folds), abs=1e-12)
        assert measure.spread == pytest.approx(np.std(of_folds, ddof=1), abs=1e-12)
        assert measure.set_wide == pytest.approx(of_all, abs=1e-12)
        assert measure.images == len(SIZES)
        assert measure.worst == f"fold-{np.argmin(of_folds)}"


def test_measures_without_counts_have_the_mean_over_all_images(images):
    scores = [
        score_image(str(i), Prediction(p, None), truth, "binary", 2)
        for i, (truth, p) in enumerate(zip(*images, strict=True))
    ]
    found = summarise_folds(scores, SIZES)
    assert found.measures["v_rand"].set_wide == summarise(scores)[0]["v_rand"].mean
    assert [fold["v_rand"] for fold in found.folds] == [
        summarise(part)[0]["v_rand"].mean for part in by_fold(scores)
    ]
