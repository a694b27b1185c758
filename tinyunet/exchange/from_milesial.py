"""Weights of milesial/Pytorch-UNet, a padded U-Net with batch normalisation.

    theirs                                              ours
    inc.double_conv.0, .1                               contracting.0.first: convolution, normalisation
    inc.double_conv.3, .4                               contracting.0.second
    downN.maxpool_conv.1.double_conv.…                  contracting.N
    upN.up                                              up.N-1
    upN.conv.double_conv.…                              expansive.N-1
    outc.conv                                           scores

It concatenates [skip, up-sampled], we [up-sampled, skip]: the halves of the weights that follow change
places. The normalisation stays one, because both add 1e-5 to the variance; a bias before it, which older
versions have, is a shift of its mean. One score s with a sigmoid is two scores, 0 and s, with a softmax.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.errors import CheckpointError, first_names
from tinyunet.exchange.torch_names import from_torch
from tinyunet.exchange.weights import network_shapes, require_weights
from tinyunet.models import UNet

Arrays = dict[str, NDArray[Any]]

IMAGES = "its images were divided by 255; here, each channel of an image is brought to mean 0 and variance 1"
FIRST, LAST = "inc.double_conv.0.weight", "outc.conv.weight"
NAMES = (
    (r"inc\.", lambda n: "contracting.0."),
    (r"down(\d+)\.maxpool_conv\.1\.", lambda n: f"contracting.{n}."),
    (r"up(\d+)\.up\.", lambda n: f"up.{n - 1}."),
    (r"up(\d+)\.conv\.", lambda n: f"expansive.{n - 1}."),
    (r"outc\.conv\.", lambda n: "scores."),
)
LAYERS = {"0": "first", "1": "first_norm", "3": "second", "4": "second_norm"}
REMEDY = "give the state_dict of a UNet(bilinear=False) of milesial/Pytorch-UNet"


def from_milesial(path: Path, arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], Arrays]:
    """Return the network and its weights, by our names and in our layout.

    Parameters
    ----------
    path : Path
        The file, for errors.
    arrays : mapping of str to array
        By their names, in PyTorch's layout.

    Raises
    ------
    CheckpointError
        They are of another network; networks that look alike but compute something else are named.
    """
    _require_version(path, arrays)
    renamed = {_torch_name(name): array for name, array in arrays.items()}
    _shift_means(renamed)
    for name, array in renamed.items():
        if re.fullmatch(r"expansive\.\d+\.first\.weight", name) and array.ndim == 4:
            renamed[name] = np.roll(array, array.shape[1] // 2, axis=1)
    if renamed["scores.weight"].shape[0] == 1:
        for name in ("scores.weight", "scores.bias"):
            renamed[name] = np.concatenate([np.zeros_like(renamed[name]), renamed[name]])
    features, channels = arrays[FIRST].shape[:2]
    network = {
        **UNet.options(),
        "model": "unet",
        "in_channels": channels,
        "num_classes": renamed["scores.weight"].shape[0],
        "base_channels": features,
        "depth": sum(re.fullmatch(r"up\.\d+\.weight", name) is not None for name in renamed),
        "padding": "same",
        "normalisation": "batch",
        "dropout": 0.0,
    }
    weights = from_torch(renamed, network_shapes(path, network))
    require_weights(path, network, weights, REMEDY)
    return network, weights


def _require_version(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise a CheckpointError unless the arrays' names are those of the version with up-convolutions."""
    names = list(arrays)

    def refused(reason: str) -> CheckpointError:
        return CheckpointError(f"{path}: {reason}", {"arrays": first_names(names)}, REMEDY)

    if any(name.startswith("down_path.") for name in names):
        raise refused("of jvanvugt/pytorch-unet, which pools by the average: tinyunet takes the maximum")
    if any(".mpconv." in name or name.startswith("inc.conv.") for name in names):
        raise refused("of version 1 of milesial/Pytorch-UNet, which up-samples by bilinear interpolation")
    if any(arrays[name].ndim != 4 for name in (FIRST, LAST) if name in names) or not {FIRST, LAST} <= {
        *names
    }:
        raise refused("of a network that tinyunet does not know")
    if "up1.up.weight" not in names:
        raise refused("its network up-samples by bilinear interpolation, tinyunet by an up-convolution")


def _torch_name(name: str) -> str:
    """The name that `to_torch` gives the same array; a name of another kind stays as it is.

    >>> _torch_name("up2.conv.double_conv.4.running_var")
    'expansive.1.second_norm.running_var'
    """
    for pattern, own in NAMES:
        if match := re.match(pattern, name):
            number = int(match[1]) if match.groups() else 0
            part = name[match.end() :]
            if layer := re.match(r"double_conv\.([0134])\.", part):
                part = f"{LAYERS[layer[1]]}.{part[layer.end() :]}"
            return own(number) + part
    return name


def _shift_means(renamed: Arrays) -> None:
    """Take the biases of normalised convolutions out, and off the means that are subtracted after them."""
    for name in [name for name in renamed if name.endswith((".first.bias", ".second.bias"))]:
        mean = f"{name.removesuffix('.bias')}_norm.running_mean"
        if mean in renamed and renamed[mean].shape == renamed[name].shape:
            renamed[mean] = renamed[mean].astype(np.float64) - renamed.pop(name)
