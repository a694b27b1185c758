"""Outlines of synthetic cells: ellipses that waves bend, each with its own distance from the centre.

`rho` is 0 at the centre of a cell and 1 on its outline. Where two cells overlap, a pixel belongs to the one
with the smaller rho: they touch in a smooth line.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend.jit import kernel


def random_shape(rng: np.random.Generator) -> tuple[float, NDArray[np.float64]]:
    """Draw the rotation of an ellipse and the four waves that bend it, as amplitudes of cosine and sine."""
    rotation = rng.uniform(0, 2 * np.pi)
    waves = []
    for k in range(2, 6):
        amplitude, phase = rng.normal(0, 0.11 / k), rng.uniform(0, 2 * np.pi)
        waves.append((amplitude * np.sin(phase), amplitude * np.cos(phase)))
    return rotation, np.array(waves)


@kernel
def fill_rho(
    centre_y: float,
    centre_x: float,
    radius: float,
    elongation: float,
    rotation: float,
    waves: NDArray[np.float64],
    rho: NDArray[np.float32],
) -> None:
    """Compute `rho` for an ellipse with the area of a circle of this radius, bent by the waves."""
    along, across = np.array((np.cos(rotation), np.sin(rotation))), np.sqrt(elongation)
    for i in range(rho.shape[0]):
        for j in range(rho.shape[1]):
            y, x = i - centre_y, j - centre_x
            u, v = (along[0] * y + along[1] * x) / across, (along[0] * x - along[1] * y) * across
            distance = np.sqrt(u**2 + v**2)
            cosine, sine = (v / distance, u / distance) if distance > 0 else (1.0, 0.0)
            bend, wave_cosine, wave_sine = 0.0, cosine, sine
            for k in range(len(waves)):
                wave_cosine, wave_sine = (
                    wave_cosine * cosine - wave_sine * sine,  # of (k + 2) times the angle
                    wave_sine * cosine + wave_cosine * sine,
                )
                bend += waves[k, 0] * wave_cosine + waves[k, 1] * wave_sine
            rho[i, j] = distance / (radius * (1 + bend))
