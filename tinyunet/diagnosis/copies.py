"""Look for copies: the same image twice, or two images that are much alike."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.data import ImageSet
from tinyunet.diagnosis.finding import Finding, all_labels, count
from tinyunet.training.setup import Setup

SIGNATURE = 16  # a signature is the image shrunk to SIGNATURE × SIGNATURE pixels
ALIKE = 0.95  # correlation above which signatures are alike; neighbouring sections of ISBI 2012 reach 0.80


def check_duplicates(setup: Setup) -> Iterator[Finding]:
    """Find images that are both held out and trained on, or that are labelled in two ways."""
    twins = same_pixels(setup.training_set, setup.validation_set)
    if twins:
        yield Finding(
            "problem",
            f"{count(twins, 'pair')} of a held-out and a training image with the same pixels",
            [f"{held_out} = {train}" for train, held_out in twins],
            remedy="take them out or change --holdout: scores on training images mean nothing",
        )
    if near := [
        pair for pair in same_signature(setup.training_set, setup.validation_set) if pair not in twins
    ]:
        yield Finding(
            "warning",
            f"{count(near, 'pair')} of a held-out and a training image that are much alike",
            [f"{held_out} ~ {train}" for train, held_out in near],
            remedy="are they copies, rotated or re-lit? Hold out whole specimens, films or stacks",
        )
    labels = dict(all_labels(setup))
    again = [pair for pair in same_pixels(setup.training_set, setup.training_set) if pair[0] < pair[1]]
    if again:
        contradict = [pair for pair in again if not np.array_equal(labels[pair[0]], labels[pair[1]])]
        yield Finding(
            "problem" if contradict else "note",
            f"{count(again, 'pair')} of training images with the same pixels, "
            f"{len(contradict) or 'none'} of them with different labels",
            [f"{one} = {other}" for one, other in contradict or again],
            remedy="keep one of each",
        )


def same_pixels(one: ImageSet, other: ImageSet) -> list[tuple[str, str]]:
    """The names of an image of each set, for each two that have the same pixels."""
    by_hash = defaultdict(list)
    for name, image in zip(one.names, one.images, strict=True):
        by_hash[_hash(image)].append(name)
    return [
        (name, twin)
        for twin, image in zip(other.names, other.images, strict=True)
        for name in by_hash.get(_hash(image), [])
    ]


def _hash(image: NDArray[Any]) -> bytes:
    return hashlib.sha256(f"{image.shape} {image.dtype}".encode() + image.tobytes()).digest()


def same_signature(one: ImageSet, other: ImageSet) -> list[tuple[str, str]]:
    """As `same_pixels`, for images that are nearly the same: rotated, mirrored, or of another contrast."""
    first, second = (np.array([signature(image) for image in images.images]) for images in (one, other))
    likeness = np.full((len(one), len(other)), -1.0)
    for turns in range(4):
        for mirror in (1, -1):
            turned = np.rot90(second[:, :, ::mirror], turns, axes=(1, 2))
            likeness = np.maximum(likeness, first.reshape(len(one), -1) @ turned.reshape(len(other), -1).T)
    return [(one.names[i], other.names[j]) for i, j in np.argwhere(likeness > ALIKE)]


def signature(image: NDArray[Any]) -> NDArray[np.float64]:
    """The means of a grid of blocks, less their mean, scaled to length 1; all 0 for a constant image."""
    grey = image.mean(axis=2)
    rows, columns = (np.arange(SIGNATURE) * side // SIGNATURE for side in grey.shape)
    heights, widths = (
        np.maximum(np.diff(edges, append=side), 1)  # in a tiny image a pixel may be in several blocks
        for edges, side in zip((rows, columns), grey.shape, strict=True)
    )
    blocks = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1) / np.outer(heights, widths)
    blocks -= blocks.mean()
    length = np.linalg.norm(blocks)
    return blocks / length if length > 0 else blocks
