"""The interface of a network that can be trained, stored, and used on images of any size.

The trainer, overlap-tile and the commands know a network by this class only. Its constructor takes
`in_channels`, `num_classes` and `seed`, and whatever else it is built from, all by name and with defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
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


class Network(Module):
    """A network that gives each pixel a score for each class.

    Attributes
    ----------
    in_channels, num_classes : int
        Channels of the image, classes of the labels.
    geometry : Geometry
        Which sides it takes, and what it gives for them.
    dropout_rng : numpy.random.Generator
        Draws the dropout. The trainer sets one for each step, so that a step can be repeated.
    """

    in_channels: int
    num_classes: int
    geometry: Geometry
    dropout_rng: np.random.Generator

    @classmethod
    def options(cls) -> dict[str, Any]:
        """What the constructor takes, and its defaults."""
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

    def training_batch(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """What to train on, from a tile of an image: the tile itself, unless the network says otherwise.

        Parameters
        ----------
        sample : Sample
            A tile with the sides of `geometry`, its classes and their weights.
        rng : numpy.random.Generator
            Of this step.
        """
        return sample

    def loss(self, x: Tensor, target: NDArray[Any], weight: NDArray[Any]) -> Tensor:
        """What training minimises: `softmax_cross_entropy` of the scores.

        A network may compute it in another way that gives the same up to rounding. On the GPU nothing is read
        back, and it can be captured as a part of a CUDA graph.

        Parameters
        ----------
        x : Tensor, shape (N, H, W, in_channels)
        target, weight : array, of the output's N, H, W
            From `tinyunet.ops.targets.checked_pixels`.
        """
        return loss_of_checked(self(x), target, weight)

    def multiplications(self, height: int, width: int) -> int:
        """Multiplications of the convolutions, by their definition, for one image of these sides.

        Each number that a convolution gives takes K · K · C of them, a 2×2 up-convolution C. Winograd's
        algorithm makes do with fewer, but that is a matter of the engine and not of the network.
        """
        raise NotImplementedError

    def require_images(self, x: Tensor) -> None:
        """Raise a ShapeError unless x is a batch of images (N, H, W, in_channels) of sides that fit."""
        if len(x.shape) != 4 or x.shape[3] != self.in_channels:
            raise ShapeError(
                f"{type(self).__name__}: expected images with {self.in_channels} channels",
                {"x": describe(x, "N H W C")},
                "give x the axes N, H, W, C, and make the network with in_channels=C",
            )
        for side in x.shape[1:3]:
            self.geometry.output_size(side)


def require_options(network: str, **checks: tuple[Any, bool, str]) -> None:
    """Raise an OptionError for the first option that does not fit: by name, value, whether it fits, why."""
    for name, (value, fits, expected) in checks.items():
        if not fits:
            raise OptionError(f"{network}: {name} is {value!r}, expected {expected}")
