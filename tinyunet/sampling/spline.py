"""Looks up images between their pixels: cubic splines for images, the nearest pixel for labels.

A cubic spline is a weighted sum of bumps, one at each pixel, and has two continuous derivatives:

    f(y, x) = Σ over k, l of c[k, l] β(y − k) β(x − l),    β the cubic B-spline, 4 pixels wide.

The coefficients c are not the pixels. They are chosen so that f passes through the pixels, by a recursive
filter forwards and backwards along each axis [1]_. They depend on the image alone, so an image that is warped
many times is filtered once.

Beyond its borders an image continues as its mirror image, without repeating the edge pixel, as in the paper's
overlap-tile: `numpy.pad(mode="reflect")`, which SciPy calls "mirror".

Tutorial: `tutorials/11_elastic_deformation.py`.

References
----------
.. [1] M. Unser, "Splines: a perfect fit for signal and image processing", IEEE Signal Process. Mag., 1999.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend.jit import kernel

POLE = np.sqrt(3.0) - 2.0  # the root within the unit circle of z + 4 + 1/z: β is 1/6, 4/6, 1/6 at the pixels
HORIZON = 28  # |POLE|^28 < 1e-16: pixels further away do not change a float64


@kernel
def mirror(x, length):
    """Fold the coordinate `x`, integer or float, into [0, length − 1] by mirroring at both ends."""
    if 0 <= x <= length - 1:
        return x
    if length == 1:
        return x - x
    period = 2 * (length - 1)
    x = abs(x) % period
    return min(x, period - x)


@kernel
def filter_lines(lines):
    """Convert values to spline coefficients in place, along axis 0 of `lines` (n, m), for m lines at once.

    The filter 6 / (z + 4 + 1/z) is a causal and an anticausal recursion with the same pole. The mirror image
    gives both initial values: the first as a sum over the mirrored signal, the second in closed form.
    """
    n, m = lines.shape
    if n == 1:
        return
    z, six = lines.dtype.type(POLE), lines.dtype.type(6.0)
    start = np.zeros(m, lines.dtype)
    weight = six
    for k in range(HORIZON):
        row = mirror(k, n)
        for j in range(m):
            start[j] += weight * lines[row, j]
        weight *= z
    lines[0] = start
    for i in range(1, n):
        for j in range(m):
            lines[i, j] = six * lines[i, j] + z * lines[i - 1, j]
    end = z / (z * z - lines.dtype.type(1.0))
    for j in range(m):
        lines[n - 1, j] = end * (lines[n - 1, j] + z * lines[n - 2, j])
    for i in range(n - 2, -1, -1):
        for j in range(m):
            lines[i, j] = z * (lines[i + 1, j] - lines[i, j])


def spline_coefficients(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Compute the coefficients of the cubic spline through the pixels of `image`.

    Parameters
    ----------
    image : ndarray, shape (H, W, C), float32 or float64

    Returns
    -------
    ndarray, shape (H + 3, W + 3, C), dtype of image
        The coefficient of pixel (i, j) is at [i + 1, j + 1]. The frame mirrors the coefficients, so that the
        four bumps that reach a point, from one pixel before it to two after, exist for every point.
    """
    coefficients = image
    for _ in range(2):  # along its rows, laid out as the columns of its transpose; then along its columns
        coefficients = np.array(coefficients.swapaxes(0, 1), order="C")
        filter_lines(coefficients.reshape(len(coefficients), -1))
    return np.pad(coefficients, ((1, 2), (1, 2), (0, 0)), mode="reflect")


@kernel
def bump_weights(t):
    """Return the weights of the four bumps around a point: β(t + 1), β(t), β(t − 1), β(t − 2); 0 ≤ t < 1."""
    s = 1.0 - t
    return s * s * s / 6, 2 / 3 - t * t * (2 - t) / 2, 2 / 3 - s * s * (2 - s) / 2, t * t * t / 6


@kernel
def bump_slopes(t):
    """Return the derivatives of `bump_weights` with respect to t."""
    s = 1.0 - t
    return -s * s / 2, t * (3 * t - 4) / 2, s * (4 - 3 * s) / 2, t * t / 2


@kernel
def sample_cubic(coefficients, coordinates, out):
    """Set out[i, j] to one channel's spline at the point (y, x) = coordinates[:, i, j], in pixels.

    The points are float64: near pixel 1000 a float32 is off by up to 3e-5 pixels, and the values with it.
    """
    height, width = coefficients.shape[0] - 3, coefficients.shape[1] - 3
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            y, x = mirror(coordinates[0, i, j], height), mirror(coordinates[1, i, j], width)
            top, left = int(y), int(x)
            weights_y, weights_x = bump_weights(y - top), bump_weights(x - left)
            value = 0.0
            for a in range(4):
                along_row = 0.0
                for b in range(4):
                    along_row += weights_x[b] * coefficients[top + a, left + b]
                value += weights_y[a] * along_row
            out[i, j] = value


@kernel
def sample_nearest(image, coordinates, out):
    """Set out[i, j] to one channel's pixel that is nearest to the point (y, x) = coordinates[:, i, j]."""
    height, width = image.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            y = int(mirror(coordinates[0, i, j], height) + 0.5)
            x = int(mirror(coordinates[1, i, j], width) + 0.5)
            out[i, j] = image[y, x]


def warp(source: NDArray, coordinates: NDArray[np.float64], order: int) -> NDArray:
    """Look up an image at given points, channel by channel.

    Parameters
    ----------
    source : ndarray
        For order 3 the `spline_coefficients` of an image (H, W, C), for order 0 the image itself.
    coordinates : ndarray, shape (2, h, w), float64
        Row and column, in pixels, of the point for output pixel (i, j). Beyond its borders the image is
        mirrored.
    order : int
        3: cubic spline. 0: nearest pixel.

    Returns
    -------
    ndarray, shape (h, w, C), dtype of source
    """
    out = np.empty((*coordinates.shape[1:], source.shape[2]), source.dtype)
    coordinates = np.ascontiguousarray(coordinates)  # one memory layout is one compiled kernel
    sample = sample_cubic if order == 3 else sample_nearest
    for channel in range(source.shape[2]):
        sample(source[:, :, channel], coordinates, out[:, :, channel])
    return out
