"""Images with their labels, checked once, so that no later step has to check them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinyunet.data.as_needed import AsNeeded, select
from tinyunet.data.class_table import ClassTable
from tinyunet.errors import DataError, describe

LabelKind = Literal["binary", "classes", "instances"]
UNKNOWN = -1  # in labels of every kind: a pixel that nobody labelled; loss and measures skip it
Image = NDArray[Any]
Labels = NDArray[np.integer]
LOOKED_AT = 32  # images, at most, that stand for a set that is read as needed
PIXELS_LOOKED_AT, FEWEST_LOOKED_AT = 8 * 2**20, 4  # fewer of large ones: a training waits for them


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images, their labels, and the meaning of the labels.

    Parameters
    ----------
    images : sequence of arrays, each (H, W, C)
        Grey values as the files hold them. Sizes may differ, the number of channels may not.
    names : list of str
        One name per image, all different.
    labels : sequence of integer arrays, each (H, W), or None
        None in a set to predict. "binary": 0 and 1. "classes": 0..num_classes-1.
        "instances": 0 is background, every other value is one object of that image.
        In all kinds: `UNKNOWN` (-1), pixels that nobody labelled.
    kind : "binary", "classes", "instances", or None without labels
    num_classes : int
        Classes that a network distinguishes: 2 for "binary" and "instances", 0 without labels.
    source : str
        The path or the name of the set, for messages.
    reason : str
        Why the labels are of this kind, for `summary`.
    class_values : tuple of int, optional
        For "classes" and "binary" labels that were read: the number of each class in the files, 0xRRGGBB if
        `coloured`. None for a mask of 0 and 1 or of one value.
    coloured : bool
        The label files show colours.
    not_found : tuple of str
        The values that the options give as unknown and that no label file has, as people write them.
    layout : str
        What was inferred about folders and names, for `summary`.
    notes : mapping of str to str
        What was unusual about a file and read all the same, such as "white is zero", by its path.
    checksums : sequence of (int, int), optional
        Those of each image and of its labels, where arrays do not give them: of their files, for a set that
        is read as needed; of what was scaled.
    unreadable : set of str
        The names of images that could not be read when they were needed.

    Notes
    -----
    Images and labels may be `AsNeeded` sequences, whose items are checked when they are made. What would need
    a pass over all of them is then taken from a few, `looked_at`.

    Raises
    ------
    DataError
        An image and its label differ in size, a pixel is not finite, a label is out of range or unknown
        everywhere, ...
    """

    images: Sequence[Image]
    names: list[str]
    labels: Sequence[Labels] | None = None
    kind: LabelKind | None = None
    num_classes: int = 0
    source: str = "array"
    reason: str = ""
    class_values: tuple[int, ...] | None = None
    coloured: bool = False
    not_found: tuple[str, ...] = ()
    layout: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    checksums: Sequence[tuple[int, int]] | None = None
    unreadable: AbstractSet[str] = frozenset()

    def __post_init__(self) -> None:
        _check_names(self)
        if not self.is_read_as_needed:
            for image, name in zip(self.images, self.names, strict=True):
                check_image(image, name, self.source, like=(self.names[0], self.images[0]))
        if self.labels is not None:
            _check_numbers(self, self.labels)
        if self.labels is not None and not self.is_read_as_needed:
            for image, label, name in zip(self.images, self.labels, self.names, strict=True):
                check_label(label, image, name, self)

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """Select images by index, in this order; classes and kind stay those of the whole set."""
        return replace(
            self,
            images=select(self.images, indices),
            names=[self.names[i] for i in indices],
            labels=None if self.labels is None else select(self.labels, indices),
            checksums=None if self.checksums is None else select(self.checksums, indices),
        )

    @property
    def is_read_as_needed(self) -> bool:
        """Whether images are read when they are needed, because all of them would take much memory."""
        return isinstance(self.images, AsNeeded)

    @property
    def looked_at(self) -> ImageSet:
        """The images that stand for all where a pass over them is needed: a few, or all of a set in memory.

        They are evenly spaced, and the same ones whenever it is asked.
        """
        return self.subset(self.numbers_looked_at) if self.is_read_as_needed else self

    @property
    def numbers_looked_at(self) -> Sequence[int]:
        """The indices of the images `looked_at`."""
        if not self.is_read_as_needed:
            return range(len(self))
        return evenly_spaced(len(self), images_to_look_at(self.images[0]))

    @property
    def pixels(self) -> int:
        """How many pixels all images have, as estimated from those `looked_at`."""
        few = self.looked_at
        return round(sum(image.shape[0] * image.shape[1] for image in few.images) * len(self) / len(few))

    def summary(self) -> str:
        """Describe in one line what was found and how the labels were understood."""
        few = self.looked_at
        parts = [_images_text(few.images), _labels_text(few), self.layout]
        text = "; ".join(part for part in parts if part)
        if few is self:
            return text
        return f"{len(self)} images, read as needed; {len(few)} of them were looked at: {text}"

    @property
    def class_table(self) -> ClassTable | None:
        """The files' number or colour of each class; None unless `class_values` are known."""
        is_mask = self.kind == "binary" and not self.coloured
        return None if self.class_values is None else ClassTable(self.class_values, self.coloured, is_mask)

    def class_name(self, number: int) -> str:
        """Return the file's own number or colour of a class, such as "128" or "#ff0000"."""
        return str(number) if self.class_table is None else self.class_table.name(number)


def class_labels(labels: Labels, kind: LabelKind) -> Labels:
    """Return the class of every pixel: objects become class 1, other kinds are classes already.

    Parameters
    ----------
    labels : integer array, shape (H, W)
        `UNKNOWN` stays so.
    kind : "binary", "classes" or "instances"
    """
    return np.sign(labels) if kind == "instances" else labels


def images_to_look_at(image: Image) -> int:
    """Return how many images of this size are looked at, for a set that is read as needed."""
    height, width = image.shape[:2]
    return min(LOOKED_AT, max(FEWEST_LOOKED_AT, PIXELS_LOOKED_AT // (height * width)))


def evenly_spaced(n: int, most: int) -> list[int]:
    """Choose at most so many of the indices 0 … n - 1, the first and the last among them.

    >>> evenly_spaced(9, 3), evenly_spaced(2, 3)
    ([0, 4, 8], [0, 1])
    """
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int)).tolist()


def _check_names(image_set: ImageSet) -> None:
    images, names, source = image_set.images, image_set.names, image_set.source
    if not images:
        raise DataError(f"{source}: no images", remedy="give at least one image")
    if len(names) != len(images) or len(set(names)) != len(names):
        raise DataError(
            f"{source}: {len(images)} images need as many different names, found {len(set(names))}",
            {
                "more than once": ", ".join(sorted({name for name in names if names.count(name) > 1}))
                or "none"
            },
            "give every image another name; suffixes do not count",
        )


def check_image(image: Image, name: str, source: str, *, like: tuple[str, Image]) -> None:
    """Raise a DataError unless an image can be one of a set that has the image `like`, with its name."""
    if image.ndim != 3 or 0 in image.shape:
        raise DataError(
            f"{source}: image {name} is empty or not (H, W, C)", {"found": describe(image)}, "remove it"
        )
    if image.shape[2] != like[1].shape[2]:
        raise DataError(
            f"{source}: images differ in their number of channels",
            {like[0]: describe(like[1], "H W C"), name: describe(image, "H W C")},
            "save all of them in grey, or all of them in colour",
        )
    _check_pixels(image, f"{source}: image {name}")


def _check_pixels(image: Image, where: str) -> None:
    if image.dtype.kind not in "buif":
        raise DataError(f"{where}: pixels must be numbers, found {image.dtype}", remedy="save it as uint16")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        bad = np.argwhere(~np.isfinite(image))
        row, column, channel = map(int, bad[0])
        raise DataError(
            f"{where}: {len(bad)} pixels are NaN or infinite",
            {"first": f"row {row}, column {column}, channel {channel}"},
            "replace them (numpy.nan_to_num), or crop them away",
        )


def _check_numbers(image_set: ImageSet, labels: Sequence[Labels]) -> None:
    if image_set.class_values is not None and len(image_set.class_values) != image_set.num_classes:
        raise DataError(
            f"{image_set.source}: every class needs one value",
            {"classes": image_set.num_classes, "values": image_set.class_values},
        )
    if len(labels) != len(image_set):
        raise DataError(
            f"{image_set.source}: every image needs a label image",
            {"images": len(image_set), "labels": len(labels)},
            "remove the images without a label, or leave out all the labels",
        )


def check_label(label: Labels, image: Image, name: str, image_set: ImageSet) -> None:
    """Raise a DataError unless a label belongs to an image, of this name, and has the classes of the set."""
    if label.shape != image.shape[:2]:
        raise DataError(
            f"{image_set.source}: image {name} and its label differ in size",
            {"image": describe(image, "H W C"), "label": describe(label, "H W")},
            "give each image the label drawn on it, unscaled and uncropped",
        )
    highest = int(label.max())
    if highest == UNKNOWN:
        raise DataError(
            f"{image_set.source}: every pixel of label {name} is unknown",
            remedy="leave the image out: it has nothing to learn from or to judge",
        )
    if label.min() < UNKNOWN or (image_set.kind != "instances" and highest >= image_set.num_classes):
        raise DataError(
            f"{image_set.source}: label {name} is out of range",
            {"expected": f"0..{image_set.num_classes - 1}", "found": f"{label.min()}..{highest}"},
            "correct the label, or read the set with another kind",
        )


def _images_text(images: Sequence[Image]) -> str:
    sizes = sorted({image.shape[:2] for image in images})
    (h, w), (last_h, last_w) = sizes[0], sizes[-1]
    size = f"{h}x{w}" if len(sizes) == 1 else f"{h}x{w} to {last_h}x{last_w}"
    dtypes = "/".join(sorted({str(image.dtype) for image in images}))
    return f"{len(images)} image{'s'[: len(images) > 1]} {size}x{images[0].shape[2]} {dtypes}"


def _labels_text(image_set: ImageSet) -> str:
    labels = image_set.labels
    if labels is None:
        return "no labels"
    if image_set.kind == "instances":
        counts = [len(np.unique(label[label > 0])) for label in labels]
        found = f"instances, {min(counts)} to {max(counts)} objects per image"
    else:
        known = [label[label != UNKNOWN] for label in labels]
        pixels = np.sum([np.bincount(label, minlength=image_set.num_classes) for label in known], axis=0)
        shares = [f"{share:.0f}" for share in 100 * pixels / pixels.sum()]
        found = f"binary, {shares[1]} % foreground" + _numbers_text(image_set)
        if image_set.kind == "classes":
            found = f"{image_set.num_classes} classes, {', '.join(shares)} %" + _numbers_text(image_set)
    unknown = 100 * np.mean([np.mean(label == UNKNOWN) for label in labels])
    if unknown:
        found += f", {unknown:.0f} % of the pixels unknown"
    return f"labels: {found}" + (f" ({image_set.reason})" if image_set.reason else "")


def _numbers_text(image_set: ImageSet) -> str:
    """State the file's numbers or colours of the classes unless they are 0..K-1."""
    if image_set.class_values in (None, tuple(range(image_set.num_classes))) and not image_set.coloured:
        return ""
    return f", which the files call {image_set.class_table}"
