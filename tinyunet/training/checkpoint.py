"""Checkpoints: everything that a training run needs to continue, in one safetensors file.

The arrays are the weights and buffers (``weight/NAME``) and the optimiser's state: the velocities of SGD
(``velocity/NAME``), or the two means of Adam (``mean/NAME``, ``square/NAME``). The rest (network,
configuration, step, scores) is JSON in the file's metadata, and a checksum covers both. Nothing in it can run
code. Random numbers of step n are drawn from (seed, n): these two are the whole random state.
"""

from __future__ import annotations

import json
import typing
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tinyunet.backend import to_host
from tinyunet.data.atomic_write import replacing
from tinyunet.errors import CheckpointError, OptionError
from tinyunet.models import MODELS, Network, make_network
from tinyunet.nn import OPTIMISERS
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.training.config import TrainConfig
from tinyunet.training.json_types import mismatch

FORMAT = "tinyunet 1"
BEFORE: Mapping[str, Any] = {"optimiser": "sgd", "warmup": 0}  # options of versions that did not store them
OTHER_CHECKPOINT = "use the run's other checkpoint (best or last), or a copy"

Arrays = dict[str, NDArray[Any]]
Shapes = list[tuple[str, tuple[int, ...]]]


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
    weights : dict of str to ndarray
        By the names of parameters and buffers.
    optimiser : dict of str to dict of str to ndarray
        The optimiser's state: for each name of it, such as "velocity", arrays by the parameters' names. Empty
        in a file that is for prediction only.
    images : dict
        Checksums of the images of each part, "train" and "held out": see `tinyunet.data.fingerprint`. Empty
        in files of versions that did not store them.
    classes : dict
        The fields of a `ClassTable`: the number or colour of each class in the label files. Empty if the
        labels are no classes, and in files of versions that did not store it.
    objects : ObjectRule
        Which connected pixels are an object, by those of training. The default in files of versions that
        did not store it.
    """

    network: dict[str, Any]
    config: dict[str, Any]
    step: int
    progress: dict[str, Any]
    weights: Arrays
    optimiser: dict[str, Arrays]
    images: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    classes: dict[str, Any] = field(default_factory=dict)
    objects: ObjectRule = field(default_factory=ObjectRule)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an older one of this name is replaced once the new one is complete.

    Raises
    ------
    CheckpointError
        The file cannot be written (a full disk, a folder without permission). The older one is untouched.
    """
    named = {
        f"{part}/{name}": array
        for part, arrays in {"weight": checkpoint.weights, **checkpoint.optimiser}.items()
        for name, array in arrays.items()
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
            "objects": asdict(checkpoint.objects),
        }
    )
    metadata = {"format": FORMAT, "header": header, "checksum": _checksum(header, arrays)}
    try:
        # Not by save_file: its files are private to their owner, and it leaves a hidden one if it is killed.
        with replacing(path, durable=True) as file:
            file.writelines(_in_order(save(arrays, metadata)))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint could not be written",
            {"reason": error, "older checkpoint": "kept" if path.exists() else "none"},
            "make room on the disk or choose another folder, then resume",
        ) from error


def _in_order(file: bytes) -> tuple[bytes, bytes, memoryview]:
    """Sort the metadata, whose order `save` leaves to chance: the same state makes the same bytes."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little"), text, memoryview(file)[end:]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint from any source: everything that later steps rely on is checked here.

    The header is checked first, and the arrays against the network that it describes, before any is read.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or was not written by tinyunet. Its header has other entries, types or
        values than tinyunet writes, its arrays are not those of its network, or a number is not finite.
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
            header = _checked_header(path, metadata.get("header", ""))
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dict
            found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
            _require_arrays_of_network(path, header, found)
            arrays = {name: file.get_tensor(name) for name in parts}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not a safetensors file",
            {"reason": error, "size": f"{path.stat().st_size} bytes"},
            OTHER_CHECKPOINT,
        ) from error
    checksum = _checksum(metadata.get("header", ""), arrays)
    if checksum != metadata.get("checksum"):
        raise CheckpointError(
            f"{path}: damaged, its content does not match its checksum",
            {"expected": metadata.get("checksum"), "found": checksum},
            OTHER_CHECKPOINT,
        )
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            kind = "weights" if name.startswith("weight/") else "numbers of the optimiser"
            raise CheckpointError(
                f"{path}: {kind} are not finite",
                {"first": name, "NaN or infinite": f"{np.count_nonzero(~np.isfinite(array)):,} numbers"},
                "use the run's other checkpoint (best or last), or train again",
            )
    optimiser = {part: _under(f"{part}/", arrays) for part in _parts_of_optimiser(header, arrays)}
    return Checkpoint(**header, weights=_under("weight/", arrays), optimiser=optimiser)


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


def _checked_header(path: Path, text: str) -> dict[str, Any]:
    """The header, in which every entry has the type that `Checkpoint` and `TrainConfig` give it."""
    hints = typing.get_type_hints(Checkpoint)
    entries = {f.name: f for f in fields(Checkpoint) if f.name not in ("weights", "optimiser")}
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:  # also for numbers of thousands of digits
        raise _bad_header(path, f"not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _bad_header(path, "not a dict")
    for name, entry in entries.items():
        if name in header:
            reason = mismatch(header[name], hints[name], name)
        else:
            needed = entry.default is MISSING and entry.default_factory is MISSING
            reason = f"{name} is missing" if needed else ""
        if reason:
            raise _bad_header(path, reason)
    if unknown := sorted(header.keys() - entries.keys()):
        raise _bad_header(path, f"unknown to this version: {', '.join(unknown)[:60]}")
    types = typing.get_type_hints(TrainConfig)
    for name in header["config"].keys() & types.keys():  # a newer version may have more options
        if reason := mismatch(header["config"][name], types[name], f"config.{name}"):
            raise _bad_header(path, reason)
    sums = [pair for part in header.get("images", {}).values() for pair in part.values()]
    if any(len(pair) != 2 for pair in sums):
        raise _bad_header(path, "images have other checksums than one of the pixels and one of the labels")
    try:
        header["objects"] = ObjectRule(**header.get("objects", {}))
    except OptionError as error:
        raise _bad_header(path, f"objects: {error}") from error
    if header["step"] < 0:
        raise _bad_header(path, f"step is {header['step']}, expected at least 0")
    return header


def _require_arrays_of_network(
    path: Path, header: Mapping[str, Any], found: Mapping[str, tuple[tuple[int, ...], str]]
) -> None:
    """Raise unless the arrays of a file, by name, shape and safetensors' type, are those of its network.

    Those of the optimiser are all there, or none of them.
    """
    network = header["network"]
    parameters, buffers = shapes_of_network(path, network)
    shapes = {f"weight/{name}": shape for name, shape in (*parameters, *buffers)}
    for part in _parts_of_optimiser(header, found):
        shapes |= {f"{part}/{name}": shape for name, shape in parameters}
    expected = {name: (shape, "F32") for name, shape in shapes.items()}
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            raise CheckpointError(
                f"{path}: {name} does not fit the network of this file",
                {
                    "expected": expected.get(name, "nothing"),
                    "found": found.get(name, "nothing"),
                    "network": network,
                },
                OTHER_CHECKPOINT,
            )


def _parts_of_optimiser(header: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the state of the run's optimiser, if any array of it is in the file."""
    parts = OPTIMISERS[header["config"].get("optimiser", BEFORE["optimiser"])].STATE
    return parts if any(name.split("/")[0] in parts for name in arrays) else ()


def shapes_of_network(path: Path, network: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
    """Return names and shapes of the parameters and of the buffers of the network that a file describes.

    Raises
    ------
    CheckpointError
        There is no such network.
    """
    model = network.get("model", "unet")
    if not isinstance(model, str) or model not in MODELS:
        raise _bad_header(path, f"network.model is {str(model)[:60]!r}, expected {' | '.join(MODELS)}")
    defaults = MODELS[model].options()
    for name, value in network.items():
        if name == "model":
            continue
        if name not in defaults:
            raise _bad_header(path, f"the network {model!r} has no option {name[:60]}")
        if reason := mismatch(value, type(defaults[name]), f"network.{name}"):
            raise _bad_header(path, reason)
    try:
        options = {**defaults, **network}
        return list(MODELS[model].shapes_of(options)), list(MODELS[model].buffers_of(options))
    except OptionError as error:
        raise _bad_header(path, str(error)) from error


def _bad_header(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: the header is damaged, or of another version of tinyunet",
        {"reason": reason},
        OTHER_CHECKPOINT,
    )


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _checksum(header: str, arrays: Arrays) -> str:
    value = zlib.crc32(header.encode())
    for name, array in sorted(arrays.items()):
        value = zlib.crc32(f"{name} {array.shape} {array.dtype}".encode(), value)
        value = zlib.crc32(array.data, value)
    return f"{value:08x}"
