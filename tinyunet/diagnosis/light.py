"""Find out whether images are lit from one side, so that turned ones look unlike any image of the set.

In interference contrast (DIC) and under oblique light, objects look like a relief: bright towards the light,
dark away from it. A rotation by 180° then makes hills of dents, which a network must learn for nothing, and
can hardly tell apart.

Along the light a rise of the grey values is steeper than a fall, or the other way round; across it both are
alike, as they are everywhere in images without such a light. So the skewness of the derivative along a
direction θ,

    S(θ) = mean((∂I/∂θ)³) / mean((∂I/∂θ)²)^1.5

changes its sign with a half turn, and its mean over many images is 0 where no direction is preferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet.backend.threads import on_all_cores
from tinyunet.data import ImageSet
from tinyunet.diagnosis.finding import Finding
from tinyunet.training.setup import Setup

SCALE = 2.0  # px, standard deviation of the Gaussian that the derivative is taken of: more than the noise
DIRECTIONS = 12  # in half a turn
MOST_IMAGES = 24  # that are looked at: enough for a mean
LARGEST = 512  # px, sides of the middle that is looked at, of images that are read as needed
# synthetic-dic has a skewness of 0.7, 20 standard errors from 0. Of real sets without such a light, cells in
# phase contrast come nearest: 0.28, 4 standard errors.
LEAST_SKEWNESS = 0.4
FEWEST_ERRORS = 6.0


def check_light(setup: Setup) -> Iterator[Finding]:
    """Find sets whose images are lit from one side."""
    if is_lit_from_one_side(setup.training_set):
        yield Finding(
            "note",
            "the images are lit from one side, as in interference contrast (DIC)",
            remedy="training by the default recipe neither turns nor flips them, and predict should not "
            "average --symmetries",
        )


def is_lit_from_one_side(images: ImageSet) -> bool:
    """Find out whether the images of a set share a direction of light.

    Parameters
    ----------
    images : ImageSet
        With fewer than three images the answer is no: a direction that all share cannot be seen.
    """
    if len(images) < 3:
        return False
    few = images.looked_at.images[:MOST_IMAGES]
    # Of images that are read as needed the middle does: a training is not to wait for its start.
    part = _middle if images.is_read_as_needed else np.asarray
    skewness = np.array(on_all_cores(lambda number: _skewness(part(few[number])), range(len(few))))
    mean = skewness.mean(axis=0)
    error = skewness.std(axis=0, ddof=1) / np.sqrt(len(skewness))
    return bool(((abs(mean) > LEAST_SKEWNESS) & (abs(mean) > FEWEST_ERRORS * error)).any())


def _middle(image: NDArray[Any]) -> NDArray[Any]:
    top, left = ((side - min(side, LARGEST)) // 2 for side in image.shape[:2])
    return image[top : top + LARGEST, left : left + LARGEST]


def _skewness(image: NDArray[Any]) -> NDArray[np.float64]:
    """Compute S for each direction; 0 where the image does not change along it.

    The derivative along θ is cos θ · ∂I/∂x + sin θ · ∂I/∂y, so the means of its square and cube are sums of
    seven means, which serve all directions.
    """
    grey = image.mean(axis=2, dtype=np.float64)
    across, down = (ndimage.gaussian_filter(grey, SCALE, order=order).ravel() for order in ((0, 1), (1, 0)))
    angles = np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    x, y = np.cos(angles), np.sin(angles)
    xx, yy = across * across, down * down
    square = x**2 * xx.mean() + 2 * x * y * _mean(across, down) + y**2 * yy.mean()
    mixed = 3 * x * y * (x * _mean(xx, down) + y * _mean(yy, across))
    cube = x**3 * _mean(xx, across) + mixed + y**3 * _mean(yy, down)
    spread = np.maximum(square, 0) ** 1.5
    return np.divide(cube, spread, out=np.zeros(DIRECTIONS), where=spread > 0)


def _mean(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the mean of the products; not by BLAS, whose threads those of the images would wait for."""
    return float(np.einsum("i,i", a, b)) / a.size
