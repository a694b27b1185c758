"""Which pixels nobody labelled, in images of which only some cells are labelled.

Unlabelled cells look like background in a label image, and a network that is trained on that learns to miss
cells. Two rules find pixels that are not known to be background, and make them `UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet.data.image_set import UNKNOWN, Labels
from tinyunet.data.label_kind import renumber
from tinyunet.errors import DataError, describe


def forget_far_background(labels: Labels, distance: float) -> Labels:
    """Keep background near labelled pixels only: whoever drew the outline looked there.

    Parameters
    ----------
    labels : integer array, shape (H, W)
        0 is background.
    distance : float
        How near, in pixels.

    Returns
    -------
    integer array, shape (H, W), dtype of labels
        `UNKNOWN` where the nearest pixel that is not background is further away.

    Raises
    ------
    DataError
        `distance` is not above 0.
    """
    if not distance > 0:
        raise DataError(f"partly_annotated is {distance}, expected a distance above 0 pixels")
    return np.where(_distance_from(labels > 0) > distance, np.array(UNKNOWN, np.int32), labels)


def forget_around_lone_markers(
    cells: Sequence[Labels], markers: Sequence[Labels], names: Sequence[str]
) -> tuple[list[Labels], str]:
    """Make background unknown around markers whose cell has no outline: the cell is somewhere there.

    It may reach as far from its marker as any outlined cell of the set reaches from its own. Background no
    further than that from a marker without an outline is `UNKNOWN`. A marker has an outline if more than half
    of it is on outlined cells.

    Parameters
    ----------
    cells : sequence of integer arrays, each (H, W)
        The outlined cells, 0 for all else.
    markers : sequence of integer arrays, each (H, W)
        A marker in every cell.
    names : sequence of str
        Of the images, for errors.

    Returns
    -------
    labels : list of integer arrays, each (H, W)
    found : str
        What was found, in words.

    Raises
    ------
    DataError
        Markers and outlines differ in size, or no marker lies on an outlined cell.
    """
    for cell, marker, name in zip(cells, markers, names, strict=True):
        if cell.shape != marker.shape:
            raise DataError(
                f"{name}: outlines and markers differ in size",
                {"outlines": describe(cell, "H W"), "markers": describe(marker, "H W")},
                "give those that were made for this frame",
            )
    pairs = list(zip(cells, markers, strict=True))
    lone = [_lone(cell, marker) for cell, marker in pairs]
    alone = sum(_count(marker[some]) for marker, some in zip(markers, lone, strict=True))
    if not alone:
        return list(cells), "every marker has its outline"
    reaches = [
        reach
        for (cell, marker), some in zip(pairs, lone, strict=True)
        for reach in _reaches(cell, np.where(some, 0, marker))
    ]
    if not reaches:
        raise DataError(
            f"{names[0]}: no marker lies on an outlined cell, nor in any other frame",
            {"markers": alone},
            "check that outlines and markers belong to the same film",
        )
    reach = max(reaches)
    labels = [_forget_near(cell, some, reach) for cell, some in zip(cells, lone, strict=True)]
    return labels, f"{alone} markers have no outline, {reach:.0f} px around them are unknown"


def _lone(cells: Labels, markers: Labels) -> NDArray[np.bool_]:
    """The pixels of markers of which no more than half lies on outlined cells."""
    values, number = np.unique(markers, return_inverse=True)
    outlined = np.bincount(number.ravel(), (cells > 0).ravel()) / np.bincount(number.ravel())
    return ((outlined <= 0.5) & (values > 0))[number].reshape(markers.shape)


def _reaches(cells: Labels, markers: Labels) -> Iterator[float]:
    """How far each cell that has a marker reaches from it, in pixels. Every marker lies on a cell."""
    cells, markers = (renumber(image) for image in (cells, markers))
    boxes = ndimage.find_objects(cells)
    for marker, box in enumerate(ndimage.find_objects(markers), 1):
        below = cells[box][markers[box] == marker]
        cell = np.bincount(below[below > 0]).argmax()
        both = tuple(
            slice(min(one.start, other.start), max(one.stop, other.stop))
            for one, other in zip(box, boxes[cell - 1], strict=True)
        )
        yield float(_distance_from(markers[both] == marker)[cells[both] == cell].max())


def _forget_near(cells: Labels, lone: NDArray[np.bool_], reach: float) -> Labels:
    return np.where((_distance_from(lone) <= reach) & (cells == 0), np.array(UNKNOWN, np.int32), cells)


def _distance_from(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The distance of each pixel from the nearest one of the mask, infinite if there is none."""
    return ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)


def _count(labels: Labels) -> int:
    return len(np.setdiff1d(labels, [0]))
