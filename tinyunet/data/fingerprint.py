"""Checksums of images, so that a run is not resumed or evaluated on other images unnoticed.

When files are added to a folder, removed or renamed, its last fifth changes, and images that are held out now
may have been trained on. A checkpoint therefore keeps two checksums per image: of its pixels and its labels.

A set that is read as needed has checksums of its files instead: of their size, and of their first, middle and
last bytes. A change that leaves all of these as they are is not noticed.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tinyunet.data.image_set import Image, ImageSet, Labels
from tinyunet.errors import first_names

Fingerprints = dict[str, list[int]]  # image name: checksums of its pixels and of its labels
BLOCK = 4096  # bytes of a file that are read at its start, in its middle and at its end
UNREADABLE = 0  # in place of the checksum of a file that could not be read: it equals any other


def fingerprints(images: ImageSet) -> Fingerprints:
    """Return the checksums of all images of a labelled set."""
    if images.checksums is not None:
        return {name: list(sums) for name, sums in zip(images.names, images.checksums, strict=True)}
    assert images.labels is not None
    return {
        name: [checksum(image), checksum(label)]
        for name, image, label in zip(images.names, images.images, images.labels, strict=True)
    }


def changes(before: Mapping[str, Fingerprints], now: Mapping[str, Fingerprints]) -> dict[str, str]:
    """Describe how two sets differ; each is given by its parts, such as "train" and "held out"."""
    old, new = _by_name(before), _by_name(now)
    both = [name for name in new if name in old]
    differ = {
        "new images": [name for name in new if name not in old],
        "missing images": [name for name in old if name not in new],
        "other pixels": [name for name in both if _differ(new[name][1], old[name][1])],
        "other labels": [name for name in both if _differ(new[name][2], old[name][2])],
        "held out or not": [name for name in both if new[name][0] != old[name][0]],
    }
    return {what: f"{len(names)}: {first_names(names)}" for what, names in differ.items() if names}


def without(parts: Mapping[str, Fingerprints], names: Collection[str]) -> dict[str, Fingerprints]:
    """Leave out the checksums of images that could not be read: put right, they are no other images."""
    return {
        part: {name: [UNREADABLE] * 2 if name in names else sums for name, sums in sums_of_part.items()}
        for part, sums_of_part in parts.items()
    }


def seen(images: ImageSet, parts: Mapping[str, Fingerprints]) -> list[str]:
    """Return the names of the images whose pixels were trained on and not held out.

    Parameters
    ----------
    images : ImageSet
    parts : mapping of str to fingerprints
        Those of "train" and "held out"; empty if unknown.
    """
    pixels = {
        part: {sums[0] for sums in sums_of_part.values()} - {UNREADABLE}
        for part, sums_of_part in parts.items()
    }
    trained = pixels.get("train", set()) - pixels.get("held out", set())
    return [
        name for name, checksum in zip(images.names, _of_pixels(images), strict=True) if checksum in trained
    ]


def checksum_of_files(paths: Sequence[Path]) -> int:
    """Return a checksum of files by their sizes and by three blocks of each.

    Of a folder, which an OME-Zarr is, all files count.
    """
    value = 0
    for name in (file for path in paths for file in _files(path)):
        with name.open("rb") as file:
            size = file.seek(0, 2)
            value = zlib.crc32(str(size).encode(), value)
            for start in sorted({0, max(0, (size - BLOCK) // 2), max(0, size - BLOCK)}):
                file.seek(start)
                value = zlib.crc32(file.read(BLOCK), value)
    return value


def _files(path: Path) -> list[Path]:
    """List the files of a folder in an order that does not depend on the system; a file is one."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _of_pixels(images: ImageSet) -> Iterator[int]:
    """The checksums of the images, without those of their labels."""
    if images.checksums is not None:
        return (pixels for pixels, _ in images.checksums)
    return map(checksum, images.images)


def _differ(one: int, other: int) -> bool:
    return one != other and UNREADABLE not in (one, other)


def _by_name(parts: Mapping[str, Fingerprints]) -> dict[str, tuple[str, int, int]]:
    return {
        name: (part, pixels, labels)
        for part, sums_of_part in parts.items()
        for name, (pixels, labels) in sums_of_part.items()
    }


def checksum(array: Image | Labels) -> int:
    """Return a checksum of an array's shape, type and numbers."""
    return zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(f"{array.shape} {array.dtype}".encode()))
