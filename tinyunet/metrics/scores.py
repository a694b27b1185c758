"""Scores of predicted images: the measures of each image, and their means over a set.

===========  ==================================================================================
every kind   `pixel_error`; `iou_C` and `dice_C` of class C; `mean_iou`, the mean over the classes
binary       `rand_error`, `v_rand`, `v_info`, `warping_error`, `split_merge_error`
instances    `seg`; `average_precision_0.5`, `…_0.75`, and `average_precision`, the mean from 0.5 to 0.95
===========  ==================================================================================

"binary" takes the foreground for the inside of cells, as ISBI 2012 does, and compares its 4-connected
components. `v_rand` and `v_info` use the threshold with the best mean over the images; the other measures use
the predicted classes, that is, the threshold 0.5. `split_merge_error`, the share of pixels in splits and
mergers, is what the challenge and the paper call warping error. It has no best threshold, because an empty
prediction splits and merges nothing and would always win.

Each image counts the same in a mean, whatever its size. The Rand and information measures have no value where
the ground truth has no object: the value is then None, not NaN, and the mean leaves the image out.
Without any object in the ground truth SEG and average precision are 1 if none was predicted, else 0. A class
that is in neither image has IoU 1.

Pixels that nobody labelled do not count: per-pixel measures leave them out, and binary labels take them for
background in both images. A predicted object counts as a whole, as in the Cell Tracking Challenge, unless
more than half of it is unknown. Then it is left out, which cannot lose a match at IoU 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet import metrics
from tinyunet.data import UNKNOWN, ImageSet, LabelKind, class_labels
from tinyunet.errors import DataError, ShapeError, describe
from tinyunet.metrics.contingency import check_probabilities
from tinyunet.metrics.mistakes import SMALLEST_OBJECT, Mistakes, find_class_mistakes, find_mistakes
from tinyunet.metrics.naming import lower_is_better
from tinyunet.metrics.segments import THRESHOLDS


class Prediction(NamedTuple):
    """What was predicted for one image."""

    probabilities: NDArray[np.floating]
    """Of each class, shape (H, W, K)."""
    objects: NDArray[np.integer] | None
    """Numbered objects, shape (H, W); needed if the labels are "instances"."""
    seconds: float = 0.0
    """Time that the network took; 0 for a prediction that was read from files."""


@dataclass(frozen=True)
class ImageScores:
    """One image's scores.

    Attributes
    ----------
    name : str
    values : dict of str to float or None
        By measure; None where the image has no value.
    by_threshold : dict of str to array or None
        By measure, for those whose threshold is chosen for the whole set: the values at `THRESHOLDS`.
    mistakes : Mistakes
    """

    name: str
    values: dict[str, float | None]
    by_threshold: dict[str, NDArray[np.float64] | None]
    mistakes: Mistakes


class Scored(NamedTuple):
    """A prediction and its scores."""

    prediction: Prediction
    scores: ImageScores


@dataclass(frozen=True)
class Measure:
    """A measure over a set of images."""

    mean: float | None
    """None if no image has a value."""
    spread: float | None
    """Standard deviation over the images (divided by n − 1); None for fewer than two."""
    images: int
    """Number of images that have a value."""
    worst: str | None
    """The image with the worst value."""
    threshold: float | None = None
    """The threshold with the best mean; None for measures without a threshold."""


def worst_first(scores: Sequence[ImageScores], measure: str) -> list[int]:
    """The indices of the images, from the lowest value of a measure that every image has."""
    return sorted(range(len(scores)), key=lambda i: scores[i].values[measure] or 0)


def score_images(images: ImageSet, predictions: Iterable[Prediction]) -> Iterator[Scored]:
    """Score the predictions of a set one by one, as they are made; `summarise` takes the scores.

    Parameters
    ----------
    images : ImageSet, with labels
    predictions : iterable of Prediction
        One for each image, in the order of the set.

    Raises
    ------
    ShapeError, DataError
        As `score_image`.
    """
    assert images.labels is not None
    assert images.kind is not None
    for name, labels, prediction in zip(images.names, images.labels, predictions, strict=True):
        yield Scored(prediction, score_image(name, prediction, labels, images.kind, images.num_classes))


def score_image(
    name: str, prediction: Prediction, labels: NDArray[np.integer], kind: LabelKind, num_classes: int
) -> ImageScores:
    """Take all measures that suit this kind of labels, for one image.

    Parameters
    ----------
    name : str
    prediction : Prediction
    labels : integer array, shape (H, W)
        As an `ImageSet` of this kind holds them.
    kind : "binary", "classes" or "instances"
    num_classes : int
        Classes of the ground truth.

    Raises
    ------
    ShapeError, DataError
        Prediction and labels differ in size or in the number of classes, objects are missing or have another
        size, or a probability is outside 0 … 1.
    """
    _check(name, prediction, labels, kind, num_classes)
    probabilities, objects = prediction.probabilities, prediction.objects
    classes, truth = probabilities.argmax(axis=2), class_labels(labels, kind)
    values = _by_pixels(classes, truth, probabilities.shape[2])
    known = labels != UNKNOWN
    classes, truth, labels = (np.where(known, image, 0) for image in (classes, truth, labels))
    by_threshold: dict[str, NDArray[np.float64] | None] = {}
    if kind == "binary":
        values |= _by_segments(classes, truth)
        by_threshold = _by_thresholds(np.where(known, probabilities[:, :, 1], 0), truth)
        mistakes = find_mistakes(_components(classes, SMALLEST_OBJECT), _components(truth, SMALLEST_OBJECT))
    elif kind == "instances":
        assert objects is not None
        objects = _mostly_known(objects, known)
        values |= _by_objects(objects, labels)
        mistakes = find_mistakes(objects, labels, known)
    else:
        mistakes = find_class_mistakes(classes, truth)
    return ImageScores(name, values, by_threshold, mistakes)


def _check(
    name: str, prediction: Prediction, labels: NDArray[np.integer], kind: LabelKind, num_classes: int
) -> None:
    probabilities, objects = prediction.probabilities, prediction.objects
    if probabilities.ndim != 3 or probabilities.shape[:2] != labels.shape:
        raise ShapeError(
            f"{name}: the prediction and the labels differ in size",
            {"prediction": describe(probabilities, "H W K"), "labels": describe(labels, "H W")},
            "compare each prediction with the labels of the image that it was made from",
        )
    found = probabilities.shape[2]
    if found != num_classes and not (kind == "classes" and found > num_classes):
        raise DataError(
            f"{name}: the prediction does not have the classes of the labels",
            {"prediction": f"{found} classes", "labels": f"{num_classes} classes ({kind})"},
            "compare with the kind of labels that the network was trained on, or give it with --kind",
        )
    check_probabilities(name, probabilities)
    if kind == "instances" and objects is None:
        raise DataError(
            f"{name}: the labels are numbered objects, the prediction has none",
            remedy=f"add {name}_instances.tif, as tinyunet.predict writes it, or give --kind binary",
        )
    if objects is not None and objects.shape != labels.shape:
        raise ShapeError(
            f"{name}: the predicted objects and the labels differ in size",
            {"objects": describe(objects, "H W"), "labels": describe(labels, "H W")},
        )


def _by_pixels(
    classes: NDArray[np.integer], truth: NDArray[np.integer], num_classes: int
) -> dict[str, float | None]:
    iou, dice = (
        np.nan_to_num(per_class(classes, truth, num_classes, ignore_label=UNKNOWN), nan=1.0)
        for per_class in (metrics.iou, metrics.dice)
    )
    values: dict[str, float | None] = {
        "pixel_error": metrics.pixel_error(classes, truth, ignore_label=UNKNOWN),
        "mean_iou": float(iou.mean()),
    }
    for name, scores in (("iou", iou), ("dice", dice)):
        values |= {f"{name}_{number}": float(score) for number, score in enumerate(scores)}
    return values


def _by_segments(classes: NDArray[np.integer], truth: NDArray[np.integer]) -> dict[str, float | None]:
    rand_error = None
    if truth.any():
        rand_error = metrics.rand_error(_components(classes), _components(truth), singletons=True)
    left = metrics.warping_mistakes(classes, truth)
    split_or_merged = left[metrics.Mistake.SPLIT].pixels + left[metrics.Mistake.MERGER].pixels
    return {
        "rand_error": rand_error,
        "warping_error": metrics.warping_error(classes, truth),
        "split_merge_error": split_or_merged / truth.size,
    }


def _by_thresholds(
    foreground: NDArray[np.floating], truth: NDArray[np.integer]
) -> dict[str, NDArray[np.float64] | None]:
    """V_Rand and V_Info at each of the challenge's thresholds; both share the thinning."""
    if not truth.any():
        return {"v_rand": None, "v_info": None}
    rand, info = np.zeros((2, len(THRESHOLDS)))
    cells = _components(truth)
    for i, threshold in enumerate(THRESHOLDS):
        thinned = metrics.thin_borders(foreground > threshold)
        rand[i] = 1 - metrics.rand_error(thinned, cells, singletons=True)
        info[i] = metrics.information_score(thinned, cells, singletons=True)
    return {"v_rand": rand, "v_info": info}


def _mostly_known(objects: NDArray[np.integer], known: NDArray[np.bool_]) -> NDArray[np.integer]:
    """The objects that are known in at least half of their pixels."""
    _, number = np.unique(objects, return_inverse=True)
    share = np.bincount(number.ravel(), known.ravel()) / np.bincount(number.ravel())
    return np.where(share[number.reshape(objects.shape)] >= 0.5, objects, 0)


def _by_objects(objects: NDArray[np.integer], labels: NDArray[np.integer]) -> dict[str, float | None]:
    precision = np.nan_to_num(metrics.average_precision(objects, labels), nan=1.0)
    at = dict(zip(metrics.objects.IOU_THRESHOLDS, precision.tolist(), strict=True))
    return {
        "seg": metrics.seg(objects, labels) if labels.any() else float(not objects.any()),
        "average_precision": float(precision.mean()),
        "average_precision_0.5": at[0.5],
        "average_precision_0.75": at[0.75],
    }


def _components(mask: NDArray[np.integer], at_least: int = 1) -> NDArray[np.integer]:
    """The 4-connected components of a mask that have at least this many pixels, numbered."""
    components, _ = ndimage.label(mask)
    return np.where(np.bincount(components.ravel())[components] >= at_least, components, 0)


def summarise(scores: Sequence[ImageScores]) -> tuple[dict[str, Measure], list[ImageScores]]:
    """Find mean and spread of each measure over the images.

    Parameters
    ----------
    scores : sequence of ImageScores
        At least one, all of one kind of labels.

    Returns
    -------
    measures : dict of str to Measure
    scores : list of ImageScores
        In the given order, with the values at the thresholds that were chosen.
    """
    chosen = {name: _best_threshold(name, scores) for name in scores[0].by_threshold}
    completed = [replace(image, values=image.values | _at_thresholds(image, chosen)) for image in scores]
    measures = {
        name: _over_images(name, completed, THRESHOLDS[chosen[name]] if name in chosen else None)
        for name in completed[0].values
    }
    return measures, completed


def _at_thresholds(image: ImageScores, chosen: Mapping[str, int]) -> dict[str, float | None]:
    """The values at the chosen thresholds, which are given by their index in `THRESHOLDS`."""
    curves = {name: image.by_threshold[name] for name in chosen}
    return {name: None if curve is None else float(curve[chosen[name]]) for name, curve in curves.items()}


def seg_over_objects(scores: Sequence[ImageScores]) -> float | None:
    """SEG as the Cell Tracking Challenge takes it: the mean over the objects of all images.

    None if there is no object.
    """
    objects = [image.mistakes.counts["objects"] for image in scores]
    total = sum(count * (image.values["seg"] or 0) for count, image in zip(objects, scores, strict=True))
    return total / sum(objects) if any(objects) else None


def _best_threshold(name: str, scores: Sequence[ImageScores]) -> int:
    """The index in `THRESHOLDS`; 0 if no image has a value, because then none is read there."""
    curves = [curve for image in scores if (curve := image.by_threshold[name]) is not None]
    if not curves:
        return 0
    return int(np.mean(curves, axis=0).argmax())


def _over_images(name: str, scores: Sequence[ImageScores], threshold: float | None) -> Measure:
    known = {image.name: value for image in scores if (value := image.values[name]) is not None}
    if not known:
        return Measure(None, None, 0, None)
    values = np.array(list(known.values()))
    worst = (max if lower_is_better(name) else min)(known, key=lambda image: known[image])
    spread = float(values.std(ddof=1)) if len(values) > 1 else None
    return Measure(float(values.mean()), spread, len(values), worst, threshold)
