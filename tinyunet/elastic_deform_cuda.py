"""The elastic deformation by a CUDA kernel: `kernels/elastic_deform.cu`.

What depends on the image or the grid alone (spline coefficients, the splines of the grid) is computed on the
CPU; the kernel computes each pixel's displacement and looks image, labels and weights up.

The trainer's samples are made on the CPU, in a thread beside the training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyunet import cuda
from tinyunet.augment_elastic import cardinal_splines, require_images_and_grid
from tinyunet.augment_spline import spline_coefficients
from tinyunet.backend import to_backend


def deform(
    image: NDArray[np.float32],
    labels: NDArray[np.integer],
    weights: NDArray[np.float32],
    displacement: ArrayLike,
) -> tuple[Any, Any, Any]:
    """`augment_elastic.deform` with the orders 3, 0 and 0, in one launch.

    Parameters
    ----------
    image : ndarray, shape (H, W, C), float32
    labels : ndarray, shape (H, W)
    weights : ndarray, shape (H, W), float32
    displacement : array_like, shape (2, P, Q)
        Rows and columns, in pixels, that the output looks away from each grid point; P, Q at least 2.

    Returns
    -------
    image, labels, weights : array
        Where the backend computes; labels as int32.

    Raises
    ------
    ShapeError, DtypeError, DataError
        As in `augment_elastic.deform`.
    """
    grid = np.asarray(displacement, np.float64)
    require_images_and_grid([image, labels, weights], [3, 0, 0], grid)
    height, width, channels = image.shape
    _, rows, columns = grid.shape
    along_y, _ = cardinal_splines(rows, height)
    along_x, _ = cardinal_splines(columns, width)
    inputs = (spline_coefficients(image), labels.astype(np.int32), weights, grid, along_y, along_x)
    deformed = cuda.empty(image.shape), cuda.empty(labels.shape, np.int32), cuda.empty(weights.shape)
    cuda.launch_elementwise(
        "elastic_deform",
        "forward",
        labels.size,
        *map(to_backend, inputs),
        *deformed,
        *(height, width, channels, rows, columns),
        flops=labels.size * (4 * columns * (rows + 1) + 40 * channels),
    )
    return deformed
