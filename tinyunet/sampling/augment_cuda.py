"""Makes random tiles by a CUDA kernel: `kernels/augment.cu`.

Spline coefficients and labels, which depend on the images alone, are computed on the CPU and go to the GPU
once. The few random numbers of a tile are drawn on the CPU; the kernel looks the tile up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import cuda, to_backend
from tinyunet.data.as_needed import mapped
from tinyunet.errors import OutOfMemoryError
from tinyunet.sampling.augment import Augmenter, Draw
from tinyunet.sampling.elastic import cardinal_splines


class TileMaker:
    """Makes the tiles of an `Augmenter` on the backend, where it keeps the images.

    Parameters
    ----------
    augmenter : Augmenter
    cells, classes : sequence of ndarray, each (H, W), integers below 2^31
        They take the place of the augmenter's labels.

    Raises
    ------
    OutOfMemoryError
        The GPU has no room for all images.
    """

    def __init__(self, augmenter: Augmenter, cells: Sequence[NDArray[Any]], classes: Sequence[NDArray[Any]]):
        self._augmenter = augmenter
        try:
            self._sources = mapped(to_backend, augmenter.sources)
            self._cells = mapped(_to_backend_as_int32, cells)
            self._classes = mapped(_to_backend_as_int32, classes)
        except MemoryError:
            needed = sum(
                source.nbytes + 8 * image.size for source, image in zip(augmenter.sources, cells, strict=True)
            )
            raise OutOfMemoryError(
                f"out of memory: the GPU has no room for the {len(augmenter)} images to train on",
                {"needed": f"{needed / 1e6:.1f} MB, and more for the training"},
                "train on fewer or smaller images, or use another GPU or the backend 'numba'",
            ) from None
        along, _ = cardinal_splines(augmenter.augmentation.elastic_points, augmenter.input_size)
        self._along = to_backend(along)

    def tile(self, index: int, draw: Draw) -> tuple[Any, Any, Any]:
        """Make the tile of image `index` that was drawn.

        The image equals that of `Augmenter.sample` up to rounding, and exactly without interpolation. The
        nearest pixel may differ where a coordinate is within rounding, 1e-12, of the edge between two pixels.

        Returns
        -------
        image : array, shape (input_size, input_size, C), float32
        cells : array, shape (n, n), n = output_size + 2 label_margin, int32
        classes : array, shape (output_size, output_size), int32
        """
        augmenter = self._augmenter
        input_size, output_size = augmenter.input_size, augmenter.output_size
        label_size = output_size + 2 * augmenter.label_margin
        height, width = self._cells[index].shape
        channels = self._sources[index].shape[2]
        points = self._along.shape[0]
        low, high = augmenter.grey_ranges[index]
        grey_values = (
            np.float32(low),
            np.float32(high - low if draw.gamma else 0),
            np.exp(draw.gamma, dtype=np.float32),
            np.exp(draw.contrast, dtype=np.float32),
            np.float32(draw.brightness),
        )
        tile = (
            cuda.empty((input_size, input_size, channels)),
            cuda.empty((label_size, label_size), np.int32),
            cuda.empty((output_size, output_size), np.int32),
        )
        cuda.launch_elementwise(
            "augment",
            "tile",
            input_size**2,
            *(self._sources[index], self._cells[index], self._classes[index]),
            to_backend(np.concatenate([draw.matrix, draw.centre, draw.grid], axis=None)),
            self._along,
            *tile,
            *(augmenter.order, height, width, channels, points, input_size, label_size, output_size),
            *grey_values,
            flops=input_size**2 * (4 * points * (points + 1) + 50 * channels),
        )
        return tile


def _to_backend_as_int32(labels: NDArray[Any]) -> Any:
    return to_backend(labels, np.int32)
