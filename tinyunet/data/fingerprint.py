"""Checksums of images, so that a run is not resumed or evaluated on other images unnoticed.

When files are added to a folder, removed or renamed, its last fifth changes, and images that are held out now
may have been trained on. A checkpoint therefore keeps two checksums per image: of its pixels and its labels.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from tinyunet.data.image_set import Image, ImageSet, Labels
from tinyunet.errors import first_names

Fingerprints = dict[str, list[int]]  # image name: checksums of its pixels and of its labels


def fingerprints(images: ImageSet) -> Fingerprints:
    """Return the checksums of all images of a labelled set."""
    assert images.labels is not None
    return {
        name: [_checksum(image), _checksum(label)]
        for name, image, label in zip(images.names, images.images, images.labels, strict=True)
    }


def changes(before: Mapping[str, Fingerprints], now: Mapping[str, Fingerprints]) -> dict[str, str]:
    """Describe how two sets differ; each is given by its parts, such as "train" and "held out"."""
    old, new = _by_name(before), _by_name(now)
    both = [name for name in new if name in old]
    differ = {
        "new images": [name for name in new if name not in old],
        "missing images": [name for name in old if name not in new],
        "other pixels": [name for name in both if new[name][1] != old[name][1]],
        "other labels": [name for name in both if new[name][2] != old[name][2]],
        "held out or not": [name for name in both if new[name][0] != old[name][0]],
    }
    return {what: f"{len(names)}: {first_names(names)}" for what, names in differ.items() if names}


def seen(images: ImageSet, parts: Mapping[str, Fingerprints]) -> list[str]:
    """Return the names of the images whose pixels were trained on and not held out.

    Parameters
    ----------
    images : ImageSet
    parts : mapping of str to fingerprints
        Those of "train" and "held out"; empty if unknown.
    """
    pixels = {part: {sums[0] for sums in sums_of_part.values()} for part, sums_of_part in parts.items()}
    trained = pixels.get("train", set()) - pixels.get("held out", set())
    return [
        name for name, image in zip(images.names, images.images, strict=True) if _checksum(image) in trained
    ]


def _by_name(parts: Mapping[str, Fingerprints]) -> dict[str, tuple[str, int, int]]:
    return {
        name: (part, pixels, labels)
        for part, sums_of_part in parts.items()
        for name, (pixels, labels) in sums_of_part.items()
    }


def _checksum(array: Image | Labels) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(f"{array.shape} {array.dtype}".encode()))
