"""Labels and predictions of membranes and of nuclei, for the tests of scores."""

import numpy as np


def membranes(shape=(40, 50), every=10):
    """Square cells, 1, between lines of membrane, 0."""
    y, x = np.indices(shape)
    return ((y % every > 0) & (x % every > 0)).astype(np.uint8)


def noisy(labels, seed=0, noise=0.45):
    """Probabilities of two classes that follow the labels, more or less."""
    rng = np.random.default_rng(seed)
    inside = np.clip(0.15 + 0.7 * (labels > 0) + rng.normal(0, noise, labels.shape), 0, 1).astype(np.float32)
    return np.stack([1 - inside, inside], axis=-1)


def squares():
    """Two images of numbered squares; predicted moved, halved, joined and invented ones."""
    truth = np.zeros((2, 40, 60), np.uint16)
    for number, (y, x) in enumerate([(2, 2), (2, 20), (2, 40), (20, 2), (20, 12), (20, 40)], 1):
        truth[:, y : y + 10, x : x + 10] = number
    truth[1][truth[1] == 6] = 0  # as many objects in both, or the same places, could be classes
    truth[1] = np.roll(truth[1], 10, axis=0)
    objects = np.zeros_like(truth)
    objects[0, 3:12, 2:12], objects[0, 2:12, 20:25], objects[0, 2:12, 25:30] = 7, 8, 9
    objects[0, 20:30, 2:22], objects[0, 32:38, 50:56], objects[0, 2:10, 41:50] = 10, 11, 12
    objects[1] = truth[1]
    return truth, objects
