"""Scores of predicted images: which measures, of each image, and over a set.

===========  ==================================================================================
every kind   `pixel_error`; `iou_C` and `dice_C` of class C; `mean_iou`, the mean over the classes
binary       `rand_error`, `v_rand`, `v_info`, `warping_error`, `split_merge_error`
instances    `seg`; `average_precision_0.5`, `…_0.75`, and `average_precision`, the mean from 0.5 to 0.95
===========  ==================================================================================

"binary" takes the foreground for the inside of cells, as ISBI 2012 does, and compares its 4-connected
components. `v_rand` and `v_info` are taken at the threshold that is best for the mean over the images; the
others judge the predicted classes, that is, the threshold 0.5. `split_merge_error`, the pixels of splits and
mergers over all pixels, is what the challenge and the paper call warping error; it has no best threshold,
because an empty prediction splits and merges nothing and would always win.

Each image counts the same in a mean, whatever its size. A measure that an image has no value of is None, not
NaN, and that image is left out of the mean: the Rand and information measures where the ground truth has no
object. Without any object in the ground truth SEG and average precision are 1 if none was predicted and 0 if
some were; a class that neither image has is found perfectly, IoU 1.

Pixels that nobody labelled are not judged: the measures of pixels leave them out, those of binary labels take
them for background in both images. A predicted object is judged whole, as the Cell Tracking Challenge does,
unless more than half of it is unknown: then it is left out, which cannot lose a match at IoU 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet import metrics
from tinyunet.data import UNKNOWN, LabelKind, class_labels
from tinyunet.errors import DataError, ShapeError, describe
from tinyunet.metrics.contingency import check_probabilities
from tinyunet.metrics.mistakes import SMALLEST_OBJECT, Mistakes, find_class_mistakes, find_mistakes
from tinyunet.metrics.naming import lower_is_better
from tinyunet.metrics.segments import THRESHOLDS


class Prediction(NamedTuple):
    """What was predicted of one image."""

    probabilities: NDArray[np.floating]
    """Of each class, shape (H, W, K)."""
    objects: NDArray[np.integer] | None
    """Numbered objects, shape (H, W); needed where the labels are "instances"."""


@dataclass(frozen=True)
class ImageScores:
    """One image's scores.

    Attributes
    ----------
    name : str
    values : dict of str to float or None
        By measure; None: this image has no such value.
    by_threshold : dict of str to array or None
        Measures whose threshold is chosen for the whole set: their values at `THRESHOLDS`.
    mistakes : Mistakes
    """

    name: str
    values: dict[str, float | None]
    by_threshold: dict[str, NDArray[np.float64] | None]
    mistakes: Mistakes


@dataclass(frozen=True)
class Measure:
    """A measure over a set of images."""

    mean: float | None
    """None if no image has a value."""
    spread: float | None
    """Standard deviation over the images (of a sample: n − 1); None for fewer than two."""
    images: int
    """How many images have a value."""
    worst: str | None
    """The image with the worst value."""
    threshold: float | None = None
    """The threshold that is best for the mean, of measures that have one."""


def worst_first(scores: Sequence[ImageScores], measure: str) -> list[int]:
    """Places of the images in `scores`, from the lowest value of a measure that every image has."""
    return sorted(range(len(scores)), key=lambda i: scores[i].values[measure] or 0)


def score_image(
    name: str, prediction: Prediction, labels: NDArray[np.integer], kind: LabelKind, num_classes: int
) -> ImageScores:
    """All the measures that make sense for this kind of labels, of one image.

    Parameters
    ----------
    name : str
    prediction : Prediction
    labels : integer array, shape (H, W)
        As an `ImageSet` of this kind holds them.
    kind : "binary", "classes" or "instances"
    num_classes : int
        Of the ground truth.

    Raises
    ------
    ShapeError, DataError
        Prediction and labels differ in size or in the number of classes, objects are missing or of another
        size, or the probabilities leave 0 … 1.
    """
    _check(name, prediction, labels, kind, num_classes)
    probabilities, objects = prediction
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
    probabilities, objects = prediction
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
            "compare with the kind of labels that the network was trained on, or say it with --kind",
        )
    check_probabilities(name, probabilities)
    if kind == "instances" and objects is None:
        raise DataError(
            f"{name}: the labels are single objects, the prediction holds none",
            remedy=f"put {name}_instances.tif there, as tinyunet.predict writes it, or give --kind binary",
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
        of_classes(classes, truth, num_classes, ignore_label=UNKNOWN)
        for of_classes in (metrics.iou, metrics.dice)
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
    """V_Rand and V_Info at each of the challenge's thresholds; one thinning serves both."""
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
    """The objects of which at least half is known."""
    _, number = np.unique(objects, return_inverse=True)
    share = np.bincount(number.ravel(), known.ravel()) / np.bincount(number.ravel())
    return np.where(share[number.reshape(objects.shape)] >= 0.5, objects, 0)


def _by_objects(objects: NDArray[np.integer], labels: NDArray[np.integer]) -> dict[str, float | None]:
    precision = metrics.average_precision(objects, labels)
    at = dict(zip(metrics.objects.IOU_THRESHOLDS, precision.tolist(), strict=True))
    return {
        "seg": metrics.seg(objects, labels),
        "average_precision": float(precision.mean()),
        "average_precision_0.5": at[0.5],
        "average_precision_0.75": at[0.75],
    }


def _components(mask: NDArray[np.integer], at_least: int = 1) -> NDArray[np.integer]:
    """The 4-connected components of a mask that have at least this many pixels, numbered."""
    components, _ = ndimage.label(mask)
    return np.where(np.bincount(components.ravel())[components] >= at_least, components, 0)


def summarise(scores: Sequence[ImageScores]) -> tuple[dict[str, Measure], list[ImageScores]]:
    """Mean and spread of each measure over the images.

    Parameters
    ----------
    scores : sequence of ImageScores
        At least one, all of one kind of labels.

    Returns
    -------
    measures : dict of str to Measure
    scores : list of ImageScores
        With the values at the thresholds that were chosen, in the order given.
    """
    chosen = {name: _best_threshold(name, scores) for name in scores[0].by_threshold}
    settled = [
        ImageScores(
            one.name,
            one.values
            | {
                name: None if (curve := one.by_threshold[name]) is None else float(curve[place])
                for name, place in chosen.items()
            },
            one.by_threshold,
            one.mistakes,
        )
        for one in scores
    ]
    measures = {
        name: _over_images(name, settled, THRESHOLDS[chosen[name]] if name in chosen else None)
        for name in settled[0].values
    }
    return measures, settled


def seg_over_objects(scores: Sequence[ImageScores]) -> float | None:
    """SEG as the Cell Tracking Challenge takes it: the mean over the objects of all images, not over images.

    None if there is no object.
    """
    objects = [one.mistakes.counts["objects"] for one in scores]
    total = sum(count * (one.values["seg"] or 0) for count, one in zip(objects, scores, strict=True))
    return total / sum(objects) if any(objects) else None


def _best_threshold(name: str, scores: Sequence[ImageScores]) -> int:
    """Place in `THRESHOLDS`; 0 if no image has a value, as then none will be read there."""
    curves = [curve for one in scores if (curve := one.by_threshold[name]) is not None]
    if not curves:
        return 0
    return int(np.mean(curves, axis=0).argmax())


def _over_images(name: str, scores: Sequence[ImageScores], threshold: float | None) -> Measure:
    known = {one.name: value for one in scores if (value := one.values[name]) is not None}
    if not known:
        return Measure(None, None, 0, None)
    values = np.array(list(known.values()))
    worst = (max if lower_is_better(name) else min)(known, key=lambda image: known[image])
    spread = float(values.std(ddof=1)) if len(values) > 1 else None
    return Measure(float(values.mean()), spread, len(values), worst, threshold)
