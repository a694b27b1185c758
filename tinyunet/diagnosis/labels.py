"""Check the labels: their meaning, the classes and how rare they are, and the objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected_components

from tinyunet.data import UNKNOWN, ImageSet
from tinyunet.diagnosis.finding import Finding, all_labels, count, labels_as_read
from tinyunet.metrics.mistakes import SMALLEST_OBJECT
from tinyunet.metrics.naming import format_value
from tinyunet.metrics.scores import pixel_measures
from tinyunet.sampling import weights_by_class
from tinyunet.sampling.weight_map import separate_touching
from tinyunet.training.collapse import loss_of_constant
from tinyunet.training.setup import Setup
from tinyunet.training.validation import count_constant, pixels_by_class

RARE = 0.02  # share of the pixels below which a network easily ignores a class
SAMPLED = 8  # training tiles, at most, on which the loss of a constant prediction is measured


def check_kind(setup: Setup) -> Iterator[Finding]:
    """Say how the labels were understood: the first thing to verify."""
    images = setup.training_set
    meaning = {
        "binary": "foreground and background (binary)",
        "classes": f"{images.num_classes} classes",
        "instances": "object numbers (instances)",
    }
    table = {"in the files": images.class_table} if images.class_table else {}
    yield Finding(
        "note",
        f"the labels are read as {meaning[str(images.kind)]}",
        numbers={"because": images.reason or "the set says so", **table},
        remedy="if that is wrong, give --kind binary, classes or instances",
    )


def check_unlabelled(setup: Setup) -> Iterator[Finding]:
    """Find images in which nothing is labelled."""
    empty = [name for name, labels in all_labels(setup) if not labels.any()]
    if empty:
        yield Finding(
            "warning",
            f"{count(empty)} without any foreground",
            empty,
            remedy="if they show objects, label these or take the images out: training learns to miss them",
        )


def check_unknown(setup: Setup) -> Iterator[Finding]:
    """Report pixels that nobody labelled, and values given as unknown that no label has."""
    if absent := setup.training_set.not_found:
        yield Finding(
            "warning",
            f"no label has the value {', '.join(absent)}, which --ignore gives",
            remedy="look up the number of unlabelled pixels in the files, or leave it out",
        )
    shares = {name: float(np.mean(labels == UNKNOWN)) for name, labels in labels_as_read(setup)}
    if any(shares.values()):
        yield Finding(
            "note",
            f"{100 * np.mean(list(shares.values())):.0f} % of the pixels are unknown: they count "
            "neither in training nor in the scores",
            [f"{name} ({100 * share:.0f} %)" for name, share in shares.items() if share],
            remedy="label more cells of these images, or leave out all but the completely labelled ones",
        )


def check_absent_classes(setup: Setup) -> Iterator[Finding]:
    """Find classes that are missing from the training images, or only from the held-out ones."""
    images = setup.training_set
    train, held_out = (pixels_by_class(part) > 0 for part in (images, setup.validation_set))
    if not train.all():
        yield Finding(
            "problem",
            f"no training image has a pixel of class {_numbers(images, ~train)}: it cannot be learned",
            remedy="label some, renumber the classes without it, or change --holdout",
        )
    if (train & ~held_out).any():
        yield Finding(
            "warning",
            f"no held-out image has a pixel of class {_numbers(images, train & ~held_out)}",
            remedy="choose --holdout so that every class is scored: IoU says nothing about an absent one",
        )


def _numbers(images: ImageSet, which: NDArray[np.bool_]) -> str:
    """The files' numbers of these classes."""
    return ", ".join(images.class_name(int(number)) for number in np.flatnonzero(which))


def check_balance(setup: Setup) -> Iterator[Finding]:
    """Say how good a constant prediction looks, which is that of a network that learned nothing."""
    pixels = pixels_by_class(setup.training_set)
    shares = pixels / pixels.sum()
    commonest, rarest = int(shares.argmax()), float(shares[shares > 0].min())
    name = setup.training_set.class_name(commonest)
    yield Finding(
        "warning" if rarest < RARE else "note",
        f"class {name} everywhere would be wrong at {100 * (1 - shares[commonest]):.1f} % of the pixels",
        numbers={
            "share of each class": ", ".join(f"{100 * share:.1f} %" for share in shares),
            "training loss then": f"{_loss_of_constant(setup):.3f}, with the weights that training uses",
            "scores then": _scores_of_constant(commonest, setup.validation_set),
        },
        remedy="a loss that stays there shows that nothing is learned; judge by IoU, not by pixel error",
    )


def _scores_of_constant(predicted: int, images: ImageSet) -> str:
    """The scores that a training would report if it predicted one class at every pixel."""
    measures = pixel_measures(count_constant(images, predicted))
    classes = ", ".join(format_value(measures[f"iou_{number}"]) for number in range(images.num_classes))
    return f"IoU by class {classes}, mean {format_value(measures['mean_iou'])} on the held-out images"


def _loss_of_constant(setup: Setup) -> float:
    """The lowest loss of a constant prediction on the first samples."""
    classes = setup.training_set.num_classes
    samples = map(setup.sampler.sample, range(min(SAMPLED, len(setup.training_set))))
    return loss_of_constant(np.sum([weights_by_class(sample, classes) for sample in samples], axis=0))


def check_objects(setup: Setup) -> Iterator[Finding]:
    """Find object numbers used twice, specks, and objects that vanish when touching ones are separated."""
    if setup.training_set.kind != "instances":
        return
    scattered: dict[str, int] = {}
    specks: dict[str, int] = {}
    lost: dict[str, int] = {}
    for name, labels in all_labels(setup):
        sizes, left = (
            np.bincount(pixels.ravel(), minlength=1)[1:] for pixels in (labels, separate_touching(labels))
        )
        pieces = connected_components(labels, background=0, connectivity=2).max()
        scattered[name] = int(pieces - np.count_nonzero(sizes))
        specks[name] = int(np.count_nonzero((sizes > 0) & (sizes < SMALLEST_OBJECT)))
        lost[name] = int(np.count_nonzero(sizes) - np.count_nonzero(left))
    if where := _above_zero(scattered):
        yield Finding(
            "warning",
            f"pieces separate from the rest of their object: {sum(scattered.values())}",
            where,
            remedy="give every object its own number; a stray pixel belongs to the background",
        )
    if where := _above_zero(specks):
        yield Finding(
            "note",
            f"objects smaller than {SMALLEST_OBJECT} pixels: {sum(specks.values())}",
            where,
            remedy=f"predict drops objects under {SMALLEST_OBJECT} pixels unless --min-size says otherwise",
        )
    if where := _above_zero(lost):
        yield Finding(
            "warning",
            f"objects all of whose pixels touch another object: {sum(lost.values())}",
            where,
            remedy="training separates touching objects, and these vanish: draw them larger",
        )


def _above_zero(counts: Mapping[str, int]) -> list[str]:
    return [f"{name} ({count})" for name, count in counts.items() if count > 0]


def check_touching(setup: Setup) -> Iterator[Finding]:
    """Count the cells in contact, which the border term of the weight map is for."""
    if setup.training_set.kind == "binary":
        yield Finding(
            "note",
            "touching cells are one object in binary labels",
            remedy="to separate them, give each cell its own number or draw a gap between them",
        )
    if setup.training_set.kind != "instances":
        return
    cells = touching = 0
    for _, labels in all_labels(setup):
        cells += len(np.setdiff1d(labels, [0]))
        touching += len(np.unique(labels[separate_touching(labels) != labels]))
    w0 = setup.config.weights.w0
    found = f"{touching:,} of {cells:,} cells touch another one ({100 * touching / max(cells, 1):.0f} %)"
    if touching and w0 == 0:
        yield Finding(
            "note",
            f"{found}, and the border weight is off",
            remedy="predict cuts objects at narrow necks; the paper's border weight is --weights.w0 10",
        )
    elif touching:
        yield Finding(
            "note", found, remedy=f"the weight map's border term (w0 {w0:g}) is for the gaps between them"
        )
    else:
        yield Finding("note", "no cells touch", remedy="the weight map's border term changes little here")
