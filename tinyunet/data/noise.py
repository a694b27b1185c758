"""Random fields for the synthetic images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft


def smooth_noise(rng: np.random.Generator, size: int, scale: float) -> NDArray[np.float32]:
    """Blur white noise by a Gaussian of standard deviation `scale` px, with mean 0 and variance about 1.

    The blur uses the FFT, so that any scale costs the same; the field therefore wraps around.

    Returns
    -------
    float32 array, shape (size, size)
    """
    white = fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    rows = np.exp(-2 * (np.pi * scale * fft.fftfreq(size)) ** 2).astype(np.float32)
    columns = rows[: size // 2 + 1]
    white[0, 0] = 0
    # Parseval: the variance that the filter leaves of white noise is the mean of its squared response.
    deviation = np.mean(rows**2)
    return fft.irfft2(white * rows[:, None] * columns, s=(size, size)) / deviation
