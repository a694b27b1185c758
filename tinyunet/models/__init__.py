"""The networks, by the names that the commands and the checkpoints use."""

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


def make_network(model: str = "unet", **options: Any) -> Network:
    """Make the network of this name with these options.

    Raises
    ------
    OptionError
        No network has this name, or an option is outside its range.
    """
    if model not in MODELS:
        raise OptionError(f"unknown network {model!r}", {"expected": " | ".join(MODELS)})
    return MODELS[model](**options)
