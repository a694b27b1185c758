"""Makes random tiles of an image and its labels: shifted, flipped, rotated, deformed, with other grey values.

A tile is made by looking up, for each of its pixels p (relative to the tile's centre), the point

    centre + L (p + u(p))

of the image: u is the elastic deformation (`elastic`), L a rotation after flips, centre the random position.
The three make one map, so that each array is interpolated once, and only where the tile lies. The label tile
is the middle of the image tile: what a network without padding predicts from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyunet.data.as_needed import AsNeeded, mapped
from tinyunet.errors import DataError, DtypeError, OptionError, ShapeError, describe, shorten
from tinyunet.sampling.elastic import count_folded, displacement_field
from tinyunet.sampling.spline import spline_coefficients, warp

MOST_POINTS = 1024  # on a side of the grid of displacements: more would be finer than the pixels of a tile


@dataclass(frozen=True)
class Augmentation:
    """The options of the augmentation: how far samples may differ from the images. 0 or False disables one.

    Shifts have no option: a tile's position is random. The paper (section 3.1) names shift, rotation, grey
    values and elastic deformation, with numbers for the last one only; the other defaults are ours.
    """

    rotation: float = 180.0
    """Largest rotation, in degrees; the angle is uniform in ±rotation."""
    flips: bool = True
    """Flip rows and columns, each with probability 1/2."""
    brightness: float = 0.2
    """Largest offset, in units of the normalised image (its standard deviations)."""
    contrast: float = 0.2
    """Largest logarithm of the factor on grey values: 0.2 means factors from 0.82 to 1.22."""
    gamma: float = 0.2
    """Largest logarithm of the exponent, which acts between the image's smallest and largest grey value."""
    elastic_sigma: float = 10.0
    """Standard deviation of each component of the displacement vectors, in pixels; 10 in the paper."""
    elastic_points: int = 3
    """Points on each side of the grid of displacement vectors, which spans the image tile; 3 in the paper."""

    def __post_init__(self) -> None:
        for name in ("rotation", "brightness", "contrast", "gamma", "elastic_sigma"):
            value = getattr(self, name)
            if not 0 <= value < np.inf:
                raise OptionError(f"Augmentation: {name} is a magnitude, at least 0, got {value}")
        if not 2 <= self.elastic_points <= MOST_POINTS:
            raise OptionError(
                f"Augmentation: elastic_points must be from 2 to {MOST_POINTS}, "
                f"got {shorten(str(self.elastic_points))}"
            )

    @classmethod
    def off(cls) -> Augmentation:
        """Return options for random tiles and nothing else: each is an exact crop of the mirrored image."""
        return cls(rotation=0, flips=False, brightness=0, contrast=0, gamma=0, elastic_sigma=0)

    @property
    def moves_between_pixels(self) -> bool:
        """True if a tile's pixels can fall between those of the image, so that it is interpolated."""
        return self.rotation > 0 or self.elastic_sigma > 0


class Tile(NamedTuple):
    """A random tile of an image and its labels."""

    image: NDArray[np.float32]
    """Shape (input_size, input_size, C)."""
    labels: NDArray[np.integer]
    """Shape (n, n), n = output_size + 2 label_margin: the middle of the tile. Dtype of the given labels."""
    folded: int
    """Number of the image tile's pixels where the elastic deformation folds (`count_folded`); mostly 0."""


class Draw(NamedTuple):
    """The random numbers of a tile."""

    matrix: NDArray[np.float64]
    """The matrix L, shape (2, 2): flips first, then the rotation."""
    centre: NDArray[np.float64]
    """Row and column of the image where the tile's centre lies."""
    grid: NDArray[np.float64]
    """Displacement vectors, shape (2, points, points), in pixels."""
    brightness: float
    contrast: float
    gamma: float


class Augmenter:
    """Makes random tiles of a set of images.

    The same generator state gives the same tile to the last bit. Every tile draws all of the following, in
    this order, so that disabling one part of the augmentation leaves the others unchanged:

    1. the first row and column of the output tile, by one `integers`: the tile lies in the image, or, along
       an axis where the image is smaller, covers it;
    2. angle, brightness, contrast, gamma, in units of their largest values, by `uniform(-1, 1, 4)`;
    3. whether to flip rows and columns, by `integers(2, size=2)`;
    4. the displacement vectors, in units of sigma, by `standard_normal((2, points, points))`.

    Parameters
    ----------
    images : sequence of ndarray, each (H, W, C), float32
        Normalised to about zero mean and unit standard deviation. Sizes may differ, channels may not. Of an
        `AsNeeded` sequence, sources and grey ranges are made as needed, too, and nothing is checked here.
    labels : sequence of ndarray, each (H, W), integer
    input_size, output_size : int
        Sides of the network's input and output tiles, in pixels: 572 and 388 in the paper.
    augmentation : Augmentation
    label_margin : int
        Width of a margin of labels around the output tile, in pixels; at most (input_size − output_size) / 2.
        A tile's weight map depends on cells just outside it: compute it with a margin, then crop the margin.

    Raises
    ------
    ShapeError, DtypeError, DataError
        Images and labels do not match, or the label tile cannot be the middle of the image tile.

    Attributes
    ----------
    order : int
        Order of `warp`: 3 if tiles are interpolated, else 0.
    sources : sequence of ndarray
        Where `warp` looks tiles up: the spline coefficients of each image if tiles are interpolated,
        4 (H + 3) (W + 3) C bytes, else the image itself, which is not copied.
    labels : sequence of ndarray
        The given arrays, not copies.
    grey_ranges : sequence of (float, float)
        Smallest and largest value of each image.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.float32]],
        labels: Sequence[NDArray[np.integer]],
        *,
        input_size: int,
        output_size: int,
        augmentation: Augmentation = Augmentation(),
        label_margin: int = 0,
    ):
        if not isinstance(images, AsNeeded):
            _check_images(images, labels)
        _check_sizes(input_size, output_size, label_margin)
        self.input_size = input_size
        self.output_size = output_size
        self.augmentation = augmentation
        self.label_margin = label_margin
        # Between pixels the image is a spline. Values at the pixels themselves are copied, which is exact.
        self.order = 3 if augmentation.moves_between_pixels else 0
        self.sources = mapped(spline_coefficients, images) if self.order else images
        self.grey_ranges = mapped(_grey_range, images)
        self.labels = labels

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def sample(self, index: int, rng: np.random.Generator) -> Tile:
        """Make a random tile of image `index`. `rng` alone decides which one: `default_rng([seed, step])`."""
        draw = self.draw(index, rng)
        coordinates = self._coordinates(draw)
        image = warp(self.sources[index], coordinates, self.order)
        _vary_grey_values(image, self.grey_ranges[index], draw.brightness, draw.contrast, draw.gamma)
        cut = (self.input_size - self.output_size) // 2 - self.label_margin
        middle = slice(cut, self.input_size - cut)
        label_tile = warp(self.labels[index][:, :, None], coordinates[:, middle, middle], 0)[:, :, 0]
        return Tile(image, label_tile, count_folded(draw.grid, self.input_size, self.input_size))

    def draw(self, index: int, rng: np.random.Generator) -> Draw:
        """Draw the random numbers of the tile that `sample` makes of image `index` with the same `rng`."""
        options, shape = self.augmentation, np.array(self.labels[index].shape)
        low, high = np.sort([np.zeros(2, int), shape - self.output_size], axis=0)
        origin = rng.integers(low, high, endpoint=True)
        largest = (options.rotation, options.brightness, options.contrast, options.gamma)
        angle, brightness, contrast, gamma = map(float, largest * rng.uniform(-1, 1, 4))
        signs = 1 - 2 * rng.integers(2, size=2) * options.flips
        points = options.elastic_points
        grid = options.elastic_sigma * rng.standard_normal((2, points, points))
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        matrix: NDArray[np.float64] = np.array([[cos, -sin], [sin, cos]]) * signs
        return Draw(matrix, origin + (self.output_size - 1) / 2, grid, brightness, contrast, gamma)

    def _coordinates(self, draw: Draw) -> NDArray[np.float64]:
        """Compute the point of the image for each pixel of the input tile: (2, input_size, input_size)."""
        y, x = displacement_field(draw.grid, self.input_size, self.input_size)
        from_centre = np.arange(self.input_size) - (self.input_size - 1) / 2
        y += from_centre[:, None]
        x += from_centre
        (a, b), (c, d) = draw.matrix
        return np.stack([a * y + b * x + draw.centre[0], c * y + d * x + draw.centre[1]])


def sample_tile(
    image: NDArray[np.float32],
    labels: NDArray[np.integer],
    *,
    input_size: int,
    output_size: int,
    augmentation: Augmentation = Augmentation(),
    label_margin: int = 0,
    rng: np.random.Generator,
) -> Tile:
    """Make a random tile of one image. For more tiles use `Augmenter`, which keeps the spline."""
    augmenter = Augmenter(
        [image],
        [labels],
        input_size=input_size,
        output_size=output_size,
        augmentation=augmentation,
        label_margin=label_margin,
    )
    return augmenter.sample(0, rng)


def _grey_range(image: NDArray[np.float32]) -> tuple[float, float]:
    return float(image.min()), float(image.max())


def _vary_grey_values(
    tile: NDArray[np.float32],
    grey_range: tuple[float, float],
    brightness: float,
    contrast: float,
    gamma: float,
) -> None:
    """Change a tile in place: a power between the ends of the grey range, then a factor and an offset."""
    low, high = grey_range
    if gamma and high > low:
        tile -= low
        tile /= high - low
        np.clip(tile, 0, 1, out=tile)  # a spline overshoots at edges, and negative numbers have no power
        np.power(tile, np.exp(gamma, dtype=np.float32), out=tile)
        tile *= high - low
        tile += low
    tile *= np.exp(contrast, dtype=np.float32)
    tile += brightness


def _check_images(images: Sequence[NDArray], labels: Sequence[NDArray]) -> None:
    if len(images) != len(labels) or len(images) == 0:
        raise DataError(
            f"Augmenter: {len(images)} images and {len(labels)} label images",
            remedy="give at least one image, and one label image for each",
        )
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        if (
            image.ndim != 3
            or image.shape[:2] != label.shape
            or image.shape[2] != images[0].shape[2]
            or not image.size
        ):
            raise ShapeError(
                f"Augmenter: image {i} and its labels do not match",
                {
                    f"images[{i}]": describe(image, "H W C"),
                    f"labels[{i}]": describe(label, "H W"),
                    "images[0]": describe(images[0], "H W C"),
                },
                "give images (H, W, C) and labels (H, W) of the same H and W, and the same C for all images",
            )
        if image.dtype != np.float32 or not np.issubdtype(label.dtype, np.integer):
            raise DtypeError(
                f"Augmenter: image {i} is {image.dtype}, its labels are {label.dtype}",
                remedy="give normalised float32 images and integer labels",
            )


def _check_sizes(input_size: int, output_size: int, label_margin: int) -> None:
    margin, odd = divmod(input_size - output_size, 2)
    if odd or not 0 <= label_margin <= margin or output_size < 1:
        raise ShapeError(
            "Augmenter: the label tile cannot be the middle of the image tile",
            {"input_size": input_size, "output_size": output_size, "label_margin": label_margin},
            "input_size − output_size must be even and at least 2 label_margin",
        )
