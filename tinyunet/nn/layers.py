"""Layers, and an initialisation that keeps the variance of the activations.

Tutorial: `tutorials/08_unet.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyunet.autograd import Tensor
from tinyunet.nn.module import Module, Parameter
from tinyunet.ops.conv2d import conv2d
from tinyunet.ops.conv_transpose2d import conv_transpose2d


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], incoming: int) -> Parameter:
    """Draw a parameter of normal numbers with variance 2 / incoming, float32.

    With weights of this variance, a layer followed by a ReLU keeps the mean square of its input (He et al.
    2015; section 3 of the U-Net paper).

    Parameters
    ----------
    incoming : int
        N, the number of inputs of one neuron: 9 · 64 for a 3×3 convolution of 64 channels.
    """
    return Parameter(rng.normal(0, np.sqrt(2 / incoming), shape).astype(np.float32))


class Conv2d(Module):
    """A convolution with its weight and bias.

    Parameters
    ----------
    in_channels, out_channels, size : int
        C, F and K of the weight (K, K, C, F).
    padding : int
        As in `conv2d`.
    relu : bool
        Whether a ReLU follows.
    rng : numpy.random.Generator
        Draws the initial weight; the bias starts at 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        padding: int = 0,
        relu: bool = False,
        rng: np.random.Generator,
    ):
        self.padding, self.relu = padding, relu
        self.weight = he_normal(rng, (size, size, in_channels, out_channels), size * size * in_channels)
        self.bias = Parameter(np.zeros(out_channels, np.float32))

    @staticmethod
    def shapes(
        name: str, in_channels: int, out_channels: int, size: int
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the names and shapes of the parameters of a convolution of this name."""
        yield f"{name}.weight", (size, size, in_channels, out_channels)
        yield f"{name}.bias", (out_channels,)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x: (N, H, W, C) -> (N, H', W', F)."""
        return conv2d(x, self.weight, self.bias, padding=self.padding, relu=self.relu)


class ConvTranspose2d(Module):
    """An up-convolution with its weight and bias.

    N is 4 · out_channels, as in the authors' released network. In the paper's network, where out_channels is
    half of in_channels, that is 2 · in_channels: the variance is 1 / in_channels, which keeps the mean square
    through a layer without a ReLU.

    Parameters
    ----------
    in_channels, out_channels : int
        C and F of the weight (2, 2, C, F).
    relu : bool
        Whether a ReLU follows.
    rng : numpy.random.Generator
        Draws the initial weight; the bias starts at 0.
    """

    def __init__(self, in_channels: int, out_channels: int, *, relu: bool = False, rng: np.random.Generator):
        self.relu = relu
        self.weight = he_normal(rng, (2, 2, in_channels, out_channels), 4 * out_channels)
        self.bias = Parameter(np.zeros(out_channels, np.float32))

    @staticmethod
    def shapes(name: str, in_channels: int, out_channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the names and shapes of the parameters of an up-convolution of this name."""
        yield f"{name}.weight", (2, 2, in_channels, out_channels)
        yield f"{name}.bias", (out_channels,)

    def forward(self, x: Tensor) -> Tensor:
        """Up-convolve x: (N, H, W, C) -> (N, 2H, 2W, F)."""
        return conv_transpose2d(x, self.weight, self.bias, relu=self.relu)
