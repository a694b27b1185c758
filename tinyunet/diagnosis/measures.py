"""Measure what of a set decides about its training: sides, objects, contrast, classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet.data import UNKNOWN, ImageSet, class_labels
from tinyunet.metrics.mistakes import SMALLEST_OBJECT
from tinyunet.sampling.weight_map import label_cells, separate_touching
from tinyunet.training.validation import pixels_by_class

LOOKED_AT = 32  # images, evenly spaced, whose objects and grey values are measured
MOST = 0.9  # of the object pixels, or of the images: what is called typical


@dataclass(frozen=True)
class Measures:
    """What `propose` needs to know of the images to train on.

    Attributes
    ----------
    images : int
    side : int
        The smaller side that nine of ten images reach, in pixels.
    pixels : int
        Of all images.
    width : float
        Nine tenths of the object pixels belong to objects that are no wider than this; 0 without objects.
        The width is the diameter of the largest disc within an object: a long thin one counts as thin.
    contrast : float
        The share of the variance of grey values that the classes explain, the measure that Otsu (1979)
        maximises: 0 if all classes look alike pixel by pixel, 1 if each has its own grey value and no noise.
    rarest : float
        The share of the rarest class that occurs in the labelled pixels.
    """

    images: int
    side: int
    pixels: int
    width: float
    contrast: float
    rarest: float


def measure(images: ImageSet) -> Measures:
    """Measure the images of a labelled set."""
    assert images.labels is not None
    assert images.kind is not None
    few = images.looked_at
    sides = [min(image.shape[:2]) for image in few.images]
    widths, areas, contrasts = [], [], []
    for number in chosen(len(images)):
        labels = images.labels[number]
        found = object_sizes(labels, images.kind)
        widths.append(found[0])
        areas.append(found[1])
        contrasts.append(class_contrast(images.images[number], class_labels(labels, images.kind)))
    counts = pixels_by_class(few)
    return Measures(
        images=len(images),
        side=int(np.quantile(sides, 1 - MOST, method="lower")),
        pixels=images.pixels,
        width=typical_width(np.concatenate(widths), np.concatenate(areas)),
        contrast=float(np.mean(contrasts)),
        rarest=float(counts[counts > 0].min() / counts.sum()),
    )


def chosen(images: int, most: int = LOOKED_AT) -> list[int]:
    """The numbers of the images that are measured, of so many: a few, evenly spaced."""
    return np.unique(np.linspace(0, images - 1, min(images, most)).astype(int)).tolist()


def object_sizes(labels: NDArray[np.integer], kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the width and the area of each object, as `Measures` defines the width.

    In labels without object numbers an object is a connected piece of a class other than the background.
    """
    known = np.where(labels == UNKNOWN, 0, labels)
    if kind == "instances":
        masks = [separate_touching(known)]
    else:
        masks = [label_cells(known == number) for number in range(1, int(known.max()) + 1)]
    widths, areas = [np.empty(0)], [np.empty(0)]
    for cells in masks:
        # The frame counts as background: an object cut off by it is measured as far as it is seen.
        inside = np.pad(cells > 0, 1)
        distance = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
        area = np.bincount(cells.ravel())
        numbers = np.flatnonzero(area >= SMALLEST_OBJECT)
        numbers = numbers[numbers > 0]
        if numbers.size:
            # A distance counts to the centre of the next pixel: 1 at the rim of an object.
            widths.append(2 * np.asarray(ndimage.maximum(distance, cells, numbers)) - 1)
            areas.append(area[numbers].astype(float))
    return np.concatenate(widths), np.concatenate(areas)


def typical_width(widths: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    """The width that `MOST` of the area does not exceed; 0 without objects."""
    if not widths.size:
        return 0.0
    order = np.argsort(widths)
    share = np.cumsum(areas[order]) / areas.sum()
    return float(widths[order][np.searchsorted(share, MOST)])


def class_contrast(image: NDArray[Any], classes: NDArray[np.integer]) -> float:
    """Return the share of variance between the classes, of the channel in which it is largest."""
    known = classes != UNKNOWN
    grey, numbers = image[known].astype(np.float64), classes[known]
    total = grey.var(axis=0)
    counts = np.bincount(numbers)
    shares = counts / counts.sum()
    between = np.zeros_like(total)
    for number in np.flatnonzero(counts):
        between += shares[number] * (grey[numbers == number].mean(axis=0) - grey.mean(axis=0)) ** 2
    return float(np.max(np.divide(between, total, out=np.zeros_like(total), where=total > 0)))
