"""Check the images: grey values, channels, bits, size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.diagnosis.finding import Finding, all_images, count
from tinyunet.errors import first_names
from tinyunet.training.setup import Setup

FEW_LEVELS = 16  # grey values, 4 bits: with fewer an image has shapes but no texture
SATURATED = 0.01  # share of an image that may have the highest value that its bits hold
MIRRORED = 0.1  # share of a training tile that may be mirrored

READ_AS_SHOWN = "read as viewers show it; doctor.png shows whether that is right"
REMEDIES = {  # by the start of the note
    "planes read as slices": "if they are colours, save the file as RGB",
    "turned upright": "labels must be drawn on the upright picture, or be turned by the same tag",
    "pages of several sizes": "every page is an image: take previews out of the file",
}


def check_constant(setup: Setup) -> Iterator[Finding]:
    """Find images of one grey value, and of so few that only shapes are left."""
    levels = {name: _levels(image) for name, image in all_images(setup)}
    if where := [name for name, count in levels.items() if count == 1]:
        yield Finding(
            "problem",
            f"{count(where)} with a single grey value",
            where,
            remedy="export them again or take them out: their labels can only be memorised",
        )
    if where := [name for name, count in levels.items() if 1 < count < FEW_LEVELS]:
        yield Finding(
            "warning",
            f"{count(where)} with fewer than {FEW_LEVELS} grey values",
            where,
            {"fewest": min(levels[name] for name in where)},
            "check that these are images, not masks, and that they were not exported with too few bits",
        )


def _levels(image: NDArray[Any]) -> int:
    """The number of grey values in an image."""
    if image.dtype in (np.uint8, np.uint16):  # a seventh of the time that unique takes
        return int(np.count_nonzero(np.bincount(image.ravel())))
    return len(np.unique(image))


def check_equal_channels(setup: Setup) -> Iterator[Finding]:
    """Find grey images that are stored in colour."""
    channels = setup.training_set.images[0].shape[2]
    if channels > 1 and all((image == image[:, :, :1]).all() for _, image in all_images(setup)):
        yield Finding(
            "note",
            f"all {channels} channels are equal in every image: the images are grey",
            remedy="save them with one channel; the network can then predict grey images",
        )


def check_saturation(setup: Setup) -> Iterator[Finding]:
    """Find images with many pixels at the upper end of the scale, where differences are lost."""
    shares = {name: _saturated(image) for name, image in all_images(setup)}
    if where := [name for name, share in shares.items() if share > SATURATED]:
        yield Finding(
            "warning",
            f"{count(where)} saturated: more than {100 * SATURATED:g} % of the pixels at the highest value",
            where,
            {"most": f"{100 * max(shares.values()):.1f} % of the pixels"},
            "if these pixels are the objects, expose less: details lost there cannot be learned",
        )


def _saturated(image: NDArray[Any]) -> float:
    """The share of pixels at the highest value of 8, 10, 12 … bits, or at a float image's own highest."""
    highest = image.max()
    if image.dtype.kind in "ui" and (highest < 255 or (int(highest) + 1).bit_count() != 1):
        return 0.0
    return float(np.mean(image == highest)) if highest > image.min() else 0.0


def check_bit_depth(setup: Setup) -> Iterator[Finding]:
    """Find 16-bit files whose values use fewer bits, and sets of mixed types."""
    types = {image.dtype for _, image in all_images(setup)}
    if len(types) > 1:
        yield Finding(
            "note",
            f"images are stored as {' and '.join(sorted(map(str, types)))}",
            remedy="no problem, since each image is normalised by itself; but were all exported alike?",
        )
    highest = max(int(image.max()) for _, image in all_images(setup))
    if types != {np.dtype(np.uint16)} or highest >= 2**12:
        return
    if highest >= 2**8:
        yield Finding(
            "note",
            f"16-bit files hold values up to {highest}, as of a {highest.bit_length()}-bit camera",
            remedy="no problem: each image is normalised by itself",
        )
    else:
        yield Finding(
            "warning",
            f"16-bit files hold values up to {highest}: they were once stored in 8 bits",
            remedy="export the originals again: in 8 bits a dim image keeps few of its grey values",
        )


def check_files(setup: Setup) -> Iterator[Finding]:
    """List what was unusual about the files, by kind, even where it was read right."""
    files_by_note: dict[str, list[str]] = {}
    for path, notes in setup.training_set.notes.items():
        for note in notes.split("; "):
            files_by_note.setdefault(note, []).append(_below(path, setup.training_set.source))
    for note, files in files_by_note.items():
        remedy = next((text for start, text in REMEDIES.items() if note.startswith(start)), READ_AS_SHOWN)
        yield Finding(
            "note", f"{count(files, 'file')}: {note}", numbers={"files": first_names(files)}, remedy=remedy
        )


def _below(path: str, folder: str) -> str:
    """The path of a file from the folder of its set, or from that of the set's only file."""
    for base in (Path(folder), Path(folder).parent):
        if base in Path(path).parents:
            return str(Path(path).relative_to(base))
    return path


def check_size(setup: Setup) -> Iterator[Finding]:
    """Find images smaller than a training tile, or than the network's view around a pixel."""
    sides = {name: min(image.shape[:2]) for name, image in all_images(setup)}
    geometry, tile, smallest = setup.geometry, setup.output_size, min(sides.values())
    shares = {name: _mirrored(image, tile) for name, image in all_images(setup)}
    if where := [name for name, share in shares.items() if share > MIRRORED]:
        below, _ = geometry.nearest_inputs(smallest + geometry.shrink)
        fits = f"--tile {below - geometry.shrink} fits, and is faster" if below else ""
        yield Finding(
            "warning",
            f"{count(where)} smaller than the tile of {tile} pixels",
            where,
            {"of such a tile": f"up to {100 * max(shares.values()):.0f} % are mirrored"},
            fits or "use a network with less --depth",
        )
    halo = geometry.halo
    if where := [name for name, side in sides.items() if side <= halo]:
        yield Finding(
            "warning",
            f"{count(where)} not larger than the {halo} pixels that the network sees to each side",
            where,
            {"smallest": f"{smallest} pixels"},
            "most of what it sees there is mirrored; use less --depth",
        )


def _mirrored(image: NDArray[Any], tile: int) -> float:
    """The share of a tile that lies outside the image."""
    height, width = image.shape[:2]
    return 1 - min(height, tile) * min(width, tile) / tile**2
