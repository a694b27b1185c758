"""Sets of so many files that their images are read when they are needed.

A few files, evenly spaced, are read at the start. They decide what the whole set would otherwise: the kind of
the labels, the values of the classes, the number of channels. Each other file is compared with that when it
is read, and one that does not agree, or is damaged, is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter

import numpy as np

from tinyunet.data.as_needed import AsNeeded, Cache
from tinyunet.data.class_table import ClassTable
from tinyunet.data.decode import decode
from tinyunet.data.fingerprint import checksum_of_files
from tinyunet.data.image_set import (
    Image,
    ImageSet,
    Labels,
    check_image,
    check_label,
    evenly_spaced,
    images_to_look_at,
)
from tinyunet.data.label_kind import apply_kind, colour_numbers, is_coloured, label_image, renumber
from tinyunet.data.layouts import Files, name_of
from tinyunet.data.planes import PlaneChoice
from tinyunet.data.records import LabelOptions, Record, read_objects, read_pair, understand
from tinyunet.errors import DataError, OutOfMemoryError

LARGE = 4e9  # bytes that a set may take in a training: a set of more is read as needed, on any machine
# A pixel's grey value and label, its spline coefficient, and its cell and class, in a training.
BYTES_PER_PIXEL = 1 + 4 + 4 + 8
FEWEST_FILES, TRIED = 4, 4  # files of a set; those that are decoded to find out how large all are


def is_large(files: Files, choice: PlaneChoice, growth: Callable[[str], float]) -> bool:
    """Estimate by the pixels of a few files whether a set takes more than `LARGE` in a training.

    Images that are scaled afterwards have more pixels then, or fewer: `growth` says, by an image's name, by
    what their number is multiplied.

    The set alone decides, not the machine, so that the same run has the same bits everywhere. Files of
    several pages are never read as needed.
    """
    if len(files.pairs) < FEWEST_FILES:
        return False
    sizes = []
    for number in evenly_spaced(len(files.pairs), TRIED):
        try:
            pages = decode(files.pairs[number].image, choice=choice)
        except (DataError, OutOfMemoryError, OSError):
            continue  # reading reports it
        if len(pages) != 1:
            return False
        sizes.append(pages[0].size * growth(name_of(files.pairs[number].image)))
    return bool(sizes) and float(np.mean(sizes)) * len(files.pairs) * BYTES_PER_PIXEL > LARGE


def read_as_needed(files: Files, options: LabelOptions, source: str, choice: PlaneChoice) -> ImageSet:
    """Make a set whose files are read when they are needed; a few are read now.

    Raises
    ------
    DataError
        As `read_images`, of the files that are read now.
    """
    return _LargeSet(files, options, source, choice).image_set()


class _LargeSet:
    """The files of a set, and what a few of them, which are read at once, say of all."""

    def __init__(self, files: Files, options: LabelOptions, source: str, choice: PlaneChoice):
        self._files, self._ignore, self._choice = files, options.ignore, choice
        if files.one_label_per_object:  # whose masks have lost the values to ignore when they are understood
            options = options._replace(kind=options.kind or "instances", ignore=())
        self._options = options
        self._names = [name_of(pair.image) for pair in files.pairs]
        self._unreadable = set[str]()
        notes: dict[str, str] = {}
        most = images_to_look_at(self._record(0, notes).image)
        chosen = evenly_spaced(len(files.pairs), most)
        records = [self._record(number, notes) for number in chosen]
        few = understand(records, options, source, notes, files.inferred)
        labels = [(record.label, record.label_source) for record in records if record.label is not None]
        self._coloured = options.coloured or any(is_coloured(label) for label, _ in labels)
        self._values = few.class_values  # the files' value of each class; of numbered objects None
        if few.kind == "binary" and self._values is None:  # a mask of 0 and 1, or of one value
            self._values = 0, max(1, *(int(self._converted(*label).max()) for label in labels))
        self._few = few.subset([0])  # for messages; the others may leave memory
        self._files_read = AsNeeded(self._read, range(len(self._names)), Cache())
        for place, number in enumerate(chosen):
            label = None if few.labels is None else few.labels[place]
            self._files_read.keep(number, (few.images[place], label))

    def image_set(self) -> ImageSet:
        """Return the whole set."""
        read = self._files_read
        return replace(
            self._few,
            images=read.map(itemgetter(0)),
            names=self._names,
            labels=None if self._few.labels is None else read.map(itemgetter(1)),
            not_found=(),  # in the files read now, which says little of the others
            checksums=AsNeeded(self._checksums, range(len(self._names)), Cache()),
            unreadable=self._unreadable,
        )

    def _record(self, number: int, notes: dict[str, str]) -> Record:
        """Read the files of an image."""
        pair = self._files.pairs[number]
        if self._files.one_label_per_object:
            return read_objects(pair, notes, self._choice, self._ignore, set())
        records = read_pair(pair, notes, self._choice)
        if len(records) != 1:
            raise DataError(
                f"{pair.image}: {len(records)} pages, in a set that is read as needed, file by file",
                remedy="save every page as a file of its own",
            )
        return records[0]

    def _read(self, number: int) -> tuple[Image, Labels | None]:
        """Read an image and its labels when they are needed, and compare them with what the set is.

        Raises
        ------
        DataError
            They cannot be read, or are not of this set; the name is then one of the `unreadable`.
        """
        name, few = self._names[number], self._few
        try:
            record = self._record(number, {})
            check_image(record.image, name, few.source, like=(few.names[0], few.images[0]))
            if record.label is None:
                return record.image, None
            label = self._understood(record.label, record.label_source)
            check_label(label, record.image, name, few)
        except (DataError, OSError) as error:
            self._unreadable.add(name)
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{self._files.pairs[number].image}: cannot be read", {"reason": error}, "restore the file"
            ) from error
        return record.image, label

    def _understood(self, pixels: Image, where: str) -> Labels:
        """Number the label of one file as those that were read at the start."""
        values = self._converted(pixels, where)
        if self._values is None:
            return renumber(values)
        found = np.unique(values[values >= 0])
        if not np.isin(found, self._values).all():
            table = ClassTable(tuple(self._values), self._coloured)
            raise DataError(
                f"{where}: a label value that the files read at the start do not have",
                {
                    "found": ", ".join(f"#{v:06x}" if self._coloured else str(v) for v in found),
                    "known": table,
                },
                "if it is a class, start again and give the values of all classes with --class-values; if it "
                "means unknown, with --ignore",
            )
        return apply_kind([values], "classes", where, self._values, coloured=self._coloured).labels[0]

    def _converted(self, pixels: Image, where: str) -> Labels:
        return (colour_numbers if self._coloured else label_image)(pixels, where, self._options.ignore)

    def _checksums(self, number: int) -> tuple[int, int]:
        pair = self._files.pairs[number]
        return checksum_of_files([pair.image]), checksum_of_files(pair.labels)
