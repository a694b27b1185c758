"""Cross-validation: a run for each fold of the images, all in one folder.

folds.json          the options, and which images each fold holds out
fold-0, fold-1, …   a complete run each: see `tinyunet.training.run_folder`
report.html         the spread of their scores, if python -m tinyunet.report wrote it

Every image is held out by one fold. So each can be scored by a network that has not seen it, and all networks
together, by the average of their probabilities, predict images that none of them has seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tinyunet.data import GreyStatistics, ImageSet
from tinyunet.data.atomic_write import make_folder, write_text
from tinyunet.data.holdout import held_out_indices
from tinyunet.errors import CheckpointError, DataError, OptionError, RunError, first_names
from tinyunet.metrics.scores import Prediction
from tinyunet.models import Network
from tinyunet.training.checkpoint import Checkpoint, load_model
from tinyunet.training.config import TrainConfig
from tinyunet.training.json_types import mismatch
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.stored_run import config_from_record, predict_unseen, stored_data

RECORD = "folds.json"


@dataclass(frozen=True)
class CrossValidation:
    """The options of a cross-validation; what they say of held-out images counts for none of its folds."""

    config: TrainConfig
    holdouts: list[str]
    """The `holdout` of each fold."""

    @property
    def fold_configs(self) -> list[TrainConfig]:
        """The configuration of each fold's run."""
        return [replace(self.config, holdout=holdout) for holdout in self.holdouts]


class FoldsFolder:
    """The folder of a cross-validation.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path):
        self.path, self.record, self.report = path, path / RECORD, path / "report.html"

    def exists(self) -> bool:
        """Return whether the folder holds a cross-validation."""
        return self.record.is_file()

    def run(self, fold: int) -> RunFolder:
        """Return the folder of a fold's run."""
        return RunFolder(self.path / f"fold-{fold}")

    def require_free(self, *, overwrite: bool) -> None:
        """Raise a RunError unless the folder is new, empty, or a cross-validation to be overwritten."""
        if not self.path.exists():
            return
        killed_at_start = {f"{RECORD}.part"}
        if self.path.is_dir() and {file.name for file in self.path.iterdir()} <= killed_at_start:
            return
        if not self.exists():
            raise RunError(
                f"{self.path}: not the folder of a cross-validation ({RECORD}), nothing was overwritten",
                remedy="choose another --out",
            )
        if not overwrite:
            raise RunError(
                f"{self.path}: this cross-validation exists, nothing was overwritten",
                remedy=f"choose another --out, continue with --resume {self.path}, or give --overwrite",
            )

    def create(self, options: CrossValidation) -> None:
        """Make the folder; an older cross-validation in it loses its checkpoints, other files stay."""
        make_folder(self.path)
        for older in self.path.glob("fold-*/"):
            RunFolder(older).remove_results()
        self.report.unlink(missing_ok=True)
        self.write(options)

    def write(self, options: CrossValidation) -> None:
        """Write the options."""
        config = {name: value for name, value in asdict(options.config).items() if name != "holdout"}
        record = {"config": config, "holdouts": options.holdouts}
        write_text(self.record, json.dumps(record, indent=2) + "\n", durable=True)

    def read(self) -> CrossValidation:
        """Read the options.

        Raises
        ------
        RunError
            The file is damaged, or was written by a version with other options.
        """
        try:
            record: dict[str, Any] = json.loads(self.record.read_bytes())
            if reason := mismatch(record, CrossValidation, RECORD):
                raise ValueError(reason)
            options = CrossValidation(config_from_record(record["config"]), record["holdouts"])
            if len(options.holdouts) < 2:
                raise ValueError(f"{len(options.holdouts)} folds")
        except (ValueError, RecursionError, KeyError, TypeError, OptionError) as error:
            raise RunError(
                f"{self.record}: damaged, or written by another version of tinyunet",
                {"reason": error},
                "restore the file; its folds are runs of their own, and can be used one by one",
            ) from error
        return options


def runs_of(path: Path) -> list[Path]:
    """List the runs that a path names: those of all folds of a cross-validation; otherwise the path itself.

    Raises
    ------
    RunError
        A fold has no network yet.
    """
    folder = FoldsFolder(path)
    if not folder.exists():
        return [path]
    runs = [folder.run(fold) for fold in range(len(folder.read().holdouts))]
    if missing := [run.path.name for run in runs if not run.best.is_file()]:
        raise RunError(
            f"{path}: not all folds have a network yet",
            {"folds": len(runs), "without best.safetensors": f"{len(missing)}: {first_names(missing)}"},
            f"finish them with python -m tinyunet.train --resume {path}; or give the run of one fold",
        )
    return [run.path for run in runs]


class Loaded(NamedTuple):
    """A run, ready to predict."""

    path: Path
    model: Network
    checkpoint: Checkpoint
    statistics: GreyStatistics | None = None
    """What images are normalised by, as in `segment`; only exported files have it."""
    pixel_size: float | None = None
    """The size of the pixels that the network sees, in µm; None if it sees images as they are."""


def load_networks(path: Path) -> list[Loaded]:
    """Load the network of a run or checkpoint, or those of all folds of a cross-validation.

    Raises
    ------
    CheckpointError
        As in `load_model`; or the folds' networks do not have the same options and classes.
    RunError
        As in `runs_of`.
    """
    networks = [_load(run) for run in runs_of(path)]
    first = networks[0]
    for other in networks[1:]:
        facts = zip(_shared_facts(first).items(), _shared_facts(other).values(), strict=True)
        for (what, before), now in facts:
            if before != now:
                raise CheckpointError(
                    f"{path}: the folds cannot be taken together, they differ in their {what}",
                    {first.path.name: before, other.path.name: now},
                    "restore the run that was replaced, or use the folds one by one",
                )
    return networks


def _shared_facts(network: Loaded) -> dict[str, Any]:
    """What must be the same of networks that predict together."""
    stored = network.checkpoint
    return {"network": stored.network, "classes": stored.classes, "size of pixels": network.pixel_size}


def _load(run: Path) -> Loaded:
    model, checkpoint = load_model(run)
    return Loaded(run, model, checkpoint, pixel_size=stored_data(checkpoint).pixel_size)


class HeldOut(NamedTuple):
    """The images that were held out of training, with the predictions of networks that have not seen them."""

    images: ImageSet
    """In the order of the folds; with those that one run holds out, if it is one run."""
    sizes: list[int]
    """How many images each fold holds out."""
    predictions: Iterator[Prediction]


def predict_held_out(networks: Sequence[Loaded], images: ImageSet, **options: Any) -> HeldOut:
    """Predict each image by the fold that held it out, never by the others.

    Parameters
    ----------
    networks : sequence of Loaded
        One run, or all folds of a cross-validation.
    images : ImageSet, with labels
        The whole set.
    **options
        As in `predict_unseen`.

    Raises
    ------
    DataError
        The set has changed: a held-out image was trained on, or the folds do not hold out each image once.
    """
    n = len(images)
    held = [held_out_indices(n, stored_data(network.checkpoint).holdout) for network in networks]
    together = list(chain.from_iterable(held))
    if len(networks) > 1 and sorted(together) != list(range(n)):
        raise DataError(
            f"{images.source}: the folds do not hold out each image once, the set has changed",
            {"images now": n, "held out by the folds": len(set(together))},
            "restore the set and its options; or predict other images and compare these with their labels",
        )
    predictions = [  # a list, so that all images are checked before any is predicted
        predict_unseen(network.model, network.checkpoint, images.subset(indices), **options)
        for network, indices in zip(networks, held, strict=True)
    ]
    return HeldOut(images.subset(together), list(map(len, held)), chain.from_iterable(predictions))
