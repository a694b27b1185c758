"""The networks, by the names that the commands and the checkpoints use."""

import math
from typing import Any, Literal

from tinyunet.errors import OptionError
from tinyunet.models.fcn import FCN
from tinyunet.models.network import Network
from tinyunet.models.sliding_window import SlidingWindowClassifier
from tinyunet.models.unet import UNet

ModelName = Literal["unet", "fcn", "sliding-window"]
MODELS: dict[str, type[Network]] = {
    "unet": UNet,
    "fcn": FCN,
    "sliding-window": SlidingWindowClassifier,
}

__all__ = ["FCN", "MODELS", "ModelName", "Network", "SlidingWindowClassifier", "UNet", "make_network"]

MOST_PARAMETERS = 2**31  # 8.6 GB of weights, and twice that again in training; the paper's has 31 million


def make_network(model: str = "unet", **options: Any) -> Network:
    """Make the network of this name with these options.

    Raises
    ------
    OptionError
        No network has this name, an option is outside its range, or the network would have more parameters
        than `MOST_PARAMETERS`. This is found before any weight is drawn.
    """
    if model not in MODELS:
        raise OptionError(f"unknown network {model!r}", {"expected": " | ".join(MODELS)})
    network = MODELS[model]
    parameters = sum(math.prod(shape) for _, shape in network.shapes_of({**network.options(), **options}))
    if parameters > MOST_PARAMETERS:
        raise OptionError(
            f"a network {model!r} of {parameters:,} parameters is too large",
            {"limit": f"{MOST_PARAMETERS:,}"},
            "give fewer --base-channels or a smaller --depth",
        )
    return network(**options)
