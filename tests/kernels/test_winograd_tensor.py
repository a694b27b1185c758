"""The products of kernels/conv2d_winograd_tensor.cu, three of halves for each, and how exact they are."""

import numpy as np
import ptx
import pytest
from halves import STAGE, by_fma, by_halves

from tinyunet.backend import cuda, to_backend, to_host


def bound(v, u):
    """Return how far a result may be from the exact one.

    In units of 2^-24 of the sum of the products' absolute values:

    - 8 of the halves: each factor loses 2^-23 of itself, and low · low is 2^-22;
    - 28 of the two large instructions of a stage on the coarsest tensor cores: these add four products at a
      time, and lose less than 2^-24 for each of five summands and 2^-23 for the sum, which are seven units,
      twice in each instruction;
    - 1 of the four small instructions, whose products are 2^-11 of the large ones;
    - 1 for each addition of a stage's sum.
    """
    return (8 + 28 + 1 + v.shape[1] / STAGE) * 2.0**-24 * (abs(v).astype(float) @ abs(u).astype(float))


def factors(depth, positive, rows=16, columns=8):
    rng = np.random.default_rng(depth)
    v, u = rng.uniform(1, 2, (rows, depth)), rng.uniform(1, 2, (depth, columns))
    if not positive:
        v, u = rng.standard_normal(v.shape), rng.standard_normal(u.shape)
    return v.astype(np.float32), u.astype(np.float32)


def launched(v, u, direction):
    """Multiply by the kernel of one of the directions, at one of the 36 frequencies."""
    result = cuda.empty((v.shape[0], u.shape[1]))
    if direction == "multiply":
        left, sizes = v, (*v.shape, u.shape[1])
    else:
        left, sizes = np.ascontiguousarray(v.T), (v.shape[1], v.shape[0], u.shape[1], v.shape[1])
    arrays = (to_backend(left), to_backend(u), result)
    cuda.launch("conv2d", f"winograd_tensor_{direction}", (1, 1, 1), (64,), *arrays, *sizes)
    return to_host(result)


@pytest.mark.parametrize("direction", ["multiply", "multiply_transposed"])
def test_the_kernels_have_the_bits_of_numpy(emulated, direction):
    """By the emulator, and from their PTX, on tensor cores of both kinds."""
    v, u = factors(64, positive=False, rows=20, columns=36)
    np.testing.assert_array_equal(launched(v, u, direction), by_halves(v, u, 90))
    for architecture in (80, 90):
        with ptx.interpreted(f"sm_{architecture}"):
            np.testing.assert_array_equal(launched(v, u, direction), by_halves(v, u, architecture))


@pytest.mark.parametrize("direction", ["multiply", "multiply_transposed"])
@pytest.mark.parametrize("positive", [False, True])
def test_the_error_of_the_kernels_stays_below_its_bound(emulated_or_gpu, direction, positive):
    v, u = factors(256, positive)
    exact = v.astype(float) @ u.astype(float)
    assert (abs(launched(v, u, direction) - exact) <= bound(v, u)).all()


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("depth", [16, 64, 1024])
def test_the_error_of_the_model_stays_below_it(architecture, positive, depth):
    v, u = factors(depth, positive)
    exact = v.astype(float) @ u.astype(float)
    assert (abs(by_halves(v, u, architecture) - exact) <= bound(v, u)).all()


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("positive", [False, True])
def test_long_sums_are_more_exact_than_in_float32(architecture, positive):
    """By their root of the mean square."""
    v, u = factors(1024, positive)
    exact = v.astype(float) @ u.astype(float)
    errors = [np.sqrt(((sums - exact) ** 2).mean()) for sums in (by_halves(v, u, architecture), by_fma(v, u))]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("architecture", [80, 90])
def test_sums_that_stay_in_the_tensor_cores_do_not(architecture):
    """Cut off again and again, positive sums lose more than the bound of those that are added outside."""
    v, u = factors(1024, positive=True)
    exact = v.astype(float) @ u.astype(float)
    assert (exact - by_halves(v, u, architecture, stage=1024) > bound(v, u)).any()


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800000])
def test_what_is_not_finite_stays_so(emulated, bits):
    """Each NaN, whatever its bits, and infinity, whose low half is NaN."""
    v, u = factors(16, positive=True)
    v.view(np.uint32)[3, 5] = bits
    expected = np.zeros((16, 8), bool)
    expected[3] = True
    np.testing.assert_array_equal(np.isnan(launched(v, u, "multiply")), expected)
