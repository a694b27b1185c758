"""Numbers the objects of a mask larger than memory, block by block: exactly those of `label_instances`.

1. Label the connected pixels of each block, and unite labels that touch across the blocks' borders. Kept in
   memory are only labels at borders: how they touch, and the box around each.
2. Cut each block into its objects. Holes, distances, seeds and the watershed of a component depend on nothing
   outside it. So a window that holds the block and the boxes of all components that reach it, with one pixel
   of background around them, gives what the whole image would. An object is known by its first pixel, which
   is the same in every window that holds it.
3. Number the objects in the order of their first pixels.

Each block of the result is written by itself, from nothing but the mask and what step 1 kept. So blocks may
be shared out to several processes, and one that was lost on the way may be done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tinyunet.backend.jit import kernel
from tinyunet.errors import OutOfMemoryError
from tinyunet.prediction.instances import fill_holes, sizes_of
from tinyunet.prediction.necks import cut_at_necks

BYTES_PER_PIXEL = 40  # of a window: labels, distances, searches and the heap of the watershed

Box = NDArray[np.int64]  # first row, last row + 1, first column, last column + 1
NOTHING = 2**62  # more than any size or coordinate


class Block(NamedTuple):
    """The rows and the columns of a part of an image."""

    down: slice
    across: slice

    @property
    def box(self) -> tuple[int, int, int, int]:
        """First row, last row + 1, first column, last column + 1."""
        return self.down.start, self.down.stop, self.across.start, self.across.stop


@dataclass(frozen=True)
class ObjectOptions:
    """How objects are made of a mask; the names are those of `label_instances`."""

    min_size: int
    max_hole: int = 30
    split_depth: float | None = 1.0
    memory: int = 2**31
    """The most bytes that a window may take."""


class Border(NamedTuple):
    """What step 1 keeps of a block."""

    edges: tuple[NDArray[np.int32], ...]
    """The labels along its top, bottom, left and right."""
    largest: int
    """The largest label."""
    labels: NDArray[np.int32]
    """Those at borders to other blocks; the following are of these."""
    boxes: Box
    first: NDArray[np.int64]
    """The first pixel of each, counted row by row."""
    sizes: NDArray[np.int64]


class Reaching(NamedTuple):
    """The components that reach a block and its borders."""

    of_label: NDArray[np.intp]
    """For each label of the block its component's place in the following; -1 for one inside the block."""
    boxes: Box
    first: NDArray[np.int64]
    sizes: NDArray[np.int64]


class Crossing(NamedTuple):
    """All components that reach borders between blocks."""

    of_block: list[NDArray[np.intp]]
    """For each block the number of the component of each label, -1 for those inside it."""
    boxes: Box
    first: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def reaching(self, number: int) -> Reaching:
        """Select the components that reach one block."""
        components = self.of_block[number]
        kept = np.unique(components[components >= 0])
        of_label = np.where(components >= 0, np.searchsorted(kept, components), -1)
        return Reaching(of_label, self.boxes[kept], self.first[kept], self.sizes[kept])


class Objects(NamedTuple):
    """The objects that a block shows."""

    labels: NDArray[np.int32]
    """0 for the background, i + 1 for the object with the first pixel `first[i]`."""
    first: NDArray[np.int64]


@dataclass(frozen=True)
class Numbering:
    """The arrays of a numbering; its methods do a step for one block, and return the block's place with it.

    Parameters
    ----------
    mask : array-like, shape (H, W)
        Anything that gives a NumPy array for ``mask[rows, columns]``; not 0 is foreground.
    labels, objects : array-like, shape (H, W), integers
        Both are written block by block, the result into `objects`. One array may serve as both, unless a step
        may be done again.
    blocks : sequence of Block
        The parts of a grid, row by row; each pixel is in one.
    options : ObjectOptions
    """

    mask: Any
    labels: Any
    objects: Any
    blocks: Sequence[Block]
    options: ObjectOptions

    def find(self, place: int) -> tuple[int, Border]:
        """Label a block."""
        return place, border_of_block(self.mask, self.blocks[place], self.options)

    def cut(self, task: tuple[int, Reaching]) -> tuple[int, NDArray[np.int64]]:
        """Cut a block into its objects, and write them; the first pixel of each."""
        place, reaching = task
        block = self.blocks[place]
        found = objects_of_block(self.mask, block, reaching, self.options)
        self.labels[block.down, block.across] = found.labels
        return place, found.first

    def number(self, task: tuple[int, NDArray[np.uint32]]) -> tuple[int, None]:
        """Give the objects of a block their numbers."""
        place, numbers = task
        block = self.blocks[place]
        self.objects[block.down, block.across] = numbers[np.asarray(self.labels[block.down, block.across])]
        return place, None


Step = Callable[[Numbering, Any], tuple[int, Any]]
Do = Callable[[Step, Iterable[Any]], Iterator[tuple[int, Any]]]


def number_objects(numbering: Numbering, do: Do | None = None) -> Iterator[int]:
    """Write the objects of a mask; yields after each of 3 steps per block how many are numbered.

    Parameters
    ----------
    numbering : Numbering
    do : callable, optional
        Does a step for several blocks, and gives the results in any order; here and one by one by default.

    Raises
    ------
    OutOfMemoryError
        A component that could be cut is too large for a window.
    """
    do = do or (lambda step, tasks: (step(numbering, task) for task in tasks))
    blocks, shape = numbering.blocks, numbering.mask.shape
    union = _Union(shape)
    for block, border in zip(blocks, _in_order(do(Numbering.find, range(len(blocks)))), strict=True):
        union.add(block, border)
        yield 0
    crossing = union.crossing()
    shown, owned = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    tasks = ((place, crossing.reaching(place)) for place in range(len(blocks)))
    for block, first in zip(blocks, _in_order(do(Numbering.cut, tasks)), strict=True):
        shown.append(first)
        row, column = np.divmod(first, shape[1])
        top, bottom, left, right = block.box
        owned.append(first[(row >= top) & (row < bottom) & (column >= left) & (column < right)])
        yield 0
    every = np.unique(np.concatenate(owned))  # without cuts, an object may enter a block in several places
    numbers = (np.append(0, np.searchsorted(every, first) + 1).astype(np.uint32) for first in shown)
    for _ in do(Numbering.number, enumerate(numbers)):
        yield len(every)


T = TypeVar("T")


def _in_order(results: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Put results that come in any order into the order of their places."""
    early, following = dict[int, T](), 0
    for place, result in results:
        early[place] = result
        while following in early:
            yield early.pop(following)
            following += 1


def border_of_block(mask: Any, block: Block, options: ObjectOptions) -> Border:
    """Label one block, and keep what lies at its borders to other blocks."""
    labels = _label(mask, block, options)
    (top, bottom, left, right), (height, width) = block.box, mask.shape
    edges = labels[0], labels[-1], labels[:, 0], labels[:, -1]
    shared = top > 0, bottom < height, left > 0, right < width
    inner = [edge for edge, is_shared in zip(edges, shared, strict=True) if is_shared]
    at_edge = np.setdiff1d(np.concatenate([*inner, np.zeros(1, np.int32)]), [0])
    found = ndimage.find_objects(labels)
    boxes = [(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in found]
    corner = np.array([top, top, left, left])
    first, sizes = _first_pixels(labels, labels.max())
    return Border(
        tuple(edge.copy() for edge in edges),
        int(labels.max()),
        at_edge,
        np.array(boxes, np.int64).reshape(-1, 4)[at_edge - 1] + corner,
        _in_image(first[at_edge], block, mask.shape),
        sizes[at_edge],
    )


def objects_of_block(mask: Any, block: Block, reaching: Reaching, options: ObjectOptions) -> Objects:
    """Cut one block into its objects."""
    if options.split_depth is None:
        labels = _label(mask, block, options)
        first, sizes = _first_pixels(labels, labels.max())
        first = _in_image(first, block, mask.shape)
        crosses = reaching.of_label >= 0
        first[crosses] = reaching.first[reaching.of_label[crosses]]
        sizes[crosses] = reaching.sizes[reaching.of_label[crosses]]
        return _kept(labels, first, sizes >= options.min_size)
    window = _window(block, reaching.boxes, mask.shape, options)
    labels = _label(mask, window, options)
    inside = labels[_within(block, window)]
    reaches = np.zeros(labels.max() + 1, bool)
    reaches[inside] = True
    labels[~reaches[labels]] = 0  # others may be cut off by the window
    count = cut_at_necks(labels, options.split_depth)
    first, sizes = _first_pixels(labels, count)
    return _kept(inside, _in_image(first, window, mask.shape), sizes >= options.min_size)


def _kept(labels: NDArray[np.int32], first: NDArray[np.int64], kept: NDArray[np.bool_]) -> Objects:
    """Drop what is not to be kept, and number the rest without gaps."""
    kept &= sizes_of(labels, len(first) - 1) > 0  # in the block, of what is in the window
    kept[0] = False
    numbers = np.zeros(len(first), np.int32)
    numbers[kept] = np.arange(1, np.count_nonzero(kept) + 1)
    return Objects(numbers[labels], first[kept])


def _window(block: Block, boxes: Box, shape: tuple[int, ...], options: ObjectOptions) -> Block:
    """Return the block with the boxes of the components that reach it, and one pixel around them."""
    if not len(boxes):
        return block
    around = np.vstack([boxes + np.array([-1, 1, -1, 1]), block.box])
    (top, left), (bottom, right) = around[:, ::2].min(axis=0), around[:, 1::2].max(axis=0)
    window = _block(max(top, 0), min(bottom, shape[0]), max(left, 0), min(right, shape[1]))
    height, width = bottom - top, right - left
    if height * width * BYTES_PER_PIXEL <= options.memory:
        return window
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    largest = np.argmax(heights * widths)
    raise OutOfMemoryError(
        "an object is too large to be cut at its necks in this memory",
        {
            "object": f"{heights[largest]} × {widths[largest]} pixels, from row {boxes[largest][0]}, column "
            f"{boxes[largest][2]}",
            "needed": f"{height * width * BYTES_PER_PIXEL / 1e9:.2f} GB, with the objects around it",
            "given": f"{options.memory / 1e9:.2f} GB",
        },
        "do not cut (--no-split), as for membranes or neurites, or give more --memory",
    )


def _label(mask: Any, window: Block, options: ObjectOptions) -> NDArray[np.int32]:
    """Fill the holes of a window of the mask, and label its connected pixels.

    A hole of n pixels that reaches into the window lies within n pixels of it.
    """
    top, bottom, left, right = window.box
    halo = options.max_hole
    grown = _block(
        max(top - halo, 0),
        min(bottom + halo, mask.shape[0]),
        max(left - halo, 0),
        min(right + halo, mask.shape[1]),
    )
    pixels = np.array(mask[grown.down, grown.across]).astype(bool)
    fill_holes(pixels, halo)
    return ndimage.label(pixels[_within(window, grown)], output=np.int32)[0]


def _block(top: int, bottom: int, left: int, right: int) -> Block:
    return Block(slice(int(top), int(bottom)), slice(int(left), int(right)))


def _within(block: Block, window: Block) -> tuple[slice, slice]:
    """Return where a block lies in a window that holds it."""
    (top, bottom, left, right), (above, _, before, _) = block.box, window.box
    return slice(top - above, bottom - above), slice(left - before, right - before)


def _in_image(first: NDArray[np.int64], window: Block, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Turn places in a window into places in the image, both counted row by row."""
    row, column = np.divmod(first, window.across.stop - window.across.start)
    return (row + window.down.start) * shape[1] + column + window.across.start


@kernel
def _first_pixels(labels, count):
    """Find the first pixel of each label from 0 to `count`, row by row, and its size."""
    first, sizes = np.zeros((2, count + 1), np.int64)
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            label = labels[i, j]
            if sizes[label] == 0:
                first[label] = i * labels.shape[1] + j
            sizes[label] += 1
    return first, sizes


class _Union:
    """Unites the labels that touch across borders between blocks; blocks are added row by row."""

    def __init__(self, shape: tuple[int, ...]):
        self._above = np.full(shape[1], -1, np.intp)  # the nodes in the row above the block
        self._before = np.empty(0, np.intp)  # and in the column before it
        self._pairs = [np.empty((0, 2), np.intp)]
        self._nodes: list[NDArray[np.intp]] = []  # of each block: of each label, or -1
        self._boxes = [np.empty((0, 4), np.int64)]
        self._first, self._sizes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        self._count = 0

    def add(self, block: Block, border: Border) -> None:
        """Add a block; a label at a border to another block is a node."""
        nodes = np.full(border.largest + 1, -1, np.intp)
        nodes[border.labels] = self._count + np.arange(len(border.labels))
        self._count += len(border.labels)
        self._nodes.append(nodes)
        top, bottom, left, right = (nodes[edge] for edge in border.edges)
        if block.down.start > 0:
            self._touch(self._above[block.across], top)
        if block.across.start > 0:
            self._touch(self._before, left)
        self._above[block.across], self._before = bottom, right
        self._boxes.append(border.boxes)
        self._first.append(border.first)
        self._sizes.append(border.sizes)

    def _touch(self, nodes: NDArray[np.intp], others: NDArray[np.intp]) -> None:
        pairs = np.stack([nodes, others], axis=1)
        self._pairs.append(np.unique(pairs[(pairs >= 0).all(axis=1)], axis=0))

    def crossing(self) -> Crossing:
        """Unite the nodes that touch."""
        nodes, others = np.concatenate(self._pairs).T
        touching = coo_array((np.ones(len(nodes), bool), (nodes, others)), (self._count, self._count))
        count, component = connected_components(touching, directed=False) if self._count else (0, [])
        component = np.append(component, -1).astype(np.intp)  # the last for labels that are no node
        boxes, first, sizes = (np.concatenate(parts) for parts in (self._boxes, self._first, self._sizes))
        united = np.tile([NOTHING, 0, NOTHING, 0], (count, 1))
        for side, extreme in enumerate((np.minimum, np.maximum, np.minimum, np.maximum)):
            extreme.at(united[:, side], component[:-1], boxes[:, side])
        united_first = np.full(count, NOTHING)
        np.minimum.at(united_first, component[:-1], first)
        united_sizes = np.zeros(count, np.int64)
        np.add.at(united_sizes, component[:-1], sizes)
        return Crossing([component[nodes] for nodes in self._nodes], united, united_first, united_sizes)
