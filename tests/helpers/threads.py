"""The promise that results do not depend on the number of threads."""

import numba
import numpy as np


def assert_same_bits_for_any_number_of_threads(compute):
    """Require the same bits of the arrays that `compute` returns, with one and two threads and at each call.

    Returns the arrays.
    """
    assert numba.config.NUMBA_NUM_THREADS >= 2, "set before Numba is imported: see conftest.py"
    results, before = [], numba.get_num_threads()
    try:
        for threads in (1, 2, 1, 2):
            numba.set_num_threads(threads)
            results.append([np.array(array) for array in compute()])
    finally:
        numba.set_num_threads(before)
    for result in results[1:]:
        for array, first in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(array, first)
    return results[0]
