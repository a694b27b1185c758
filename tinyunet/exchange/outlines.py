"""Outlines of numbered objects: polygons along the edges of their pixels.

The pixel in row i and column j is the square from (j, i) to (j + 1, i + 1), as in QuPath and ImageJ. So a
polygon has the area of its pixels, and contains the centres of these pixels and of no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyunet.exchange.packages import require

Ring = list[tuple[int, int]]


class Outline(NamedTuple):
    """The outline of an object.

    Attributes
    ----------
    label : int
        The object's number.
    polygons : list of list of list of (int, int)
        Of each piece its outer ring and then its holes, as points (x, y); the last point repeats the first.
    """

    label: int
    polygons: list[list[Ring]]


def outlines(labels: NDArray[np.integer]) -> Iterator[Outline]:
    """Find the outline of each object, in the order of their numbers.

    Parameters
    ----------
    labels : integer array, shape (H, W)
        0 is background. An object may have holes, and pieces that do not touch.

    Raises
    ------
    OptionError
        Shapely is not installed.
    """
    shapely = require("shapely")
    values, rows, starts, ends = _runs(labels)
    boxes = shapely.box(starts, rows, ends, rows + 1)
    numbers, first = np.unique(values, return_index=True)
    for number, own in zip(numbers.tolist(), np.split(boxes, first)[1:], strict=True):
        # The union has a corner in every row; simplifying by 0 leaves those at which the outline turns.
        whole = shapely.simplify(shapely.union_all(own), 0)
        pieces = getattr(whole, "geoms", [whole])
        yield Outline(number, [[_points(ring) for ring in (p.exterior, *p.interiors)] for p in pieces])


def _runs(labels: NDArray[np.integer]) -> tuple[NDArray[Any], ...]:
    """The runs of equal pixels in rows, without the background: value, row, start and end, by value."""
    height, width = labels.shape
    changes = np.ones((height, width + 1), bool)
    changes[:, 1:-1] = labels[:, 1:] != labels[:, :-1]
    rows, starts = np.nonzero(changes[:, :-1])
    ends = np.nonzero(changes[:, 1:])[1] + 1
    values = labels[rows, starts]
    order = np.argsort(values, kind="stable")
    order = order[values[order] != 0]
    return values[order], rows[order], starts[order], ends[order]


def _points(ring: Any) -> Ring:
    return [(int(x), int(y)) for x, y in ring.coords]
