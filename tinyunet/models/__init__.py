"""The networks."""

from tinyunet.models.unet import UNet

__all__ = ["UNet"]
