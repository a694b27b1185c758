"""From an image to its segmentation: class probabilities and numbered objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

from tinyunet.data import ImageSet, normalise
from tinyunet.metrics.mistakes import SMALLEST_OBJECT
from tinyunet.metrics.scores import Prediction
from tinyunet.models import Network
from tinyunet.prediction.instances import label_instances
from tinyunet.prediction.tiling import predict_tiled


def segment(
    model: Network,
    image: NDArray[Any],
    *,
    tile: int,
    symmetries: int = 1,
    threshold: float = 0.5,
    min_size: int = SMALLEST_OBJECT,
    split: bool = True,
    on_tile: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Predict one image and number its objects.

    Parameters
    ----------
    model : Network
    image : array, shape (H, W, C)
        Grey values as its file holds them.
    tile, symmetries, on_tile
        As in `predict_tiled`.
    threshold, min_size
        As in `label_instances`.
    split : bool
        Cut objects at narrow necks; otherwise connected pixels are always one object.
    """
    started = time.perf_counter()
    probabilities = predict_tiled(model, normalise(image), tile=tile, symmetries=symmetries, on_tile=on_tile)
    seconds = time.perf_counter() - started
    objects = label_instances(
        probabilities, threshold=threshold, min_size=min_size, split_depth=1.0 if split else None
    )
    return Prediction(probabilities, objects, seconds)


def segment_all(model: Network, images: ImageSet, **options: Any) -> Iterator[Prediction]:
    """Segment the images of a set, one after the other; the options are those of `segment`."""
    return (segment(model, image, **options) for image in images.images)
