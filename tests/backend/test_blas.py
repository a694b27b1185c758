"""Matrix products inside kernels: whole and in pieces, plain and transposed, against NumPy."""

import numpy as np
import pytest

from tinyunet.backend import blas
from tinyunet.backend.jit import kernel


@kernel
def product(routine, a, b, beta, c):
    blas.gemm(routine, a, b, beta, c)


@kernel
def product_tn(routine, a, b, beta, c):
    blas.gemm_tn(routine, a, b, beta, c)


@pytest.mark.parametrize("largest", [1, 10**6, 2**62])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize(("rows", "summands", "columns"), [(50, 300, 130), (1, 1, 1), (24, 256, 128)])
def test_equals_numpy(rows, summands, columns, beta, dtype, largest):
    """Also for views of some columns, whose rows lie apart. Integers: there is nothing to round."""
    rng = np.random.default_rng(0)
    a, b, c = (
        rng.integers(-9, 9, (height, width + 3)).astype(dtype)[:, :width]
        for height, width in ((rows, summands), (summands, columns), (rows, columns))
    )
    expected = a @ b + beta * c
    routine = blas.gemm_routine(dtype)[0], largest
    for kind, factor in ((product, a), (product_tn, np.ascontiguousarray(a.T))):
        out = c.copy() if beta else np.full_like(c, np.nan)  # with beta = 0 the contents do not count
        kind(routine, factor, b, beta, out)
        np.testing.assert_array_equal(out, expected)
