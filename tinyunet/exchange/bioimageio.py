"""A package of the BioImage.IO model zoo, which Fiji, QuPath, ilastik and Python programs read.

    rdf.yaml                            the description
    weights.onnx                        the network, which continues the image by its mirror image
    test_input.npy, test_output.npy     an image and what the engine predicts for it
    cover.png                           the same image and the objects in it
    README.md                           sizes, normalisation, the border, validation

A valid network's output is smaller than its input. A description that says so (an output size with an
offset) passes all tests, but programs that predict block by block then crash. So the mirror image is in the
graph: the output has the input's size, and what a block's border sees is a halo to be cropped. The halo is
rounded up to the grid of the poolings, because blocks have to start on it.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from tinyunet.data import GreyStatistics, normalise
from tinyunet.errors import OptionError
from tinyunet.exchange.onnx import INPUT, OPSET, OUTPUT, mirrored, to_onnx
from tinyunet.exchange.packages import require
from tinyunet.metrics.naming import format_value
from tinyunet.models import Network
from tinyunet.models.geometry import Geometry
from tinyunet.prediction.instances import label_instances
from tinyunet.prediction.tiling import mirror_indices, predict_tiled
from tinyunet.reporting.pictures import grey_or_colour, overlay

FORMAT = "0.5.12"
EPSILON = 1e-6  # added to the deviation; the smallest fixed one
EXAMPLE_SIDE = 256  # pixels, at most, unless the network's smallest block is larger
PAPER = "Ronneberger, Fischer, Brox (2015): U-Net: Convolutional Networks for Biomedical Image Segmentation"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in the package: the same run makes the same bytes


@dataclass(frozen=True)
class About:
    """The parts of a description that are not in the network.

    Attributes
    ----------
    name : str
        Characters that the model zoo does not allow become "-".
    authors : tuple of str
    licence : str
        Of the weights: an identifier of SPDX.
    validation : str
        A paragraph: scores, and on which images.
    classes : tuple of str
        A name for each class.
    """

    name: str
    authors: tuple[str, ...]
    licence: str
    validation: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """The sizes of images and blocks that a package takes, in pixels: `smallest` plus multiples of `step`."""

    smallest: int
    step: int
    halo: int


def block_of(geometry: Geometry) -> Block:
    """Return the sizes for a network.

    >>> from tinyunet.models import geometry
    >>> block_of(geometry.unet(4))
    Block(smallest=208, step=16, halo=96)
    """
    step = geometry.step
    halo = -(-geometry.halo // step) * step
    return Block(2 * halo + step, step, halo)


def write_package(
    file: BinaryIO,
    model: Network,
    image: NDArray[Any],
    about: About,
    record: Mapping[str, Any],
    statistics: GreyStatistics | None = None,
) -> None:
    """Write a package.

    Parameters
    ----------
    file : binary file
    model : UNet or FCN
    image : array, shape (H, W, C)
        An image as its file holds it, for the test tensors and the cover.
    about : About
    record : mapping
        As in `to_onnx`; it is in the description, too.
    statistics : GreyStatistics, optional
        What programs have to normalise images by; each by its own if omitted.

    Raises
    ------
    OptionError
        As in `to_onnx`, pyyaml is not installed, or a deviation is smaller than the format allows.
    """
    yaml = require("yaml")
    example = example_of(image, block_of(model.geometry))
    probabilities = predict_tiled(model, normalise(example, statistics))
    files = {
        "weights.onnx": to_onnx(model, record, mirror=True, statistics=statistics),
        "test_input.npy": _as_npy(example),
        "test_output.npy": _as_npy(probabilities),
        "cover.png": _cover(example, probabilities),
        "README.md": _readme(model, about, statistics, record.get("pixel_size")).encode(),
    }
    description = describe_package(model, about, record, files, statistics)
    text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True, width=100)
    files = {"rdf.yaml": text.encode(), **files}
    with zipfile.ZipFile(file, "w") as package:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            package.writestr(entry, content)


def example_of(image: NDArray[Any], block: Block) -> NDArray[np.float32]:
    """Cut a block out of the middle of an image, as float32; a smaller image is continued by its mirror."""
    window = []
    for size in image.shape[:2]:
        side = max(block.smallest, min(size, EXAMPLE_SIDE) // block.step * block.step)
        start = (size - side) // 2
        window.append(mirror_indices(start, start + side, size))
    return image[np.ix_(*window)].astype(np.float32)


def describe_package(
    model: Network,
    about: About,
    record: Mapping[str, Any],
    files: Mapping[str, bytes],
    statistics: GreyStatistics | None = None,
) -> dict[str, Any]:
    """Return the content of rdf.yaml; `files` are the others of the package, by name."""
    block = block_of(model.geometry)

    def reference(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}

    pixel = {"unit": "micrometer", "scale": record["pixel_size"]} if "pixel_size" in record else {}

    def sides(size_of: Any, **more: Any) -> list[dict[str, Any]]:
        return [{"type": "space", "id": axis, "size": size_of(axis), **pixel, **more} for axis in ("y", "x")]

    kind = type(model).__name__
    return {
        "format_version": FORMAT,
        "type": "model",
        "name": _allowed_name(about.name),
        "description": f"{kind} of tinyunet: probabilities of {model.num_classes} classes for each pixel.",
        "authors": [{"name": name} for name in about.authors],
        "license": about.licence,
        "cite": [{"text": PAPER, "doi": "10.1007/978-3-319-24574-4_28"}],
        "tags": ["segmentation", "unet" if kind == "UNet" else "fcn", "tinyunet", "2d"],
        "documentation": reference("README.md"),
        "covers": [reference("cover.png")],
        "inputs": [
            {
                "id": INPUT,
                "description": "grey values as the file holds them",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": [f"channel{c}" for c in range(model.in_channels)]},
                    *sides(lambda axis: {"min": block.smallest, "step": block.step}),
                ],
                "data": {"type": "float32"},
                "test_tensor": reference("test_input.npy"),
                "pad": {"mode": "reflect"},
                "preprocessing": [_normalisation(statistics)],
            }
        ],
        "outputs": [
            {
                "id": OUTPUT,
                "description": "probability of each class",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": list(about.classes)},
                    *sides(lambda axis: {"tensor_id": INPUT, "axis_id": axis}, halo=block.halo),
                ],
                "data": {"type": "float32"},
                "test_tensor": reference("test_output.npy"),
            }
        ],
        "weights": {"onnx": {**reference("weights.onnx"), "opset_version": OPSET}},
        "config": {"tinyunet": dict(record)},
    }


def _normalisation(statistics: GreyStatistics | None) -> dict[str, Any]:
    if statistics is None:
        return {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"], "eps": EPSILON}}
    if min(statistics.deviation) < EPSILON:
        raise OptionError(
            "the deviation of the training images is smaller than a package allows",
            {"found": statistics, "smallest": EPSILON},
            "give --normalisation per-image, or train on images with larger numbers",
        )
    mean, deviation = list(statistics.mean), list(statistics.deviation)
    return {
        "id": "fixed_zero_mean_unit_variance",
        "kwargs": {"axis": "channel", "mean": mean, "std": deviation},
    }


def _allowed_name(name: str) -> str:
    """The name in characters that the model zoo allows, of which it wants at least five, at most 128."""
    return re.sub(r"[^A-Za-z0-9_+\- ()]", "-", name)[:128].ljust(5, "-")


def _as_npy(image: NDArray[np.float32]) -> bytes:
    """An image (H, W, C) as .npy with the axes (1, C, H, W)."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(image.transpose(2, 0, 1)[np.newaxis]), allow_pickle=False)
    return buffer.getvalue()


def _cover(image: NDArray[np.float32], probabilities: NDArray[np.float32]) -> bytes:
    """The image beside the objects that were found in it, as PNG, two squares."""
    side = min(image.shape[:2])
    pictures = [grey_or_colour(image), overlay(image, label_instances(probabilities))]
    buffer = io.BytesIO()
    Picture.fromarray(np.hstack([picture[:side, :side] for picture in pictures])).save(buffer, "PNG")
    return buffer.getvalue()


def validation_text(scores: Mapping[str, Any] | None, step: int, data: str, holdout: str) -> str:
    """State the scores of a run on its held-out images, from the log's record; None if it is not logged."""
    where = f"Images {holdout} of the set {data} were held out of training."
    if scores is None:
        return f"{where} The run's log has no scores of step {step}."
    return (
        f"{where} At step {step}, over all their pixels: mean IoU {format_value(scores['mean_iou'])}, "
        f"pixel error {format_value(scores['pixel_error'])}."
    )


PER_IMAGE = """Each channel is brought to mean 0 and
variance 1 over the whole image: the description says so, and programs that read it do it. A program that
normalises each block by itself, or an image that it has already padded, gives other results."""

FIXED = """From each channel a fixed mean
is subtracted, and it is divided by a fixed deviation: the description says so, and programs that read it do
it. They are the averages over the training images, {statistics}.

Training brought each image to mean 0 and variance 1 by its own mean and deviation. So images that are much
brighter, dimmer or of another contrast than the training images give other results than tinyunet gives with
the run, and so may the scores below, which were taken with each image normalised by its own."""

PIXELS = """
The network sees pixels of {:g} µm: bring images of another magnification to this size first.
"""

README = """# {name}

A {kind} trained with tinyunet. For each pixel it gives the probability of each of its classes:
{classes}.

## Input

Images of {channels} channels, grey values as the file holds them. {normalisation}
{pixels}
## Sizes and the border

Sides are {smallest} pixels plus any multiple of {step}, and the output is as large as the input. The network
continues the image by its mirror image, {before} pixels before it and {after} after it, and cuts the result.

- A whole image of such sides gives what tinyunet gives, up to its border.
- Block by block, with a halo of {halo} pixels and blocks that start at multiples of {step}, it gives the same
  further than {halo} pixels from the image's border. Nearer to it, what the program puts around the image
  decides.

## Validation

{validation}

To validate it on your own images, predict labelled images that were not trained on, and compare.
"""


def _readme(model: Network, about: About, statistics: GreyStatistics | None, pixel_size: float | None) -> str:
    block, (before, after) = block_of(model.geometry), mirrored(model)
    return README.format(
        name=about.name,
        kind=type(model).__name__,
        classes=", ".join(about.classes),
        channels=model.in_channels,
        normalisation=FIXED.format(statistics=statistics) if statistics else PER_IMAGE,
        pixels=PIXELS.format(pixel_size) if pixel_size else "",
        smallest=block.smallest,
        step=block.step,
        halo=block.halo,
        before=before,
        after=after,
        validation=about.validation,
    )
