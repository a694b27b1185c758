"""The record of a network in an exported file: what is needed to build the network again.

It is JSON, under "tinyunet" in the metadata of ONNX and safetensors, and in the description of a package.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinyunet.data import GreyStatistics
from tinyunet.errors import CheckpointError, OptionError
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.training.checkpoint import Checkpoint
from tinyunet.training.json_types import mismatch
from tinyunet.training.stored_run import stored_data

RECORD = "tinyunet"  # its name in metadata
IMAGES = "each channel of an image is brought to mean 0 and variance 1"
FIXED = "from each channel of an image a fixed mean is subtracted, and it is divided by a fixed deviation"
EXPORT_AGAIN = "give a run, or a file that `python -m tinyunet.export` wrote"


@dataclass(frozen=True)
class Record:
    """A network in words.

    Attributes
    ----------
    network : dict
        Its name and its options: what `make_network` takes.
    classes : dict
        The fields of a `ClassTable`; empty if the labels are no classes.
    step : int
        Number of training steps.
    objects : ObjectRule
        Which connected pixels are an object.
    images : str
        How images are normalised: `IMAGES`, each by its own mean and deviation; or `FIXED`.
    statistics : GreyStatistics, optional
        The fixed mean and deviation, those of the training images.
    pixel_size : float, optional
        The size of the pixels that the network sees, in µm.
    """

    network: dict[str, Any]
    classes: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    objects: ObjectRule = field(default_factory=ObjectRule)
    images: str = IMAGES
    statistics: GreyStatistics | None = None
    pixel_size: float | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, statistics: GreyStatistics | None = None) -> Record:
        """Describe the network of a checkpoint, for images normalised by statistics or each by its own."""
        return cls(
            checkpoint.network,
            checkpoint.classes,
            checkpoint.step,
            checkpoint.objects,
            FIXED if statistics else IMAGES,
            statistics,
            stored_data(checkpoint).pixel_size,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `read_record` takes as text; what is None is left out, for versions that lack it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def read_record(path: Path, text: str) -> Record:
    """Read the record of a file.

    Parameters
    ----------
    path : Path
        The file, for the error.
    text : str
        JSON.

    Raises
    ------
    CheckpointError
        It is no record, or says that images are normalised in another way.
    """
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as error:  # also for numbers of thousands of digits
        raise _bad(path, f"not JSON: {error}") from error
    if reason := mismatch(stored, Record, "record"):
        raise _bad(path, reason)
    if "network" not in stored:
        raise _bad(path, "record.network is missing")
    try:
        objects = ObjectRule(**stored.get("objects", {}))
    except OptionError as error:
        raise _bad(path, f"record.objects: {error}") from error
    statistics = _statistics(path, stored.get("statistics"))
    record = Record(**{**stored, "objects": objects, "statistics": statistics})
    if record.pixel_size is not None and not 0 < record.pixel_size < math.inf:
        raise _bad(path, f"record.pixel_size is {record.pixel_size}, expected a size in µm")
    expected = FIXED if record.statistics else IMAGES
    if record.images != expected:
        raise CheckpointError(
            f"{path}: its images are normalised in a way that this version of tinyunet does not know",
            {"expected": expected, "found": record.images},
            "use the version that wrote it",
        )
    return record


def _statistics(path: Path, stored: dict[str, Any] | None) -> GreyStatistics | None:
    if stored is None:
        return None
    try:
        return GreyStatistics(tuple(stored["mean"]), tuple(stored["deviation"]))
    except KeyError as error:
        raise _bad(path, f"record.statistics: {error} is missing") from error
    except OptionError as error:
        raise _bad(path, f"record.statistics: {error}") from error


def _bad(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: its metadata does not describe a network", {"reason": reason}, EXPORT_AGAIN
    )
