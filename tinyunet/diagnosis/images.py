"""Checks of the images: grey values, channels, bits, size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.diagnosis.finding import Finding, all_images, count
from tinyunet.training.trainer import Trainer

FEW_LEVELS = 16  # fewer grey values than this are less than 4 bits: shapes, but no texture
SATURATED = 0.01  # share of an image at the highest value that its bits hold
MIRRORED = 0.1  # share of a training tile that may be mirror image


def check_constant(trainer: Trainer) -> Iterator[Finding]:
    """Images without contrast, and with so few grey values that only shapes are left."""
    levels = {name: len(np.unique(image)) for name, image in all_images(trainer)}
    if where := [name for name, count in levels.items() if count == 1]:
        yield Finding(
            "problem",
            f"{count(where)} of one single grey value",
            where,
            remedy="export them again or take them out: their labels can only be learned by heart",
        )
    if where := [name for name, count in levels.items() if 1 < count < FEW_LEVELS]:
        yield Finding(
            "warning",
            f"{count(where)} with fewer than {FEW_LEVELS} grey values",
            where,
            {"fewest": min(levels[name] for name in where)},
            "check that these are images and no masks, and that they were not exported with too few bits",
        )


def check_equal_channels(trainer: Trainer) -> Iterator[Finding]:
    """Grey images that are stored as colour."""
    channels = trainer.train.images[0].shape[2]
    if channels > 1 and all((image == image[:, :, :1]).all() for _, image in all_images(trainer)):
        yield Finding(
            "note",
            f"all {channels} channels are equal in every image: they are grey",
            remedy="save them with one channel; the network then also takes grey images to predict",
        )


def check_saturation(trainer: Trainer) -> Iterator[Finding]:
    """Pixels at the upper end of the scale, where differences in brightness are lost."""
    shares = {name: _saturated(image) for name, image in all_images(trainer)}
    if where := [name for name, share in shares.items() if share > SATURATED]:
        yield Finding(
            "warning",
            f"{count(where)} saturated: more than {100 * SATURATED:g} % of the pixels at the highest value",
            where,
            {"most": f"{100 * max(shares.values()):.1f} % of the pixels"},
            "if these are the objects, expose less: what was lost there cannot be learned",
        )


def _saturated(image: NDArray[Any]) -> float:
    """Share of the pixels at the highest value of 8, 10, 12 … bits, of a float image at its own highest."""
    highest = image.max()
    if image.dtype.kind in "ui" and (highest < 255 or (int(highest) + 1).bit_count() != 1):
        return 0.0
    return float(np.mean(image == highest)) if highest > image.min() else 0.0


def check_bit_depth(trainer: Trainer) -> Iterator[Finding]:
    """16-bit files whose values use fewer bits, and sets of mixed types."""
    types = {image.dtype for _, image in all_images(trainer)}
    if len(types) > 1:
        yield Finding(
            "note",
            f"images are stored as {' and '.join(sorted(map(str, types)))}",
            remedy="nothing need be done, each image is normalised by itself; but were they exported alike?",
        )
    highest = max(int(image.max()) for _, image in all_images(trainer))
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


def check_size(trainer: Trainer) -> Iterator[Finding]:
    """Images smaller than a training tile, or than what the network sees around a pixel."""
    sides = {name: min(image.shape[:2]) for name, image in all_images(trainer)}
    geometry, tile, smallest = trainer.model.geometry, trainer.output_size, min(sides.values())
    shares = {name: _mirrored(image, tile) for name, image in all_images(trainer)}
    if where := [name for name, share in shares.items() if share > MIRRORED]:
        below, _ = geometry.nearest_inputs(smallest + geometry.shrink)
        fits = f"--tile {below - geometry.shrink} fits, and costs less" if below else ""
        yield Finding(
            "warning",
            f"{count(where)} smaller than the tile of {tile} pixels",
            where,
            {"of such a tile": f"up to {100 * max(shares.values()):.0f} % are the image's own mirror image"},
            fits or "use a network of less --depth",
        )
    halo = geometry.halo
    if where := [name for name, side in sides.items() if side <= halo]:
        yield Finding(
            "warning",
            f"{count(where)} not larger than the {halo} pixels that the network sees to each side",
            where,
            {"smallest": f"{smallest} pixels"},
            "what it sees there is mostly mirror images; use less --depth",
        )


def _mirrored(image: NDArray[Any], tile: int) -> float:
    """Share of a tile that lies outside of the image."""
    height, width = image.shape[:2]
    return 1 - min(height, tile) * min(width, tile) / tile**2
