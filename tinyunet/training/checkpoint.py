"""Checkpoints: everything that a training run needs to continue, in one safetensors file.

The arrays are the weights (``weight/NAME``) and the optimiser's velocities (``velocity/NAME``); the rest
(network, configuration, step, scores) is JSON in the file's metadata, and a checksum covers both. Nothing in
it can run code. What is random in step n is drawn from (seed, n), so these two are the whole random state.

A file is written under another name and renamed when it is complete: a reader finds the old one or the new
one, never half of one.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tinyunet.backend import to_host
from tinyunet.errors import CheckpointError
from tinyunet.models import Network, make_network

FORMAT = "tinyunet 1"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A training at one moment.

    Attributes
    ----------
    network : dict
        Which network, and its options: what `make_network` takes.
    config : dict
        The configuration of the run, as JSON holds it.
    step : int
        Steps done.
    progress : dict
        Best score and the like.
    weights, velocity : dict of str to ndarray
        By the parameters' names. The velocity is empty in a file for prediction only.
    images : dict
        Checksums of the images of each part, "train" and "held out": see `tinyunet.data.fingerprint`. Empty
        in files of before there were any.
    """

    network: dict[str, Any]
    config: dict[str, Any]
    step: int
    progress: dict[str, Any]
    weights: Arrays
    velocity: Arrays
    images: dict[str, dict[str, list[int]]] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, replacing an older one of this name only when the new one is complete.

    Raises
    ------
    CheckpointError
        The file cannot be written (a full disk, a folder without permission). The older one is untouched.
    """
    named = {
        **{f"weight/{name}": array for name, array in checkpoint.weights.items()},
        **{f"velocity/{name}": array for name, array in checkpoint.velocity.items()},
    }
    # C-contiguous: save sees the memory
    arrays = {name: np.ascontiguousarray(to_host(array)) for name, array in named.items()}
    header = json.dumps(
        {
            "network": checkpoint.network,
            "config": checkpoint.config,
            "step": checkpoint.step,
            "progress": checkpoint.progress,
            "images": checkpoint.images,
        }
    )
    metadata = {"format": FORMAT, "header": header, "checksum": _checksum(header, arrays)}
    beside = path.with_name(path.name + ".part")
    try:
        # Not by save_file: its files are for their owner's eyes only, and if it is killed a hidden one stays.
        with open(beside, "wb") as file:
            file.write(save(arrays, metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint could not be written",
            {"reason": error, "older checkpoint": "kept" if path.exists() else "none"},
            "make room on the disk or choose another folder, then resume",
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or not one of tinyunet's.
    OSError
        It may not be read.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint",
            remedy="give the folder of a run that has one, or a file that it wrote, such as last.safetensors",
        )
    with path.open("rb"):  # safetensors says of a file that may not be read that it is not there
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
            f"{path}: damaged, the checksum of its content does not fit",
            {"expected": metadata.get("checksum"), "found": checksum},
            "use the run's other checkpoint (best or last), or a copy",
        )
    return Checkpoint(
        **json.loads(metadata["header"]),
        weights=_under("weight/", arrays),
        velocity=_under("velocity/", arrays),
    )


def load_model(run: Path) -> tuple[Network, Checkpoint]:
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
