"""An image that is scaled as its windows are read: each is a part of what `scaling.scaled` gives.

`scaled` smooths an image that shrinks by a Gaussian, and then interpolates linearly, mirroring the image at
its border. Both are weighted sums along one axis after the other, and SciPy's Gaussian ends four standard
deviations from its centre. So a pixel is a weighted sum of a few pixels around its place, and a window needs
those that it covers and a margin. As sparse matrices these sums are much quicker than a Gaussian of pixels of
which, at a twentieth of the size, one in four hundred is wanted.

A window may cover many more pixels of a file than it has itself, so it is made in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tinyunet.data.image_set import Image
from tinyunet.data.pixel_sizes import Size
from tinyunet.data.scaling import scaled_shape
from tinyunet.data.windowed import WindowedImage

PIECE = 1024  # pixels of the file along each axis, about, that are read at once
BYTES = 24  # per number of a piece: as it is read, as float64, and scaled along one axis
TRUNCATE = 4.0  # standard deviations at which SciPy's Gaussian ends


def scaled_windows(image: WindowedImage, factors: Size) -> WindowedImage:
    """Scale an image, of which windows are read, by factors of its height and width.

    Returns
    -------
    WindowedImage
        Its windows are float32; or the image itself, if its size stays.
    """
    height, width = scaled_shape(image.shape[:2], factors)
    if (height, width) == image.shape[:2]:
        return image
    values = {field.name: getattr(image, field.name) for field in fields(image)}
    return ScaledWindows(**values, height=height, width=width)


@dataclass(frozen=True)
class ScaledWindows(WindowedImage):
    """An image of which windows are read, and scaled.

    Parameters
    ----------
    height, width : int
        Those of the image once it is scaled; the others are the unscaled image's.
    """

    height: int = 1
    width: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, super().shape[2]

    @property
    def held(self) -> int:
        """Bytes that reading takes besides the windows: of the image itself, and of a piece."""
        piece = super().shape[2] * BYTES
        for axis in self._axes():
            piece *= PIECE + 2 * axis.radius + 4
        return super().held + piece

    def read(self, down: slice, across: slice) -> Image:
        """Read a window, (h, w, C)."""
        (top, bottom, _), (left, right, _) = down.indices(self.height), across.indices(self.width)
        rows, columns = self._axes()
        window = np.empty((bottom - top, right - left, self.shape[2]), np.float32)
        for i, j in rows.pieces(top, bottom):
            for k, m in columns.pieces(left, right):
                window[i - top : j - top, k - left : m - left] = self._piece(rows, columns, (i, j), (k, m))
        return window

    def _axes(self) -> tuple[_Axis, _Axis]:
        height, width, _ = super().shape
        return _Axis(height, self.height), _Axis(width, self.width)

    def _piece(
        self, rows: _Axis, columns: _Axis, down: tuple[int, int], across: tuple[int, int]
    ) -> NDArray[np.float64]:
        (top, bottom), (left, right) = rows.needed(*down), columns.needed(*across)
        pixels = super().read(slice(top, bottom), slice(left, right)).astype(np.float64)
        height, width, channels = pixels.shape
        pixels = rows.weights(*down, top, bottom) @ pixels.reshape(height, -1)
        pixels = pixels.reshape(-1, width, channels).swapaxes(0, 1)  # columns first
        pixels = columns.weights(*across, left, right) @ pixels.reshape(width, -1)
        return pixels.reshape(across[1] - across[0], -1, channels).swapaxes(0, 1)


@dataclass(frozen=True)
class _Axis:
    """One axis of an image: its pixels before it is scaled, and after."""

    before: int
    after: int

    @property
    def step(self) -> float:
        """Pixels of the image from one pixel to the next."""
        return self.before / self.after

    @property
    def sigma(self) -> float:
        """The standard deviation by which scikit-image's `resize` smooths, in pixels of the image."""
        return max(0.0, (self.step - 1) / 2)

    @property
    def radius(self) -> int:
        """How far the Gaussian reaches, in pixels of the image."""
        return int(TRUNCATE * self.sigma + 0.5)

    def pieces(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Cut a range of pixels into pieces that need about PIECE pixels of the image."""
        size = max(1, int(PIECE / self.step))
        for start in range(first, last, size):
            yield start, min(last, start + size)

    def needed(self, first: int, last: int) -> tuple[int, int]:
        """Find the pixels of the image, from the first to after the last, on which some pixels depend."""
        begin, end = (int(np.floor(place)) for place in self._places(first, last)[[0, -1]])
        return max(0, begin - self.radius - 1), min(self.before, end + self.radius + 3)

    def weights(self, first: int, last: int, begin: int, end: int) -> sparse.csr_array:
        """Make the matrix that turns the pixels `begin` to `end` - 1 before into `first` to `last` - 1 after.

        A row has the Gaussian around the left of two neighbours and that around the right, by their shares.
        """
        places, offsets = self._places(first, last), np.arange(-self.radius, self.radius + 1)
        left = np.floor(places)
        share = (places - left)[:, np.newaxis]
        gaussian = np.exp(-0.5 * (offsets / (self.sigma or 1)) ** 2)
        gaussian /= gaussian.sum()
        taps = (1 - share) * np.append(gaussian, 0) + share * np.insert(gaussian, 0, 0)
        seen = left[:, np.newaxis].astype(int) + np.append(offsets, self.radius + 1)
        columns = self._mirrored(seen) - begin
        rows = np.broadcast_to(np.arange(last - first)[:, np.newaxis], columns.shape)
        entries = taps.ravel(), (rows.ravel(), columns.ravel())  # those that fall on one place are added
        return sparse.csr_array(entries, shape=(last - first, end - begin))

    def _places(self, first: int, last: int) -> NDArray[np.floating]:
        """The centres of pixels, counted in pixels of the image from the centre of its first one."""
        return (np.arange(first, last) + 0.5) * self.step - 0.5

    def _mirrored(self, numbers: NDArray[np.int_]) -> NDArray[np.int_]:
        """Reflect numbers of pixels outside of the image about the centres of its outermost pixels."""
        period = max(1, 2 * (self.before - 1))
        numbers = numbers % period
        return np.minimum(numbers, period - numbers) if self.before > 1 else 0 * numbers
