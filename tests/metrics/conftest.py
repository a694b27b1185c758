"""Made-up cells, and predictions of them with every kind of mistake."""

import numpy as np
import pytest
from scipy.spatial import cKDTree


def discs(centres, shape, radius):
    """Label image: each pixel has the number of its nearest centre, or 0 if that is further than radius."""
    pixels = np.stack(np.indices(shape), -1).reshape(-1, 2)
    distance, nearest = cKDTree(centres).query(pixels)
    return np.where(distance < radius, nearest + 1, 0).reshape(shape)


@pytest.fixture(params=range(4))
def label_pair(request):
    """(segmentation, labels): moved, missing, added, split and merged objects on 60 × 70 pixels."""
    rng = np.random.default_rng(request.param)
    shape = (60, 70)
    centres = rng.uniform(0, shape, (25, 2))
    labels = discs(centres, shape, 6.5)
    moved = np.concatenate([centres[3:] + rng.normal(0, 1.5, (22, 2)), rng.uniform(0, shape, (4, 2))])
    segmentation = discs(moved, shape, 6)
    segmentation[segmentation == 2] = 1
    return segmentation, labels
