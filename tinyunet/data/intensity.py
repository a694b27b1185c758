"""Normalising grey values for the network, with the same bits however an image is cut into windows.

Mean and deviation follow from two sums over all pixels. Rounded sums would depend on their order, that is,
on the windows in which an image larger than memory is read. So the sums are exact: those of integers are
integers; of floats, each piece of a row is summed as usual, and the pieces are added as fractions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyunet.data.image_set import Image, ImageSet
from tinyunet.errors import DataError, OptionError, ShapeError, describe

PIECE = 4096  # pixels of a row, the first at a multiple of this, whose sum is rounded if they are floats
ROWS = 64  # at a time, so that little memory is needed


class Scale(NamedTuple):
    """The mean and the deviation of each channel; infinite for a constant channel, which becomes zeros."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def apply(self, pixels: Image) -> NDArray[np.float32]:
        """Scale pixels (h, w, C) of the image to zero mean and unit variance."""
        scaled = np.empty(pixels.shape, np.float32)
        for row, grey in zip(scaled, pixels, strict=True):  # one at a time: the quotients are of 64 bits
            row[...] = (grey.astype(np.float64) - self.mean) / self.deviation
        return scaled


class Moments:
    """The sums over the pixels of an image, added window by window in any order.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int):
        self._count = 0
        self._sums = [Fraction(0)] * channels
        self._squares = [Fraction(0)] * channels
        self._ranges: list[tuple[float, float]] = [(np.inf, -np.inf)] * channels

    def add(self, pixels: Image) -> None:
        """Add a window (h, w, C) of the image.

        Of floats it has to begin and end at columns that are multiples of `PIECE`, or the image's last.

        Raises
        ------
        DataError
            A value is NaN, infinite or so large that its square is.
        """
        for top in range(0, pixels.shape[0], ROWS):
            for left in range(0, pixels.shape[1], PIECE):
                self._add_pieces(pixels[top : top + ROWS, left : left + PIECE])

    def _add_pieces(self, pixels: Image) -> None:
        exact = pixels.dtype.kind in "bui" and pixels.dtype.itemsize <= 2
        self._count += pixels.shape[0] * pixels.shape[1]
        for channel in range(pixels.shape[2]):
            grey = pixels[..., channel]
            lowest, highest = self._ranges[channel]
            self._ranges[channel] = min(lowest, grey.min()), max(highest, grey.max())
            total, squares = _integer_sums(grey) if exact else _float_sums(grey)
            self._sums[channel] += total
            self._squares[channel] += squares

    def scale(self) -> Scale:
        """Compute mean and deviation, each rounded once."""
        means = [total / self._count for total in self._sums]
        variances = [
            squares / self._count - mean * mean for squares, mean in zip(self._squares, means, strict=True)
        ]
        constant = [lowest == highest for lowest, highest in self._ranges]  # where only rounding is left
        deviation = np.where(constant, np.inf, np.sqrt(np.array(variances, np.float64)))
        return Scale(np.array(means, np.float64), deviation)


def _integer_sums(grey: Image) -> tuple[int, int]:
    """Sum whole numbers of at most 16 bits, and their squares."""
    values = grey.astype(np.int64).ravel()
    return int(values.sum()), int(values @ values)


def _float_sums(grey: Image) -> tuple[Fraction, Fraction]:
    """Sum the pieces of rows, (h, w), and their squares: deviations from the mean of each, and that mean."""
    pieces = np.ascontiguousarray(grey, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = pieces.sum(axis=1)
        centred = pieces - (sums / pieces.shape[1])[:, None]
        centred *= centred
        deviations = centred.sum(axis=1)
    if not np.isfinite(deviations).all():
        raise DataError(
            "grey values that are NaN, infinite or too large to be squared",
            {"found": f"{grey.min()} to {grey.max()}"},
            "replace them (numpy.nan_to_num), or scale the image",
        )
    exact = [Fraction(value) for value in sums.tolist()]
    of_means = sum(value * value for value in exact) / Fraction(pieces.shape[1])
    return sum(exact, Fraction(0)), of_means + sum(map(Fraction, deviations.tolist()))


@dataclass(frozen=True)
class GreyStatistics:
    """The grey values of a typical image, for programs that cannot take those of each image.

    Attributes
    ----------
    mean, deviation : tuple of float
        For each channel, in grey values.

    Raises
    ------
    OptionError
        Not as many means as deviations, a number that is not finite, or a deviation that is not above 0.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.deviation):
            raise OptionError(
                f"{len(self.mean)} means and {len(self.deviation)} deviations, expected as many"
            )
        if not all(map(math.isfinite, (*self.mean, *self.deviation))) or min(self.deviation, default=0) <= 0:
            raise OptionError(f"{self}, expected finite numbers and deviations above 0")

    def __str__(self) -> str:
        mean, deviation = (", ".join(f"{x:.6g}" for x in values) for values in (self.mean, self.deviation))
        return f"mean {mean} and deviation {deviation}"

    @property
    def scale(self) -> Scale:
        """The same numbers, to apply to pixels."""
        return Scale(np.array(self.mean), np.array(self.deviation))

    @classmethod
    def of(cls, images: ImageSet) -> GreyStatistics:
        """Average the means of the images, and their deviations; every image counts the same.

        The deviation of all pixels together would be larger than that of a typical image, because it holds
        the differences between dim and bright images, too. Training brings each image to deviation 1. Images
        divided by the larger deviation would have less contrast than those that were trained on. A channel
        that is constant in an image has no deviation, and is left out there.

        Raises
        ------
        DataError
            A channel is constant in every image.
        """
        means, deviations = map(np.array, zip(*map(_scale_of, images.images), strict=True))
        varied = np.isfinite(deviations)
        if not (found := varied.any(axis=0)).all():
            raise DataError(
                f"{images.source}: a channel is constant in every image, and has no deviation",
                {"channel": int(np.argmin(found)), "images": len(images)},
                "normalise each image by itself",
            )
        mean, deviation = (values.mean(axis=0, where=varied) for values in (means, deviations))
        return cls(tuple(mean.tolist()), tuple(deviation.tolist()))


def normalise(image: Image, statistics: GreyStatistics | None = None) -> NDArray[np.float32]:
    """Scale each channel of an image to zero mean and unit variance.

    Each image is normalised on its own, because exposure, stain and camera differ between images (the nuclei
    of a dim image are darker than the background of the next), and prediction then needs one image only.

    Parameters
    ----------
    image : array, shape (H, W, C), any numeric type
    statistics : GreyStatistics, optional
        Subtract this mean and divide by this deviation, in place of the image's own.

    Returns
    -------
    float32 array, shape (H, W, C)
        A constant channel becomes zeros. Of whole numbers of 8 or 16 bits, mean and variance are the exact
        ones, rounded to float64; of others, rows are summed in float64.

    Raises
    ------
    ShapeError
        Not three axes; or the statistics are of another number of channels.
    DataError
        A value is NaN, infinite or too large.
    """
    if image.ndim != 3:
        raise ShapeError(
            "normalise: the image must be (H, W, C)",
            {"image": describe(image)},
            "add a channel: image[..., None]",
        )
    scale = _scale_of(image) if statistics is None else statistics.scale
    if len(scale.mean) != image.shape[2]:
        raise ShapeError(
            "normalise: the statistics are not those of the image's channels",
            {"image": describe(image), "statistics": statistics},
            "give a mean and a deviation for each channel",
        )
    return scale.apply(image)


def _scale_of(image: Image) -> Scale:
    moments = Moments(image.shape[2])
    moments.add(image)
    return moments.scale()
