"""A run that was stored: the configuration it was started with, and what it makes of its held-out images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tinyunet.data import ImageSet, normalise
from tinyunet.data.fingerprint import seen
from tinyunet.errors import CheckpointError, DataError, first_names
from tinyunet.metrics.scores import Prediction
from tinyunet.models import Network
from tinyunet.prediction.instances import label_instances
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.sampling import WeightMap
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.checkpoint import Checkpoint
from tinyunet.training.config import DataOptions, TrainConfig


def stored_config(checkpoint: Checkpoint, path: Path) -> TrainConfig:
    """The configuration of the run that wrote a checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint
    path : Path
        Its file or the run's folder, for the error.

    Raises
    ------
    CheckpointError
        The configuration has options that this version does not know.
    """
    config = checkpoint.config
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
            f"{path}: the run was started by another version of tinyunet",
            {"reason": error},
            "use the run with that version",
        ) from error


def stored_data(checkpoint: Checkpoint) -> DataOptions:
    """The data set of the run that wrote a checkpoint; what the checkpoint does not say is as by default."""
    names = {f.name for f in fields(DataOptions)} & checkpoint.config.keys()
    return DataOptions(**{name: checkpoint.config[name] for name in names})


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

    Raises
    ------
    DataError
        An image was trained on, or they do not have the network's channels.
    """
    require_channels(model, images)
    _require_unseen(checkpoint, images)

    def predict(image: NDArray[Any]) -> Prediction:
        probabilities = predict_tiled(
            model, normalise(image), tile=checkpoint.config["tile"], symmetries=symmetries
        )
        return Prediction(probabilities, label_instances(probabilities, split_depth=1.0 if cut else None))

    return map(predict, images.images)


def require_channels(model: Network, images: ImageSet) -> None:
    """Raise a DataError unless the images have the channels that the network was trained on."""
    found = images.images[0].shape[2]
    if found != model.in_channels:
        raise DataError(
            f"{images.source}: the images do not have the channels that the network was trained on",
            {"network": f"{model.in_channels} channels", "images": f"{found} channels"},
            "convert the images to grey or to colour, as the training images were",
        )


def _require_unseen(checkpoint: Checkpoint, images: ImageSet) -> None:
    if names := seen(images, checkpoint.images):
        raise DataError(
            f"{images.source}: images that are held out now were trained on, the set is not what it was",
            {
                "trained on": f"{len(names)}: {first_names(names)}",
                "held out in training": first_names(checkpoint.images["held out"]),
            },
            "bring the set back, with its options; or predict other images and compare with their labels",
        )
