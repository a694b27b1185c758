"""Scores of predicted images: the measures of each image, and of the whole set.

===========  ==================================================================================
every kind   `pixel_error`; `iou_C` and `dice_C` of class C; `mean_iou`, the mean over the classes
binary       `rand_error`, `v_rand`, `v_info`, `v_rand_fine`, `v_info_fine`, `warping_error`,
             `split_merge_error`
instances    `seg`; `average_precision_0.5`, `…_0.75`, and `average_precision`, the mean from 0.5 to 0.95
===========  ==================================================================================

"binary" takes the foreground for the inside of cells, as ISBI 2012 does, and compares its 4-connected
components. `v_rand` and `v_info` use the threshold with the best mean over the images, of those of the
challenge; `v_rand_fine` and `v_info_fine` are the same at the best of `FINE_THRESHOLDS`. The other measures
use the predicted classes, that is, the threshold 0.5. `split_merge_error`, the share of pixels in splits and
mergers, is what the challenge and the paper call warping error. It has no best threshold, because an empty
prediction splits and merges nothing and would always win.

What an image does not have gives no value: None, and the mean leaves the image out (see `tinyunet.metrics`
for the reason). That holds for the IoU and Dice coefficient of a class that is neither in the ground truth
nor in the prediction, and for average precision likewise: predicted objects where there is none make it 0.
SEG is a mean over true objects, and the Rand and information measures, splits and mergers are of true objects
too: without one there is no value, and predicted objects count as "added" only. `mean_iou` is the mean over
the classes that have a value.

A set has two values of a measure. The set-wide one comes from counts that are added over the images: pixels
by true and predicted class, objects found, added and missed, and for SEG the true objects, as the Cell
Tracking Challenge takes it. It comes first everywhere, and decides which checkpoint is best. The mean is over
the images that have a value, each counting the same whatever its size; that of `mean_iou` is the mean over
the classes of their means. Measures of segments have the mean only, as in their challenge.

Pixels that nobody labelled do not count: per-pixel measures leave them out, and binary labels take them for
background in both images. A predicted object counts as a whole, as in the Cell Tracking Challenge. If more
than half of it is unknown, average precision leaves it out, which cannot lose a match at IoU 0.5, and it is
never "added". SEG keeps it, because it may cover a true object at any IoU.
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
from tinyunet.metrics.naming import headline_measure, lower_is_better
from tinyunet.metrics.segments import FINE_THRESHOLDS, THRESHOLDS

# The thresholds of the measures that take the best one for the whole set.
THRESHOLDS_OF = {
    "v_rand": THRESHOLDS,
    "v_info": THRESHOLDS,
    "v_rand_fine": FINE_THRESHOLDS,
    "v_info_fine": FINE_THRESHOLDS,
}


class Prediction(NamedTuple):
    """The prediction of one image."""

    probabilities: NDArray[np.floating]
    """The probability of each class, shape (H, W, K)."""
    objects: NDArray[np.integer] | None
    """Numbered objects, shape (H, W); needed if the labels are "instances"."""
    seconds: float = 0.0
    """Time that the network took; 0 for a prediction that was read from files."""


@dataclass(frozen=True)
class Counts:
    """The counts of an image, which add up to those of a set."""

    pixels: NDArray[np.int64]
    """The `confusion_matrix` of the labelled pixels."""
    objects: NDArray[np.int64] | None = None
    """The `object_counts` at `IOU_THRESHOLDS`; None unless the labels are "instances"."""
    object_ious: NDArray[np.float64] | None = None
    """The `seg_per_object` of all true objects; None unless the labels are "instances"."""


@dataclass(frozen=True)
class ImageScores:
    """One image's scores.

    Attributes
    ----------
    name : str
    values : dict of str to float or None
        By measure; None where the image has no value.
    by_threshold : dict of str to array or None
        By measure, for those of `THRESHOLDS_OF`: the values at its thresholds.
    mistakes : Mistakes
    counts : Counts
    """

    name: str
    values: dict[str, float | None]
    by_threshold: dict[str, NDArray[np.float64] | None]
    mistakes: Mistakes
    counts: Counts


class Scored(NamedTuple):
    """A prediction and its scores."""

    prediction: Prediction
    scores: ImageScores


@dataclass(frozen=True)
class Measure:
    """A measure over a set of images."""

    mean: float | None
    """Over the images that have a value; None if none has."""
    spread: float | None
    """Standard deviation over the images (divided by n − 1); None for fewer than two."""
    images: int
    """Number of images that have a value."""
    worst: str | None
    """The image with the worst value."""
    threshold: float | None = None
    """The threshold with the best mean; None for measures without a threshold."""
    set_wide: float | None = None
    """The value of all images together, from added counts; None if the measure or the set has none."""

    @property
    def score(self) -> float | None:
        """The value to show first: the set-wide one, or the mean of measures that have only that."""
        return self.mean if self.set_wide is None else self.set_wide


def worst_first(scores: Sequence[ImageScores], measure: str) -> list[int]:
    """The indices of the images that have a value of a measure, from the lowest value."""
    known = {i: value for i, image in enumerate(scores) if (value := image.values[measure]) is not None}
    return sorted(known, key=lambda i: known[i])


def with_few_maps(scored: Iterable[Scored], kind: LabelKind, most: int) -> list[ImageScores]:
    """Collect the scores, but the maps of mistakes of the worst and of the best images only.

    Parameters
    ----------
    scored : iterable of Scored
        What `score_images` yields.
    kind : "binary", "classes" or "instances"
        Of the labels; decides by which measure.
    most : int
        How many of the worst, and how many of the best, keep theirs.

    Returns
    -------
    list of ImageScores
        Elsewhere `mistakes.kinds` has the shape (0, 0): the maps of many images would fill the memory.
    """
    measure, scores, with_map = headline_measure(kind), list[ImageScores](), list[int]()
    for number, one in enumerate(scored):
        scores.append(one.scores)
        with_map.append(number)
        few = [scores[i] for i in with_map]
        order = worst_first(few, measure)
        kept = {with_map[i] for i in (*order[:most], *order[max(0, len(order) - most) :])}
        for i in set(with_map) - kept:
            scores[i] = replace(
                scores[i], mistakes=scores[i].mistakes._replace(kinds=np.zeros((0, 0), np.uint8))
            )
        with_map = sorted(kept)
    return scores


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
    counts = Counts(metrics.confusion_matrix(classes, truth, probabilities.shape[2], ignore_label=UNKNOWN))
    known = labels != UNKNOWN
    classes, truth, labels = (np.where(known, image, 0) for image in (classes, truth, labels))
    by_threshold: dict[str, NDArray[np.float64] | None] = {}
    by_segments: dict[str, float | None] = {}
    if kind == "binary":
        by_segments = _by_segments(classes, truth)
        by_threshold = _by_thresholds(np.where(known, probabilities[:, :, 1], 0), truth)
        mistakes = find_mistakes(_components(classes, SMALLEST_OBJECT), _components(truth, SMALLEST_OBJECT))
    elif kind == "instances":
        assert objects is not None
        counts = replace(
            counts,
            objects=metrics.objects.object_counts(_mostly_known(objects, known), labels),
            object_ious=metrics.seg_per_object(objects, labels),
        )
        mistakes = find_mistakes(objects, labels, known)
    else:
        mistakes = find_class_mistakes(classes, truth)
    return ImageScores(name, _from_counts(counts) | by_segments, by_threshold, mistakes, counts)


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


def pixel_measures(matrix: NDArray[np.integer]) -> dict[str, float | None]:
    """The measures of pixels from a `confusion_matrix` or the sum of several; None for an absent class."""
    total = matrix.sum()
    iou, dice = metrics.iou_from_counts(matrix), metrics.dice_from_counts(matrix)
    values: dict[str, float | None] = {
        "pixel_error": float((total - np.trace(matrix)) / total),
        "mean_iou": _mean(iou[~np.isnan(iou)]),
    }
    for name, scores in (("iou", iou), ("dice", dice)):
        values |= {f"{name}_{number}": _known(score) for number, score in enumerate(scores)}
    return values


def _from_counts(counts: Counts) -> dict[str, float | None]:
    """The measures that counts decide, of one image or of a set."""
    values = pixel_measures(counts.pixels)
    if counts.objects is not None and counts.object_ious is not None:
        precision = metrics.objects.average_precision_from_counts(counts.objects)
        at = dict(zip(metrics.objects.IOU_THRESHOLDS, map(_known, precision), strict=True))
        values |= {
            "seg": _mean(counts.object_ious),
            "average_precision": _known(precision.mean()),
            "average_precision_0.5": at[0.5],
            "average_precision_0.75": at[0.75],
        }
    return values


def _known(value: float) -> float | None:
    """A number for records: None instead of NaN."""
    return None if np.isnan(value) else float(value)


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None


def _add(counts: Sequence[Counts]) -> Counts:
    """The counts of a set. Predictions read from files may know more classes in one image than in another."""
    classes = max(len(image.pixels) for image in counts)
    pixels = np.zeros((classes, classes), np.int64)
    for image in counts:
        pixels[: len(image.pixels), : len(image.pixels)] += image.pixels
    objects = [image.objects for image in counts if image.objects is not None]
    object_ious = [image.object_ious for image in counts if image.object_ious is not None]
    return Counts(
        pixels,
        np.sum(objects, axis=0) if objects else None,
        np.concatenate(object_ious) if object_ious else None,
    )


def _by_segments(classes: NDArray[np.integer], truth: NDArray[np.integer]) -> dict[str, float | None]:
    warping_error = metrics.warping_error(classes, truth)
    if not truth.any():
        return {"rand_error": None, "warping_error": warping_error, "split_merge_error": None}
    left = metrics.warping_mistakes(classes, truth)
    split_or_merged = left[metrics.Mistake.SPLIT].pixels + left[metrics.Mistake.MERGER].pixels
    return {
        "rand_error": metrics.rand_error(_components(classes), _components(truth), singletons=True),
        "warping_error": warping_error,
        "split_merge_error": split_or_merged / truth.size,
    }


def _by_thresholds(
    foreground: NDArray[np.floating], truth: NDArray[np.integer]
) -> dict[str, NDArray[np.float64] | None]:
    """V_Rand and V_Info at each of their thresholds; all of them share the thinning."""
    if not truth.any():
        return dict.fromkeys(THRESHOLDS_OF)
    rand, info = np.zeros((2, len(FINE_THRESHOLDS)))
    cells = _components(truth)
    for i, threshold in enumerate(FINE_THRESHOLDS):
        thinned = metrics.thin_borders(foreground > threshold)
        rand[i] = 1 - metrics.rand_error(thinned, cells, singletons=True)
        info[i] = metrics.information_score(thinned, cells, singletons=True)
    of_challenge = np.isin(FINE_THRESHOLDS, THRESHOLDS)
    return {
        "v_rand": rand[of_challenge],
        "v_info": info[of_challenge],
        "v_rand_fine": rand,
        "v_info_fine": info,
    }


def _mostly_known(objects: NDArray[np.integer], known: NDArray[np.bool_]) -> NDArray[np.integer]:
    """The objects that are known in at least half of their pixels."""
    _, number = np.unique(objects, return_inverse=True)
    share = np.bincount(number.ravel(), known.ravel()) / np.bincount(number.ravel())
    return np.where(share[number.reshape(objects.shape)] >= 0.5, objects, 0)


def _components(mask: NDArray[np.integer], at_least: int = 1) -> NDArray[np.integer]:
    """The 4-connected components of a mask that have at least this many pixels, numbered."""
    components, _ = ndimage.label(mask)
    return np.where(np.bincount(components.ravel())[components] >= at_least, components, 0)


def summarise(scores: Sequence[ImageScores]) -> tuple[dict[str, Measure], list[ImageScores]]:
    """Find the set-wide value of each measure, and its mean and spread over the images.

    Parameters
    ----------
    scores : sequence of ImageScores
        At least one, all of one kind of labels.

    Returns
    -------
    measures : dict of str to Measure
    scores : list of ImageScores
        In the given order, with the values at the thresholds that were chosen. Each has all measures.
    """
    chosen = {name: _best_threshold(name, scores) for name in scores[0].by_threshold}
    set_wide = _from_counts(_add([image.counts for image in scores]))
    names = dict.fromkeys([*set_wide, *scores[0].values, *chosen])
    completed = [
        replace(image, values=dict.fromkeys(names) | image.values | _at_thresholds(image, chosen))
        for image in scores
    ]
    measures = {}
    for name in names:
        threshold = THRESHOLDS_OF[name][chosen[name]] if name in chosen else None
        values = {image.name: image.values[name] for image in completed}
        measures[name] = measure_over(name, values, threshold=threshold, set_wide=set_wide.get(name))
    class_means = [m.mean for name, m in measures.items() if name.startswith("iou_") and m.mean is not None]
    measures["mean_iou"] = replace(measures["mean_iou"], mean=_mean(np.array(class_means)))
    return measures, completed


def _at_thresholds(image: ImageScores, chosen: Mapping[str, int]) -> dict[str, float | None]:
    """The values at the chosen thresholds, which are given by their index in `THRESHOLDS_OF`."""
    curves = {name: image.by_threshold[name] for name in chosen}
    return {name: None if curve is None else float(curve[chosen[name]]) for name, curve in curves.items()}


def _best_threshold(name: str, scores: Sequence[ImageScores]) -> int:
    """The index in `THRESHOLDS_OF`; 0 if no image has a value, because then none is read there."""
    curves = [curve for image in scores if (curve := image.by_threshold[name]) is not None]
    if not curves:
        return 0
    return int(np.mean(curves, axis=0).argmax())


def measure_over(name: str, values: Mapping[str, float | None], **fields: float | None) -> Measure:
    """Find mean, spread and worst of a measure's values, by the images or folds that have them.

    Parameters
    ----------
    name : str
        The measure's.
    values : mapping of str to float or None
    **fields
        The `threshold` and the `set_wide` value.
    """
    known = {owner: value for owner, value in values.items() if value is not None}
    if not known:
        return Measure(None, None, 0, None, set_wide=fields.get("set_wide"))
    numbers = np.array(list(known.values()))
    worst = (max if lower_is_better(name) else min)(known, key=lambda owner: known[owner])
    spread = float(numbers.std(ddof=1)) if len(numbers) > 1 else None
    return Measure(float(numbers.mean()), spread, len(numbers), worst, **fields)
