"""Images known again: a run that goes on, or is judged, must not do so on other ones unnoticed.

Files are added to a folder, taken out or renamed; then others are the last fifth of it, and what is held out
was trained on. Of each image a checkpoint therefore keeps two checksums, of its pixels and of its labels.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from tinyunet.data.image_set import Image, ImageSet, Labels
from tinyunet.errors import first_names

Fingerprints = dict[str, list[int]]  # of each image by its name: the checksums of its pixels and its labels


def fingerprints(images: ImageSet) -> Fingerprints:
    """The checksums of all images of a set, which has labels."""
    assert images.labels is not None
    return {
        name: [_checksum(image), _checksum(label)]
        for name, image, label in zip(images.names, images.images, images.labels, strict=True)
    }


def changes(before: Mapping[str, Fingerprints], now: Mapping[str, Fingerprints]) -> dict[str, str]:
    """What differs between two sets, in words; each is given by its parts, such as "train" and "held out"."""
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
    """The names of those images that were trained on and not held out, by their pixels.

    Parameters
    ----------
    images : ImageSet
    parts : mapping of str to fingerprints
        Of "train" and "held out"; empty if they are not known.
    """
    pixels = {part: {sums[0] for sums in of_part.values()} for part, of_part in parts.items()}
    trained = pixels.get("train", set()) - pixels.get("held out", set())
    return [
        name for name, image in zip(images.names, images.images, strict=True) if _checksum(image) in trained
    ]


def _by_name(parts: Mapping[str, Fingerprints]) -> dict[str, tuple[str, int, int]]:
    return {
        name: (part, pixels, labels)
        for part, of_part in parts.items()
        for name, (pixels, labels) in of_part.items()
    }


def _checksum(array: Image | Labels) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(f"{array.shape} {array.dtype}".encode()))
