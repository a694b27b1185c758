"""Read a stored run: the options it was started with, and its predictions of images it has not seen."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tinyunet.data import GreyStatistics, ImageSet, PlaneChoice
from tinyunet.data.class_table import ClassTable
from tinyunet.data.fingerprint import seen
from tinyunet.errors import CheckpointError, DataError, OptionError, first_names
from tinyunet.metrics.scores import Prediction
from tinyunet.models import Network
from tinyunet.prediction.segmentation import segment_all
from tinyunet.sampling import WeightMap
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.checkpoint import BEFORE, Checkpoint, load_checkpoint
from tinyunet.training.config import (
    NETWORK_OPTIONS,
    DataOptions,
    TrainConfig,
    network_options,
    optimiser_options,
)
from tinyunet.training.json_types import mismatch
from tinyunet.training.progress import Progress
from tinyunet.training.run_folder import RunFolder

# Fields that checkpoints of earlier versions do not have.
ADDED_TO_PROGRESS = {"best_finds_classes", "last_score", "lowest", "lowest_step", "plateau_step"}


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
        The configuration has options that this version does not know or values that it does not take, or
        describes another network than that of the checkpoint.
    """
    try:
        config = config_from_record(checkpoint.config)
        network = network_options(config)
        optimiser_options(config)
    except (KeyError, TypeError, OptionError) as error:
        raise _not_usable(path, str(error)) from error
    for name in {"model", *NETWORK_OPTIONS} & checkpoint.network.keys():
        if (value := network.get(name)) != checkpoint.network[name]:
            raise _not_usable(path, f"{name} is {value!r}, that of the network {checkpoint.network[name]!r}")
    return config


def config_from_record(record: Mapping[str, Any]) -> TrainConfig:
    """Build a configuration from what JSON stores of it; options that are not stored are as by default.

    Raises
    ------
    KeyError, TypeError, OptionError
        An option is missing, unknown to this version, or has a value that it does not take.
    """
    return TrainConfig(
        **{
            **BEFORE,
            **record,
            "augmentation": Augmentation(**record["augmentation"]),
            "weights": WeightMap(**record["weights"]),
        }
    )


def load_last(folder: RunFolder) -> tuple[Checkpoint, TrainConfig]:
    """Load what a run continues from: its last checkpoint, and the options it was started with.

    Raises
    ------
    RunError
        The run was stopped before its first checkpoint.
    CheckpointError
        As in `load_checkpoint` and `stored_config`; or the scores so far, the trainer's `Progress`, are not
        what this version writes.
    """
    folder.require_checkpoint()
    checkpoint = load_checkpoint(folder.last)
    progress, classes = checkpoint.progress, checkpoint.network.get("num_classes", 2)
    types = typing.get_type_hints(Progress)
    required = {name: type_ for name, type_ in types.items() if name not in ADDED_TO_PROGRESS}
    reasons = [mismatch(progress.get(name), type_, f"progress.{name}") for name, type_ in required.items()]
    reasons += [mismatch(progress, Progress, "progress")]
    if reason := next(filter(None, reasons), ""):
        raise _not_usable(folder.last, reason)
    if any(len(row) != 1 + classes for row in progress["recent"]):
        raise _not_usable(folder.last, f"progress.recent has other rows than of {1 + classes} numbers")
    return checkpoint, stored_config(checkpoint, folder.last)


def _not_usable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: the run was started by another version of tinyunet, or its checkpoint is damaged",
        {"reason": reason},
        "use the run with that version, or start another run",
    )


def stored_data(checkpoint: Checkpoint) -> DataOptions:
    """The data set of the run that wrote a checkpoint; what the checkpoint does not say is as by default."""
    names = {f.name for f in fields(DataOptions)} & checkpoint.config.keys()
    return DataOptions(**{name: checkpoint.config[name] for name in names})


def choice_after_training(given: PlaneChoice, checkpoint: Checkpoint, network: Network) -> PlaneChoice:
    """Complete the chosen channel and plane by those that a network was trained on."""
    trained = stored_data(checkpoint).plane_choice()
    return replace(given, trained=trained, in_channels=network.in_channels)


def stored_classes(checkpoint: Checkpoint, path: Path) -> ClassTable | None:
    """The files' number or colour of each class that a network was trained on; None if it is not stored.

    Parameters
    ----------
    checkpoint : Checkpoint
    path : Path
        Its file or the run's folder, for the error.

    Raises
    ------
    CheckpointError
        What is stored is no table, or not of as many classes as the network has.
    """
    if not checkpoint.classes:
        return None
    expected = checkpoint.network["num_classes"]
    try:
        table = ClassTable.from_json(checkpoint.classes)
    except DataError as error:
        raise CheckpointError(
            f"{path}: damaged, the classes are no table",
            {"reason": error},
            "use the run's other checkpoint (best or last), or a copy",
        ) from error
    if len(table.values) != expected:
        raise CheckpointError(
            f"{path}: damaged, the table has not as many classes as the network",
            {"network": expected, "table": table},
            "use the run's other checkpoint (best or last), or a copy",
        )
    return table


def predict_unseen(
    model: Network,
    checkpoint: Checkpoint,
    images: ImageSet,
    *,
    symmetries: int = 1,
    split: bool = True,
    statistics: GreyStatistics | None = None,
) -> Iterator[Prediction]:
    """Segment images that a run has not trained on, one after the other.

    Parameters
    ----------
    model, checkpoint
        From `load_model`; the tile is that of training.
    images : ImageSet
    symmetries : 1 or 8
        As in `segment`.
    split : bool
        Cut objects at narrow necks, by the run's rule; otherwise connected pixels are always one object.
    statistics : GreyStatistics, optional
        As in `segment`.

    Raises
    ------
    DataError
        An image was trained on, or the images do not have the network's channels.
    """
    require_channels(model, images)
    _require_unseen(checkpoint, images)
    tile = checkpoint.config.get("tile", TrainConfig.tile)
    rule = checkpoint.objects
    if not split:
        rule = replace(rule, split_depth=None)
    return segment_all([model], images, tile=tile, symmetries=symmetries, rule=rule, statistics=statistics)


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
            f"{images.source}: images that are held out now were trained on, the set has changed",
            {
                "trained on": f"{len(names)}: {first_names(names)}",
                "held out in training": first_names(checkpoint.images.get("held out", {})),
            },
            "restore the set and its options; or predict other images and compare these with their labels",
        )
