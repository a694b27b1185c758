"""Normalising grey values for the network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyunet.data.image_set import Image
from tinyunet.errors import ShapeError, describe


def normalise(image: Image) -> NDArray[np.float32]:
    """Scale each channel of an image to zero mean and unit variance.

    Each image is normalised on its own, because exposure, stain and camera differ between images (the nuclei
    of a dim image are darker than the background of the next), and prediction then needs one image only.

    Parameters
    ----------
    image : array, shape (H, W, C), any numeric type

    Returns
    -------
    float32 array, shape (H, W, C)
        A constant channel becomes zeros. Mean and variance are computed in float64: the sum of a large
        16-bit image does not fit in float32.

    Raises
    ------
    ShapeError
        Not three axes.
    """
    if image.ndim != 3:
        raise ShapeError(
            "normalise: the image must be (H, W, C)",
            {"image": describe(image)},
            "add a channel: image[..., None]",
        )
    # One array of float64 at a time. The operations are those of numpy.std, so the last bits are, too.
    pixels = image.astype(np.float64)
    mean = pixels.mean(axis=(0, 1))
    constant = (pixels == pixels[0, 0]).all(axis=(0, 1))  # its deviation may round to a little more than 0
    pixels -= mean
    pixels -= pixels.mean(axis=(0, 1), keepdims=True)
    pixels *= pixels
    deviation = np.where(constant, np.inf, np.sqrt(pixels.mean(axis=(0, 1))))
    del pixels
    normalised = np.empty(image.shape, np.float32)
    for row, grey in zip(normalised, image, strict=True):
        row[...] = (grey.astype(np.float64) - mean) / deviation
    return normalised
