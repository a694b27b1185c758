"""Predicts one region of an image that is read in windows: the bits of `predict_tiled`, without the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import to_host
from tinyunet.data.intensity import Scale
from tinyunet.data.windowed import WindowedImage
from tinyunet.models import Network
from tinyunet.prediction.tiling import (
    Region,
    Transform,
    add_scores,
    mirror_indices,
    to_probabilities,
    transformed,
    turned,
)


class TilesOfWindows:
    """The counterpart of `tiling.TilesInMemory` that reads tiles, and keeps the scores of one region.

    Parameters
    ----------
    image : WindowedImage
    scale : Scale
        Of the whole image's grey values.
    region : Region
    classes : int
    """

    def __init__(self, image: WindowedImage, scale: Scale, region: Region, classes: int):
        self.shape: tuple[int, ...] = image.shape
        self._image, self._scale = image, scale
        size = (region.down.stop - region.down.start, region.across.stop - region.across.start)
        self.scores = np.zeros((*size, classes), np.float32)

    def cut_out(
        self, transform: Transform, rows: tuple[int, int], columns: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Read a tile and normalise it, as `TilesInMemory.cut_out` cuts it out."""
        height, width = self.shape[1::-1] if transform[0] % 2 else self.shape[:2]
        down, across = mirror_indices(*rows, height), mirror_indices(*columns, width)
        seen = slice(int(down.min()), int(down.max()) + 1), slice(int(across.min()), int(across.max()) + 1)
        window = self._image.read(*_turned_back(*seen, self.shape, transform))
        tile = transformed(window, *transform)[np.ix_(down - seen[0].start, across - seen[1].start)]
        return self._scale.apply(tile)[np.newaxis]

    def add(
        self, transform: Transform, down: slice, across: slice, output: Any, cut: tuple[int, int]
    ) -> None:
        """Add an output to the scores, as `TilesInMemory.add`; the pixels are those of the region."""
        scores = transformed(self.scores, *transform)
        top, left = cut
        scores += to_host(output)[0, top : top + scores.shape[0], left : left + scores.shape[1]]


def _turned_back(
    down: slice, across: slice, shape: tuple[int, ...], transform: Transform
) -> tuple[slice, slice]:
    """Find where pixels of the transformed image are in the image (H, W, …): the inverse of `turned`."""
    rotations, flip = transform
    seen = shape[1::-1] if rotations % 2 else shape
    down, across = turned(down, across, seen, -rotations % 4, False)
    return turned(down, across, shape, 0, flip)


def predict_region(
    networks: Sequence[Network],
    image: WindowedImage,
    scale: Scale,
    region: Region,
    *,
    symmetries: int = 1,
    on_tile: Callable[[], None] | None = None,
) -> NDArray[np.float32]:
    """Predict the class probabilities of a region, (h, w, K); of several networks, their average."""
    mean = np.zeros((), np.float32)
    for network in networks:
        tiles = TilesOfWindows(image, scale, region, network.num_classes)
        for _ in add_scores(network, tiles, [region], symmetries):
            if on_tile:
                on_tile()
        to_probabilities(tiles.scores, symmetries)
        mean = np.add(mean, tiles.scores, out=tiles.scores)
    mean /= np.float32(len(networks))
    return mean
