"""What would go wrong with a data set, found before training: one small check for each trap.

A check looks at a `Trainer` that has made no step (its training and held-out images, the tile and the weights
that it would use) and yields findings. `CHECKS` lists them all; `diagnose` runs them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected_components

from tinyunet.augment import Augmentation
from tinyunet.collapse import loss_of_constant
from tinyunet.data import UNKNOWN, ImageSet, class_labels
from tinyunet.errors import TinyUNetError
from tinyunet.sampling import Sample, weights_by_class
from tinyunet.trainer import Trainer
from tinyunet.weight_map import separate_touching

Severity = Literal["problem", "warning", "note"]

FEW_LEVELS = 16  # fewer grey values than this are 4 bits: shapes, but no texture
SATURATED = 0.01  # share of an image at the highest value that its bits hold
RARE = 0.02  # share of the pixels below which a class is easily ignored
MIRRORED = 0.1  # share of a training tile that may be mirror image
SPECK = 10  # px: predict drops smaller objects unless told otherwise
LOOKED_AT = 8  # samples that the loss of a constant prediction is measured on, and that one is shown of
SIGNATURE = 16  # a signature is the image shrunk to so many pixels squared
ALIKE = 0.95  # correlation of two signatures; neighbouring sections of ISBI 2012 reach 0.80


@dataclass(frozen=True)
class Finding:
    """One thing to know about a data set.

    Attributes
    ----------
    severity : "problem", "warning" or "note"
        What makes training or judging wrong; what may; what is good to know.
    what : str
        One line.
    where : sequence of str
        Names of the images concerned; empty for the whole set.
    numbers : mapping of str to object
    remedy : str
    """

    severity: Severity
    what: str
    where: Sequence[str] = ()
    numbers: Mapping[str, object] = field(default_factory=dict)
    remedy: str = ""

    def __str__(self) -> str:
        """As an error's text: what, where, numbers, remedy."""
        images = {"images": f"{len(self.where)}: {_some(self.where)}"} if self.where else {}
        return f"{self.severity}: {TinyUNetError(self.what, {**images, **self.numbers}, self.remedy)}"


def diagnose(trainer: Trainer) -> list[Finding]:
    """All findings, the gravest first.

    Parameters
    ----------
    trainer : Trainer
        Made from the images and the options that training would use.
    """
    findings = [finding for check in CHECKS for finding in check(trainer)]
    order: tuple[Severity, ...] = ("problem", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def warnings(trainer: Trainer) -> list[Finding]:
    """The findings that are more than a note."""
    return [finding for finding in diagnose(trainer) if finding.severity != "note"]


def telling_samples(trainer: Trainer) -> dict[str, Sample]:
    """The tile with the most border among the first samples, as in the file and as training sees it."""
    as_filed = Trainer(
        replace(trainer.config, augmentation=Augmentation.off()), trainer.train, trainer.validation
    ).sampler
    samples = {step: as_filed.sample(step) for step in range(min(LOOKED_AT, len(trainer.train)))}
    step = max(samples, key=lambda step: float(samples[step].weight.sum()))
    return {"as in the file": samples[step], "augmented": trainer.sampler.sample(step)}


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
    empty = [name for name, labels in _all_labels(trainer) if not labels.any()]
    if empty:
        yield Finding(
            "warning",
            f"{_count(empty)} without any foreground",
            empty,
            remedy="if there is something in them, label it or take them out: training learns to miss it",
        )


def check_unknown(trainer: Trainer) -> Iterator[Finding]:
    """Pixels that nobody labelled."""
    shares = {name: float(np.mean(labels == UNKNOWN)) for name, labels in _labels_as_read(trainer)}
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


def check_objects(trainer: Trainer) -> Iterator[Finding]:
    """Object numbers used twice, specks, and objects that are lost when touching ones are parted."""
    if trainer.train.kind != "instances":
        return
    scattered: dict[str, int] = {}
    specks: dict[str, int] = {}
    lost: dict[str, int] = {}
    for name, labels in _all_labels(trainer):
        sizes = np.bincount(labels.ravel())[1:]
        pieces = connected_components(labels, background=0, connectivity=2).max()
        scattered[name] = int(pieces - np.count_nonzero(sizes))
        specks[name] = int(np.count_nonzero((sizes > 0) & (sizes < SPECK)))
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
            f"objects smaller than {SPECK} pixels: {sum(specks.values())}",
            where,
            remedy=f"predict drops objects under {SPECK} pixels unless told otherwise (--min-size)",
        )
    if where := _above_zero(lost):
        yield Finding(
            "warning",
            f"objects all of whose pixels touch another object: {sum(lost.values())}",
            where,
            remedy="training parts touching objects, and of thin ones nothing is left: draw them larger",
        )


def check_constant(trainer: Trainer) -> Iterator[Finding]:
    """Images without contrast, and with so few grey values that only shapes are left."""
    levels = {name: len(np.unique(image)) for name, image in _all_images(trainer)}
    if where := [name for name, count in levels.items() if count == 1]:
        yield Finding(
            "problem",
            f"{_count(where)} of one single grey value",
            where,
            remedy="export them again or take them out: their labels can only be learned by heart",
        )
    if where := [name for name, count in levels.items() if 1 < count < FEW_LEVELS]:
        yield Finding(
            "warning",
            f"{_count(where)} with fewer than {FEW_LEVELS} grey values",
            where,
            {"fewest": min(levels[name] for name in where)},
            "check that these are images and no masks, and that they were not exported with too few bits",
        )


def check_equal_channels(trainer: Trainer) -> Iterator[Finding]:
    """Grey images that are stored as colour."""
    channels = trainer.train.images[0].shape[2]
    if channels > 1 and all((image == image[:, :, :1]).all() for _, image in _all_images(trainer)):
        yield Finding(
            "note",
            f"all {channels} channels are equal in every image: they are grey",
            remedy="save them with one channel; the network then also takes grey images to predict",
        )


def check_saturation(trainer: Trainer) -> Iterator[Finding]:
    """Pixels at the upper end of the scale, where differences in brightness are lost."""
    shares = {name: _saturated(image) for name, image in _all_images(trainer)}
    if where := [name for name, share in shares.items() if share > SATURATED]:
        yield Finding(
            "warning",
            f"{_count(where)} saturated: more than {100 * SATURATED:g} % of the pixels at the highest value",
            where,
            {"most": f"{100 * max(shares.values()):.1f} % of the pixels"},
            "if these are the objects, expose less: what was lost there cannot be learned",
        )


def check_bit_depth(trainer: Trainer) -> Iterator[Finding]:
    """16-bit files whose values use fewer bits, and sets of mixed types."""
    types = {image.dtype for _, image in _all_images(trainer)}
    if len(types) > 1:
        yield Finding(
            "note",
            f"images are stored as {' and '.join(sorted(map(str, types)))}",
            remedy="nothing need be done, each image is normalised by itself; but were they exported alike?",
        )
    highest = max(int(image.max()) for _, image in _all_images(trainer))
    if types != {np.dtype(np.uint16)} or highest >= 2**12:
        return
    if highest >= 2**8:
        yield Finding(
            "note",
            f"16-bit files hold values up to {highest}, as of a {highest.bit_length()}-bit camera",
            remedy="nothing need be done: each image is normalised by itself",
        )
    else:
        yield Finding(
            "warning",
            f"16-bit files hold values up to {highest}: they have been through 8 bits",
            remedy="export from the original: a dim image has few of the 256 grey values left",
        )


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


def check_size(trainer: Trainer) -> Iterator[Finding]:
    """Images smaller than a training tile, or than what the network sees around a pixel."""
    sides = {name: min(image.shape[:2]) for name, image in _all_images(trainer)}
    geometry, tile, smallest = trainer.model.geometry, trainer.output_size, min(sides.values())
    shares = {name: _mirrored(image, tile) for name, image in _all_images(trainer)}
    if where := [name for name, share in shares.items() if share > MIRRORED]:
        below, _ = geometry.nearest_inputs(smallest + geometry.shrink)
        fits = f"--tile {below - geometry.shrink} fits, and costs less" if below else ""
        yield Finding(
            "warning",
            f"{_count(where)} smaller than the tile of {tile} pixels",
            where,
            {"of such a tile": f"up to {100 * max(shares.values()):.0f} % are the image's own mirror image"},
            fits or "use a network of less --depth",
        )
    halo = geometry.halo
    if where := [name for name, side in sides.items() if side <= halo]:
        yield Finding(
            "warning",
            f"{_count(where)} not larger than the {halo} pixels that the network sees to each side",
            where,
            {"smallest": f"{smallest} pixels"},
            "what it sees there is mostly mirror images; use less --depth",
        )


def check_duplicates(trainer: Trainer) -> Iterator[Finding]:
    """The same image twice: held out and trained on, or labelled in two ways."""
    twins = _same_pixels(trainer.train, trainer.validation)
    if twins:
        yield Finding(
            "problem",
            f"{_count(twins, 'pair')} of a held-out and a training image with the same pixels",
            [f"{held_out} = {train}" for train, held_out in twins],
            remedy="take them out or change --holdout: scores on images that were learned mean nothing",
        )
    if near := [pair for pair in _same_signature(trainer.train, trainer.validation) if pair not in twins]:
        yield Finding(
            "warning",
            f"{_count(near, 'pair')} of a held-out and a training image that are much alike",
            [f"{held_out} ~ {train}" for train, held_out in near],
            remedy="are they copies, turned or re-lit? Hold out whole specimens, films or stacks",
        )
    labels = dict(_all_labels(trainer))
    again = [pair for pair in _same_pixels(trainer.train, trainer.train) if pair[0] < pair[1]]
    if again:
        contradict = [pair for pair in again if not np.array_equal(labels[pair[0]], labels[pair[1]])]
        yield Finding(
            "problem" if contradict else "note",
            f"{_count(again, 'pair')} of training images with the same pixels, "
            f"{len(contradict) or 'none'} of them with different labels",
            [f"{one} = {other}" for one, other in contradict or again],
            remedy="keep one of each",
        )


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
    for _, labels in _all_labels(trainer):
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


CHECKS: tuple[Callable[[Trainer], Iterator[Finding]], ...] = (
    check_kind,
    check_unlabelled,
    check_unknown,
    check_absent_classes,
    check_objects,
    check_constant,
    check_equal_channels,
    check_saturation,
    check_bit_depth,
    check_balance,
    check_size,
    check_duplicates,
    check_touching,
)


def _all_images(trainer: Trainer) -> Iterator[tuple[str, NDArray[Any]]]:
    for images in (trainer.train, trainer.validation):
        yield from zip(images.names, images.images, strict=True)


def _labels_as_read(trainer: Trainer) -> Iterator[tuple[str, NDArray[np.integer]]]:
    for images in (trainer.train, trainer.validation):
        assert images.labels is not None
        yield from zip(images.names, images.labels, strict=True)


def _all_labels(trainer: Trainer) -> Iterator[tuple[str, NDArray[np.integer]]]:
    """As they were read, but without pixels that are unknown: those are background here."""
    for name, labels in _labels_as_read(trainer):
        yield name, np.where(labels == UNKNOWN, 0, labels)


def _pixels_by_class(images: ImageSet) -> NDArray[np.int64]:
    assert images.labels is not None
    assert images.kind is not None
    counts = np.zeros(images.num_classes, np.int64)
    for labels in images.labels:
        classes = class_labels(labels, images.kind)
        counts += np.bincount(classes[classes != UNKNOWN], minlength=images.num_classes)
    return counts


def _saturated(image: NDArray[Any]) -> float:
    """Share of the pixels at the highest value of 8, 10, 12 … bits, of a float image at its own highest."""
    highest = image.max()
    if image.dtype.kind in "ui" and (highest < 255 or (int(highest) + 1).bit_count() != 1):
        return 0.0
    return float(np.mean(image == highest)) if highest > image.min() else 0.0


def _mirrored(image: NDArray[Any], tile: int) -> float:
    """Share of a tile that lies outside of the image."""
    height, width = image.shape[:2]
    return 1 - min(height, tile) * min(width, tile) / tile**2


def _loss_of_constant(trainer: Trainer) -> float:
    """The least loss of a prediction that is the same at every pixel of the first samples."""
    classes = trainer.train.num_classes
    samples = map(trainer.sampler.sample, range(min(LOOKED_AT, len(trainer.train))))
    return loss_of_constant(np.sum([weights_by_class(sample, classes) for sample in samples], axis=0))


def _same_pixels(one: ImageSet, other: ImageSet) -> list[tuple[str, str]]:
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


def _same_signature(one: ImageSet, other: ImageSet) -> list[tuple[str, str]]:
    """Pairs of which one is nearly the other, turned or mirrored; brightness and contrast do not matter."""
    first = np.array([_signature(image).ravel() for image in one.images])
    likeness = np.full((len(one), len(other)), -1.0)
    for turns in range(4):
        for flip in (1, -1):
            second = [np.rot90(_signature(image)[:, ::flip], turns).ravel() for image in other.images]
            likeness = np.maximum(likeness, first @ np.array(second).T)
    return [(one.names[i], other.names[j]) for i, j in np.argwhere(likeness > ALIKE)]


def _signature(image: NDArray[Any]) -> NDArray[np.float64]:
    """The image's means over a grid of blocks, less their mean, of length 1; 0 for a constant image."""
    grey = image.mean(axis=2)
    rows, columns = (np.arange(SIGNATURE) * side // SIGNATURE for side in grey.shape)
    heights, widths = (
        np.maximum(np.diff(edges, append=side), 1)  # in an image of few pixels one may be in several blocks
        for edges, side in zip((rows, columns), grey.shape, strict=True)
    )
    blocks = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1) / np.outer(heights, widths)
    blocks -= blocks.mean()
    length = np.linalg.norm(blocks)
    return blocks / length if length > 0 else blocks


def _above_zero(counts: Mapping[str, int]) -> list[str]:
    return [f"{name} ({count})" for name, count in counts.items() if count > 0]


def _count(what: Sequence[object], word: str = "image") -> str:
    return f"{len(what)} {word}{'s' if len(what) > 1 else ''}"


def _numbers(which: NDArray[np.bool_]) -> str:
    return ", ".join(map(str, np.flatnonzero(which)))


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
