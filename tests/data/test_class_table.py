"""Tables of classes: pixels, names, and what is no table."""

from dataclasses import asdict

import numpy as np
import pytest

from tinyunet.data.class_table import ClassTable
from tinyunet.errors import DataError


@pytest.mark.parametrize(
    ("table", "dtype", "pixels", "text"),
    [
        (ClassTable((0, 128, 255)), np.uint8, [[[255], [0]]], "0, 128, 255"),
        (ClassTable((0, 1, 256)), np.uint16, [[[256], [0]]], "0, 1, 256"),
        (ClassTable((9, 1, 70_000)), np.uint32, [[[70_000], [9]]], "9, 1, 70000"),
        (
            ClassTable((0, 0xFF, 0x010203), coloured=True),
            np.uint8,
            [[[1, 2, 3], [0, 0, 0]]],
            "#000000, #0000ff, #010203",
        ),
    ],
)
def test_pixels_and_names(table, dtype, pixels, text):
    found = table.pixels(np.array([[2, 0]]))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels)
    assert str(table) == text
    stored = asdict(table)
    assert ClassTable.from_json({**stored, "values": list(stored["values"])}) == table


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"values": [0, 1]},
        {"values": "01", "coloured": False},
        {"values": [0, 1.0], "coloured": False},
        {"values": [0, True], "coloured": False},
        {"values": [0, 1], "coloured": 1},
        {"values": [1, 1], "coloured": False},
        {"values": [-1, 1], "coloured": False},
        {"values": [0, 2**31], "coloured": False},
        {"values": [0, 2**24], "coloured": True},
    ],
)
def test_what_is_no_table(stored):
    with pytest.raises(DataError, match="table"):
        ClassTable.from_json(stored)
