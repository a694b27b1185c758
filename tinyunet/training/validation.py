"""Scores of a network on labelled images, during training."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyunet import metrics
from tinyunet.data import UNKNOWN, ImageSet, class_labels, normalise
from tinyunet.metrics.scores import pixel_measures
from tinyunet.models import Network
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.training.ranks import Ranks


@dataclass(frozen=True)
class Scores:
    """The scores of images where they are labelled, counted over the pixels of all of them.

    A mean over images would favour a network that finds nothing: it is right about every image that lacks a
    class. In counts of the set such an image weighs by its false pixels alone.
    """

    pixel_error: float
    """Share of wrong pixels."""
    iou: tuple[float | None, ...]
    """Intersection over union of each class; None for one that is neither true nor predicted at any pixel."""
    mean_iou: float
    """Mean of `iou` over the classes that have one."""

    @property
    def rank(self) -> tuple[bool, float]:
        """The order that decides which checkpoint is best: by `mean_iou`, but constant predictions come last.

        Otherwise "background everywhere" would beat a network that finds rare objects among many false ones.
        """
        found = sum(iou is not None and iou > 0 for iou in self.iou)
        return found > 1, self.mean_iou


def validate_on(
    ranks: Ranks, model: Network, images: ImageSet, *, tile: int, examples: int
) -> tuple[Scores, list[NDArray[np.float32]], set[int]]:
    """Predict labelled images as `validate` does, each on one of the ranks; the result is the same on all.

    Parameters
    ----------
    ranks : Ranks
    model, images, tile
        As in `count_pixels`.
    examples : int
        Of how many images, the first ones, the probabilities are returned.

    Returns
    -------
    tuple
        Scores, the probabilities of the first images, and the classes that were predicted anywhere.
    """
    first: dict[int, NDArray[np.float32]] = {}
    predicted: set[int] = set()

    def collect(number: int, probabilities: NDArray[np.float32]) -> None:
        predicted.update(np.unique(probabilities.argmax(axis=2)).tolist())
        if number < examples:
            first[number] = probabilities

    own = range(ranks.number, len(images), ranks.size)
    counts = count_pixels(model, images, tile=tile, on_image=collect, only=own)
    matrices, shown, classes = zip(*ranks.from_all((counts, first, predicted)), strict=True)
    in_order = sorted(pair for each in shown for pair in each.items())
    matrix: NDArray[np.int64] = sum(matrices[1:], start=matrices[0])
    return _scores_of(matrix), [probabilities for _, probabilities in in_order], set().union(*classes)


def validate(
    model: Network,
    images: ImageSet,
    *,
    tile: int,
    on_image: Callable[[int, NDArray[np.float32]], None] | None = None,
) -> Scores:
    """Predict labelled images by overlap-tile and compare with their labels.

    Parameters
    ----------
    model, images, tile, on_image
        As in `count_pixels`.
    """
    return _scores_of(count_pixels(model, images, tile=tile, on_image=on_image))


def _scores_of(matrix: NDArray[np.int64]) -> Scores:
    measures = pixel_measures(matrix)
    pixel_error, mean_iou = measures["pixel_error"], measures["mean_iou"]
    assert pixel_error is not None  # every image has a labelled pixel
    assert mean_iou is not None
    iou = tuple(measures[f"iou_{number}"] for number in range(len(matrix)))
    return Scores(pixel_error, iou, mean_iou)


def count_pixels(
    model: Network,
    images: ImageSet,
    *,
    tile: int,
    on_image: Callable[[int, NDArray[np.float32]], None] | None = None,
    only: Collection[int] | None = None,
) -> NDArray[np.int64]:
    """Predict labelled images; count their pixels by true and predicted class, as `confusion_matrix` does.

    Parameters
    ----------
    model : Network
    images : ImageSet, with labels
    tile : int
        As in `predict_tiled`.
    on_image : callable, optional
        Called with each image's number and probabilities.
    only : collection of int, optional
        The numbers of the images to predict; all if omitted.
    """
    assert images.labels is not None
    assert images.kind is not None
    matrix = np.zeros((images.num_classes, images.num_classes), np.int64)
    for number in range(len(images)) if only is None else only:
        image, labels = images.images[number], images.labels[number]
        probabilities = predict_tiled(model, normalise(image), tile=tile)
        if on_image:
            on_image(number, probabilities)
        classes, truth = probabilities.argmax(axis=2), class_labels(labels, images.kind)
        matrix += metrics.confusion_matrix(classes, truth, images.num_classes, ignore_label=UNKNOWN)
    return matrix


def pixels_by_class(images: ImageSet) -> NDArray[np.int64]:
    """Count the labelled pixels of each class of a set: shape (num_classes,)."""
    assert images.labels is not None
    assert images.kind is not None
    counts = np.zeros(images.num_classes, np.int64)
    for labels in images.labels:
        classes = class_labels(labels, images.kind)
        counts += np.bincount(classes[classes != UNKNOWN], minlength=images.num_classes)
    return counts


def count_constant(images: ImageSet, predicted: int) -> NDArray[np.int64]:
    """Count as `count_pixels` does, for a network that predicts one class at every pixel."""
    matrix = np.zeros((images.num_classes, images.num_classes), np.int64)
    matrix[:, predicted] = pixels_by_class(images)
    return matrix


def score_of_constant(images: ImageSet) -> float:
    """Return the mean IoU of the best prediction of one class at every pixel of the images `looked_at`."""
    images = images.looked_at
    commonest = int(pixels_by_class(images).argmax())
    score = pixel_measures(count_constant(images, commonest))["mean_iou"]
    assert score is not None  # every image has a labelled pixel
    return score
