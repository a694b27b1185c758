"""Checkpoints: everything a training needs to go on, in one safetensors file.

The arrays are the weights (``weight/NAME``) and the optimiser's velocities (``velocity/NAME``); the rest
(network, configuration, step, scores) is JSON in the file's metadata. Nothing in it can run code. What is
random in step n is drawn from (seed, n), so that these two are the random state.

A file is written beside its place and moved there when it is complete: whoever reads finds the old one or the
new one, never a half.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tinyunet.errors import CheckpointError
from tinyunet.models import UNet

FORMAT = "tinyunet 1"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A training at one moment.

    Attributes
    ----------
    network : dict
        The options of the network, as `UNet` takes them.
    config : dict
        The configuration of the run, as JSON holds it.
    step : int
        Steps done.
    progress : dict
        Best score and the like.
    weights, velocity : dict of str to ndarray
        By the parameters' names. The velocity is empty in a file for prediction only.
    """

    network: dict[str, Any]
    config: dict[str, Any]
    step: int
    progress: dict[str, Any]
    weights: Arrays
    velocity: Arrays


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, replacing an older one of this name only when the new one is complete.

    Raises
    ------
    CheckpointError
        The file cannot be written (a full disk, a folder without permission). The older one is untouched.
    """
    arrays = {
        **{f"weight/{name}": array for name, array in checkpoint.weights.items()},
        **{f"velocity/{name}": array for name, array in checkpoint.velocity.items()},
    }
    header = {
        "format": FORMAT,
        "network": checkpoint.network,
        "config": checkpoint.config,
        "step": checkpoint.step,
        "progress": checkpoint.progress,
        "checksum": _checksum(arrays),
    }
    beside = path.with_name(path.name + ".part")
    try:
        save_file(arrays, beside, metadata={"tinyunet": json.dumps(header)})
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
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
        The file is missing, damaged, or not one of tinyunet's.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint", remedy="give a run's folder, or a file it wrote")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not a safetensors file",
            {"reason": error, "size": f"{path.stat().st_size} bytes"},
            "use the run's other checkpoint (best or last), or a copy",
        ) from error
    header = _header(path, metadata)
    if _checksum(arrays) != header["checksum"]:
        raise CheckpointError(
            f"{path}: damaged, the checksum of its arrays does not fit",
            {"expected": header["checksum"], "found": _checksum(arrays)},
            "use the run's other checkpoint (best or last), or a copy",
        )
    return Checkpoint(
        network=header["network"],
        config=header["config"],
        step=header["step"],
        progress=header["progress"],
        weights=_under("weight/", arrays),
        velocity=_under("velocity/", arrays),
    )


def load_model(run: Path) -> tuple[UNet, Checkpoint]:
    """The network of a run, ready to predict.

    Parameters
    ----------
    run : Path
        A run's folder, of which the best checkpoint is taken, or a checkpoint.

    Raises
    ------
    CheckpointError
        As `load_checkpoint`, or the weights do not fit the network that the file describes.
    """
    checkpoint = load_checkpoint(run / "best.safetensors" if run.is_dir() else run)
    model = UNet(**checkpoint.network)
    model.load_state_dict(checkpoint.weights)
    model.eval()
    return model, checkpoint


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    header = json.loads(metadata.get("tinyunet", "{}"))
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of this version of tinyunet",
            {"expected": FORMAT, "found": header.get("format", "a file that another program wrote")},
            "give a checkpoint that `python -m tinyunet.train` wrote",
        )
    return header


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _checksum(arrays: Arrays) -> int:
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).data, zlib.crc32(name.encode(), value))
    return value
