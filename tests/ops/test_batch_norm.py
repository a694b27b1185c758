"""batch_norm against PyTorch and finite differences; its statistics, and numbers far from 0."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import assert_close, assert_equals_torch, random_arrays

import tinyunet as tu
from tinyunet.backend import to_host
from tinyunet.errors import DtypeError, ShapeError
from tinyunet.ops.batch_norm import EPSILON

# One pixel; an odd number of channels; several blocks of pixels on every backend, the last not full; more
# channels than a block of CUDA threads, and than the Numba kernels' inner loops are long.
SHAPES = [(1, 1, 1, 3), (2, 5, 4, 3), (2, 31, 30, 21), (1, 4, 9, 300), (1, 5, 7, 600)]


def inputs(shape, dtype):
    return random_arrays([shape, shape[3:], shape[3:]], dtype)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torch(kernel_dtype, shape, relu):
    assert_equals_torch("batch_norm", inputs(shape, kernel_dtype), relu=relu)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5)),
    relu=st.booleans(),
)
def test_equals_torch_for_any_shape(backend, shape, relu):
    assert_equals_torch("batch_norm", inputs(shape, np.float64), relu=relu)


@pytest.mark.parametrize("relu", [False, True])
def test_gradients_equal_finite_differences(backend, relu):
    arrays = inputs((2, 3, 4, 2), np.float64)
    leaves = [tu.Tensor(array, requires_grad=True) for array in arrays]
    assert tu.gradcheck(lambda *tensors: tu.batch_norm(*tensors, relu=relu), leaves)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_statistics_are_the_mean_and_the_biased_variance(kernel_dtype, shape):
    found = []
    x, scale, shift = map(tu.Tensor, inputs(shape, kernel_dtype))
    tu.batch_norm(x, scale, shift, on_statistics=lambda *statistics: found.append(statistics))
    ((mean, variance),) = found
    exact = x.numpy().astype(np.float64)
    assert_close(mean, exact.mean(axis=(0, 1, 2)).astype(kernel_dtype), "mean")
    assert_close(variance, exact.var(axis=(0, 1, 2)).astype(kernel_dtype), "variance")


def test_numbers_far_from_0(kernel_dtype):
    """A mean of a thousand standard deviations: the mean square less the squared mean would lose 6 digits.

    The mean that is subtracted is rounded by eps · 1000 standard deviations. On the way to it a sum of 1800
    numbers in float64, one after the other, is rounded by some sqrt(1800) eps. x - 1000 is exact.
    """
    shape = (1, 40, 45, 7)
    x, scale, shift = inputs(shape, kernel_dtype)
    x += 1000
    found = []
    y = tu.batch_norm(*map(tu.Tensor, (x, scale, shift)), on_statistics=lambda *s: found.append(s))
    exact = x.astype(np.float64) - 1000
    mean, variance = exact.mean(axis=(0, 1, 2)), exact.var(axis=(0, 1, 2))
    expected = (exact - mean) / np.sqrt(variance + EPSILON) * scale + shift
    eps = np.finfo(kernel_dtype).eps
    np.testing.assert_allclose(to_host(found[0][1]), variance, rtol=20 * eps)
    allowed = 1000 * (2 * eps + np.sqrt(1800) * np.finfo(np.float64).eps)
    np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=allowed * np.abs(scale).max())


def test_a_channel_without_variance_becomes_its_shift(kernel_dtype):
    x = np.full((1, 30, 40, 3), 0.1, kernel_dtype)
    scale, shift = np.ones(3, kernel_dtype), np.array([-1, 0, 2], kernel_dtype)
    tensors = [tu.Tensor(array, requires_grad=True) for array in (x, scale, shift)]
    y = tu.batch_norm(*tensors, relu=True)
    # What is left is 1 / sqrt(EPSILON) times the rounding of a mean of 1200 numbers.
    atol = 1200 * 0.1 * np.finfo(kernel_dtype).eps / np.sqrt(EPSILON)
    np.testing.assert_allclose(y.numpy()[0, 3, 5], [0, 0, 2], atol=atol)
    y.backward(np.ones(y.shape, kernel_dtype))
    assert all(np.isfinite(to_host(tensor.grad)).all() for tensor in tensors)


@pytest.mark.parametrize("relu", [False, True])
def test_nan_stays(kernel_dtype, relu):
    """In its channel, all of which it makes NaN: a training that diverges is noticed."""
    x, scale, shift = inputs((1, 20, 30, 3), kernel_dtype)
    x[0, 7, 8, 1] = np.nan
    y = tu.batch_norm(*map(tu.Tensor, (x, scale, shift)), relu=relu).numpy()
    assert np.isnan(y).all(axis=(0, 1, 2)).tolist() == [False, True, False]
    assert np.isfinite(y[..., [0, 2]]).all()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3, 4), (4,), (4,)], "x has 3 axes"),
        ([(1, 2, 3, 4), (4, 1), (4,)], "scale has 2 axes"),
        ([(1, 2, 3, 4), (3,), (4,)], "scale must have one value for each of the 4 channels"),
        ([(1, 2, 3, 4), (4,), (5,)], "shift must have one value for each of the 4 channels"),
        ([(1, 0, 3, 4), (4,), (4,)], "x has no pixel"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, message):
    with pytest.raises(ShapeError, match=message):
        tu.batch_norm(*map(tu.Tensor, random_arrays(shapes, np.float32)))


def test_dtypes_that_differ_are_refused():
    x, scale, shift = inputs((1, 2, 3, 4), np.float32)
    with pytest.raises(DtypeError, match="batch_norm"):
        tu.batch_norm(tu.Tensor(x), tu.Tensor(scale.astype(np.float64)), tu.Tensor(shift))


IN_ANOTHER_PROCESS = """
import hashlib
import numpy as np
from tinyunet.ops import batch_norm
rng = np.random.default_rng(0)
x, grad = (rng.standard_normal((1, 66, 66, 3), np.float32) for _ in range(2))
scale, shift = np.ones(3, np.float32), np.zeros(3, np.float32)
y, mean, variance = batch_norm.forward_numba(x, scale, shift, True)
found = [y, mean, variance, *batch_norm.backward_numba(grad, x, scale, shift, mean, variance, True)]
print([hashlib.sha1(array).hexdigest() for array in found])
"""


def test_the_process_that_compiles_gets_the_bits_of_the_next_one(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS]
    first, second = (subprocess.check_output(command, env=environment, text=True) for _ in range(2))
    assert first == second
