"""Weights by the names and in the layout of a twin written in PyTorch, as safetensors.

    ours                                     PyTorch
    NAME.weight       conv2d (K, K, C, F)    NAME.weight               Conv2d (F, C, K, K)
    up.N.weight       (K, K, C, F)           up.N.weight               ConvTranspose2d (C, F, K, K)
    NAME.bias         (F,)                   NAME.bias                 (F,)
    NAME.scale, .shift                       NAME_norm.weight, .bias   BatchNorm2d, eps 1e-5
    NAME.mean, .variance                     NAME_norm.running_mean, .running_var

Batch normalisation stays apart here, so that training can go on. The twins stand in `docs/torch_twins.py`.
The file's metadata has the network's options, as JSON under "tinyunet". No PyTorch is needed to write it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tinyunet.backend import to_host
from tinyunet.exchange.record import RECORD

NORM = {"scale": "weight", "shift": "bias", "mean": "running_mean", "variance": "running_var"}


def to_torch(weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Rename and transpose the weights and buffers of a network.

    Parameters
    ----------
    weights : mapping of str to array
        As `Module.state_dict` gives them.
    """
    return {
        torch_name(name): np.ascontiguousarray(_transposed(name, to_host(array)))
        for name, array in weights.items()
    }


def from_torch(arrays: Mapping[str, NDArray[Any]], names: Collection[str]) -> dict[str, NDArray[np.float32]]:
    """Undo `to_torch`.

    Parameters
    ----------
    arrays : mapping of str to array
        By PyTorch's names. Counts of batches, which PyTorch stores with a normalisation, are left out.
    names : collection of str
        The network's own names. Arrays of other names keep theirs, so that the caller can report them.
    """
    own = {torch_name(name): name for name in names}
    return {
        own.get(name, name): np.ascontiguousarray(_transposed_back(name, array), np.float32)
        for name, array in arrays.items()
        if not name.endswith(".num_batches_tracked")
    }


def torch_name(name: str) -> str:
    """Return PyTorch's name of a weight or buffer.

    >>> torch_name("up.0.bias"), torch_name("contracting.0.first.variance")
    ('up.0.bias', 'contracting.0.first_norm.running_var')
    """
    layer, _, part = name.rpartition(".")
    return f"{layer}_norm.{NORM[part]}" if part in NORM else name


def _transposed(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim != 4:
        return array
    return array.transpose(2, 3, 0, 1) if name.startswith("up.") else array.transpose(3, 2, 0, 1)


def _transposed_back(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim != 4:
        return array
    return array.transpose(2, 3, 0, 1) if name.startswith("up.") else array.transpose(2, 3, 1, 0)


def torch_file(weights: Mapping[str, NDArray[Any]], record: Mapping[str, Any]) -> bytes:
    """Make the content of a safetensors file; `record` goes into its metadata."""
    content: bytes = save(to_torch(weights), {RECORD: json.dumps(record)})
    return content
