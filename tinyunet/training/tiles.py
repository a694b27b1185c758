"""The gradient of a step of several tiles: the mean of theirs, added in a tree.

Each tile goes through the network alone. The order in which the gradients are added decides the rounding, so
it depends on nothing but the number of tiles: a node of the tree adds the sums of its first and of its second
half. Processes that share a step each have the tiles below one node. Whatever their number, the additions
are the same, and so are the bits.

A sum and its right-hand neighbour are added as soon as both are there: besides one tile's maps, memory holds
one sum for each level of the tree.

In the backward pass of a process's last tile, the gradient of each layer is added to the sums that wait for
it as soon as it is complete, and may then travel to the other processes. So gradients lie in one array in the
order in which the backward pass completes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import iadd
from typing import Any, NamedTuple

import numpy as np

from tinyunet.autograd import Tensor
from tinyunet.backend import active_backend, array_library, cuda, lies_on_gpu, to_backend
from tinyunet.backend.cuda_graph import CapturedStep
from tinyunet.backend.sums import add_into
from tinyunet.models import Network
from tinyunet.nn.optimiser import Optimiser
from tinyunet.sampling.batch import Batch
from tinyunet.training.ranks import Ranks, Sum


class Drawn(NamedTuple):
    """A tile as the network takes it."""

    rng: np.random.Generator
    """Of its dropout."""
    batch: Batch
    folded: int
    """Pixels where the elastic deformation folds."""
    waited: float = 0.0
    """The seconds of waiting for its sample."""
    launched: Callable[[], None] = lambda: None
    """To be called as soon as the kernels of its training are launched."""


Draw = Callable[[int], Drawn]


def halves(tiles: range) -> tuple[range, range]:
    """Part the tiles of a node into those of its two children.

    >>> halves(range(2, 5))
    (range(2, 3), range(3, 5))
    """
    middle = (tiles.start + tiles.stop) // 2
    return range(tiles.start, middle), range(middle, tiles.stop)


def share_out(tiles: range, ranks: int) -> list[range]:
    """Cut the tree at as many nodes as there are ranks; returns the tiles below each.

    Parameters
    ----------
    tiles : range
        At least as many as `ranks`.
    ranks : int

    Examples
    --------
    >>> share_out(range(6), 4)
    [range(0, 1), range(1, 3), range(3, 4), range(4, 6)]
    """
    if ranks == 1:
        return [tiles]
    first, second = halves(tiles)
    share = round(ranks * len(first) / len(tiles))
    share = min(max(share, 1, ranks - len(second)), len(first), ranks - 1)
    return share_out(first, share) + share_out(second, ranks - share)


def before_last(tiles: range) -> list[range]:
    """List the nodes whose sums wait for that of the last tile, from the root down.

    >>> before_last(range(6))
    [range(0, 3), range(3, 4), range(4, 5)]
    """
    nodes = []
    while len(tiles) > 1:
        first, tiles = halves(tiles)
        nodes.append(first)
    return nodes


def tree_sum(
    tiles: range,
    leaves: Sequence[range],
    sum_of: Callable[[range], Any],
    add: Callable[[Any, Any], Any] = add_into,
) -> Any:
    """Add the sums of some nodes, the leaves, up to the node of all these tiles.

    Parameters
    ----------
    tiles : range
    leaves : sequence of range
        The tiles below each.
    sum_of : callable
        Gives the sum of a leaf, asked from left to right: an array of the backend that may be overwritten.
    add : callable
        Adds the second of two arrays to the first, in place.
    """
    if tiles in leaves:
        return sum_of(tiles)
    first, second = halves(tiles)
    total = tree_sum(first, leaves, sum_of, add)
    add(total, tree_sum(second, leaves, sum_of, add))
    return total


class LastTile:
    """Adds the gradient of a process's last tile to the sums that wait for it, while it arrives.

    Parameters
    ----------
    waiting : sequence of array, shape (n,)
        The sums of `before_last`; they are overwritten.
    begin_sum : callable
        Begins the sum over the ranks of an array: see `Ranks.begin_sum`.
    """

    def __init__(self, waiting: Sequence[Any], begin_sum: Callable[[Any], Sum]):
        self._waiting, self._begin_sum = waiting, begin_sum
        self._sum: Sum | None = None
        self._stop = 0

    def extend(self, gradient: Any, stop: int) -> None:
        """Add what is final: the values of the gradient, an array of shape (n,), before `stop`."""
        if self._sum is None:
            self._sum = self._begin_sum(self._waiting[0] if self._waiting else gradient)
        total = gradient[self._stop : stop]
        for sums in reversed(self._waiting):
            before, total = total, sums[self._stop : stop]
            add_into(total, before)
        self._stop = stop
        self._sum.extend(stop)

    def finish(self, gradient: Any) -> Any:
        """Add the rest of the gradient; returns the sum over all tiles of all ranks."""
        self.extend(gradient, len(gradient))
        assert self._sum is not None
        return self._sum.finish()


class TileSum:
    """Makes a step of several tiles, or this process's part of it.

    Parameters
    ----------
    model : Network
    optimiser : Optimiser
        Of the model's parameters.
    captured : CapturedStep
        Runs the forward and the backward pass of a tile.
    batch : int
        How many tiles a step has.
    ranks : Ranks
        The processes that share them.

    Attributes
    ----------
    own : range
        The tiles of this process.
    """

    def __init__(
        self, model: Network, optimiser: Optimiser, captured: CapturedStep, batch: int, ranks: Ranks
    ):
        self.model, self.optimiser, self.ranks = model, optimiser, ranks
        self._captured, self._tiles = captured, range(batch)
        self._parts = share_out(self._tiles, ranks.size)
        self.own = self._parts[ranks.number]
        itemsize = optimiser.parameters[0].dtype.itemsize
        self._alignment = cuda.ALIGNMENT // itemsize  # in values: kernels expect it of each parameter's
        self._places: dict[Tensor, slice] = {}
        self._length = self._aligned(1) + sum(self._aligned(p.data.size) for p in optimiser.parameters)
        self._last: LastTile | None = None

    def step(self, draw: Draw, scalars: Any) -> float:
        """Make the step; returns the mean of the losses before it.

        Parameters
        ----------
        draw : callable
            Gives the tile of a number; called for each of `own`, in order.
        scalars : array
            The optimiser's, of this step.
        """

        def sum_of(tile: range) -> Any:
            gradient = self._gradient_of(tile.start, draw)
            return gradient.copy() if lies_on_gpu(gradient) else gradient  # the next launch overwrites it

        single = [range(tile, tile + 1) for tile in self.own]
        waiting = [tree_sum(node, single, sum_of) for node in before_last(self.own)]
        total = self._sum_with_last(waiting, draw)
        total *= total.dtype.type(1 / len(self._tiles))
        for parameter, place in self._places.items():
            parameter.grad = total[place].reshape(parameter.shape)
        try:
            self.optimiser.step(to_backend(scalars))
        finally:
            self.optimiser.zero_grad()
        return float(total[0].item())

    def _gradient_of(self, tile: int, draw: Draw) -> Any:
        drawn = draw(tile)
        image, target, weight, _ = drawn.batch
        gradient = self._captured.run(self._gradient, drawn.rng, image=image, target=target, weight=weight)
        self.model.dropout_rng = drawn.rng  # a captured step leaves its own generator there
        drawn.launched()
        return gradient

    def _sum_with_last(self, waiting: Sequence[Any], draw: Draw) -> Any:
        """Make the last tile, and the sum over all tiles of all ranks."""
        tile = self.own[-1]
        if active_backend() == "cuda":  # a graph is launched as a whole
            total = LastTile(waiting, Sum).finish(self._gradient_of(tile, draw))
            return self._begin_sum(total).finish()
        self._last = LastTile(waiting, self._begin_sum)
        try:
            return self._last.finish(self._gradient_of(tile, draw))
        finally:
            self._last = None

    def _begin_sum(self, own: Any) -> Sum:
        """Begin to add what the ranks have summed, up the same tree, to the same total on all of them."""

        def add(slices: Sequence[Any]) -> Any:
            by_part = dict(zip(self._parts, slices, strict=True))
            return tree_sum(self._tiles, self._parts, by_part.__getitem__, iadd)

        return self.ranks.begin_sum(own, add)

    def _gradient(self, rng: np.random.Generator, image: Any, target: Any, weight: Any) -> Any:
        """A tile's loss, then its gradient with respect to all parameters, in one array."""
        self.model.dropout_rng = rng
        self._places = {}  # anew: with fixed statistics, gradients are completed in another order

        def pack(parameter: Tensor) -> None:
            assert parameter.grad is not None
            place = self._place(parameter)
            packed[place] = parameter.grad.reshape(-1)
            parameter.grad = None
            if self._last:
                self._last.extend(packed, place.stop)

        try:
            loss = self.model.loss(Tensor(image), target, weight)
            packed = array_library().zeros(self._length, loss.dtype)
            packed[:1] = loss.data.reshape(-1)
            loss.backward(on_leaf=pack)
            return packed
        finally:
            self.optimiser.zero_grad()

    def _place(self, parameter: Tensor) -> slice:
        """The place of a parameter's gradient: the next free one, when it is first completed."""
        if parameter not in self._places:
            start = self._aligned(1) + sum(self._aligned(other.data.size) for other in self._places)
            self._places[parameter] = slice(start, start + parameter.data.size)
        return self._places[parameter]

    def _aligned(self, size: int) -> int:
        """The size of a place, with which the next one begins at an address that kernels accept."""
        return -(-size // self._alignment) * self._alignment
