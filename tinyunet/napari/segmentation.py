"""Segment a layer with a trained run; without napari."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.data import ImageSet
from tinyunet.data.pixel_sizes import AS_IT_IS, Size, factors_of
from tinyunet.errors import DataError
from tinyunet.napari.layers import Output, as_labels, with_channels
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.segmentation import segment
from tinyunet.prediction.tiling import TILE, OnTile
from tinyunet.training.folds import Loaded, load_networks
from tinyunet.training.stored_run import require_channels, stored_classes


def segment_layer(
    data: Any,
    run: Path,
    *,
    name: str = "layer",
    rgb: bool = False,
    output: Output = "objects",
    symmetries: int = 1,
    pixel_size: Size | None = None,
    on_tile: OnTile = lambda done, total: None,
) -> NDArray[np.int32]:
    """Segment an image, or each slice of a stack, as `tinyunet.predict` segments files.

    Parameters
    ----------
    data : array, shape (…, H, W), or (…, H, W, 3) if `rgb`
        What `numpy.asarray` turns into one, slice by slice.
    run : Path
        A run's folder, a checkpoint, or the folder of a cross-validation.
    name : str
        The layer's, for errors.
    output : {"objects", "classes"}
        objects: numbered from 1 in each slice. classes: the numbers of the labels that were trained on.
    symmetries : {1, 8}
        As in `predict_tiled`.
    pixel_size : (float, float), optional
        Height and width of the layer's pixels, in µm, for a network that was trained at one size of pixels.
    on_tile : callable
        Called with the tiles done and the tiles of all slices; what it raises ends the prediction.

    Returns
    -------
    int32 array, shape (…, H, W)

    Raises
    ------
    CheckpointError
        The folder holds no run.
    DataError
        The layer has other channels than the network, or pixels that are not finite; or their size is not
        known, and the network needs it.
    """
    networks = load_networks(run)
    models = [network.model for network in networks]
    table = stored_classes(networks[0].checkpoint, networks[0].path)
    rule = ObjectRule.mean([network.checkpoint.objects for network in networks])
    factors = _factors(networks[0], name, pixel_size)
    rule = rule.scaled((1 / factors[0], 1 / factors[1]))
    pixels = with_channels(data, rgb)
    slices = list(np.ndindex(pixels.shape[:-3]))
    labels = np.zeros(pixels.shape[:-1], np.int32)
    for number, index in enumerate(slices):
        image = np.asarray(pixels[index])
        require_channels(models[0], ImageSet([image], [name], source=name))

        def of_all(done: int, total: int, before: int = number) -> None:
            on_tile(before * total + done, len(slices) * total)

        prediction = segment(models, image, tile=TILE, symmetries=symmetries, on_tile=of_all, factors=factors)
        labels[index] = as_labels(prediction.probabilities, output, table, rule)
    return labels


def _factors(network: Loaded, name: str, pixel_size: Size | None) -> Size:
    """Return what height and width are multiplied by to bring a layer to the pixels that the network sees."""
    if network.pixel_size is None:
        return AS_IT_IS
    if pixel_size is None:
        raise DataError(
            f"{name}: the size of the layer's pixels is not known",
            {"the network sees pixels of": f"{network.pixel_size:g} µm"},
            "set the layer's scale, and its units to micrometres",
        )
    return factors_of(pixel_size, network.pixel_size, name)
