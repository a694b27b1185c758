"""Makes training samples of a set of labelled images: image tile, target classes and weights.

The labels are interpreted once, for each whole image: which pixels belong to which cell, and the class of
each pixel. Both travel through the augmenter in one integer image, so that one warp moves them together. The
weight map is computed from the warped cells, because bending changes the distance between two cells.

Unlabelled pixels belong to no cell, weigh nothing, and do not count in the class balance. A tile without any
labelled pixel is drawn again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import in_this_context
from tinyunet.backend.threads import on_all_cores
from tinyunet.data import UNKNOWN, ImageSet, class_labels, normalise
from tinyunet.data.as_needed import mapped
from tinyunet.errors import DataError, OptionError
from tinyunet.sampling.augment import Augmentation, Augmenter
from tinyunet.sampling.weight_map import balance, label_cells, separate_touching, weight_map

MAX_DRAWS = 100  # of a tile, until it has a labelled pixel; the last one is taken as it is
NEIGHBOURHOOD_SIGMAS = (
    4  # cells further outside the tile are ignored: they would add at most exp(-8) w0, or 0.003
)


@dataclass(frozen=True)
class WeightMap:
    """The options of the weight map: how much each pixel counts in the loss (the paper's equation 2)."""

    w0: float = 10.0
    """Largest weight of the border between two cells, 10 in the paper; 0 switches the border off."""
    sigma: float = 5.0
    """Width of the border term, in pixels; about 5 in the paper."""
    class_balance: bool = True
    """Give rare classes more weight, so that every class has the same total, as in the paper."""

    def __post_init__(self) -> None:
        if not (0 <= self.w0 < np.inf and 0 < self.sigma < np.inf):
            raise OptionError(
                f"weight map: w0 is {self.w0}, sigma {self.sigma}; expected finite w0 >= 0, sigma > 0"
            )


class Sample(NamedTuple):
    """The input of one training step, as a batch of one."""

    image: NDArray[np.float32]
    """Shape (1, input_size, input_size, C)."""
    target: NDArray[np.int32]
    """Classes, shape (1, output_size, output_size); `UNKNOWN`, -1, where the image is not labelled."""
    weight: NDArray[np.float32]
    """Shape (1, output_size, output_size)."""
    name: str
    """Name of the image that the tile was taken from."""
    folded: int
    """Number of pixels where the elastic deformation folds."""


def generator(seed: int, use: int, step: int, tile: int = 0) -> np.random.Generator:
    """Return the generator of the random numbers that one of a step's tiles needs for one use.

    Parameters
    ----------
    seed : int
        The run's.
    use : int
        What they are for, so that no two uses share them: 1 the sample, 2 dropout, 3 the choice of windows.
    step : int
        Counted from 0.
    tile : int
        Its number in the step. That of the first is left out, as in runs of one tile a step.
    """
    return np.random.default_rng([seed, use, step, tile] if tile else [seed, use, step])


def weights_by_class(sample: Sample, num_classes: int) -> NDArray[np.float64]:
    """Sum the weights of each class's pixels: shape (num_classes,)."""
    known = sample.target != UNKNOWN
    weights = np.bincount(sample.target[known], sample.weight[known], minlength=num_classes)
    return weights.astype(np.float64)  # without any pixel, bincount gives integers


class Sampler:
    """Makes the samples of each step: the same (seed, step, tile) gives the same one, whenever it is made.

    Parameters
    ----------
    images : ImageSet, with labels
    input_size, output_size : int
        Sides of the network's input and output tiles, in pixels.
    augmentation : Augmentation
    weights : WeightMap
    seed : int
    batch : int
        How many tiles a step has. They are cut from different images, as long as there are as many.

    Attributes
    ----------
    class_shares : ndarray, shape (num_classes,)
        Share of each class in the labelled pixels of the images `looked_at`.
    class_weights : list of float
        w_c of the weight map, balanced over the images `looked_at`, or all 1.
    margin : int
        How far beyond the output tile cells count in its weight map, in pixels.

    Raises
    ------
    DataError
        The set has no labels.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        input_size: int,
        output_size: int,
        augmentation: Augmentation,
        weights: WeightMap,
        seed: int,
        batch: int = 1,
    ):
        if images.labels is None or images.kind is None:
            raise DataError(
                f"{images.source}: training needs labels",
                remedy="add labels/ beside images/, with one label image for each image",
            )
        self.names, self.num_classes, self.seed = images.names, images.num_classes, seed
        self.batch = batch
        self.settings, self.output_size = weights, output_size
        packed = mapped(partial(_understand, kind=images.kind, num_classes=images.num_classes), images.labels)
        pixels: NDArray[np.int64] = np.sum(
            on_all_cores(
                lambda number: _pixels_by_class(packed[number], images.num_classes), images.numbers_looked_at
            ),
            axis=0,
        )
        self.class_shares: NDArray[np.float64] = pixels / pixels.sum()
        self.class_weights: list[float] = (
            balance(pixels).tolist() if weights.class_balance else [1.0] * images.num_classes
        )
        self.margin = min((input_size - output_size) // 2, int(NEIGHBOURHOOD_SIGMAS * weights.sigma))
        self.augmenter = Augmenter(
            mapped(normalise, images.images),
            packed,
            input_size=input_size,
            output_size=output_size,
            augmentation=augmentation,
            label_margin=self.margin,
        )

    def sample(self, step: int, tile: int = 0) -> Sample:
        """Make the sample of one of a step's tiles, both counted from 0.

        In an epoch, as many steps as there are images, each tile of the steps takes every image once. The
        order is the epoch's own. The tiles of a step stand in it as far from each other as possible.
        """
        index, rng = self.index_and_rng(step, tile)
        inside = slice(self.margin, self.output_size + self.margin)
        for _ in range(MAX_DRAWS):
            made = self.augmenter.sample(index, rng)
            cells, classes = unpack(made.labels, self.num_classes)
            if (classes[inside, inside] != UNKNOWN).any():
                break
        weight = weight_map(
            cells,
            w0=self.settings.w0,
            sigma=self.settings.sigma,
            class_balance=self.class_weights,
            classes=classes,
            ignore_label=UNKNOWN,
        )
        return Sample(
            made.image[np.newaxis],
            np.ascontiguousarray(classes[inside, inside], np.int32)[np.newaxis],
            np.ascontiguousarray(weight[inside, inside])[np.newaxis],
            self.names[index],
            made.folded,
        )

    def index_and_rng(self, step: int, tile: int = 0) -> tuple[int, np.random.Generator]:
        """Return the number of the image that a step's tile is cut from, and the generator that draws it."""
        count = len(self.names)
        epoch, place = divmod(step, count)
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(count)
        return int(order[(place + tile * count // self.batch) % count]), generator(self.seed, 1, step, tile)

    def stream(self, start: int, stop: int, ahead: int = 2, tiles: Iterable[int] = (0,)) -> Iterator[Sample]:
        """Yield the samples of steps start … stop - 1, made in a background thread while the caller computes.

        The samples do not depend on timing. An error in the thread is raised here.

        Parameters
        ----------
        start, stop : int
        ahead : int
            How many samples are made or being made while the caller has one.
        tiles : iterable of int
            The numbers of the tiles that each step has here.
        """
        places = ((step, tile) for step in range(start, stop) for tile in tiles)
        with ThreadPoolExecutor(1, thread_name_prefix="tinyunet-sampler") as pool:
            waiting: list[Future[Sample]] = []
            try:
                while True:
                    for step, tile in itertools.islice(places, ahead - len(waiting)):
                        waiting.append(pool.submit(in_this_context(self.sample), step, tile))
                    if not waiting:
                        return
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()


def _understand(labels: NDArray[Any], kind: str, num_classes: int) -> NDArray[np.int64]:
    return _pack(*_cells_and_classes(labels, kind), num_classes)


def _pixels_by_class(packed: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Count the labelled pixels of each class of an image."""
    _, classes = unpack(packed, num_classes)
    return np.bincount(classes[classes != UNKNOWN], minlength=num_classes)


def _cells_and_classes(labels: NDArray[Any], kind: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each pixel's cell number and class. Background has cell 0 and class 0, unlabelled pixels cell 0.

    Numbered cells are separated where they touch, as in the paper (section 3): the network can learn the
    background between them. Where only classes are known, each connected component of the foreground is a
    cell.
    """
    labels = labels.astype(np.int64)
    if kind == "instances":
        cells = separate_touching(labels.clip(0))  # unlabelled pixels become 0 as well
        classes = np.where(labels == UNKNOWN, UNKNOWN, class_labels(cells, "instances"))
        return cells.astype(np.int64), classes
    return label_cells(labels > 0).astype(np.int64), labels


def _pack(cells: NDArray[np.int64], classes: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Combine cell and class in one number, which is not negative; `unpack` is the reverse."""
    return cells * (num_classes + 1) + classes - UNKNOWN


def unpack(packed: NDArray[Any], num_classes: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the cells and the classes of the packed labels that a sampler's augmenter holds."""
    cells, classes = np.divmod(packed, num_classes + 1)
    return cells, classes + UNKNOWN
