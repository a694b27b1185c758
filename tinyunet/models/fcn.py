"""The fully convolutional network FCN-8s (Long, Shelhamer, Darrell 2015), whose decoder U-Net's replaced.

The contracting path halves the sides five times. At its end, and after its third and fourth pooling, a 1×1
convolution scores the classes. The coarse scores are doubled in size and *summed* with those of the level
above, up to a stride of 8, and then brought to full size:

    stride  2  conv conv pool
    stride  4  conv conv pool
    stride  8  conv conv pool -- 1×1 scores ------------------------- + -- up -- up -- up -> classes
    stride 16  conv conv pool -- 1×1 scores ---------------- + -- up -'
    stride 32  conv conv pool -- conv conv 1×1 scores -- up -'

The paper takes its contracting path from a classifier trained on photographs. This one starts from random
weights and is as wide as the U-Net that it is compared with. Every convolution is padded. The last step, by 8
in the paper, is done in three steps by 2.

Tutorial: `tutorials/15_fcn_sliding_window.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tinyunet.autograd import Tensor
from tinyunet.models.geometry import Geometry
from tinyunet.models.network import MOST_DEPTH, Network, require_options
from tinyunet.models.unet import DoubleConv
from tinyunet.nn import Conv2d, Module, NormalisedConv2d, Parameter
from tinyunet.ops.add import add
from tinyunet.ops.conv_transpose2d import conv_transpose2d
from tinyunet.ops.dropout import dropout
from tinyunet.ops.max_pool2d import max_pool2d

FINEST_SCORED = 3  # the first pooling whose map is scored: stride 8


class Upsample(Module):
    """A trained up-convolution that doubles height and width, and starts as bilinear interpolation.

    At first each class is interpolated by itself: the weights from one class to another start at 0.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int):
        tent = (
            np.array([1, 3, 3, 1], np.float32) / 4
        )  # a new pixel lies between two old ones, at 1/4 of the way
        self.weight = Parameter(
            np.outer(tent, tent)[:, :, np.newaxis, np.newaxis] * np.eye(channels, dtype=np.float32)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, 2H, 2W, C)."""
        return conv_transpose2d(x, self.weight)


class FCN(Network):
    """The FCN-8s: it sums coarse scores, where `UNet` concatenates features and convolves them.

    Parameters
    ----------
    in_channels, num_classes : int
        Channels of the image, classes of the labels.
    base_channels : int
        Channels of the first level, doubled at each level: 64 in the paper, where both the fourth and the
        fifth level have 512.
    depth : int
        Number of poolings: 5 in the paper, at least 3. Each level from the third on is scored.
    dropout : float
        Probability after each convolution at the end of the contracting path. In training only.
    seed : int
        Determines the initial weights.

    Raises
    ------
    OptionError
        An option is outside its range.

    References
    ----------
    .. [1] Long, Shelhamer, Darrell 2015, section 4. https://arxiv.org/abs/1411.4038

    Examples
    --------
    >>> import numpy as np, tinyunet as tu
    >>> model = tu.FCN(base_channels=2)
    >>> model(tu.Tensor(np.zeros((1, 64, 96, 1), np.float32))).shape
    (1, 64, 96, 2)
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        base_channels: int = 64,
        depth: int = 5,
        dropout: float = 0.5,
        seed: int = 0,
    ):
        _require(in_channels, num_classes, base_channels, dropout, seed)
        self.in_channels, self.num_classes = in_channels, num_classes
        self.depth, self.dropout = depth, dropout
        self.geometry = self.geometry_of({"depth": depth})
        self.dropout_rng = np.random.default_rng(seed)
        rng = np.random.default_rng(seed)
        channels = [base_channels * 2**level for level in range(depth)]

        self.contracting = [
            DoubleConv(before, after, padding=1, rng=rng)
            for before, after in zip([in_channels, *channels], channels, strict=False)
        ]
        bottom = channels[-1]
        self.bottom = [
            Conv2d(bottom, bottom, 3, padding=1, relu=True, rng=rng),
            Conv2d(bottom, bottom, 1, relu=True, rng=rng),
        ]
        self.scores = [Conv2d(c, num_classes, 1, rng=rng) for c in channels[FINEST_SCORED - 1 :]]
        for score in self.scores:
            score.weight.data[...] = (
                0  # as in the paper: random scores of wide maps would be large, and wrong
            )
        self.up = [Upsample(num_classes) for _ in range(depth)]

    @classmethod
    def geometry_of(cls, options: Mapping[str, Any]) -> Geometry:
        """See `Network.geometry_of`."""
        depth = options["depth"]
        fits = FINEST_SCORED <= depth <= MOST_DEPTH
        expected = f"{FINEST_SCORED} to {MOST_DEPTH}: the finest scores are those of stride 8"
        require_options("FCN", depth=(depth, fits, expected))
        # A block sees up to 4 · 2^depth - 2 pixels beyond its edges; the halo is on the grid.
        return Geometry(smallest=2**depth, step=2**depth, shrink=0, halo=4 * 2**depth)

    @classmethod
    def shapes_of(cls, options: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """See `Network.shapes_of`."""
        names = ("in_channels", "num_classes", "base_channels", "dropout", "seed")
        _require(*(options[name] for name in names))
        cls.geometry_of(options)
        depth, classes = options["depth"], options["num_classes"]
        channels = [options["base_channels"] * 2**level for level in range(depth)]
        pairs = zip([options["in_channels"], *channels], channels, strict=False)
        for level, (before, after) in enumerate(pairs):
            yield from DoubleConv.shapes(f"contracting.{level}", before, after)
        for number, size in enumerate((3, 1)):
            yield from Conv2d.shapes(f"bottom.{number}", channels[-1], channels[-1], size)
        for number, scored in enumerate(channels[FINEST_SCORED - 1 :]):
            yield from Conv2d.shapes(f"scores.{number}", scored, classes, 1)
        for number in range(depth):
            yield f"up.{number}.weight", (4, 4, classes, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute scores (logits) of images.

        Parameters
        ----------
        x : Tensor, shape (N, H, W, in_channels), H and W multiples of 2^depth

        Returns
        -------
        Tensor, shape (N, H, W, num_classes)

        Raises
        ------
        ShapeError
            Sides that the network cannot take (the nearest that it can take are named), or other channels.
        """
        self.require_images(x)
        scored = []
        for block in self.contracting:
            x = max_pool2d(block(x))
            scored.append(x)
        for layer in self.bottom:
            x = layer(x)
            if self.training and self.dropout:
                x = dropout(x, self.dropout, self.dropout_rng)
        scored[-1] = x

        *finer, y = (score(x) for score, x in zip(self.scores, scored[FINEST_SCORED - 1 :], strict=True))
        up = iter(self.up)
        for scores in reversed(finer):
            y = add(next(up)(y), scores)
        for step in up:
            y = step(y)
        return y

    def multiplications(self, height: int, width: int) -> int:
        """Count those of the contracting path, its end, the scores and the upsampling."""
        pixels = [(height // 2**level) * (width // 2**level) for level in range(self.depth + 1)]
        layers: list[tuple[int, Conv2d | NormalisedConv2d | Upsample]] = [
            *((pixels[i], part) for i, b in enumerate(self.contracting) for part in (b.first, b.second)),
            *((pixels[-1], layer) for layer in self.bottom),
            *zip(pixels[FINEST_SCORED:], self.scores, strict=True),
            *zip(reversed(pixels[1:]), self.up, strict=True),  # an input pixel meets the whole window
        ]
        return sum(count * layer.weight.data.size for count, layer in layers)


def _require(in_channels: int, num_classes: int, base_channels: int, dropout: float, seed: int) -> None:
    """Raise an OptionError unless the options that do not decide the geometry are in their ranges."""
    require_options(
        "FCN",
        in_channels=(in_channels, in_channels >= 1, "at least 1"),
        num_classes=(num_classes, num_classes >= 2, "at least 2: background counts as a class"),
        base_channels=(base_channels, base_channels >= 1, "at least 1"),
        dropout=(dropout, 0 <= dropout < 1, "0 <= dropout < 1"),
        seed=(seed, seed >= 0, "at least 0"),
    )
