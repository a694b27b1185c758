"""Unlabelled pixels in images of which only some cells are labelled.

Unlabelled cells look like background in a label image, and a network trained on it learns to miss cells. Two
rules find pixels that are not known to be background and mark them `UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet.data.image_set import UNKNOWN, Labels
from tinyunet.data.label_kind import renumber
from tinyunet.errors import DataError, describe


def ignore_far_background(labels: Labels, distance: float) -> Labels:
    """Keep background only near labelled pixels, where the annotator looked.

    Parameters
    ----------
    labels : integer array, shape (H, W)
        0 is background.
    distance : float
        Background further than this from labels becomes unknown; in pixels.

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


def ignore_around_lone_markers(
    cells: Sequence[Labels], markers: Sequence[Labels], names: Sequence[str]
) -> tuple[list[Labels], str]:
    """Mark background around markers without an outline as unknown, because their cells are somewhere there.

    Such a cell may reach as far from its marker as any outlined cell of the set does from its own. Background
    no further than that from a lone marker is `UNKNOWN`. A marker is lone unless more than half of it lies
    on outlined cells.

    Parameters
    ----------
    cells : sequence of integer arrays, each (H, W)
        Outlined cells; 0 elsewhere.
    markers : sequence of integer arrays, each (H, W)
        One marker per cell.
    names : sequence of str
        Names of the images, for errors.

    Returns
    -------
    labels : list of integer arrays, each (H, W)
    found : str
        A description of what was found.

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
    lone_count = sum(_count(marker[is_lone]) for marker, is_lone in zip(markers, lone, strict=True))
    if not lone_count:
        return list(cells), "every marker has its outline"
    reaches = [
        reach
        for (cell, marker), is_lone in zip(pairs, lone, strict=True)
        for reach in _reaches(cell, np.where(is_lone, 0, marker))
    ]
    if not reaches:
        raise DataError(
            f"{names[0]}: no marker lies on an outlined cell, nor in any other frame",
            {"markers": lone_count},
            "check that outlines and markers belong to the same film",
        )
    reach = max(reaches)
    labels = [_ignore_near(cell, is_lone, reach) for cell, is_lone in zip(cells, lone, strict=True)]
    return labels, f"{lone_count} markers have no outline, {reach:.0f} px around them are unknown"


def _lone(cells: Labels, markers: Labels) -> NDArray[np.bool_]:
    """Find the pixels of markers of which half or less lies on outlined cells."""
    values, number = np.unique(markers, return_inverse=True)
    outlined = np.bincount(number.ravel(), (cells > 0).ravel()) / np.bincount(number.ravel())
    return ((outlined <= 0.5) & (values > 0))[number].reshape(markers.shape)


def _reaches(cells: Labels, markers: Labels) -> Iterator[float]:
    """Yield how far each marked cell reaches from its marker, in pixels. Every marker lies on a cell."""
    cells, markers = (renumber(image) for image in (cells, markers))
    boxes = ndimage.find_objects(cells)
    for marker, box in enumerate(ndimage.find_objects(markers), 1):
        covered = cells[box][markers[box] == marker]
        cell = np.bincount(covered[covered > 0]).argmax()
        union = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop))
            for a, b in zip(box, boxes[cell - 1], strict=True)
        )
        yield float(_distance_from(markers[union] == marker)[cells[union] == cell].max())


def _ignore_near(cells: Labels, lone: NDArray[np.bool_], reach: float) -> Labels:
    return np.where((_distance_from(lone) <= reach) & (cells == 0), np.array(UNKNOWN, np.int32), cells)


def _distance_from(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distance of each pixel to the mask; infinite if the mask is empty."""
    return ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)


def _count(labels: Labels) -> int:
    return len(np.setdiff1d(labels, [0]))
