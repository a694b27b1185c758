"""Cuts tiles out of a mirrored image by CUDA kernels, and adds their scores: `kernels/tiling.cu`.

The image goes to the GPU once, and its scores come back once. In between no tile waits for the host.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import cuda, to_backend, to_host


class _View(NamedTuple):
    """The memory layout of a transformed array (H, W, C): origin, steps to the next row and column."""

    origin: int
    down: int
    across: int


def _view(shape: tuple[int, ...], rotations: int, flip: bool) -> _View:
    """Compute the layout of an array of this shape, transformed as by `tiling.transformed`."""
    height, width, channels = shape
    view = (
        _View((width - 1) * channels, width * channels, -channels)
        if flip
        else _View(0, width * channels, channels)
    )
    for _ in range(rotations):  # rows become columns, the last column the first row
        view = _View(view.origin + (width - 1) * view.across, -view.across, view.down)
        height, width = width, height
    return view


class TilesOnGpu:
    """The counterpart of `tiling.TilesInMemory` on the GPU."""

    def __init__(self, image: NDArray[Any], classes: int):
        self.shape = image.shape
        self.image = to_backend(np.array(image, np.float32))  # copied: a view may begin at any address
        self._scores = cuda.zeros((*image.shape[:2], classes))

    def cut_out(self, transform: tuple[int, bool], rows: tuple[int, int], columns: tuple[int, int]) -> Any:
        """Cut out a tile, as `TilesInMemory.cut_out`."""
        height, width, channels = self.image.shape
        if transform[0] % 2:
            height, width = width, height
        (top, bottom), (left, right) = rows, columns
        tile = cuda.empty((1, bottom - top, right - left, channels))
        cuda.launch_elementwise(
            "tiling",
            "gather",
            tile.size,
            *(self.image, tile, *_view(self.image.shape, *transform)),
            *(height, width, channels, top, left, right - left),
        )
        return tile

    def add(
        self, transform: tuple[int, bool], down: slice, across: slice, output: Any, cut: tuple[int, int]
    ) -> None:
        """Add an output to the scores, as `TilesInMemory.add`."""
        height, width = down.stop - down.start, across.stop - across.start
        classes = self._scores.shape[2]
        cuda.launch_elementwise(
            "tiling",
            "add",
            height * width * classes,
            *(output, self._scores, *_view(self._scores.shape, *transform)),
            *(classes, down.start, across.start, *cut, output.shape[2], width),
            flops=height * width * classes,
        )

    def scores(self) -> NDArray[np.float32]:
        """Return the sum of the scores added so far, (H, W, K), in host memory."""
        return to_host(self._scores)
