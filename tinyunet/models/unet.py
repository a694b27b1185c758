"""The U-Net (Ronneberger, Fischer, Brox 2015, section 2 and figure 1).

contracting                                                    expansive
572 conv 570 conv 568 ----------- crop 392, concatenate ------> 392 conv 390 conv 388 -> 1×1 -> classes
             pool 284 conv conv 280 -------- crop 200 --------> 200 conv 198 conv 196 up
                         pool 140 … 136 ---- crop 104 --------> 104 … 100 up
                                 pool 68 … 64 crop 56 --------> 56 … 52 up
                                         pool 32 conv 30 conv 28 up

Tutorial: `tutorials/09_unet.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.autograd import Tensor
from tinyunet.backend import active_precision
from tinyunet.models import geometry
from tinyunet.models.network import MOST_DEPTH, Network, require_options
from tinyunet.nn import Conv2d, ConvTranspose2d, Module, NormalisedConv2d
from tinyunet.ops.conv2d_pair import conv2d_pair
from tinyunet.ops.crop_concat import crop_concat
from tinyunet.ops.dropout import dropout
from tinyunet.ops.linear_cross_entropy import loss_of_checked
from tinyunet.ops.max_pool2d import max_pool2d

CONVOLUTIONS: dict[str, type[Conv2d | NormalisedConv2d]] = {"none": Conv2d, "batch": NormalisedConv2d}


class DoubleConv(Module):
    """Two 3×3 convolutions, each followed by a ReLU, with a normalisation in between or without."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        padding: int,
        normalisation: str = "none",
        rng: np.random.Generator,
    ):
        convolution = CONVOLUTIONS[normalisation]
        self.first = convolution(in_channels, out_channels, 3, padding=padding, relu=True, rng=rng)
        self.second = convolution(out_channels, out_channels, 3, padding=padding, relu=True, rng=rng)

    @staticmethod
    def shapes(
        name: str, in_channels: int, out_channels: int, normalisation: str = "none"
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the names and shapes of the parameters of a pair of this name."""
        convolution = CONVOLUTIONS[normalisation]
        yield from convolution.shapes(f"{name}.first", in_channels, out_channels, 3)
        yield from convolution.shapes(f"{name}.second", out_channels, out_channels, 3)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(N, H, W, C) -> (N, H - 4, W - 4, F); padded: (N, H, W, F). A skip is concatenated to x first."""
        first, second = self.first, self.second
        as_one = self.training and active_precision() == "bf16"
        if as_one and isinstance(first, Conv2d) and isinstance(second, Conv2d):
            layers = (first.weight, first.bias), (second.weight, second.bias)
            return conv2d_pair(x, skip, *layers, padding=first.padding)
        # Layer by layer, so that each can be looked at, as `tinyunet.training.collapse` does in evaluation.
        return self.second(self.first.forward(x, skip))


class UNet(Network):
    """The U-Net: a contracting path, an expansive path, and a skip connection between them at each level.

    Parameters
    ----------
    in_channels, num_classes : int
        Channels of the image, classes of the labels.
    base_channels : int
        Channels of the first level, doubled at each level: 64 in the paper.
    depth : int
        Number of poolings: 4 in the paper.
    padding : {"valid", "same"}
        "valid", as in the paper: the output has only pixels whose whole context was in the input, 572 -> 388.
        "same", the common modern form: zeros around every map, an output as large as the input.
    dropout : float
        Probability at the end of the contracting path, after the second convolution of the last two levels.
        In training only. The paper names the place, but not the probability.
    variant : {"paper", "release"}
        "release" is the authors' published network, with a ReLU after every up-convolution and a last
        up-convolution that keeps its channels. With the defaults they have 31,030,658 and 31,100,354
        parameters.
    seed : int
        Determines the initial weights.
    normalisation : {"none", "batch"}
        "batch": batch normalisation between each 3×3 convolution and its ReLU, with which training is faster
        and safer. For prediction, the statistics of many training tiles take the place of the tile's own:
        see `NormalisedConv2d`. The paper, which is of the same year, has none.

    Raises
    ------
    OptionError
        An option is outside its range.

    Examples
    --------
    >>> import numpy as np, tinyunet as tu
    >>> model = tu.UNet(base_channels=4)
    >>> model(tu.Tensor(np.zeros((1, 188, 188, 1), np.float32))).shape
    (1, 4, 4, 2)
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        base_channels: int = 64,
        depth: int = 4,
        padding: str = "valid",
        dropout: float = 0.5,
        variant: str = "paper",
        seed: int = 0,
        normalisation: str = "none",
    ):
        _require(in_channels, num_classes, base_channels, dropout, variant, seed, normalisation)
        self.geometry = self.geometry_of({"depth": depth, "padding": padding})
        self.in_channels, self.num_classes, self.depth = in_channels, num_classes, depth
        self.padding, self.dropout = padding, dropout
        self.dropout_rng = np.random.default_rng(seed)
        rng = np.random.default_rng(seed)
        double_conv = partial(
            DoubleConv, padding=1 if padding == "same" else 0, normalisation=normalisation, rng=rng
        )
        release = variant == "release"
        channels = [base_channels * 2**level for level in range(depth + 1)]

        self.contracting = [
            double_conv(before, after)
            for before, after in zip([in_channels, *channels], channels, strict=False)
        ]
        self.up, self.expansive = [], []
        for level in reversed(range(depth)):
            below, here = channels[level + 1], channels[level]
            upsampled = below if release and level == 0 else here
            self.up.append(ConvTranspose2d(below, upsampled, relu=release, rng=rng))
            self.expansive.append(double_conv(upsampled + here, here))
        self.scores = Conv2d(base_channels, num_classes, 1, rng=rng)

    @classmethod
    def geometry_of(cls, options: Mapping[str, Any]) -> geometry.Geometry:
        """See `Network.geometry_of`."""
        depth, padding = options["depth"], options["padding"]
        require_options(
            "UNet",
            depth=(depth, 0 <= depth <= MOST_DEPTH, f"0 to {MOST_DEPTH}"),
            padding=(padding, padding in ("valid", "same"), "'valid' or 'same'"),
        )
        return geometry.unet(depth, padding)

    @classmethod
    def shapes_of(cls, options: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """See `Network.shapes_of`."""
        normalisation = options.get("normalisation", "none")  # a subclass may have no such option
        names = ("in_channels", "num_classes", "base_channels", "dropout", "variant", "seed")
        _require(*(*(options[name] for name in names), normalisation))
        cls.geometry_of(options)
        depth, release = options["depth"], options["variant"] == "release"
        channels = [options["base_channels"] * 2**level for level in range(depth + 1)]
        pairs = zip([options["in_channels"], *channels], channels, strict=False)
        for level, (before, after) in enumerate(pairs):
            yield from DoubleConv.shapes(f"contracting.{level}", before, after, normalisation)
        upsampled = [channels[1] if release and level == 0 else channels[level] for level in range(depth)]
        for number, level in enumerate(reversed(range(depth))):
            yield from ConvTranspose2d.shapes(f"up.{number}", channels[level + 1], upsampled[level])
        for number, level in enumerate(reversed(range(depth))):
            joined = upsampled[level] + channels[level]
            yield from DoubleConv.shapes(f"expansive.{number}", joined, channels[level], normalisation)
        yield from Conv2d.shapes("scores", channels[0], options["num_classes"], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute scores (logits) of images.

        Parameters
        ----------
        x : Tensor, shape (N, H, W, in_channels)

        Returns
        -------
        Tensor, shape (N, H', W', num_classes)
            H' and W' from `geometry.output_size`.

        Raises
        ------
        ShapeError
            Sides that the network cannot take (the nearest that it can take are named), or other channels.
        """
        return self.scores(self._features(x))

    def loss(self, x: Tensor, target: NDArray[Any], weight: NDArray[Any]) -> Tensor:
        """Compute `Network.loss`, fused with the last layer by `linear_cross_entropy`.

        For a subclass with a `forward` of its own, the loss is that of its scores.
        """
        if type(self).forward is not UNet.forward:
            return super().loss(x, target, weight)
        return loss_of_checked(self._features(x), self.scores.weight, self.scores.bias, target, weight)

    def _features(self, x: Tensor) -> Tensor:
        """Compute the input of the last layer: (N, H', W', base_channels)."""
        self.require_images(x)
        skips = []
        for level, block in enumerate(self.contracting):
            x = block(x if level == 0 else max_pool2d(x))
            if self.training and self.dropout and level >= self.depth - 1:
                x = dropout(x, self.dropout, self.dropout_rng)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.expansive, strict=True):
            if self.training and isinstance(block.first, NormalisedConv2d):
                # Nothing else keeps a normalised map: a whole skip is larger than the concatenated map.
                x = block(crop_concat(up(x), skips.pop()))
            else:
                x = block.forward(up(x), skips.pop())
        return x

    def multiplications(self, height: int, width: int) -> int:
        """Count those of each level's 3×3 convolutions, of the up-convolutions and of the scores."""
        sides, total = np.array([height, width]), 0
        lost = 2 if self.padding == "valid" else 0  # by each 3×3 convolution

        def convolved(block: DoubleConv, sides: NDArray[np.integer]) -> NDArray[np.integer]:
            nonlocal total
            for layer in (block.first, block.second):
                sides = sides - lost
                total += sides.prod() * layer.weight.data.size
            return sides

        for level, block in enumerate(self.contracting):
            sides = convolved(block, sides if level == 0 else sides // 2)
        for up, block in zip(self.up, self.expansive, strict=True):
            total += sides.prod() * up.weight.data.size
            sides = convolved(block, 2 * sides)
        return int(total + sides.prod() * self.scores.weight.data.size)


def _require(
    in_channels: int,
    num_classes: int,
    base_channels: int,
    dropout: float,
    variant: str,
    seed: int,
    normalisation: str,
) -> None:
    """Raise an OptionError unless the options that do not decide the geometry are in their ranges."""
    require_options(
        "UNet",
        in_channels=(in_channels, in_channels >= 1, "at least 1"),
        num_classes=(num_classes, num_classes >= 2, "at least 2: background counts as a class"),
        base_channels=(base_channels, base_channels >= 1, "at least 1"),
        dropout=(dropout, 0 <= dropout < 1, "0 <= dropout < 1"),
        variant=(variant, variant in ("paper", "release"), "'paper' or 'release'"),
        normalisation=(normalisation, normalisation in CONVOLUTIONS, "'none' or 'batch'"),
        seed=(seed, seed >= 0, "at least 0"),
    )
