"""Splitting a set into images to train on and images held out for validation, once or fold by fold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from tinyunet.data.cell_tracking import frame_of
from tinyunet.data.image_set import ImageSet
from tinyunet.errors import DataError, OptionError, shorten

EXAMPLES = "'24-29' (both ends included, counted from 0), '0,3,5-7' or '20%' (the last images)"


def split(image_set: ImageSet, holdout: str) -> tuple[ImageSet, ImageSet]:
    """Split a set into the images to train on and those held out for validation.

    A percentage takes one block from the end, not a random choice: neighbouring sections of a stack and
    neighbouring frames of a film look alike, so random images would be near copies of training images.

    Parameters
    ----------
    image_set : ImageSet
    holdout : str
        Indices to hold out: "24-29", "0,3,5-7", or "20%" (rounded, at least one image).

    Returns
    -------
    train, validation : ImageSet

    Raises
    ------
    DataError
        The text is not understood, an index is out of range, or one of the sets would be empty.
    """
    n = len(image_set)
    held = held_out_indices(n, holdout)
    train = sorted(set(range(n)) - set(held))
    if not train:
        raise DataError(
            f"holdout {shorten(holdout)!r} leaves nothing to train on",
            {"images": n, "held out": len(held)},
            "hold out fewer images, or give more",
        )
    return image_set.subset(train), image_set.subset(held)


def held_out_indices(n: int, holdout: str) -> list[int]:
    """Return the indices that `split` holds out of n images, in order; errors as there."""
    return sorted(_percentage(holdout, n) if "%" in holdout else _indices(holdout, n))


def fold_holdouts(names: Sequence[str], folds: int) -> list[str]:
    """Part a set into folds, of which each image belongs to one.

    Folds are blocks of neighbours, for the reason that `split` gives, and differ in length by one image at
    most. If the images are frames of several films, each film stays whole, because its frames show the same
    cells: the longest is dealt first, each to the fold that has the fewest frames.

    Parameters
    ----------
    names : sequence of str
        The images'.
    folds : int

    Returns
    -------
    list of str
        The `holdout` of each fold.

    Raises
    ------
    OptionError
        Fewer than 2 folds.
    DataError
        Fewer images, or films, than folds.

    Examples
    --------
    >>> fold_holdouts(["a", "b", "c", "d", "e"], 2)
    ['0-2', '3-4']
    >>> fold_holdouts(["01_t000", "02_t000", "02_t001", "03_t000"], 2)
    ['1-2', '0,3']
    """
    if folds < 2:
        raise OptionError(f"folds is {folds}, expected at least 2")
    films = _films(names)
    unit, found = ("films", len(films)) if films else ("images", len(names))
    if found < folds:
        raise DataError(
            f"{folds} folds of {found} {unit}, each of which belongs to one fold",
            {unit: found, "--folds": folds},
            f"give --folds {found} or less, or more {unit}" if found > 1 else f"give more {unit}",
        )
    if not films:
        blocks = np.array_split(range(len(names)), folds)
        return [_as_holdout(block.tolist()) for block in blocks]
    members: list[list[int]] = [[] for _ in range(folds)]
    for film in sorted(films, key=len, reverse=True):
        min(members, key=len).extend(film)
    return [_as_holdout(sorted(indices)) for indices in members]


def _films(names: Sequence[str]) -> list[list[int]]:
    """Return the indices of each film's frames; nothing unless the images are frames of several films."""
    frames = [frame_of(name) for name in names]
    films = {frame[0]: list[int]() for frame in frames if frame}
    if len(films) < 2 or None in frames:
        return []
    for index, frame in enumerate(frames):
        assert frame is not None
        films[frame[0]].append(index)
    return list(films.values())


def _as_holdout(indices: Iterable[int]) -> str:
    """Write indices, in order, as ranges."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _percentage(holdout: str, n: int) -> set[int]:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", holdout)
    if match is None or not 0 < float(match[1]) < 100:
        raise DataError(
            f"holdout {shorten(holdout)!r} is not understood",
            {"examples": EXAMPLES},
            "give more than 0 % and under 100 %",
        )
    return set(range(n - max(1, round(n * float(match[1]) / 100)), n))


def _indices(holdout: str, n: int) -> set[int]:
    held: set[int] = set()
    for part in holdout.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise DataError(
                f"holdout {shorten(holdout)!r} is not understood at {shorten(part)!r}", {"examples": EXAMPLES}
            )
        first, last = (_index(digits, n) for digits in (match[1], match[2] or match[1]))
        if first > last or last >= n:
            raise DataError(
                f"holdout {shorten(holdout)!r}: {shorten(part.strip())} is out of range",
                {"images": f"{n}, indices 0..{n - 1}"},
                "count from 0, smaller index first",
            )
        held.update(range(first, last + 1))
    return held


def _index(digits: str, n: int) -> int:
    """Return the number, or n if it has more digits: Python refuses to convert thousands of them."""
    significant = digits.lstrip("0")
    return int(significant or 0) if len(significant) <= len(str(n)) else n
