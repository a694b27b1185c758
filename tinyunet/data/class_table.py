"""The number or colour that label files use for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.errors import DataError

HIGHEST_NUMBER, HIGHEST_COLOUR = 2**31 - 1, 0xFFFFFF


@dataclass(frozen=True)
class ClassTable:
    """The files' value of each class.

    Parameters
    ----------
    values : tuple of int
        One per class, all different: a number, or a colour as 0xRRGGBB if `coloured`.
    coloured : bool
        The files show colours.
    mask : bool
        The two values are those of a mask in grey, background first.

    Raises
    ------
    DataError
        A value occurs twice, or is no number or colour.

    Examples
    --------
    >>> str(ClassTable((0, 128, 255))), str(ClassTable((0, 0xFF0000), coloured=True))
    ('0, 128, 255', '#000000, #ff0000')
    """

    values: tuple[int, ...]
    coloured: bool = False
    mask: bool = False

    def __post_init__(self) -> None:
        highest = HIGHEST_COLOUR if self.coloured else HIGHEST_NUMBER
        distinct = len(set(self.values)) == len(self.values)
        if not distinct or not all(0 <= value <= highest for value in self.values):
            raise DataError(
                "a table of classes needs one value per class, all different",
                {"expected": f"0..{highest}", "found": self.values},
            )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ClassTable:
        """Make a table from what `to_json` turned it into and JSON stored.

        Raises
        ------
        DataError
            An entry is missing or has another type.
        """
        values, coloured, mask = stored.get("values"), stored.get("coloured"), stored.get("mask", False)
        if (
            not isinstance(values, list)
            or not all(type(value) is int for value in values)
            or not isinstance(coloured, bool)
            or not isinstance(mask, bool)
        ):
            raise DataError(
                "not a table of classes", {"expected": "values: [int, ...], coloured: bool", "found": stored}
            )
        return cls(tuple(values), coloured, mask)

    def __str__(self) -> str:
        return ", ".join(map(self.name, range(len(self.values))))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes; `mask` only if it is true: earlier versions do not have it."""
        stored = {"values": list(self.values), "coloured": self.coloured}
        return {**stored, "mask": True} if self.mask else stored

    @property
    def is_mask(self) -> bool:
        """True for a mask in grey, and a colour on black: labels of these values are read as "binary"."""
        return self.mask or (self.coloured and len(self.values) == 2 and self.values[0] == 0)

    def name(self, number: int) -> str:
        """Return the value of a class as people write it, such as "128" or "#ff0000"."""
        value = self.values[number]
        return f"#{value:06x}" if self.coloured else str(value)

    def pixels(self, classes: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
        """Turn class numbers (H, W) into the files' pixels, (H, W, 3) if coloured, else (H, W, 1).

        Colours and numbers up to 255 are uint8, others uint16 or uint32.
        """
        values = np.array(self.values)
        if self.coloured:
            return np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1).astype(np.uint8)[classes]
        return values.astype(np.min_scalar_type(values.max()))[classes][..., None]
