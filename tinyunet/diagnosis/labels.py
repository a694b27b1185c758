"""Checks of the labels: what they mean, which classes there are and how rare, and the objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected_components

from tinyunet.data import UNKNOWN, ImageSet, class_labels
from tinyunet.diagnosis.finding import Finding, all_labels, count, labels_as_read
from tinyunet.metrics.mistakes import SMALLEST_OBJECT
from tinyunet.sampling import weights_by_class
from tinyunet.sampling.weight_map import separate_touching
from tinyunet.training.collapse import loss_of_constant
from tinyunet.training.trainer import Trainer

RARE = 0.02  # share of the pixels below which a class is easily ignored
SAMPLED = 8  # training tiles, at most, on which the loss of a constant prediction is measured


def check_kind(trainer: Trainer) -> Iterator[Finding]:
    """What the labels were taken for: the first thing to verify."""
    train = trainer.train
    meaning = {
        "binary": "foreground and background (binary)",
        "classes": f"{train.num_classes} classes",
        "instances": "numbers of single objects (instances)",
    }
    yield Finding(
        "note",
        f"the labels are taken for {meaning[str(train.kind)]}",
        numbers={"because": train.reason or "the set says so"},
        remedy="if that is wrong, say what they are: --kind binary, classes or instances",
    )


def check_unlabelled(trainer: Trainer) -> Iterator[Finding]:
    """Images in which nothing is labelled."""
    empty = [name for name, labels in all_labels(trainer) if not labels.any()]
    if empty:
        yield Finding(
            "warning",
            f"{count(empty)} without any foreground",
            empty,
            remedy="if there is something in them, label it or take them out: training learns to miss it",
        )


def check_unknown(trainer: Trainer) -> Iterator[Finding]:
    """Pixels that nobody labelled."""
    shares = {name: float(np.mean(labels == UNKNOWN)) for name, labels in labels_as_read(trainer)}
    if any(shares.values()):
        yield Finding(
            "note",
            f"{100 * np.mean(list(shares.values())):.0f} % of the pixels are unknown: they count nothing, "
            "neither in training nor in the scores",
            [f"{name} ({100 * share:.0f} %)" for name, share in shares.items() if share],
            remedy="label more cells of these images, or give the completely labelled ones only",
        )


def check_absent_classes(trainer: Trainer) -> Iterator[Finding]:
    """Classes that only one of training and held-out images have, or neither."""
    train, held_out = (_pixels_by_class(images) > 0 for images in (trainer.train, trainer.validation))
    if not train.all():
        yield Finding(
            "problem",
            f"no training image has a pixel of class {_numbers(~train)}: it cannot be learned",
            remedy="label some, renumber the classes without it, or change --holdout",
        )
    if (train & ~held_out).any():
        yield Finding(
            "warning",
            f"no held-out image has a pixel of class {_numbers(train & ~held_out)}",
            remedy="choose --holdout so that every class is judged: IoU says nothing of one that is absent",
        )


def _numbers(which: NDArray[np.bool_]) -> str:
    return ", ".join(map(str, np.flatnonzero(which)))


def check_balance(trainer: Trainer) -> Iterator[Finding]:
    """How good a prediction looks that is the same everywhere, as of a network that has learned nothing."""
    pixels = _pixels_by_class(trainer.train)
    shares = pixels / pixels.sum()
    commonest, rarest = int(shares.argmax()), float(shares[shares > 0].min())
    yield Finding(
        "warning" if rarest < RARE else "note",
        f"class {commonest} everywhere would be wrong at {100 * (1 - shares[commonest]):.1f} % of the pixels",
        numbers={
            "share of each class": ", ".join(f"{100 * share:.1f} %" for share in shares),
            "training loss then": f"{_loss_of_constant(trainer):.3f}, with the weights that training uses",
        },
        remedy="a loss that stays there means that nothing is learned; judge by IoU, not by pixel error",
    )


def _pixels_by_class(images: ImageSet) -> NDArray[np.int64]:
    assert images.labels is not None
    assert images.kind is not None
    counts = np.zeros(images.num_classes, np.int64)
    for labels in images.labels:
        classes = class_labels(labels, images.kind)
        counts += np.bincount(classes[classes != UNKNOWN], minlength=images.num_classes)
    return counts


def _loss_of_constant(trainer: Trainer) -> float:
    """The least loss of a prediction that is the same at every pixel of the first samples."""
    classes = trainer.train.num_classes
    samples = map(trainer.sampler.sample, range(min(SAMPLED, len(trainer.train))))
    return loss_of_constant(np.sum([weights_by_class(sample, classes) for sample in samples], axis=0))


def check_objects(trainer: Trainer) -> Iterator[Finding]:
    """Object numbers used twice, specks, and objects that are lost when touching ones are parted."""
    if trainer.train.kind != "instances":
        return
    scattered: dict[str, int] = {}
    specks: dict[str, int] = {}
    lost: dict[str, int] = {}
    for name, labels in all_labels(trainer):
        sizes = np.bincount(labels.ravel())[1:]
        pieces = connected_components(labels, background=0, connectivity=2).max()
        scattered[name] = int(pieces - np.count_nonzero(sizes))
        specks[name] = int(np.count_nonzero((sizes > 0) & (sizes < SMALLEST_OBJECT)))
        lost[name] = int(np.count_nonzero(sizes)) - len(np.setdiff1d(separate_touching(labels), [0]))
    if where := _above_zero(scattered):
        yield Finding(
            "warning",
            f"pieces that lie apart from the rest of their object: {sum(scattered.values())}",
            where,
            remedy="give every object its own number; a stray pixel belongs to the background",
        )
    if where := _above_zero(specks):
        yield Finding(
            "note",
            f"objects smaller than {SMALLEST_OBJECT} pixels: {sum(specks.values())}",
            where,
            remedy=f"predict drops objects under {SMALLEST_OBJECT} pixels unless told otherwise (--min-size)",
        )
    if where := _above_zero(lost):
        yield Finding(
            "warning",
            f"objects all of whose pixels touch another object: {sum(lost.values())}",
            where,
            remedy="training parts touching objects, and of thin ones nothing is left: draw them larger",
        )


def _above_zero(counts: Mapping[str, int]) -> list[str]:
    return [f"{name} ({count})" for name, count in counts.items() if count > 0]


def check_touching(trainer: Trainer) -> Iterator[Finding]:
    """Cells in contact: what the border term of the weight map is for."""
    if trainer.train.kind == "binary":
        yield Finding(
            "note",
            "cells that touch are one in binary labels",
            remedy="to have them told apart, give every cell a number of its own or draw a gap between them",
        )
    if trainer.train.kind != "instances":
        return
    cells = touching = 0
    for _, labels in all_labels(trainer):
        cells += len(np.setdiff1d(labels, [0]))
        touching += len(np.unique(labels[separate_touching(labels) != labels]))
    w0 = trainer.config.weights.w0
    found = f"{touching:,} of {cells:,} cells touch another one ({100 * touching / max(cells, 1):.0f} %)"
    if touching and w0 == 0:
        yield Finding("warning", f"{found}, and the border weight is off", remedy="give --weights.w0 10")
    elif touching:
        yield Finding(
            "note", found, remedy=f"the weight map's border term (w0 {w0:g}) is for the gaps between"
        )
    else:
        yield Finding("note", "no cells touch", remedy="the weight map's border term changes little here")
