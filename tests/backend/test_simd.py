"""Vector registers in kernels: every number of lanes, memory left alone, NaN, and other dtypes."""

import numpy as np
import pytest
from numba.core.errors import TypingError

from tinyunet.backend.jit import kernel
from tinyunet.backend.simd import LANES, at_least, load, prefetch, store, transpose


@kernel
def compute(a, b, number, floor, at, count, out):
    prefetch(a, at + 1000)  # beyond the array, where there may be no memory at all
    x, y = load(a, at, count), load(b, at, count)
    store(out, at, count, at_least(floor, number * x + (x - y) * y - number))


@kernel
def add_and_subtract(a, number, out):
    store(out, 0, LANES, (load(a, 0, LANES) + number) - number)


@kernel
def copy_all_lanes(a, count, out):
    store(out, 0, LANES, load(a, 0, count))


@kernel
def copy_transposed(a, at, out, to):
    transpose(a, at, a.shape[1], out, to, out.shape[1])


@pytest.mark.parametrize("count", range(1, LANES + 1))
def test_equals_numpy_in_some_lanes_and_leaves_the_others(count):
    """Integers: there is nothing to round, whether or not products and sums are fused."""
    rng = np.random.default_rng(count)
    a, b = rng.integers(-9, 9, (2, 3, LANES)).astype(np.float32)
    out, at = np.full_like(a, 77), 5  # a place in memory, beyond the end of no row
    compute(a, b, np.float32(3), np.float32(-20), at, count, out)
    x, y = a.ravel()[at : at + count], b.ravel()[at : at + count]
    expected = np.full(a.size, 77)
    expected[at : at + count] = np.maximum(-20, 3 * x + (x - y) * y - 3)
    np.testing.assert_array_equal(out.ravel(), expected)


@pytest.mark.parametrize("count", [0, 1, LANES - 1, LANES])
def test_lanes_that_do_not_count_are_loaded_as_0(count):
    out = np.full(LANES, 77, np.float32)
    copy_all_lanes(np.ones(LANES, np.float32), count, out)
    np.testing.assert_array_equal(out, np.arange(LANES) < count)


def test_nan_stays():
    a, out = np.full(LANES, np.nan, np.float32), np.zeros(LANES, np.float32)
    compute(a, a, np.float32(1), np.float32(0), 0, LANES, out)
    assert np.isnan(out).all()


def test_sums_are_added_in_the_order_that_is_written():
    a, out = np.ones(LANES, np.float32), np.full(LANES, 77, np.float32)
    add_and_subtract(a, np.float32(2**25), out)
    np.testing.assert_array_equal(out, 0)  # 2²⁵ + 1 is rounded to 2²⁵


def test_only_float32():
    wide = np.ones(LANES)
    with pytest.raises(TypingError):
        copy_all_lanes(wide, LANES, wide)


def test_a_square_is_transposed_and_nothing_else_written():
    a = np.random.default_rng(0).random((LANES + 3, 2 * LANES), dtype=np.float32)
    out = np.zeros((LANES + 1, 3 * LANES), np.float32)
    copy_transposed(a, 5, out, 2)
    expected = np.zeros_like(out)
    expected[:LANES, 2 : 2 + LANES] = a[:LANES, 5 : 5 + LANES].T
    np.testing.assert_array_equal(out, expected)
