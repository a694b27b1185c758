"""The images and the label pixels of files, and the set that they make."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyunet.data.cell_tracking import Truth
from tinyunet.data.decode import decode_with_notes
from tinyunet.data.image_set import UNKNOWN, Image, ImageSet, LabelKind
from tinyunet.data.label_kind import (
    apply_kind,
    colour_numbers,
    infer_kind,
    is_coloured,
    label_image,
    occurring,
)
from tinyunet.data.layouts import FilePair, name_of
from tinyunet.data.planes import PlaneChoice
from tinyunet.errors import DataError, describe


class Record(NamedTuple):
    """One image before its labels are understood."""

    name: str
    image: Image
    label: Image | None = None  # (H, W, C) as decoded
    label_source: str = ""  # its file, for messages


class LabelOptions(NamedTuple):
    """The options of `read_images` about labels."""

    kind: LabelKind | None = None
    truth: Truth | None = None
    ignore: Collection[int] = ()
    class_values: Sequence[int] | None = None
    coloured: bool = False


def understand(
    records: Sequence[Record],
    options: LabelOptions,
    source: str,
    notes: Mapping[str, str] | None = None,
    layout: str = "",
) -> ImageSet:
    """Make a set of records: infer the kind of their labels unless it is given, and number them."""
    images = ImageSet(
        [record.image for record in records],
        [record.name for record in records],
        source=source,
        notes=notes or {},
        layout=layout,
    )
    pixels = [(record.label, record.label_source) for record in records if record.label is not None]
    if not pixels:
        return images
    coloured = options.coloured or any(is_coloured(label) for label, _ in pixels)
    convert = colour_numbers if coloured else label_image
    values = [convert(label, where, options.ignore) for label, where in pixels]
    found = {
        value
        for label, where in pixels
        for value in occurring(label, options.ignore, where, coloured=coloured)
    }
    kind, reason = options.kind, "as given"
    if kind is None:
        kind, reason = infer_kind(values, source, coloured=coloured)
    known = options.class_values
    if kind == "binary" and coloured != options.coloured:
        known = None  # the numbers of a grey mask are no colours, and the reverse
    applied = apply_kind(values, kind, source, known, coloured=coloured)
    return replace(
        images,
        labels=applied.labels,
        kind=kind,
        num_classes=applied.num_classes,
        reason=reason,
        class_values=applied.class_values,
        coloured=coloured and applied.class_values is not None,
        not_found=not_found_text(options.ignore, found, coloured),
    )


def read_pair(pair: FilePair, notes: dict[str, str], choice: PlaneChoice) -> list[Record]:
    """Read the pages of an image file with those of its label file."""
    images = _decode(pair.image, notes, choice)
    names = page_names(name_of(pair.image), len(images))
    if not pair.labels:
        return [Record(name, image) for name, image in zip(names, images, strict=True)]
    (label_file,) = pair.labels
    labels = _decode(label_file, notes)
    if len(labels) != len(images):
        raise DataError(
            f"{label_file}: not as many pages as its image file",
            {str(pair.image): f"{len(images)} pages", str(label_file): f"{len(labels)} pages"},
            "give every page of the stack its label page",
        )
    return [
        Record(name, image, label, str(label_file))
        for name, image, label in zip(names, images, labels, strict=True)
    ]


def read_objects(
    pair: FilePair, notes: dict[str, str], choice: PlaneChoice, ignore: Collection[int], found: set[int]
) -> Record:
    """Number the objects of an image that has one mask each; where masks overlap, the first counts.

    Pixels that a mask marks as unknown stay so unless they belong to an object. The values to ignore that
    occur are added to `found`.
    """
    (image,) = _one_page(pair.image, notes, choice)
    numbers = np.zeros(image.shape[:2], np.int32)
    unknown = np.zeros(image.shape[:2], bool)
    for number, file in enumerate(pair.labels, 1):
        (page,) = _one_page(file, notes)
        label = label_image(page, str(file), ignore)
        found |= occurring(page, ignore, str(file))
        mask = label > 0
        if mask.shape != numbers.shape:
            raise DataError(
                f"{file}: image and mask differ in size",
                {"image": describe(numbers, "H W"), "mask": describe(mask, "H W")},
                "give each image the masks drawn on it, unscaled and uncropped",
            )
        numbers[mask & (numbers == 0)] = number
        unknown |= label == UNKNOWN
    numbers[unknown & (numbers == 0)] = UNKNOWN
    return Record(name_of(pair.image), image, numbers[..., None], str(pair.image))


def _one_page(file: Path, notes: dict[str, str], choice: PlaneChoice | None = None) -> list[Image]:
    pages = _decode(file, notes, choice)
    if len(pages) != 1:
        raise DataError(
            f"{file}: expected one page", {"found": len(pages)}, "save every page as a file of its own"
        )
    return pages


def _decode(file: Path, notes: dict[str, str], choice: PlaneChoice | None = None) -> list[Image]:
    """Read the pages of an image, or of labels if there is no choice, and keep the file's notes."""
    if choice is None:
        pages, found = decode_with_notes(file, labels=True)
    else:
        pages, found = decode_with_notes(file, choice=choice)
    if found:
        notes[str(file)] = "; ".join(found)
    return pages


def page_names(stem: str, pages: int) -> list[str]:
    digits = len(str(pages - 1))
    return [stem] if pages == 1 else [f"{stem}-{page:0{digits}d}" for page in range(pages)]


def not_found_text(ignore: Collection[int], found: Collection[int], coloured: bool) -> tuple[str, ...]:
    """The values to ignore that no label file has; -1 is always unknown, and seldom there."""
    return tuple(value_text(value, coloured) for value in ignore if value not in (*found, UNKNOWN))


def value_text(value: int, coloured: bool) -> str:
    return f"#{value:06x}" if coloured else str(value)
