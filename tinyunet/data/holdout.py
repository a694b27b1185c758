"""Splitting a set into images to train on and images held out for validation."""

from __future__ import annotations

import re

from tinyunet.data.image_set import ImageSet
from tinyunet.errors import DataError, shorten

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
    held = _percentage(holdout, n) if "%" in holdout else _indices(holdout, n)
    train = [i for i in range(n) if i not in held]
    if not train:
        raise DataError(
            f"holdout {shorten(holdout)!r} leaves nothing to train on",
            {"images": n, "held out": len(held)},
            "hold out fewer images, or give more",
        )
    return image_set.subset(train), image_set.subset(sorted(held))


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
