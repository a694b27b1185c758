"""Find out whether thin walls part the objects, as membranes part cells: through a gap two become one.

Of the sets measured two have walls. On the membranes of ISBI 2012 the width of the background is 0.07 of the
objects', on `synthetic-membranes` 0.06; next come the cells of `synthetic-dic` with 0.4 and axons with 0.5.
With the paper's weights of the borders, V_Rand rose on both sets with walls: fewer cells were joined. The
mean IoU, which counts pixels, fell on all sets that were compared (docs/peers.md, docs/recipes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet.backend.threads import on_all_cores
from tinyunet.data import UNKNOWN, ImageSet, class_labels
from tinyunet.diagnosis.measures import MOST, chosen, object_sizes, typical_width

BORDER_WEIGHT = "weights.w0"  # the option that walls decide, unless a weight was given
WALL = 0.2  # of the objects' width: a background that is narrower consists of walls
# A training is not to wait for its start: so many images are looked at, and of those that are read as needed
# the middle, of this many pixels on each side.
LOOKED_AT, LARGEST = 8, 1024


@dataclass(frozen=True)
class Walls:
    """How wide the walls of a set are, and the objects between them, in pixels.

    Attributes
    ----------
    thickness : float
        Nine tenths of the background pixels are no farther from an object than the middle of a wall as thick
        as this.
    apart : float
        `typical_width` of the objects.
    """

    thickness: float
    apart: float

    def __str__(self) -> str:
        return f"walls {self.thickness:.0f} px wide part objects of {self.apart:.0f} px"


def find_walls(images: ImageSet) -> Walls | None:
    """Measure the walls of a labelled set; None if its background is not narrow, or not the smaller part."""
    few = images.looked_at
    assert few.labels is not None
    assert few.kind is not None
    labels, kind = few.labels, few.kind
    part = _middle if images.is_read_as_needed else np.asarray
    measured = [part(labels[number]) for number in chosen(len(few), LOOKED_AT)]
    # First what is quick: most sets have more background than objects.
    background = sum(np.count_nonzero(one == 0) for one in measured)
    if 2 * background >= sum(np.count_nonzero(one != UNKNOWN) for one in measured):
        return None
    counts = on_all_cores(lambda one: pixels_by_distance(class_labels(one, kind)), measured)
    sizes = on_all_cores(lambda one: object_sizes(one, kind), measured)
    widths, areas = map(np.concatenate, zip(*sizes, strict=True))
    found = Walls(thickness_of(counts), typical_width(widths, areas))
    return found if found.thickness < WALL * found.apart else None


def _middle(labels: NDArray[Any]) -> NDArray[Any]:
    top, left = ((side - min(side, LARGEST)) // 2 for side in labels.shape[:2])
    return labels[top : top + LARGEST, left : left + LARGEST]


def pixels_by_distance(classes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count the background pixels at each whole distance from the nearest object, 1 at its rim.

    What is unknown is no object, nor what lies beyond the frame. Without objects nothing is counted.
    """
    objects = classes > 0
    if not objects.any():
        return np.zeros(0, np.int64)
    distance = ndimage.distance_transform_edt(~objects)
    return np.bincount(distance[classes == 0].astype(np.int64))


def thickness_of(counts: Sequence[NDArray[np.int64]]) -> float:
    """The width that the background has where `MOST` of its pixels are; infinite without such pixels."""
    largest = max(map(len, counts))
    share = np.cumsum(np.sum([np.pad(one, (0, largest - len(one))) for one in counts], axis=0))
    if not largest or not share[-1]:
        return np.inf
    return 2.0 * int(np.searchsorted(share, MOST * share[-1])) - 1
