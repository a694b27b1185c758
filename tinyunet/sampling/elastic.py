"""Deforms images elastically: a smooth field from a coarse grid of random vectors (the paper's section 3.1).

    output(y, x) = input((y, x) + u(y, x)),    u(y, x) = Σ over k, m of B_k(y) D[k, m] B_m(x)

D is a grid of points × points displacement vectors that spans the image from corner to corner. B_k is the
cubic spline that is 1 at grid point k and 0 at the others, so that u passes through the vectors: the paper's
"bicubic interpolation". The sum of products needs only the 1-D splines of the rows and of the columns: the
whole field is two small matrix products.

Tutorial: `tutorials/11_elastic_deformation.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyunet.backend.jit import kernel
from tinyunet.errors import DataError, DtypeError, OptionError, ShapeError, describe
from tinyunet.sampling.spline import (
    bump_slopes,
    bump_weights,
    filter_lines,
    mirror,
    spline_coefficients,
    warp,
)


def elastic_deform(
    arrays: NDArray | Sequence[NDArray],
    *,
    sigma: float = 10.0,
    points: int = 3,
    order: int | Sequence[int] = 3,
    rng: np.random.Generator,
) -> Any:
    """Deform images, such as an image and its labels, by one random field.

    Parameters
    ----------
    arrays : ndarray or sequence of ndarray, each of shape (H, W) or (H, W, C)
    sigma : float
        Standard deviation of each component of the displacement vectors, in pixels.
    points : int
        The vectors lie on a grid of points × points, at least 2 × 2.
    order : int, or one per array
        3: cubic spline, for images (float32 or float64). 0: nearest pixel, for labels (any dtype).
    rng : numpy.random.Generator
        One `normal(0, sigma, (2, points, points))` is drawn from it.

    Returns
    -------
    ndarray or list of ndarray
        The shapes and dtypes of `arrays`.

    Raises
    ------
    ShapeError, DtypeError, DataError
        Those of `deform`.
    OptionError
        A negative sigma.

    References
    ----------
    Ronneberger et al. 2015, section 3.1: "random displacement vectors on a coarse 3 by 3 grid [...] Gaussian
    distribution with 10 pixels standard deviation".

    Examples
    --------
    >>> image, labels = np.random.rand(64, 64), np.eye(64, dtype=int)
    >>> rng = np.random.default_rng(0)
    >>> image, labels = elastic_deform([image, labels], sigma=4, order=[3, 0], rng=rng)
    """
    if not sigma >= 0:
        raise OptionError(f"elastic_deform: sigma is a standard deviation in pixels, got {sigma}")
    return deform(arrays, rng.normal(0.0, sigma, (2, points, points)), order=order)


def deform(
    arrays: NDArray | Sequence[NDArray], displacement: ArrayLike, *, order: int | Sequence[int] = 3
) -> Any:
    """Deform arrays by a given grid of displacement vectors; beyond its borders an image is mirrored.

    Parameters
    ----------
    arrays : ndarray or sequence of ndarray, each of shape (H, W) or (H, W, C)
    displacement : array_like, shape (2, P, Q)
        How far from each grid point the output is looked up, in rows and columns; P, Q at least 2.
    order : int, or one per array
        3: cubic spline, for images (float32 or float64). 0: nearest pixel, for labels (any dtype).

    Returns
    -------
    ndarray or list of ndarray
        The shapes and dtypes of `arrays`.

    Raises
    ------
    ShapeError
        The arrays differ in H or W, or the grid is not (2, P, Q).
    DtypeError
        Order 3 for an array that is not float: it would blend labels into other labels.
    DataError
        An order other than 0 and 3, a wrong number of orders, or a displacement that is not finite.
    """
    images = [arrays] if isinstance(arrays, np.ndarray) else list(arrays)
    orders = [order] * len(images) if isinstance(order, int) else list(order)
    grid = np.asarray(displacement, np.float64)
    require_images_and_grid(images, orders, grid)

    height, width = images[0].shape[:2]
    coordinates = displacement_field(grid, height, width)
    coordinates[0] += np.arange(height)[:, None]
    coordinates[1] += np.arange(width)
    deformed = []
    for image, degree in zip(images, orders, strict=True):
        source = image.reshape(height, width, -1)
        source = spline_coefficients(source) if degree == 3 else source
        deformed.append(warp(source, coordinates, degree).reshape(image.shape))
    return deformed[0] if isinstance(arrays, np.ndarray) else deformed


def require_images_and_grid(images: list[NDArray], orders: list[int], grid: NDArray[np.float64]) -> None:
    """Raise the errors that `deform` documents."""
    if grid.ndim != 3 or grid.shape[0] != 2 or min(grid.shape[1:]) < 2:
        raise ShapeError(
            "deform: displacement is not a grid of vectors",
            {"displacement": describe(grid), "expected": "(2, P, Q), P and Q at least 2"},
        )
    if not np.isfinite(grid).all():
        raise DataError("deform: displacement has values that are not finite")
    if len(orders) != len(images) or not set(orders) <= {0, 3}:
        raise DataError(
            f"deform: {len(images)} arrays, but the orders are {orders}",
            remedy="give one order, or one per array: 3 (cubic spline, images) or 0 (nearest pixel, labels)",
        )
    for image, order in zip(images, orders, strict=True):
        if image.ndim not in (2, 3) or image.shape[:2] != images[0].shape[:2] or image.size == 0:
            raise ShapeError(
                "deform: the arrays must be images of one height and width",
                {f"arrays[{i}]": describe(other) for i, other in enumerate(images)},
                "give arrays (H, W) or (H, W, C) with the same H and W",
            )
        if order == 3 and image.dtype not in (np.float32, np.float64):
            raise DtypeError(
                f"deform: order 3 interpolates float32 or float64, but an array is {image.dtype}",
                remedy="give order=0 for labels, or convert an image to float32",
            )


@kernel
def displacement_field(grid, height, width):
    """Compute the displacement u of every pixel from `grid` (2, P, Q): (2, height, width), float64.

    BLAS could compute the matrix products, but it starts threads of its own, and the last bits may depend on
    them.
    """
    _, p, q = grid.shape
    along_y, _ = cardinal_splines(p, height)
    along_x, _ = cardinal_splines(q, width)
    field = np.zeros((2, height, width))
    for axis in range(2):
        for i in range(height):
            for m in range(q):
                vector = 0.0  # the displacement at row i on the grid's column m
                for k in range(p):
                    vector += along_y[k, i] * grid[axis, k, m]
                for j in range(width):
                    field[axis, i, j] += vector * along_x[m, j]
    return field


@kernel
def cardinal_splines(points, length):
    """Compute the splines B_k of a grid of `points`, at each of the `length` pixels that it spans.

    Returns
    -------
    values, slopes : ndarray, shape (points, length), float64
        v @ values is the spline through the values v; v @ slopes is its derivative, per pixel.
    """
    coefficients = np.eye(points)
    filter_lines(coefficients)
    step = (points - 1) / max(length - 1, 1)  # from one pixel to the next, in units of the grid's spacing
    values, slopes = np.zeros((points, length)), np.zeros((points, length))
    for i in range(length):
        before = int(i * step)
        weights, rates = bump_weights(i * step - before), bump_slopes(i * step - before)
        for a in range(4):
            row = mirror(before - 1 + a, points)
            for k in range(points):
                values[k, i] += weights[a] * coefficients[row, k]
                slopes[k, i] += rates[a] * step * coefficients[row, k]
    return values, slopes


@kernel
def count_folded(grid, height, width):
    """Count the pixels where the map (y, x) + u(y, x) folds: its Jacobian determinant is not positive.

    There the output shows a piece of the input mirrored, or twice. It happens if the vectors of `grid`
    (2, P, Q) are long for its spacing: not once in 1000 draws of 3 × 3 vectors of 10 pixels on a tile of 572.
    """
    _, p, q = grid.shape
    along_y, slope_y = cardinal_splines(p, height)
    along_x, slope_x = cardinal_splines(q, width)
    count = 0
    for i in range(height):
        vectors, rates = np.zeros((2, q)), np.zeros((2, q))  # u and ∂u/∂y on the grid's columns at row i
        for k in range(p):
            vectors += along_y[k, i] * grid[:, k]
            rates += slope_y[k, i] * grid[:, k]
        slopes = np.zeros((4, width))  # ∂u_y/∂y, ∂u_y/∂x, ∂u_x/∂y, ∂u_x/∂x along row i
        for m in range(q):
            for j in range(width):
                slopes[0, j] += rates[0, m] * along_x[m, j]
                slopes[1, j] += vectors[0, m] * slope_x[m, j]
                slopes[2, j] += rates[1, m] * along_x[m, j]
                slopes[3, j] += vectors[1, m] * slope_x[m, j]
        for j in range(width):
            count += (1 + slopes[0, j]) * (1 + slopes[3, j]) <= slopes[1, j] * slopes[2, j]
    return count
