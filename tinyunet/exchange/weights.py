"""Check weights that come from a file against the network that is to take them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.errors import CheckpointError, first_names
from tinyunet.training.checkpoint import shapes_of_network

Shapes = dict[str, tuple[int, ...]]


def network_shapes(path: Path, network: Mapping[str, Any]) -> Shapes:
    """Return the shapes of a network's parameters and buffers, by name; errors as in `shapes_of_network`."""
    parameters, buffers = shapes_of_network(path, network)
    return dict([*parameters, *buffers])


def require_weights(
    path: Path, network: Mapping[str, Any], weights: Mapping[str, NDArray[Any]], remedy: str
) -> None:
    """Raise a CheckpointError unless these are the weights of this network, and all of them finite.

    Parameters
    ----------
    path : Path
        Their file, for the error.
    network : mapping
        Its name and its options.
    weights : mapping of str to array
        By the network's own names, in its own layout.
    remedy : str
    """
    shapes = network_shapes(path, network)
    found = {name: array.shape for name, array in weights.items()}
    if wrong := [name for name in [*shapes, *found] if shapes.get(name) != found.get(name)]:
        expected, there = (where.get(wrong[0], "nothing") for where in (shapes, found))
        raise CheckpointError(
            f"{path}: arrays that do not fit the network of this file: {first_names(wrong)}",
            {f"expected of {wrong[0]}": expected, "found": there, "network": dict(network)},
            remedy,
        )
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise CheckpointError(
                f"{path}: weights are not finite",
                {"first": name, "NaN or infinite": f"{np.count_nonzero(~np.isfinite(array)):,} numbers"},
                remedy,
            )
