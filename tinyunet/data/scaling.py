"""Pixels of one size: images of several magnifications, scaled to the pixels that a network sees.

A network knows objects by their size in pixels. Cells that were 40 pixels wide in training, and are 60 wide
under another microscope, are other objects to it. Where the sizes of pixels are known (`pixel_sizes`), images
and labels are scaled to one size for training, and a prediction is scaled back to the pixels of its image.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyunet.data.as_needed import AsNeeded
from tinyunet.data.fingerprint import checksum
from tinyunet.data.image_set import Image, ImageSet, Labels
from tinyunet.data.pixel_sizes import PixelSizes, Size, size_text

T = TypeVar("T")


def at_pixel_size(images: ImageSet, pixel_size: float, sizes: PixelSizes) -> ImageSet:
    """Scale the images of a set, and their labels, to pixels of one size.

    Its checksums are those of the images before they were scaled, by which a run knows what it was trained
    on, and of their labels together with the factors.

    Parameters
    ----------
    images : ImageSet
    pixel_size : float
        Height and width of the pixels to be, in µm.
    sizes : PixelSizes
        Those of the images now.

    Raises
    ------
    DataError
        As `PixelSizes.factors`.
    """
    factors = [sizes.factors(name, pixel_size) for name in images.names]
    labels = images.labels

    def image(number: int) -> Image:
        return scaled(images.images[number], factors[number])

    def label(number: int) -> Labels:
        assert labels is not None
        return scaled_labels(labels[number], factors[number])

    def checksums(number: int) -> tuple[int, int]:
        if images.checksums is not None:
            of_image, of_label = images.checksums[number]
        else:
            of_image = checksum(images.images[number])
            of_label = 0 if labels is None else checksum(labels[number])
        return of_image, zlib.crc32(repr(factors[number]).encode(), of_label)

    low, high = (
        size_text((down * pixel_size, across * pixel_size)) for down, across in (min(factors), max(factors))
    )
    scaled_from = low if low == high else f"{low} to {high}"
    text = f"scaled from pixels of {scaled_from}, to {pixel_size:g} µm"
    return replace(
        images,
        images=_made_like(images.images, image),
        labels=None if labels is None else _made_like(labels, label),
        checksums=_made_like(images.images, checksums),
        layout=", ".join(filter(None, [images.layout, text])),
    )


def _made_like(items: Sequence[object], make: Callable[[int], T]) -> Sequence[T]:
    """Make as many items now; or when they are needed, if the others are made so."""
    numbers = range(len(items))
    return AsNeeded(make, numbers, items.cache) if isinstance(items, AsNeeded) else list(map(make, numbers))


def scaled(image: Image, factors: Size) -> Image:
    """Scale an image (H, W, C) by factors of its height and width, linearly; smooth it first if it shrinks.

    Returns
    -------
    float32 array; or the image itself, if its size stays.
    """
    shape = scaled_shape(image.shape[:2], factors)
    return image if shape == image.shape[:2] else _resized(image, shape)


def scaled_labels(labels: Labels, factors: Size) -> Labels:
    """Scale labels (H, W): each pixel has the label of the nearest one."""
    from skimage.transform import resize  # here, because it takes long to import

    shape = scaled_shape(labels.shape, factors)
    if shape == labels.shape:
        return labels
    nearest = resize(labels, shape, order=0, preserve_range=True, anti_aliasing=False)
    return nearest.astype(labels.dtype)


def scaled_back(probabilities: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Scale probabilities (h, w, K) to the height and width of the image that was scaled for prediction."""
    return probabilities if shape == probabilities.shape[:2] else _resized(probabilities, shape)


def scaled_shape(shape: tuple[int, ...], factors: Size) -> tuple[int, ...]:
    """Return the height and width after scaling, at least 1."""
    return tuple(max(1, round(side * factor)) for side, factor in zip(shape, factors, strict=True))


def _resized(image: Image, shape: tuple[int, ...]) -> NDArray[np.float32]:
    from skimage.transform import resize

    pixels = image.astype(np.float32, copy=False)
    found: NDArray[np.float32] = resize(pixels, shape, order=1, preserve_range=True, anti_aliasing=True)
    return found
