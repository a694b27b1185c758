"""The start of a training: the images, the sizes of its tiles, and the sampler. No weights are made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tinyunet.data import ImageSet
from tinyunet.data.image_set import LOOKED_AT, evenly_spaced
from tinyunet.errors import OptionError, describe
from tinyunet.models import MODELS
from tinyunet.models.geometry import Geometry
from tinyunet.sampling import Sampler
from tinyunet.training.config import TrainConfig, network_options

# Beyond both, a tile holds little but mirror images, and a number that was mistyped or came with somebody
# else's checkpoint could ask for any amount of memory.
LARGE_TILE, TILE_PER_IMAGE = 2048, 4  # pixels; times the largest side of an image


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
    OptionError
        The tile is far larger than the images.
    OptionError, DataError
        By the properties: an option that the network cannot take; a training set without labels.
    """

    config: TrainConfig
    training_set: ImageSet
    validation_set: ImageSet

    def __post_init__(self) -> None:
        largest = max(self.training_set.looked_at.images, key=lambda image: max(image.shape))
        most = max(LARGE_TILE, TILE_PER_IMAGE * max(largest.shape[:2]))
        if self.config.tile > most:
            raise OptionError(
                f"tile is {self.config.tile}, far larger than the images",
                {"largest image": describe(largest, "H W C"), "expected": f"at most {most}"},
                "give a smaller --tile: it would be filled with mirror images, in memory for all of them",
            )

    def looked_at(self, most: int = LOOKED_AT) -> Setup:
        """Return a setup with a few images if they are read as needed, otherwise this one."""
        if not self.training_set.is_read_as_needed:
            return self
        few = [
            part.subset(evenly_spaced(len(part), most)) for part in (self.training_set, self.validation_set)
        ]
        return Setup(self.config, *few)

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
            batch=self.config.batch,
        )
