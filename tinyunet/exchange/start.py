"""Weights to start a training from: those of a run, of a file that was exported, or of another program.

a run's folder, or a checkpoint
.zip, .onnx, .safetensors       files that `python -m tinyunet.export` wrote: see `exported`
.pth, .pt                       milesial/Pytorch-UNet: see `from_milesial`
.caffemodel, .caffemodel.h5     the authors' own weights: see `from_caffe`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tinyunet.errors import OptionError
from tinyunet.exchange import from_caffe, from_milesial, from_pickle
from tinyunet.exchange.exported import read_exported
from tinyunet.models import MODELS, Network
from tinyunet.training.checkpoint import load_checkpoint
from tinyunet.training.config import NETWORK_OPTIONS
from tinyunet.training.folds import FoldsFolder
from tinyunet.training.stored_run import stored_data

WITHOUT_WEIGHTS = {"seed", "dropout", "windows", "padding"}  # options that change no array


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
    note : str
        What a user has to know of them.
    pixel_size : float, optional
        The size of the pixels that the network sees, in µm.
    """

    path: Path
    network: dict[str, Any]
    weights: dict[str, NDArray[Any]]
    note: str = ""
    pixel_size: float | None = None

    def config_options(self) -> dict[str, Any]:
        """Return the options of a `TrainConfig` that describe the network; None for those that it lacks."""
        options = {name: self.network.get(name) for name in ("model", *NETWORK_OPTIONS)}
        return {**options, "pixel_size": self.pixel_size}

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
    """Read the network of a run's best checkpoint, of a checkpoint, or of a file of another form.

    Raises
    ------
    CheckpointError
        As in `load_checkpoint`; or the file is damaged, or of a network that tinyunet does not have.
    OptionError
        A cross-validation, which has several networks; or a package that reads this form is not installed.
    """
    if FoldsFolder(path).exists():
        raise OptionError(
            f"--start-from {path}: a cross-validation has several networks",
            remedy=f"give the run of one fold, such as {path / 'fold-0'}",
        )
    if path.is_file() and path.suffix in from_pickle.SUFFIXES:
        arrays = from_pickle.read_pickle(path)
        return Start(path, *from_milesial.from_milesial(path, arrays), from_milesial.IMAGES)
    if path.is_file() and path.name.endswith((from_caffe.PROTOBUF, from_caffe.HDF5)):
        return Start(path, *from_caffe.from_caffe(path), from_caffe.IMAGES)
    if (exported := read_exported(path)) is not None:
        record = exported.record
        network, weights = _with_defaults(record.network), exported.model.state_dict()
        return Start(path, network, weights, pixel_size=record.pixel_size)
    checkpoint = load_checkpoint(path / "best.safetensors" if path.is_dir() else path)
    network, pixel_size = _with_defaults(checkpoint.network), stored_data(checkpoint).pixel_size
    return Start(path, network, checkpoint.weights, pixel_size=pixel_size)


def _with_defaults(network: Mapping[str, Any]) -> dict[str, Any]:
    model = network.get("model", "unet")
    return {"model": model, **MODELS[model].options(), **network}
