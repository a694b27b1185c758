"""Scores of a network on labelled images, during training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyunet import metrics
from tinyunet.data import UNKNOWN, ImageSet, class_labels, normalise
from tinyunet.models import Network
from tinyunet.prediction.tiling import predict_tiled


@dataclass(frozen=True)
class Scores:
    """How well images are predicted where they are labelled: means over the images."""

    pixel_error: float
    """Share of wrong pixels."""
    iou: tuple[float, ...]
    """Intersection over union of each class."""
    mean_iou: float
    """Mean of `iou` over the classes: it decides which checkpoint is best."""


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
    model : Network
    images : ImageSet, with labels
    tile : int
        As in `predict_tiled`.
    on_image : callable, optional
        Called with each image's number and probabilities.
    """
    assert images.labels is not None
    assert images.kind is not None
    errors, ious = [], []
    for number, (image, labels) in enumerate(zip(images.images, images.labels, strict=True)):
        probabilities = predict_tiled(model, normalise(image), tile=tile)
        if on_image:
            on_image(number, probabilities)
        classes, truth = probabilities.argmax(axis=2), class_labels(labels, images.kind)
        errors.append(metrics.pixel_error(classes, truth, ignore_label=UNKNOWN))
        iou = metrics.iou(classes, truth, images.num_classes, ignore_label=UNKNOWN)
        ious.append(np.nan_to_num(iou, nan=1.0))
    iou = np.mean(ious, axis=0)
    return Scores(float(np.mean(errors)), tuple(map(float, iou)), float(iou.mean()))
