"""Why a true object was not found among predicted ones.

Each true object is found if a predicted one has at least half of their union in common with it. Otherwise the
first of these reasons that holds counts:

- too small: the object rule drops objects of its size, as it does with the smallest 5 % of training objects;
- not seen: less than half of it was predicted as foreground;
- joined: it is one predicted object together with most of another true one;
- cut: no piece of it has half of its pixels;
- outline: there is one object in its place, of another shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

REASONS = ("found", "too small", "not seen", "joined", "cut", "outline")
Labels = NDArray[np.integer]


def reasons(labels: Labels, objects: Labels, min_size: int) -> list[str]:
    """Say of each true object, in the order of their numbers, whether it was found, or why not.

    >>> labels = np.repeat([[1, 1, 1, 1, 2, 2, 2, 2, 0, 3, 3, 4]], 4, axis=0)
    >>> objects = np.repeat([[1, 1, 1, 1, 1, 1, 1, 0, 0, 2, 2, 0]], 4, axis=0)
    >>> reasons(labels, objects, min_size=5)
    ['found', 'joined', 'found', 'too small']
    """
    sizes, predicted = _sizes(labels), _sizes(objects)
    found = []
    for number in np.unique(labels[labels > 0]):
        there = objects[labels == number]
        pieces = {one: int(count) for one, count in zip(*_counted(there), strict=True)}
        overlaps = {one: count / (predicted[one] + sizes[number] - count) for one, count in pieces.items()}
        if max(overlaps.values(), default=0) >= 0.5:
            found.append("found")
        elif sizes[number] < min_size:
            found.append("too small")
        elif 2 * sum(pieces.values()) < sizes[number]:
            found.append("not seen")
        else:
            largest = max(pieces, key=lambda one: pieces[one])
            found.append(_reason(labels[objects == largest], number, sizes, pieces[largest]))
    return found


def _reason(covered: Labels, number: int, sizes: Sequence[int], piece: int) -> str:
    """Say why an object is not found by the one that has its largest piece and lies over `covered`."""
    others = _sizes(covered)
    joined = any(2 * count > sizes[one] for one, count in enumerate(others) if one not in (0, number))
    return "joined" if joined else "cut" if 2 * piece < sizes[number] else "outline"


def _counted(labels: Labels) -> tuple[Labels, Labels]:
    return np.unique(labels[labels > 0], return_counts=True)


def _sizes(labels: Labels) -> Sequence[int]:
    """Count the pixels of each number; unknown pixels, which are negative, do not count."""
    return [int(count) for count in np.bincount(labels[labels >= 0].ravel())]
