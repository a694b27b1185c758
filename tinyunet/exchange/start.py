"""Weights to start a training from: those of a run, or of a file that was exported for PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tinyunet.errors import CheckpointError, OptionError, first_names
from tinyunet.exchange.torch_names import RECORD, from_torch
from tinyunet.models import MODELS, Network
from tinyunet.training.checkpoint import load_checkpoint, shapes_of_network
from tinyunet.training.config import NETWORK_OPTIONS
from tinyunet.training.folds import FoldsFolder

PICKLES = (".pth", ".pt", ".ckpt", ".bin")
WITHOUT_WEIGHTS = {"seed", "dropout", "windows", "padding"}  # options that change no array
EXPORT_AGAIN = "give a run, or a file that `python -m tinyunet.export --format torch` wrote"


@dataclass(frozen=True)
class Start:
    """A trained network, from which another training starts.

    Attributes
    ----------
    path : Path
    network : dict
        Its name and all its options: what `make_network` takes.
    weights : dict of str to array
        As `Module.state_dict` gives them.
    """

    path: Path
    network: dict[str, Any]
    weights: dict[str, NDArray[Any]]

    def config_options(self) -> dict[str, Any]:
        """Return the options of a `TrainConfig` that describe the network; None for those that it lacks."""
        return {name: self.network.get(name) for name in ("model", *NETWORK_OPTIONS)}

    def load_into(self, model: Network, options: Mapping[str, Any]) -> list[str]:
        """Copy the weights into a network, except those of layers that have other shapes there.

        These are the first layer, if the channels of the images differ, and the last ones, if the number of
        classes does. They keep the weights that they have.

        Parameters
        ----------
        model : Network
        options : mapping
            Its name and all its options.

        Returns
        -------
        list of str
            The layers that keep their weights.

        Raises
        ------
        OptionError
            The networks differ in another option that decides the weights. Then nothing is copied.
        """
        self._require_same_architecture(options)
        own = model.state_dict()
        others = {name for name, array in own.items() if array.shape != self.weights[name].shape}
        layers = sorted({_layer(name) for name in others})
        kept = {name: array for name, array in own.items() if _layer(name) in layers}
        model.load_state_dict({**self.weights, **kept})
        return layers

    def _require_same_architecture(self, options: Mapping[str, Any]) -> None:
        replaced = {"in_channels", "num_classes"}
        for name, value in self.network.items():
            if name not in WITHOUT_WEIGHTS | replaced and options.get(name) != value:
                raise OptionError(
                    f"--start-from {self.path}: its network has another {name}",
                    {"asked for": options.get(name, "none"), "its network": value},
                    f"leave out --{name.replace('_', '-')}, and it is the network's; or start from another",
                )


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def read_start(path: Path) -> Start:
    """Read the network of a run's best checkpoint, of a checkpoint, or of safetensors exported for PyTorch.

    Raises
    ------
    CheckpointError
        As in `load_checkpoint`; or the arrays of an exported file are not those of the network that it names.
    OptionError
        A cross-validation, which has several networks; or a file of a kind that can run code.
    """
    if FoldsFolder(path).exists():
        raise OptionError(
            f"--start-from {path}: a cross-validation has several networks",
            remedy=f"give the run of one fold, such as {path / 'fold-0'}",
        )
    if path.suffix in PICKLES:
        raise OptionError(
            f"--start-from {path}: a pickle, which can run any code when it is read; it was not opened",
            remedy=EXPORT_AGAIN,
        )
    exported = None if path.is_dir() else _exported_record(path)
    if exported is not None:
        return _read_exported(path, exported)
    checkpoint = load_checkpoint(path / "best.safetensors" if path.is_dir() else path)
    return Start(path, _with_defaults(checkpoint.network), checkpoint.weights)


def _with_defaults(network: Mapping[str, Any]) -> dict[str, Any]:
    model = network.get("model", "unet")
    return {"model": model, **MODELS[model].options(), **network}


def _exported_record(path: Path) -> str | None:
    """The record in a file that was exported for PyTorch; None if it is another file, or none."""
    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get(RECORD)
    except (SafetensorError, OSError):
        return None  # `load_checkpoint` says what is wrong


def _read_exported(path: Path, text: str) -> Start:
    try:
        network = json.loads(text)["network"]
        if not isinstance(network, dict):
            raise TypeError(f"network is {network!r}")
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its metadata does not describe a network", {"reason": error}, EXPORT_AGAIN
        ) from error
    parameters, buffers = shapes_of_network(path, network)
    shapes = dict([*parameters, *buffers])
    with safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    weights = from_torch(arrays, shapes)
    found = {name: array.shape for name, array in weights.items()}
    wrong = [name for name in [*shapes, *found] if shapes.get(name) != found.get(name)]
    if wrong:
        expected, there = (where.get(wrong[0], "nothing") for where in (shapes, found))
        raise CheckpointError(
            f"{path}: arrays that do not fit the network of its metadata: {first_names(wrong)}",
            {f"expected of {wrong[0]}": expected, "found": there, "network": network},
            EXPORT_AGAIN,
        )
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: weights are not finite", {"first": name}, EXPORT_AGAIN)
    return Start(path, _with_defaults(network), weights)
