"""A run that was stored: the configuration it was started with, and what it makes of its held-out images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tinyunet.augment import Augmentation
from tinyunet.checkpoint import Checkpoint, load_checkpoint
from tinyunet.config import TrainConfig
from tinyunet.data import ImageSet, normalise
from tinyunet.errors import CheckpointError
from tinyunet.evaluation import Prediction
from tinyunet.instances import label_instances
from tinyunet.models import Network
from tinyunet.sampling import WeightMap
from tinyunet.tiling import predict_tiled


def stored_config(checkpoint: Path) -> TrainConfig:
    """The configuration that a checkpoint holds.

    Raises
    ------
    CheckpointError
        As `load_checkpoint`, or the configuration has options that this version does not know.
    """
    config = load_checkpoint(checkpoint).config
    try:
        return TrainConfig(
            **{
                **config,
                "augmentation": Augmentation(**config["augmentation"]),
                "weights": WeightMap(**config["weights"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint.parent}: the run was started by another version of tinyunet",
            {"reason": error},
            "use the run with that version",
        ) from error


def predict_images(
    model: Network, checkpoint: Checkpoint, images: ImageSet, *, symmetries: int = 1, cut: bool = True
) -> Iterator[Prediction]:
    """Probabilities and objects of each image, one after the other.

    Parameters
    ----------
    model, checkpoint
        As `load_model` gives them; the tile is the one of training.
    images : ImageSet
    symmetries : {1, 8}
        As in `predict_tiled`.
    cut : bool
        Whether objects are cut at narrow necks, as in `label_instances`; otherwise what is connected is one.
    """

    def predict(image: NDArray[Any]) -> Prediction:
        probabilities = predict_tiled(
            model, normalise(image), tile=checkpoint.config["tile"], symmetries=symmetries
        )
        return Prediction(probabilities, label_instances(probabilities, split_depth=1.0 if cut else None))

    return map(predict, images.images)
