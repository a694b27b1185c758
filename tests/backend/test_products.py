"""Products with a right factor in panels, against NumPy."""

import numpy as np
import pytest

from tinyunet.backend import products
from tinyunet.backend.jit import kernel


@kernel
def product(a, b, add, c):
    products.multiply(a, b, add, c)


@kernel
def product_transposed(a, b, add, c):
    products.multiply_transposed(a, b, add, c)


@kernel
def product_of_windows(line, step, length, b, add, c):
    products.multiply_windows(line, step, length, b, add, c)


@kernel
def product_of_windows_transposed(line, step, count, b, add, c):
    products.multiply_windows_transposed(line, step, count, b, add, c)


def in_panels(matrix, in_room=np.nan):
    """Write a matrix in panels, with a number in the room of the last one."""
    rows, columns = matrix.shape
    room = np.full((rows, products.padded(columns)), in_room, matrix.dtype)
    room[:, :columns] = matrix
    panels = [room[:, left : left + products.PANEL] for left in range(0, columns, products.PANEL)]
    return np.concatenate([panel.ravel() for panel in panels]).reshape(room.shape)


@kernel
def in_panels_by_row(matrix, panels):
    for row in range(len(matrix)):
        products.write_row(matrix[row], row, len(matrix), panels)


@pytest.mark.parametrize("columns", [3, 70, 130])
def test_rows_are_written_where_panels_have_them(columns):
    matrix = np.random.default_rng(0).random((5, columns), np.float32)
    expected = in_panels(matrix, 0)  # denormal numbers left in the room would slow all products down
    panels = np.full(expected.size, np.nan, np.float32)
    in_panels_by_row(matrix, panels)
    np.testing.assert_array_equal(panels.reshape(expected.shape), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    ("rows", "summands", "columns"),
    [
        (1, 1, 1),
        (23, 300, 130),  # every height of a tile; two pieces of a panel; a last panel of few columns
        (21, 256, 64),
        (17, 5, 48),
        (9, 7, 32),
        (31, 3, 16),
    ],
)
def test_equals_numpy(rows, summands, columns, add, dtype):
    """Also for parts of matrices, whose rows lie apart. Whole numbers: there is nothing to round."""
    rng = np.random.default_rng(0)
    a, b, c = (
        rng.integers(-9, 9, (height, width + 3)).astype(dtype)[:, :width]
        for height, width in ((rows, summands), (summands, columns), (rows, columns))
    )
    expected = a @ b + (c if add else 0)
    for kind, factor in ((product, a), (product_transposed, np.ascontiguousarray(a.T))):
        around = np.full((rows + 2, columns + 20), 7, dtype)
        out = around[1:-1, 2 : columns + 2]
        out[...] = c if add else np.nan
        kind(factor, in_panels(b), add, out)
        np.testing.assert_array_equal(out, expected)
        out[...] = 7
        np.testing.assert_array_equal(around, 7)  # nothing else was written


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(("step", "length"), [(1, 3), (3, 9), (4, 4), (7, 300)])
def test_windows_equal_numpy(step, length, add):
    """Windows that overlap, that touch, and of more than one piece. Whole numbers, as above."""
    count, columns = 21, 70
    rng = np.random.default_rng(0)
    line = rng.integers(-9, 9, (count - 1) * step + length).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(line, length)[::step]
    for kind, number, a in (
        (product_of_windows, length, windows),
        (product_of_windows_transposed, count, windows.T),
    ):
        b = rng.integers(-9, 9, (a.shape[1], columns)).astype(np.float32)
        out = np.ones((len(a), columns), np.float32)
        kind(line, step, number, in_panels(b), add, out)
        np.testing.assert_array_equal(out, a @ b + (1 if add else 0))
