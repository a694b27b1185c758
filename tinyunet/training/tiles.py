"""The gradient of a step of several tiles: the mean of theirs, added in a tree.

Each tile goes through the network alone. The order in which the gradients are added decides the rounding, so
it depends on nothing but the number of tiles: a node of the tree adds the sums of its first and of its second
half. Processes that share a step each have the tiles below one node. Whatever their number, the additions
are the same, and so are the bits.

A sum and its right-hand neighbour are added as soon as both are there: besides one tile's maps, memory holds
one sum for each level of the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tinyunet.autograd import Tensor
from tinyunet.backend import array_library, cuda, lies_on_gpu, to_backend, to_host
from tinyunet.backend.cuda_graph import CapturedStep
from tinyunet.backend.sums import add_into
from tinyunet.models import Network
from tinyunet.nn.optimiser import Optimiser
from tinyunet.sampling.batch import Batch
from tinyunet.training.ranks import Ranks

Draw = Callable[[int], tuple[np.random.Generator, Batch]]


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


def tree_sum(tiles: range, leaves: Sequence[range], sum_of: Callable[[range], Any]) -> Any:
    """Add the sums of some nodes, the leaves, up to the node of all these tiles.

    Parameters
    ----------
    tiles : range
    leaves : sequence of range
        The tiles below each.
    sum_of : callable
        Gives the sum of a leaf, asked from left to right: an array of the backend that may be overwritten.
    """
    if tiles in leaves:
        return sum_of(tiles)
    first, second = halves(tiles)
    total = tree_sum(first, leaves, sum_of)
    add_into(total, tree_sum(second, leaves, sum_of))
    return total


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
        sizes = [parameter.data.size for parameter in optimiser.parameters]
        self._places = _aligned([*sizes, 1], optimiser.parameters[0].dtype.itemsize)  # the loss comes last

    def step(self, draw: Draw, scalars: Any) -> float:
        """Make the step; returns the mean of the losses before it.

        Parameters
        ----------
        draw : callable
            Gives the tile of a number, with the generator of its dropout; called for each of `own`, in order.
        scalars : array
            The optimiser's, of this step.
        """

        def sum_of(tile: range) -> Any:
            rng, drawn = draw(tile.start)
            packed = self._captured.run(
                self._gradient, rng, image=drawn.image, target=drawn.target, weight=drawn.weight
            )
            self.model.dropout_rng = rng  # a captured step leaves its own generator there
            return packed.copy() if lies_on_gpu(packed) else packed  # the next launch overwrites it

        own = tree_sum(self.own, [range(tile, tile + 1) for tile in self.own], sum_of)
        total = self._over_ranks(own)
        total *= total.dtype.type(1 / len(self._tiles))
        self._unpack(total)
        try:
            self.optimiser.step(to_backend(scalars))
        finally:
            self.optimiser.zero_grad()
        return float(total[-1].item())

    def _over_ranks(self, own: Any) -> Any:
        """Add what the ranks have summed, up the same tree, to the same total on all of them."""
        if self.ranks.size == 1:
            return own

        def add_slices(slices: Sequence[Any]) -> Any:
            by_part = dict(zip(self._parts, slices, strict=True))
            return tree_sum(self._tiles, self._parts, by_part.__getitem__)

        return to_backend(self.ranks.sum_in_slices(to_host(own), add_slices))

    def _gradient(self, rng: np.random.Generator, image: Any, target: Any, weight: Any) -> Any:
        """The gradient of a tile's loss with respect to all parameters, then the loss, in one array."""
        self.model.dropout_rng = rng
        try:
            loss = self.model.loss(Tensor(image), target, weight)
            loss.backward()
            return self._pack(loss.data)
        finally:
            self.optimiser.zero_grad()

    def _pack(self, loss: Any) -> Any:
        packed = array_library().zeros(self._places[-1].stop, loss.dtype)
        grads: list[Any] = [parameter.grad for parameter in self.optimiser.parameters]
        for place, values in zip(self._places, [*grads, loss], strict=True):
            packed[place] = values.reshape(-1)
        return packed

    def _unpack(self, packed: Any) -> None:
        for place, parameter in zip(self._places[:-1], self.optimiser.parameters, strict=True):
            parameter.grad = packed[place].reshape(parameter.shape)


def _aligned(sizes: Iterable[int], itemsize: int) -> list[slice]:
    """Places in one array for parts of these sizes, each at an address that kernels accept."""
    step, places, start = cuda.ALIGNMENT // itemsize, list[slice](), 0
    for size in sizes:
        places.append(slice(start, start + size))
        start += -(-size // step) * step
    return places
