"""From an image to its segmentation: probabilities, of one network or the mean of several, and objects."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.data import GreyStatistics, ImageSet, normalise
from tinyunet.data.pixel_sizes import AS_IT_IS, Size
from tinyunet.data.scaling import scaled, scaled_back
from tinyunet.metrics.scores import Prediction
from tinyunet.models import Network
from tinyunet.prediction.instances import label_instances
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.tiling import OnTile, predict_tiled

DEFAULT_RULE = ObjectRule()


def segment(
    networks: Sequence[Network],
    image: NDArray[Any],
    *,
    tile: int,
    symmetries: int = 1,
    threshold: float = 0.5,
    rule: ObjectRule = DEFAULT_RULE,
    on_tile: OnTile | None = None,
    statistics: GreyStatistics | None = None,
    factors: Size = AS_IT_IS,
) -> Prediction:
    """Predict one image and number its objects.

    Parameters
    ----------
    networks : sequence of Network
        At least one; of several, the probabilities are averaged.
    image : array, shape (H, W, C)
        Grey values as its file holds them.
    tile, symmetries, on_tile
        As in `predict_tiled`; the tiles are those of all networks.
    threshold : float
        As in `label_instances`.
    rule : ObjectRule
        The smallest object to keep, and which necks are cut, in pixels of the image.
    statistics : GreyStatistics, optional
        As in `normalise`: by these, or each image by its own.
    factors : (float, float)
        What height and width are multiplied by to bring the image to the pixels that the networks see. The
        prediction is scaled back.
    """
    started = time.perf_counter()
    normalised = normalise(scaled(image, factors), statistics)
    probabilities = _average(networks, normalised, tile=tile, symmetries=symmetries, on_tile=on_tile)
    probabilities = scaled_back(probabilities, image.shape[:2])
    seconds = time.perf_counter() - started
    objects = label_instances(
        probabilities, threshold=threshold, min_size=rule.min_size, split_depth=rule.split_depth
    )
    return Prediction(probabilities, objects, seconds)


def _average(
    networks: Sequence[Network], image: NDArray[Any], *, on_tile: OnTile | None, **options: Any
) -> NDArray[np.float32]:
    """Average the probabilities of networks, which predict one after the other: one more image in memory.

    The sum is taken in the order of the networks, so that it rounds in the same way every time.
    """
    mean = np.zeros((), np.float32)
    for number, network in enumerate(networks):
        show = on_tile and _part_of(on_tile, number, len(networks))
        probabilities = predict_tiled(network, image, on_tile=show, **options)
        mean = np.add(mean, probabilities, out=probabilities)
    mean /= np.float32(len(networks))
    return mean


def _part_of(on_tile: OnTile, number: int, networks: int) -> OnTile:
    """Count the tiles of one network among those of all."""
    return lambda done, total: on_tile(number * total + done, networks * total)


def segment_all(networks: Sequence[Network], images: ImageSet, **options: Any) -> Iterator[Prediction]:
    """Segment the images of a set, one after the other; networks and options are those of `segment`."""
    return (segment(networks, image, **options) for image in images.images)
