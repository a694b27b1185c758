"""The record of a network in an exported file: what is needed to build the network again.

It is JSON, under "tinyunet" in the metadata of ONNX and safetensors, and in the description of a package.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinyunet.errors import CheckpointError, OptionError
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.training.checkpoint import Checkpoint
from tinyunet.training.json_types import mismatch

RECORD = "tinyunet"  # its name in metadata
IMAGES = "each channel of an image is brought to mean 0 and variance 1"
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
        How images are normalised: `IMAGES`, the only way there is.
    """

    network: dict[str, Any]
    classes: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    objects: ObjectRule = field(default_factory=ObjectRule)
    images: str = IMAGES

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Record:
        """Describe the network of a checkpoint."""
        return cls(checkpoint.network, checkpoint.classes, checkpoint.step, checkpoint.objects)

    def to_json(self) -> dict[str, Any]:
        """Return what `read_record` takes as text."""
        return asdict(self)


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
        record = Record(**{**stored, "objects": ObjectRule(**stored.get("objects", {}))})
    except OptionError as error:
        raise _bad(path, f"record.objects: {error}") from error
    if record.images != IMAGES:
        raise CheckpointError(
            f"{path}: its images are normalised in a way that this version of tinyunet does not know",
            {"expected": IMAGES, "found": record.images},
            "use the version that wrote it",
        )
    return record


def _bad(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: its metadata does not describe a network", {"reason": reason}, EXPORT_AGAIN
    )
