"""Layers, and an initialisation that keeps the variance of the activations.

Tutorial: `tutorials/09_unet.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinyunet.autograd import Tensor
from tinyunet.nn.module import Buffer, Module, Parameter
from tinyunet.ops.batch_norm import batch_norm, folded
from tinyunet.ops.conv2d import conv2d
from tinyunet.ops.conv_transpose2d import conv_transpose2d
from tinyunet.ops.crop_concat_conv2d import crop_concat_conv2d


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

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Convolve x, or x and the centre of a skip: (N, H, W, C) -> (N, H', W', F)."""
        return _convolve(x, skip, self.weight, self.bias, padding=self.padding, relu=self.relu)


def _convolve(x: Tensor, skip: Tensor | None, *parameters: Tensor, **options: Any) -> Tensor:
    if skip is None:
        return conv2d(x, *parameters, **options)
    return crop_concat_conv2d(x, skip, *parameters, **options)


class NormalisedConv2d(Module):
    """A convolution whose output is normalised: by `batch_norm` in training, by fixed statistics otherwise.

    In training mode the mean and the variance are those of the map itself. Otherwise they are the buffers,
    and the map is an affine one: it is folded into the convolution's weight and bias. So prediction takes no
    more time, and that of a tile does not depend on what else is in it. A network can be trained in both
    modes of its normalised layers; gradients reach x and the parameters.

    Parameters
    ----------
    in_channels, out_channels, size, padding, relu, rng
        As for `Conv2d`. There is no bias, which the normalisation would subtract again.

    Attributes
    ----------
    scale, shift : Parameter, shape (F,)
        1 and 0 at the start: maps of variance 1.
    mean, variance : Buffer, shape (F,)
        The population's: of the convolution's output over many training tiles. Nothing here changes them:
        see `tinyunet.training.population`. 0 and 1 at the start.
    on_statistics : callable or None
        As in `batch_norm`. While there is one, the map is normalised as in training mode.
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
        self.scale = Parameter(np.ones(out_channels, np.float32))
        self.shift = Parameter(np.zeros(out_channels, np.float32))
        self.mean = Buffer(np.zeros(out_channels, np.float32))
        self.variance = Buffer(np.ones(out_channels, np.float32))
        self.on_statistics: Callable[[Any, Any], None] | None = None

    @staticmethod
    def shapes(
        name: str, in_channels: int, out_channels: int, size: int
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the names and shapes of the parameters of a convolution of this name."""
        yield f"{name}.weight", (size, size, in_channels, out_channels)
        yield f"{name}.scale", (out_channels,)
        yield f"{name}.shift", (out_channels,)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Convolve x, or x and the centre of a skip, and normalise: (N, H, W, C) -> (N, H', W', F)."""
        if self.training or self.on_statistics:
            y = _convolve(x, skip, self.weight, padding=self.padding)
            return batch_norm(y, self.scale, self.shift, relu=self.relu, on_statistics=self.on_statistics)
        weight, bias = folded(self.weight, self.scale, self.shift, self.mean.data, self.variance.data)
        return _convolve(x, skip, weight, bias, padding=self.padding, relu=self.relu)


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
