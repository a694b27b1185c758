"""Computes the weight map by CUDA kernels: `kernels/weight_map.cu`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import cuda, to_host
from tinyunet.sampling.weight_map import border_reach, squared_limit


def weight_map(cells: Any, classes: Any, class_weights: Any, *, w0: float, sigma: float) -> Any:
    """Compute `tinyunet.sampling.weight_map.weight_map` for the middle of an image, on arrays of the backend.

    Parameters
    ----------
    cells : array, shape (H + 2 margin, W + 2 margin), int32
        0 is background or unlabelled, each other value one cell.
    classes : array, shape (H, W), int32
        Classes of the middle; negative where it is not labelled.
    class_weights : array, shape (K,), float32
    w0, sigma : float

    Returns
    -------
    array, shape (H, W), float32
        Distances and exponents equal the CPU's to the last bit. Exponentials are off by up to 2 units in the
        last place on both sides, then product and sum round: 3e-7 (w0 + class weight).
    """
    margin = (cells.shape[1] - classes.shape[1]) // 2
    d1, d2 = nearest_two_cells(cells, margin=margin, max_distance=border_reach(w0, sigma))
    weight = cuda.empty(classes.shape)
    scalars = (cells.shape[1], margin, np.float32(w0), np.float32(2 * sigma**2))
    arrays = (cells, classes, class_weights, d1, d2, weight)
    cuda.launch_elementwise("weight_map", "forward", weight.size, *arrays, *scalars, flops=6 * weight.size)
    return weight


def nearest_two_cells(cells: Any, *, margin: int = 0, max_distance: float = np.inf) -> tuple[Any, Any]:
    """Compute `weight_map.nearest_two_cells`, to the last bit, for the pixels that are not in the margin.

    Parameters
    ----------
    cells : array, shape (H + 2 margin, W + 2 margin), int32
    margin : int
    max_distance : float

    Returns
    -------
    d1, d2 : array, shape (H, W), float32
    """
    height, width = cells.shape
    rows, columns = height - 2 * margin, width - 2 * margin
    limit = squared_limit(cells.shape, max_distance)
    near = cuda.empty((rows, width, 4), np.int32)
    cuda.launch_elementwise(
        "weight_map", "columns", rows * width, cells, near, *(height, width, margin, limit)
    )
    d1, d2 = cuda.empty((rows, columns)), cuda.empty((rows, columns))
    cuda.launch_elementwise("weight_map", "rows", rows * columns, near, d1, d2, *(width, margin, limit))
    return d1, d2


def sums_by_class(classes: Any, weight: Any, num_classes: int) -> NDArray[np.float64]:
    """Sum the weights of each class's pixels: shape (num_classes,). Only the sums are read back.

    Parameters
    ----------
    classes : array, shape (..., W), int32
    weight : array, shape of classes, float32
    num_classes : int
    """
    width = classes.shape[-1]
    sums = cuda.empty((num_classes, width), np.float64)
    grid = (cuda.blocks(width, cuda.THREADS_PER_BLOCK), num_classes)
    scalars = (classes.size // width, width)
    cuda.launch(
        "weight_map",
        "sums",
        grid,
        (cuda.THREADS_PER_BLOCK,),
        classes,
        weight,
        sums,
        *scalars,
        flops=classes.size,
    )
    return to_host(sums).sum(axis=1)


def divide(weight: Any, total: float) -> Any:
    """Divide float32 weights by their total; 0 if that is 0."""
    mean, scale = cuda.empty(weight.shape), np.float32(1 / total if total else 0)
    cuda.launch_elementwise("weight_map", "scale", weight.size, weight, scale, mean, flops=weight.size)
    return mean
