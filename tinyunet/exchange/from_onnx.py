"""Read an ONNX file that `to_onnx` wrote: its record and its weights. Nothing of it is executed.

What the graph computes is known if its nodes are those that `to_onnx` writes for the network of the record.
This is required, because a graph that was changed (quantised, cut, given another last layer) predicts
something else than its weights in our network.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.errors import CheckpointError, first_names
from tinyunet.exchange.onnx import MIRRORED, OPSET, graph_of
from tinyunet.exchange.packages import require
from tinyunet.exchange.record import EXPORT_AGAIN, RECORD
from tinyunet.models import Network

PRODUCER = "tinyunet"


class OnnxFile:
    """An ONNX file of ours.

    Parameters
    ----------
    path : Path
        The file, for errors.
    content : bytes

    Attributes
    ----------
    record : str
        The JSON of its record.

    Raises
    ------
    CheckpointError
        It is damaged, of another program, or of another opset.
    OptionError
        onnx is not installed.
    """

    def __init__(self, path: Path, content: bytes):
        self._onnx = require("onnx")
        self.path = path
        try:
            self._model = self._onnx.load_model_from_string(content)
        except Exception as error:  # of protobuf, which is not imported here
            raise CheckpointError(
                f"{path}: damaged, or not an ONNX file", {"reason": error}, EXPORT_AGAIN
            ) from error
        properties = {entry.key: entry.value for entry in self._model.metadata_props}
        if self._model.producer_name != PRODUCER or RECORD not in properties:
            raise self._foreign()
        opsets = {entry.domain: entry.version for entry in self._model.opset_import}
        if opsets != {"": OPSET}:
            raise CheckpointError(
                f"{path}: another opset than tinyunet writes; in it, the same nodes may mean something else",
                {"expected": OPSET, "found": _opsets_text(opsets)},
                EXPORT_AGAIN,
            )
        self.record = properties[RECORD]

    def _foreign(self) -> CheckpointError:
        """The error for a file that another program wrote."""
        model = self._model
        operators = Counter(node.op_type for node in model.graph.node)
        listed = [f"{number} {name}" for name, number in operators.most_common()]
        return CheckpointError(
            f"{self.path}: an ONNX file of another program; only those of tinyunet are read",
            {
                "producer": f"{model.producer_name} {model.producer_version}".strip() or "not stated",
                "operators": first_names(listed, most=8),
                "opset": _opsets_text({entry.domain: entry.version for entry in model.opset_import}),
            },
            EXPORT_AGAIN,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the float32 constants, by name, in ONNX's layout, which is PyTorch's."""
        return {
            str(tensor.name): self._array(tensor)  # a name that is no text comes as bytes
            for tensor in self._model.graph.initializer
            if tensor.data_type == self._onnx.TensorProto.FLOAT
        }

    def _array(self, tensor: Any) -> NDArray[Any]:
        if tensor.data_location == self._onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise CheckpointError(
                f"{self.path}: {tensor.name} is in another file, which was not opened", remedy=EXPORT_AGAIN
            )
        try:
            array: NDArray[Any] = self._onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self.path}: damaged, {tensor.name} cannot be read", {"reason": error}, EXPORT_AGAIN
            ) from error
        return array

    def require_graph_of(self, model: Network) -> None:
        """Raise a CheckpointError unless nodes and sizes are those that `to_onnx` writes for this network."""
        graph = self._model.graph
        mirror = any(tensor.name == MIRRORED for tensor in graph.initializer)
        expected = graph_of(model, mirror=mirror)
        pairs = zip(_nodes(expected.nodes), _nodes(graph.node), strict=False)
        changed = next((number for number, (ours, found) in enumerate(pairs) if ours != found), None)
        if changed is None and len(expected.nodes) != len(graph.node):
            changed = min(len(expected.nodes), len(graph.node))
        if changed is None and self._integers(expected.weights) == self._integers(graph.initializer):
            return
        found = "other sizes to cut or to mirror"
        if changed is not None:
            node = graph.node[changed] if changed < len(graph.node) else None
            found = f"node {changed} is {node.op_type} {node.name}".strip() if node else f"{changed} nodes"
        raise CheckpointError(
            f"{self.path}: its graph is not the one that tinyunet writes for its network, it was changed",
            {"network": type(model).__name__, "found": found},
            EXPORT_AGAIN,
        )

    def _integers(self, tensors: Any) -> dict[str, list[int]]:
        """The constants that are no weights: how much is cut and mirrored."""
        return {
            tensor.name: np.ravel(self._array(tensor)).tolist()
            for tensor in tensors
            if tensor.data_type != self._onnx.TensorProto.FLOAT
        }


def _nodes(nodes: Any) -> list[bytes]:
    return [node.SerializeToString(deterministic=True) for node in nodes]


def _opsets_text(opsets: dict[str, int]) -> str:
    return ", ".join(f"{domain} {version}".strip() for domain, version in opsets.items()) or "none"
