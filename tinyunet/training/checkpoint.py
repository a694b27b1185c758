"""Checkpoints: everything that a training run needs to continue, in one safetensors file.

The arrays are the weights (``weight/NAME``) and the optimiser's velocities (``velocity/NAME``); the rest
(network, configuration, step, scores) is JSON in the file's metadata, and a checksum covers both. Nothing in
it can run code. Random numbers of step n are drawn from (seed, n): these two are the whole random state.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tinyunet.atomic_write import replacing
from tinyunet.backend import to_host
from tinyunet.errors import CheckpointError
from tinyunet.models import Network, make_network

FORMAT = "tinyunet 1"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after some step.

    Attributes
    ----------
    network : dict
        The network's name and its options: what `make_network` takes.
    config : dict
        The configuration of the run, as JSON stores it.
    step : int
        Number of steps made.
    progress : dict
        The trainer's `Progress`: best score and the like.
    weights, velocity : dict of str to ndarray
        By the parameters' names. There are no velocities in a file that is for prediction only.
    images : dict
        Checksums of the images of each part, "train" and "held out": see `tinyunet.data.fingerprint`. Empty
        in files of versions that did not store them.
    classes : dict
        The fields of a `ClassTable`: the number or colour of each class in the label files. Empty if the
        labels are no classes, and in files of versions that did not store it.
    """

    network: dict[str, Any]
    config: dict[str, Any]
    step: int
    progress: dict[str, Any]
    weights: Arrays
    velocity: Arrays
    images: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    classes: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an older one of this name is replaced once the new one is complete.

    Raises
    ------
    CheckpointError
        The file cannot be written (a full disk, a folder without permission). The older one is untouched.
    """
    named = {
        **{f"weight/{name}": array for name, array in checkpoint.weights.items()},
        **{f"velocity/{name}": array for name, array in checkpoint.velocity.items()},
    }
    # C-contiguous, because save writes the memory as it lies.
    arrays = {name: np.ascontiguousarray(to_host(array)) for name, array in named.items()}
    header = json.dumps(
        {
            "network": checkpoint.network,
            "config": checkpoint.config,
            "step": checkpoint.step,
            "progress": checkpoint.progress,
            "images": checkpoint.images,
            "classes": checkpoint.classes,
        }
    )
    metadata = {"format": FORMAT, "header": header, "checksum": _checksum(header, arrays)}
    try:
        # Not by save_file: its files are private to their owner, and it leaves a hidden one if it is killed.
        with replacing(path, durable=True) as file:
            file.write(save(arrays, metadata))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint could not be written",
            {"reason": error, "older checkpoint": "kept" if path.exists() else "none"},
            "make room on the disk or choose another folder, then resume",
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or was not written by tinyunet.
    OSError
        The file may not be read.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint",
            remedy="give the folder of a run that has one, or a file that it wrote, such as last.safetensors",
        )
    with path.open("rb"):  # safetensors reports an unreadable file as missing
        pass
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            _require_own_format(path, metadata)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not a safetensors file",
            {"reason": error, "size": f"{path.stat().st_size} bytes"},
            "use the run's other checkpoint (best or last), or a copy",
        ) from error
    checksum = _checksum(metadata.get("header", ""), arrays)
    if checksum != metadata.get("checksum"):
        raise CheckpointError(
            f"{path}: damaged, its content does not match its checksum",
            {"expected": metadata.get("checksum"), "found": checksum},
            "use the run's other checkpoint (best or last), or a copy",
        )
    return Checkpoint(
        **json.loads(metadata["header"]),
        weights=_under("weight/", arrays),
        velocity=_under("velocity/", arrays),
    )


def load_model(run: Path) -> tuple[Network, Checkpoint]:
    """Load the network of a run, ready to predict.

    Parameters
    ----------
    run : Path
        A run's folder, for its best checkpoint, or a checkpoint.

    Raises
    ------
    CheckpointError
        As in `load_checkpoint`, or the weights do not fit the network that the file describes.
    """
    checkpoint = load_checkpoint(run / "best.safetensors" if run.is_dir() else run)
    model = make_network(**checkpoint.network)
    model.load_state_dict(checkpoint.weights)
    model.eval()
    return model, checkpoint


def _require_own_format(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of this version of tinyunet",
            {"expected": FORMAT, "found": metadata.get("format", "a file that another program wrote")},
            "give a checkpoint that `python -m tinyunet.train` wrote",
        )


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _checksum(header: str, arrays: Arrays) -> str:
    value = zlib.crc32(header.encode())
    for name, array in sorted(arrays.items()):
        value = zlib.crc32(f"{name} {array.shape} {array.dtype}".encode(), value)
        value = zlib.crc32(array.data, value)
    return f"{value:08x}"
