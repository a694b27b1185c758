"""ONNX: a network as a graph that other programs run, without this engine.

Images and probabilities have ONNX's axes, (N, C, H, W). The nodes are those of `UNet.forward` and
`FCN.forward`; batch normalisation is folded into the convolutions, as for prediction here:

    ours                                       ONNX
    conv2d           weight (K, K, C, F)       Conv            (F, C, K, K)
    conv_transpose2d weight (K, K, C, F)       ConvTranspose   (C, F, K, K), stride 2
    crop_concat      [upsampled, skip]         Slice of the skip, Concat
    max_pool2d, add, relu, softmax             MaxPool, Add, Relu, Softmax over the classes

In opset 17, which every runtime in use reads. Before 13, Softmax flattened the axes behind its own: in opset
11 the same node gives other numbers, without an error.

The graph takes images that are normalised as `tinyunet.data.normalise` does it: a graph that did this by
itself would do it tile by tile, while training does it image by image. A program that cannot do it image by
image may do it by statistics of the training images. The graph is the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import to_host
from tinyunet.data import GreyStatistics
from tinyunet.errors import OptionError
from tinyunet.exchange.packages import require
from tinyunet.exchange.record import RECORD
from tinyunet.models import FCN, Network, UNet
from tinyunet.models.fcn import FINEST_SCORED
from tinyunet.models.unet import DoubleConv
from tinyunet.nn import Conv2d, ConvTranspose2d, NormalisedConv2d
from tinyunet.ops.batch_norm import fold

OPSET, IR_VERSION = 17, 8
INPUT, OUTPUT = "image", "probabilities"
ROWS_COLUMNS = (2, 3)
MIRRORED = "mirrored"  # the constant with the numbers of mirrored pixels

DESCRIPTION = """A segmentation network of tinyunet, axes N C H W.
Input: images {images}.
Output: the probability of each class for each pixel.
{sizes}"""


PER_IMAGE = "of which each channel has mean 0 and variance 1 over the whole image (not over the tile)"
FIXED = "(x - mean) / deviation, with {statistics} of x in each channel, as a typical training image has them"


def to_onnx(
    model: Network,
    record: Mapping[str, Any],
    *,
    mirror: bool = False,
    statistics: GreyStatistics | None = None,
) -> bytes:
    """Turn a network into an ONNX file.

    Parameters
    ----------
    model : UNet or FCN
        Its fixed statistics are used, whatever its mode.
    record : mapping
        Stored as JSON under "tinyunet" in the file's metadata.
    mirror : bool
        False: the graph is the network alone; input and output have the sides of its geometry. True: the
        graph continues the image by its mirror image, as overlap-tile does, and gives an output of the
        input's size. It takes sides that are multiples of the geometry's step, larger than `mirrored`.
    statistics : GreyStatistics, optional
        What the file says that images are normalised by; each by its own if omitted.

    Raises
    ------
    OptionError
        The network has no such graph, or onnx is not installed.
    """
    onnx = require("onnx")
    graph = graph_of(model, mirror=mirror)
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    sides = ("height", "width") if mirror or not model.geometry.shrink else ("output_height", "output_width")
    whole = helper.make_graph(
        graph.nodes,
        "tinyunet",
        [helper.make_tensor_value_info(INPUT, float32, ["batch", model.in_channels, "height", "width"])],
        [helper.make_tensor_value_info(OUTPUT, float32, ["batch", model.num_classes, *sides])],
        graph.weights,
        doc_string=DESCRIPTION.format(
            images=FIXED.format(statistics=statistics) if statistics else PER_IMAGE,
            sizes=_sizes_text(model, mirror=mirror),
        ),
    )
    file = helper.make_model(
        whole,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tinyunet",
        doc_string=whole.doc_string,
    )
    helper.set_model_props(file, {RECORD: json.dumps(record)})
    onnx.checker.check_model(file, full_check=True)
    content: bytes = file.SerializeToString(deterministic=True)
    return content


def graph_of(model: Network, *, mirror: bool) -> Graph:
    """Return the nodes and constants of a network's graph; arguments and errors are those of `to_onnx`."""
    graph = Graph()
    x = graph.mirrored(INPUT, model) if mirror else INPUT
    if isinstance(model, UNet):
        y = _unet(graph, x, model)
    elif isinstance(model, FCN):
        y = _fcn(graph, x, model)
    else:
        raise OptionError(
            f"a network {type(model).__name__} cannot be written as ONNX",
            {"expected": "UNet or FCN"},
            "its sliding window is made of fragments that ONNX has no node for; --format torch writes it",
        )
    if mirror:
        y = graph.without_mirror(y, model)
    graph.node("Softmax", [y], OUTPUT, axis=1)
    return graph


def mirrored(model: Network) -> tuple[int, int]:
    """Return how many mirrored pixels a graph with `mirror` puts before and after each side of an image.

    Before it is the halo. After it there are as many as are needed for a side that the network takes, if the
    image's is a multiple of the geometry's step.

    >>> mirrored(UNet(base_channels=1)), mirrored(UNet(base_channels=1, padding="same"))
    ((92, 96), (96, 96))
    """
    sizes = model.geometry
    return sizes.halo, sizes.halo + (sizes.smallest - 2 * sizes.halo) % sizes.step


def _sizes_text(model: Network, *, mirror: bool) -> str:
    sizes = model.geometry
    step, halo = sizes.step, sizes.halo
    if mirror:
        return f"Sides: multiples of {step} larger than {max(mirrored(model))}; the output is as large."
    return (
        f"Sides: {sizes.smallest} plus any multiple of {step}; the output is smaller by {sizes.shrink}, half "
        f"of it on each side. A tile needs a halo of {halo} and starts at a multiple of {step}."
    )


class Graph:
    """A graph in the making. Methods take and return the names of its tensors."""

    def __init__(self) -> None:
        self._onnx = require("onnx")
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add a constant."""
        self.weights.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def layer(self, x: str, name: str, layer: Conv2d | NormalisedConv2d | ConvTranspose2d) -> str:
        """Add a layer with its weight, its bias and its ReLU."""
        weight, bias = _weight_and_bias(layer)
        options: dict[str, Any] = {"kernel_shape": weight.shape[:2]}
        if isinstance(layer, ConvTranspose2d):
            inputs = [x, self.constant(f"{name}.weight", weight.transpose(2, 3, 0, 1))]
            kind, options["strides"] = "ConvTranspose", [2, 2]
        else:
            inputs = [x, self.constant(f"{name}.weight", weight.transpose(3, 2, 0, 1))]
            kind, options["pads"] = "Conv", [layer.padding] * 4
        y = self.node(kind, [*inputs, self.constant(f"{name}.bias", bias)], **options)
        return self.node("Relu", [y]) if layer.relu else y

    def double(self, x: str, name: str, block: DoubleConv) -> str:
        """Add two convolutions."""
        return self.layer(self.layer(x, f"{name}.first", block.first), f"{name}.second", block.second)

    def pool(self, x: str) -> str:
        """Halve the sides."""
        return self.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])

    def cut(self, x: str, before: int, after: int) -> str:
        """Cut pixels off the beginning and the end of both sides."""
        if not before and not after:
            return x
        name = f"cut_{len(self.nodes)}"
        first = self.constant(f"{name}.first", np.full(2, before, np.int64))
        last = np.iinfo(np.int64).max if not after else -after
        stop = self.constant(f"{name}.stop", np.full(2, last, np.int64))
        axes = self.constant(f"{name}.axes", np.array(ROWS_COLUMNS, np.int64))
        return self.node("Slice", [x, first, stop, axes])

    def mirrored(self, x: str, model: Network) -> str:
        """Continue the image by its mirror image, of which the edge pixel is not a part."""
        before, after = mirrored(model)
        pads = np.array([0, 0, before, before, 0, 0, after, after], np.int64)
        return self.node("Pad", [x, self.constant(MIRRORED, pads)], mode="reflect")

    def without_mirror(self, y: str, model: Network) -> str:
        """Cut off what the mirrored pixels gave."""
        before, after = (side - model.geometry.shrink // 2 for side in mirrored(model))
        return self.cut(y, before, after)


def _unet(graph: Graph, x: str, model: UNet) -> str:
    """The nodes of `UNet.forward`; returns the scores."""
    skips = []
    for level, block in enumerate(model.contracting):
        x = graph.double(x if level == 0 else graph.pool(x), f"contracting.{level}", block)
        skips.append(x)
    skips.pop()
    # Between a skip and what is up-sampled to meet it lie two convolutions, a pooling, and all below it.
    lost = 0
    for number, (up, block) in enumerate(zip(model.up, model.expansive, strict=True)):
        if model.padding == "valid":
            lost = 2 * lost + 8 if number else 4
        skip = graph.cut(skips.pop(), lost, lost)
        joined = graph.node("Concat", [graph.layer(x, f"up.{number}", up), skip], axis=1)
        x = graph.double(joined, f"expansive.{number}", block)
    return graph.layer(x, "scores", model.scores)


def _fcn(graph: Graph, x: str, model: FCN) -> str:
    """The nodes of `FCN.forward`; returns the scores."""
    pooled = []
    for level, block in enumerate(model.contracting):
        x = graph.pool(graph.double(x, f"contracting.{level}", block))
        pooled.append(x)
    for number, layer in enumerate(model.bottom):
        x = graph.layer(x, f"bottom.{number}", layer)
    pooled[-1] = x
    scored = [
        graph.layer(x, f"scores.{number}", layer)
        for number, (layer, x) in enumerate(zip(model.scores, pooled[FINEST_SCORED - 1 :], strict=True))
    ]
    y = scored.pop()
    for number, up in enumerate(model.up):
        weight = to_host(up.weight.data).transpose(2, 3, 0, 1)
        inputs = [y, graph.constant(f"up.{number}.weight", weight)]
        y = graph.node("ConvTranspose", inputs, kernel_shape=[4, 4], strides=[2, 2], pads=[1] * 4)
        if scored:
            y = graph.node("Add", [y, scored.pop()])
    return y


def _weight_and_bias(
    layer: Conv2d | NormalisedConv2d | ConvTranspose2d,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weight and bias of a layer, of a normalised one with its fixed statistics."""
    if isinstance(layer, NormalisedConv2d):
        tensors = (layer.weight, layer.scale, layer.shift, layer.mean, layer.variance)
        weight, bias = fold(*(tensor.data for tensor in tensors))
    else:
        weight, bias = layer.weight.data, layer.bias.data
    return to_host(weight), to_host(bias)
