"""A pixel classifier slid over the image (Ciresan et al. 2012), which the U-Net replaced.

It classifies the pixel in the middle of a window. The largest network of [1]_:

    window 95 conv 92 pool 46 conv 42 pool 21 conv 18 pool 9 conv 6 pool 3 -> 200 neurons -> classes

Every pixel has a window of its own, and the windows of neighbours are nearly the same: slid over an image,
the network computes nearly the same numbers again and again. `slide` does just that. `forward` gets the same
scores from convolutions of the whole image, which compute each number once. The poolings are the difficulty:
the windows of two neighbours are pooled at places one pixel apart. So a map is pooled four times, once from
each of the four offsets, into four maps of half the side, called *fragments*, which hold the windows of even
and odd rows and columns. The next pooling makes four of each. At the end they are interleaved [2]_.

Tutorial: `tutorials/15_fcn_sliding_window.py`.

References
----------
.. [1] Ciresan, Giusti, Gambardella, Schmidhuber 2012, Deep neural networks segment neuronal membranes in
   electron microscopy images, table 1.
.. [2] Giusti, Ciresan, Masci, Gambardella, Schmidhuber 2013, Fast image scanning with deep max-pooling
   convolutional neural networks. https://arxiv.org/abs/1302.1700
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tinyunet.autograd import Tensor, no_grad
from tinyunet.backend import array_library, to_backend, to_host
from tinyunet.errors import ShapeError
from tinyunet.models.geometry import Geometry
from tinyunet.models.network import MOST_DEPTH, Network, require_options
from tinyunet.nn import Conv2d
from tinyunet.ops.max_pool2d import max_pool2d

if TYPE_CHECKING:
    from tinyunet.sampling import Sample

LAST_SIDE = 3  # of the map that the neurons see


class SlidingWindowClassifier(Network):
    """The sliding-window network: it classifies each pixel from the window around it.

    Parameters
    ----------
    in_channels, num_classes : int
        Channels of the image, classes of the labels.
    base_channels : int
        Channels of every convolution: 48 in the paper.
    depth : int
        Number of convolutions, each with a pooling: 4 in the paper. Windows have 9, 23, 47, 95, … pixels.
    neurons : int
        Neurons of the hidden layer: 200 in the paper.
    windows : int
        Windows per training step.
    seed : int
        Determines the initial weights.

    Attributes
    ----------
    window : int
        Side of a window, in pixels: odd.

    Raises
    ------
    OptionError
        An option is outside its range.

    Examples
    --------
    A window gives the scores of one pixel, a larger image those of each window that fits into it.

    >>> import numpy as np, tinyunet as tu
    >>> model = tu.SlidingWindowClassifier(base_channels=4, depth=2)
    >>> model.window, model(tu.Tensor(np.zeros((5, 23, 23, 1), np.float32))).shape
    (23, (5, 1, 1, 2))
    >>> x = tu.Tensor(np.random.default_rng(0).standard_normal((1, 38, 42, 1), dtype=np.float32))
    >>> shared, slid = model(x), model.slide(x)
    >>> shared.shape, bool(np.allclose(shared.data, slid.data, atol=1e-5))
    ((1, 16, 20, 2), True)
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        base_channels: int = 48,
        depth: int = 4,
        neurons: int = 200,
        windows: int = 100,
        seed: int = 0,
    ):
        _require(in_channels, num_classes, base_channels, neurons, windows, seed)
        self.in_channels, self.num_classes = in_channels, num_classes
        self.depth, self.windows = depth, windows
        self.geometry = self.geometry_of({"depth": depth})
        self.window = self.geometry.shrink + 1

        rng = np.random.default_rng(seed)
        channels = [in_channels] + [base_channels] * depth
        self.convolutions = [
            Conv2d(before, base_channels, size, relu=True, rng=rng)
            for before, size in zip(channels, kernel_sizes(depth), strict=False)
        ]
        self.hidden = Conv2d(base_channels, neurons, LAST_SIDE, relu=True, rng=rng)
        self.scores = Conv2d(neurons, num_classes, 1, rng=rng)

    @classmethod
    def geometry_of(cls, options: Mapping[str, Any]) -> Geometry:
        """See `Network.geometry_of`."""
        depth = options["depth"]
        fits = 1 <= depth <= MOST_DEPTH
        require_options("SlidingWindowClassifier", depth=(depth, fits, f"1 to {MOST_DEPTH}"))
        window = LAST_SIDE
        for size in reversed(kernel_sizes(depth)):
            window = 2 * window + size - 1
        lost, step = window - 1, 2**depth
        return Geometry(smallest=step + lost, step=step, shrink=lost, halo=lost // 2)

    @classmethod
    def shapes_of(cls, options: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """See `Network.shapes_of`."""
        names = ("in_channels", "num_classes", "base_channels", "neurons", "windows", "seed")
        _require(*(options[name] for name in names))
        cls.geometry_of(options)
        base, before = options["base_channels"], options["in_channels"]
        for number, size in enumerate(kernel_sizes(options["depth"])):
            yield from Conv2d.shapes(f"convolutions.{number}", before, base, size)
            before = base
        yield from Conv2d.shapes("hidden", base, options["neurons"], LAST_SIDE)
        yield from Conv2d.shapes("scores", options["neurons"], options["num_classes"], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute scores (logits) of windows or of whole images.

        Parameters
        ----------
        x : Tensor, shape (N, window, window, in_channels) or (N, H, W, in_channels)
            Windows; or images with sides that fit `geometry`, of which every window is classified. For images
            no graph is recorded, because training uses windows.

        Returns
        -------
        Tensor, shape (N, H - window + 1, W - window + 1, num_classes)
            1 × 1 pixels for a window.

        Raises
        ------
        ShapeError
            Sides that the network cannot take (the nearest that it can take are named), or other channels.
        """
        if x.shape[1:] == (self.window, self.window, self.in_channels):
            return self._scores(x, max_pool2d)
        self.require_images(x)
        with no_grad():
            return merge_fragments(self._scores(x, pool_at_every_offset), self.depth)

    def _scores(self, x: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
        for convolution in self.convolutions:
            x = pool(convolution(x))
        return self.scores(self.hidden(x))

    def slide(self, x: Tensor, *, batch: int = 64) -> Tensor:
        """Compute the scores of `forward` by brute force: window by window.

        Parameters
        ----------
        x : Tensor, shape (N, H, W, in_channels), H and W at least `window`
        batch : int
            Windows to compute at a time.

        Returns
        -------
        Tensor, shape (N, H - window + 1, W - window + 1, num_classes)

        Raises
        ------
        ShapeError
            The images are smaller than a window, or have other channels.
        """
        if min(x.shape[1:3]) < self.window:
            raise ShapeError(
                f"slide: a window of {self.window} pixels does not fit into the image",
                {"x": x.shape},
                "mirror-pad the image, or use predict_tiled, which takes any size",
            )
        views = sliding_window_view(x.numpy(), (self.window, self.window), axis=(1, 2))  # N H' W' C w w
        places = np.indices(views.shape[:3]).reshape(3, -1)
        scores = np.empty((places.shape[1], self.num_classes), x.dtype)
        with no_grad():
            for start in range(0, len(scores), batch):
                channels_first = views[tuple(places[:, start : start + batch])]
                windows = Tensor(np.moveaxis(channels_first, 1, 3))
                scores[start : start + batch] = self._scores(windows, max_pool2d).numpy()[:, 0, 0]
        return Tensor(scores.reshape(*views.shape[:3], -1))

    def training_batch(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw windows of a tile, with probabilities in proportion to the weights of their pixels.

        The weights are then 1, because pixels that count more are drawn more often. With class balance alone,
        all classes are drawn equally often, as in the paper.
        """
        image, target, weight = to_backend(sample.image), to_host(sample.target)[0], to_host(sample.weight)[0]
        up_to = np.cumsum(weight.astype(np.float64))
        drawn = np.searchsorted(up_to, rng.uniform(0, up_to[-1], self.windows), side="right")
        places = np.unravel_index(np.minimum(drawn, up_to.size - 1), weight.shape)
        side = self.window
        windows = [image[:, i : i + side, j : j + side] for i, j in zip(*places, strict=True)]
        counts = weight[places] > 0  # all False if no pixel is labelled

        def pixels(array: NDArray) -> NDArray:
            return array[:, np.newaxis, np.newaxis]

        return sample._replace(
            image=array_library().concatenate(windows),
            target=pixels(target[places]),
            weight=pixels(counts.astype(np.float32)),
        )

    def multiplications(self, height: int, width: int) -> int:
        """Count those of one window, or of all windows of an image, which share their work."""
        sides, total, maps = np.array([height, width]), 0, 1
        fragments = 1 if height == width == self.window else 4
        for layer in self.convolutions:
            sides = sides - (layer.weight.shape[0] - 1)
            total += maps * sides.prod() * layer.weight.data.size
            sides, maps = sides // 2, fragments * maps
        pixels = maps * (sides - (LAST_SIDE - 1)).prod()
        return int(total + pixels * (self.hidden.weight.data.size + self.scores.weight.data.size))

    def redundancy(self, height: int, width: int) -> float:
        """Divide the multiplications of `slide` by those of `forward`, for an image of these sides.

        >>> round(SlidingWindowClassifier().redundancy(512 + 94, 512 + 94))
        475
        """
        windows = self.geometry.output_size(height) * self.geometry.output_size(width)
        one = self.multiplications(self.window, self.window)
        return windows * one / self.multiplications(height, width)


def _require(
    in_channels: int, num_classes: int, base_channels: int, neurons: int, windows: int, seed: int
) -> None:
    """Raise an OptionError unless the options that do not decide the geometry are in their ranges."""
    require_options(
        "SlidingWindowClassifier",
        in_channels=(in_channels, in_channels >= 1, "at least 1"),
        num_classes=(num_classes, num_classes >= 2, "at least 2: background counts as a class"),
        base_channels=(base_channels, base_channels >= 1, "at least 1"),
        neurons=(neurons, neurons >= 1, "at least 1"),
        windows=(windows, windows >= 1, "at least 1"),
        seed=(seed, seed >= 0, "at least 0"),
    )


def kernel_sizes(depth: int) -> list[int]:
    """The side of each convolution's kernel, as in the paper."""
    return [5 if level == 1 else 4 for level in range(depth)]


def pool_at_every_offset(x: Tensor) -> Tensor:
    """Max-pool from the offsets (0, 0), (0, 1), (1, 0) and (1, 1) into four maps, one after another.

    (N, 2H + 1, 2W + 1, C) -> (4N, H, W, C)
    """
    height, width = x.shape[1] - 1, x.shape[2] - 1
    shifted = [x.data[:, a : a + height, b : b + width] for a, b in itertools.product((0, 1), repeat=2)]
    return max_pool2d(Tensor(array_library().concatenate(shifted)))


def merge_fragments(fragments: Tensor, poolings: int) -> Tensor:
    """Interleave fragments to one map, each at the offsets from which it was pooled.

    (4^d N, H, W, C) -> (N, 2^d H, 2^d W, C). The offsets of the last pooling vary slowest in the order of the
    fragments, and are the larger steps in the map.
    """
    _, height, width, channels = fragments.shape
    parts = fragments.data.reshape(*(2, 2) * poolings, -1, height, width, channels)
    rows, columns = range(0, 2 * poolings, 2), range(1, 2 * poolings, 2)
    n, i, j, c = range(2 * poolings, 2 * poolings + 4)
    whole = array_library().ascontiguousarray(parts.transpose(n, i, *rows, j, *columns, c))
    return Tensor(whole.reshape(-1, 2**poolings * height, 2**poolings * width, channels))
