"""The start of a training: the images, the sizes of its tiles, and the sampler. No weights are made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tinyunet.data import ImageSet
from tinyunet.models import MODELS
from tinyunet.models.geometry import Geometry
from tinyunet.sampling import Sampler
from tinyunet.training.config import TrainConfig, network_options


@dataclass(frozen=True, eq=False)
class Setup:
    """A configuration and its images.

    Parameters
    ----------
    config : TrainConfig
    training_set, validation_set : ImageSet, with labels
        Both with the same classes and channels.

    Raises
    ------
    OptionError, DataError
        By the properties: an option that the network cannot take; a training set without labels.
    """

    config: TrainConfig
    training_set: ImageSet
    validation_set: ImageSet

    @cached_property
    def model_options(self) -> dict[str, Any]:
        """The network's name and options, as `make_network` takes them."""
        return {
            **network_options(self.config),
            "in_channels": self.training_set.images[0].shape[2],
            "num_classes": self.training_set.num_classes,
            "seed": self.config.seed,
        }

    @cached_property
    def geometry(self) -> Geometry:
        """The network's."""
        return MODELS[self.config.model].geometry_of(self.model_options)

    @property
    def input_size(self) -> int:
        """The side of the network's input tile, in pixels."""
        return self.geometry.input_for_output(self.config.tile)

    @property
    def output_size(self) -> int:
        """The side of its output tile, in pixels: the configured one, rounded up to a size that fits."""
        return self.geometry.output_size(self.input_size)

    @cached_property
    def sampler(self) -> Sampler:
        """Samples of the training set."""
        return Sampler(
            self.training_set,
            input_size=self.input_size,
            output_size=self.output_size,
            augmentation=self.config.augmentation,
            weights=self.config.weights,
            seed=self.config.seed,
        )
