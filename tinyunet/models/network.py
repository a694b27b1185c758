"""The interface of a network that can be trained, stored, and used on images of any size.

The trainer, overlap-tile and the commands know a network only by this class. Its constructor takes
`in_channels`, `num_classes`, `seed` and its other options, all by name and with defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.autograd import Tensor
from tinyunet.errors import OptionError, ShapeError, describe
from tinyunet.models.geometry import Geometry
from tinyunet.nn import Module
from tinyunet.ops.softmax_cross_entropy import loss_of_checked

if TYPE_CHECKING:
    from tinyunet.sampling import Sample


MOST_DEPTH = 12  # poolings: with more, the smallest input has a side of at least 8,192 pixels


class Network(Module):
    """A network that gives each pixel a score for each class.

    Attributes
    ----------
    in_channels, num_classes : int
        Channels of the image, classes of the labels.
    geometry : Geometry
        Which input sides it takes, and the output sides for them.
    dropout_rng : numpy.random.Generator
        Draws the dropout. The trainer sets one for each step, so that a step can be repeated.
    """

    in_channels: int
    num_classes: int
    geometry: Geometry
    dropout_rng: np.random.Generator

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Return the constructor's parameters and their defaults."""
        return {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}

    @classmethod
    def geometry_of(cls, options: Mapping[str, Any]) -> Geometry:
        """The geometry of a network with these options, found without making its weights.

        Raises
        ------
        OptionError
            An option that decides the geometry is outside its range.
        """
        raise NotImplementedError

    @classmethod
    def shapes_of(cls, options: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the names and shapes of the parameters of a network with these options, without making any.

        Parameters
        ----------
        options : mapping of str to object
            All of `options`.

        Raises
        ------
        OptionError
            An option is outside its range.
        """
        raise NotImplementedError

    @classmethod
    def buffers_of(cls, options: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the names and shapes of the buffers of a network with these options: see `shapes_of`.

        They are the mean and the variance of each normalised convolution, which is known by its scale.
        """
        for name, shape in cls.shapes_of(options):
            layer, _, part = name.rpartition(".")
            if part == "scale":
                yield f"{layer}.mean", shape
                yield f"{layer}.variance", shape

    def training_batch(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Choose from a tile what to train on: here, all of it.

        Parameters
        ----------
        sample : Sample
            A tile with sides that fit `geometry`, its classes and their weights.
        rng : numpy.random.Generator
            The generator of this step.
        """
        return sample

    def loss(self, x: Tensor, target: NDArray[Any], weight: NDArray[Any]) -> Tensor:
        """Compute what training minimises: `softmax_cross_entropy` of the scores.

        A network may compute it in another way that gives the same up to rounding. On the GPU nothing is read
        back, so that a CUDA graph can capture it.

        Parameters
        ----------
        x : Tensor, shape (N, H, W, in_channels)
        target, weight : array, shape (N, H', W') of the output
            From `tinyunet.ops.targets.checked_pixels`.
        """
        return loss_of_checked(self(x), target, weight)

    def multiplications(self, height: int, width: int) -> int:
        """Count the multiplications of the convolutions, by definition, for one image of these sides.

        Each output value of a convolution takes K · K · C of them, of a 2×2 up-convolution C. Winograd's
        algorithm needs fewer, but that is a property of the engine and not of the network.
        """
        raise NotImplementedError

    def require_images(self, x: Tensor) -> None:
        """Raise a ShapeError unless x is a batch of images (N, H, W, in_channels) with sides that fit."""
        if len(x.shape) != 4 or x.shape[3] != self.in_channels:
            raise ShapeError(
                f"{type(self).__name__}: expected images with {self.in_channels} channels",
                {"x": describe(x, "N H W C")},
                "give x the axes N, H, W, C, and make the network with in_channels=C",
            )
        for side in x.shape[1:3]:
            self.geometry.output_size(side)


def require_options(network: str, **checks: tuple[Any, bool, str]) -> None:
    """Raise an OptionError for the first invalid option. `checks`: by name, its value, validity and rule."""
    for name, (value, fits, expected) in checks.items():
        if not fits:
            raise OptionError(f"{network}: {name} is {value!r}, expected {expected}")
