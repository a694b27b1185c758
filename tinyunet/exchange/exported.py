"""Read a network back from a file that `python -m tinyunet.export` wrote, into the engine's own network.

    .zip           a BioImage.IO package, for its ONNX weights
    .onnx          ONNX
    .safetensors   weights by PyTorch's names

In ONNX, batch normalisation is folded into the convolutions. The network that is read has none, and has the
weights with which the run predicts: both predict the same, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tinyunet.errors import CheckpointError
from tinyunet.exchange.from_onnx import OnnxFile
from tinyunet.exchange.from_package import onnx_of_package
from tinyunet.exchange.record import EXPORT_AGAIN, RECORD, Record, read_record
from tinyunet.exchange.torch_names import from_torch
from tinyunet.exchange.weights import network_shapes, require_weights
from tinyunet.models import Network, make_network
from tinyunet.training.checkpoint import Checkpoint
from tinyunet.training.folds import Loaded
from tinyunet.training.folds import load_networks as load_runs


@dataclass(frozen=True)
class Exported:
    """A network from an exported file, ready to predict."""

    path: Path
    record: Record
    model: Network


def read_exported(path: Path) -> Exported | None:
    """Read an exported file; return None if it is none, such as a run or a checkpoint.

    Raises
    ------
    CheckpointError
        It is damaged, or another program wrote or changed it.
    OptionError
        A package that this format needs is not installed.
    """
    if not path.is_file():
        return None
    if path.suffix == ".zip":
        return _from_onnx(path, onnx_of_package(path))
    if path.suffix == ".onnx":
        return _from_onnx(path, path.read_bytes())
    try:
        with safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get(RECORD)
            if text is None:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError):
        return None  # `load_checkpoint` says what is wrong
    return _built(path, read_record(path, text), arrays)


def _from_onnx(path: Path, content: bytes) -> Exported:
    file = OnnxFile(path, content)
    record = read_record(path, file.record)
    if "normalisation" in record.network:
        record = replace(record, network={**record.network, "normalisation": "none"})
    exported = _built(path, record, file.arrays())
    file.require_graph_of(exported.model)
    return exported


def _built(path: Path, record: Record, arrays: Mapping[str, NDArray[Any]]) -> Exported:
    """The network of a record with the arrays of the file, which have PyTorch's names and layout."""
    weights = from_torch(arrays, network_shapes(path, record.network))
    require_weights(path, record.network, weights, EXPORT_AGAIN)
    model = make_network(**record.network)
    model.load_state_dict(weights)
    model.eval()
    if record.statistics and len(record.statistics.mean) != model.in_channels:
        raise CheckpointError(
            f"{path}: its images are normalised by statistics of another number of channels",
            {"network": f"{model.in_channels} channels", "statistics": record.statistics},
            EXPORT_AGAIN,
        )
    return Exported(path, record, model)


def load_networks(path: Path) -> list[Loaded]:
    """Load the network of a run, a checkpoint or an exported file, or those of a cross-validation.

    An exported file does not say on which images it was trained: the `config` and the `images` of its
    checkpoint are empty.

    Raises
    ------
    CheckpointError, OptionError, RunError
        As in `read_exported` and `tinyunet.training.folds.load_networks`.
    """
    exported = read_exported(path)
    if exported is None:
        return load_runs(path)
    record = exported.record
    checkpoint = Checkpoint(
        network=record.network,
        config={},
        step=record.step,
        progress={},
        weights=exported.model.state_dict(),
        optimiser={},
        classes=record.classes,
        objects=record.objects,
    )
    return [Loaded(path, exported.model, checkpoint, record.statistics, record.pixel_size)]


def load_models(path: Path) -> list[Network]:
    """Load what `load_networks` loads, without the checkpoints."""
    return [network.model for network in load_networks(path)]
