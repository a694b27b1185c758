"""Makes training samples by CUDA kernels, on the GPU where the network is trained.

The images of a `Sampler` go to the GPU once; those of a set that is read as needed, when they are needed. For
each sample the CPU draws the random numbers in the order of `Sampler.sample`, so that a step has the same
sample on every backend, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import to_backend
from tinyunet.data import UNKNOWN
from tinyunet.data.as_needed import mapped
from tinyunet.sampling import weight_map_cuda
from tinyunet.sampling.augment_cuda import TileMaker
from tinyunet.sampling.elastic import count_folded
from tinyunet.sampling.sampler import MAX_DRAWS, Sample, Sampler, unpack


class CudaSampler:
    """Makes the samples of a `Sampler` as arrays of the backend.

    Parameters
    ----------
    sampler : Sampler
    """

    def __init__(self, sampler: Sampler):
        self._sampler = sampler
        unpacked = mapped(partial(unpack, num_classes=sampler.num_classes), sampler.augmenter.labels)
        cells, classes = mapped(itemgetter(0), unpacked), mapped(itemgetter(1), unpacked)
        self._fully_labelled = mapped(_is_fully_labelled, classes)
        self._tiles = TileMaker(sampler.augmenter, cells, classes)
        self._class_weights = to_backend(sampler.class_weights, np.float32)

    def sample(self, step: int, tile: int = 0) -> Sample:
        """Make the sample of one of a step's tiles, as `Sampler.sample` does."""
        sampler, augmenter = self._sampler, self._sampler.augmenter
        w0, sigma = sampler.settings.w0, sampler.settings.sigma
        index, rng = sampler.index_and_rng(step, tile)
        for _ in range(MAX_DRAWS):
            draw = augmenter.draw(index, rng)
            image, cells, target = self._tiles.tile(index, draw)
            weight = weight_map_cuda.weight_map(cells, target, self._class_weights, w0=w0, sigma=sigma)
            # Every labelled pixel has a weight. Only an image with unlabelled ones makes waiting necessary.
            if self._fully_labelled[index] or self._has_weight(target, weight):
                break
        folded = count_folded(draw.grid, augmenter.input_size, augmenter.input_size)
        image, target, weight = (array.reshape(1, *array.shape) for array in (image, target, weight))
        return Sample(image, target, weight, sampler.names[index], folded)

    def _has_weight(self, target: NDArray[np.int32], weight: NDArray[np.float32]) -> bool:
        return bool(weight_map_cuda.sums_by_class(target, weight, self._sampler.num_classes).any())

    def stream(self, start: int, stop: int, *, tiles: Iterable[int] = (0,)) -> Iterator[Sample]:
        """Yield the samples of steps start … stop - 1, as `Sampler.stream`, each made when it is needed.

        Unlike in `Sampler`, no thread works ahead: the CPU only draws a few random numbers and launches some
        kernels. It has time for that while the GPU computes the step before.
        """
        return (self.sample(step, tile) for step in range(start, stop) for tile in tiles)


def _is_fully_labelled(classes: NDArray[Any]) -> bool:
    return bool((classes != UNKNOWN).all())


def weights_by_class(sample: Sample, num_classes: int) -> NDArray[np.float64]:
    """Sum the weights of each class's pixels on the backend, as `sampling.weights_by_class`."""
    return weight_map_cuda.sums_by_class(to_backend(sample.target), to_backend(sample.weight), num_classes)


def mean_weights(sample: Sample, sums: NDArray[np.float64]) -> Any:
    """Divide the sample's weights by their total, the sum of `sums`, for a loss that is a weighted mean."""
    return weight_map_cuda.divide(to_backend(sample.weight), float(sums.sum()))
