"""Weights of the authors' own network: the variant "release", in both formats of Caffe.

    .caffemodel       protobuf, as in the release of 2015: phseg_v5.caffemodel
    .caffemodel.h5    HDF5: data/LAYER/0 is the weight, data/LAYER/1 the bias

    theirs                                 ours
    conv_dNa-b, conv_dNb-c                 contracting.N.first, .second
    upconv_dNc_uMa, upconv_uNd_uMa         up.depth-1-M
    conv_uMb-c, conv_uMc-d                 expansive.depth-1-M.first, .second
    conv_u0d-score                         scores

A suffix "_New" of a name is left out. Weights have PyTorch's layout. The networks of the authors' Fiji plugin
of 2019 have the same names, but leaky ReLUs and other widths at the last level: they are refused.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.errors import CheckpointError, TinyUNetError, first_names
from tinyunet.exchange.packages import require
from tinyunet.exchange.torch_names import from_torch
from tinyunet.exchange.weights import network_shapes, require_weights
from tinyunet.models import UNet

Arrays = dict[str, NDArray[Any]]
Blobs = dict[str, list[NDArray[Any]]]  # weight and bias of each layer

PROTOBUF, HDF5 = ".caffemodel", ".caffemodel.h5"
IMAGES = "its images were normalised in another way; here, each channel is brought to mean 0 and variance 1"
FIRST, SCORES, LAST_UP = "conv_d0a-b", "conv_u0d-score", "upconv_u1d_u0a"
REMEDY = "give the authors' phseg_v5.caffemodel, or weights of the same network"

# The fields that are read, of Caffe's caffe.proto: number, type, and whether it is repeated. Numbers of
# several bytes are packed: declared as bytes, millions of them are read at once.
MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Shape": {"dim": (1, "int64", True)},
    "Blob": {
        "num": (1, "int32", False),
        "channels": (2, "int32", False),
        "height": (3, "int32", False),
        "width": (4, "int32", False),
        "data": (5, "bytes", False),
        "shape": (7, "Shape", False),
    },
    "ReLU": {"negative_slope": (1, "float", False)},
    "Layer": {
        "name": (1, "string", False),
        "blobs": (7, "Blob", True),
        "relu_param": (123, "ReLU", False),
    },
    "Net": {"layer": (100, "Layer", True)},
}


def from_caffe(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Return the network of a file and its weights, by our names and in our layout.

    Raises
    ------
    CheckpointError
        The file is damaged, or of another network.
    OptionError
        protobuf or h5py is not installed.
    """
    try:
        blobs = _read_hdf5(path) if path.name.endswith(HDF5) else _read_protobuf(path)
    except (TinyUNetError, PermissionError, FileNotFoundError):
        raise
    except Exception as error:  # of protobuf, HDF5 and NumPy
        raise CheckpointError(
            f"{path}: damaged, or not a file of Caffe", {"reason": error}, "use a copy"
        ) from error
    blobs = {re.sub("(?i)_new$", "", name): own for name, own in blobs.items() if own}
    network = _network(path, blobs)
    arrays = {}
    for layer, own in blobs.items():
        name = _own_name(layer, network["depth"])
        for part, array in zip(("weight", "bias"), own, strict=False):
            arrays[f"{name}.{part}"] = array.ravel() if part == "bias" else array
    weights = from_torch(arrays, network_shapes(path, network))
    require_weights(path, network, weights, REMEDY)
    return network, weights


def _network(path: Path, blobs: Blobs) -> dict[str, Any]:
    levels = [int(match[1]) for name in blobs if (match := re.fullmatch(r"conv_d(\d)a-b", name))]
    needed = {FIRST, SCORES, "conv_u0b-c"}
    if not levels or not needed <= {*blobs} or any(blobs[name][0].ndim != 4 for name in needed):
        raise CheckpointError(f"{path}: not the authors' U-Net", {"layers": first_names(list(blobs))}, REMEDY)
    features, channels = blobs[FIRST][0].shape[:2]
    network = {
        **UNet.options(),
        "model": "unet",
        "in_channels": channels,
        "num_classes": blobs[SCORES][0].shape[0],
        "base_channels": features,
        "depth": max(levels),
        "variant": "release",
    }
    joined = blobs["conv_u0b-c"][0].shape[:2]
    expected = (features, 3 * features)
    if joined != expected:
        raise CheckpointError(
            f"{path}: of the authors' Fiji plugin, whose networks have leaky ReLUs: tinyunet has none",
            {
                "conv_u0b-c expected": f"{expected[1]} -> {expected[0]}",
                "found": f"{joined[1]} -> {joined[0]}",
            },
            REMEDY,
        )
    return network


def _own_name(layer: str, depth: int) -> str:
    """Our name of a layer; of one that is not known, its own.

    >>> _own_name("conv_u3b-c", 4), _own_name("upconv_u3d_u2a", 4)
    ('expansive.0.first', 'up.1')
    """
    if match := re.fullmatch(r"conv_d(\d)(a-b|b-c)", layer):
        return f"contracting.{match[1]}.{'first' if match[2] == 'a-b' else 'second'}"
    if match := re.fullmatch(r"conv_u(\d)(b-c|c-d)", layer):
        return f"expansive.{depth - 1 - int(match[1])}.{'first' if match[2] == 'b-c' else 'second'}"
    if match := re.fullmatch(r"upconv_[du]\d[cd]_u(\d)a", layer):
        return f"up.{depth - 1 - int(match[1])}"
    return "scores" if layer == SCORES else layer


def _read_protobuf(path: Path) -> Blobs:
    net = _message_class("Net").FromString(path.read_bytes())
    for layer in net.layer:
        if slope := layer.relu_param.negative_slope:
            raise CheckpointError(
                f"{path}: {layer.name} is a leaky ReLU, which tinyunet does not have",
                {"slope": slope},
                REMEDY,
            )
    # A name that is no text comes as bytes.
    return {str(layer.name): [_blob(blob) for blob in layer.blobs] for layer in net.layer}


def _blob(blob: Any) -> NDArray[Any]:
    legacy = [blob.num, blob.channels, blob.height, blob.width]
    return np.frombuffer(blob.data, "<f4").reshape(list(blob.shape.dim) or legacy)


def _message_class(name: str) -> Any:
    """The class of one of `MESSAGES`, made at run time."""
    require("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, fields in MESSAGES.items():
        described = file.message_type.add(name=message)
        for key, (number, kind, repeated) in fields.items():
            entry = described.field.add(name=key, number=number)
            entry.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in MESSAGES:
                entry.type, entry.type_name = field.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                entry.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))


def _read_hdf5(path: Path) -> Blobs:
    h5py = require("h5py")
    with h5py.File(path, "r") as file:
        layers = _own(path, h5py, file, "data")
        return {
            name: [_dataset(path, _own(path, h5py, layer, number)) for number in sorted(layer)]
            for name in layers
            for layer in [_own(path, h5py, layers, name)]
        }


def _own(path: Path, h5py: Any, group: Any, name: str) -> Any:
    """A member of a group, unless it is a link: that could lead into another file."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise CheckpointError(f"{path}: {group.name}/{name} is missing, or a link", remedy=REMEDY)
    return group[name]


def _dataset(path: Path, dataset: Any) -> NDArray[Any]:
    """Read an array, unless it is kept in another file or unpacks to more than a network has."""
    if dataset.external or dataset.is_virtual or dataset.dtype.kind != "f":
        raise CheckpointError(
            f"{path}: {dataset.name} is no array of numbers in this file", {"type": dataset.dtype}, REMEDY
        )
    if 4 * math.prod(dataset.shape) > 100 * path.stat().st_size:
        raise CheckpointError(
            f"{path}: {dataset.name} unpacks to far more than its file", {"shape": dataset.shape}, REMEDY
        )
    array: NDArray[Any] = dataset[()]
    return array
