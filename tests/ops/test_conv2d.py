"""conv2d against PyTorch, finite differences and its own equation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import DTYPES, assert_close, assert_equals_torch, random_arrays

import tinyunet as tu
from tinyunet.errors import DtypeError, OptionError, ShapeError
from tinyunet.ops.conv2d import backward_bias, forward


def shapes(n, height, width, channels, filters, size, bias=True):
    return [(n, height, width, channels), (size, size, channels, filters), (filters,) if bias else None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 3, 4, 5])
def test_equals_torch(backend, size, padding, bias, relu, dtype):
    arrays = random_arrays(shapes(2, 7, 11, 3, 4, size, bias), dtype)
    assert_equals_torch("conv2d", arrays, padding=padding, relu=relu)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(
    ("n", "height", "width", "channels", "filters"),
    [(1, 18, 21, 32, 48), (3, 9, 10, 130, 16), (1, 30, 7, 16, 130), (1, 3, 3, 70, 5), (2, 3, 40, 8, 8)],
)
def test_equals_torch_at_the_widths_of_a_network(n, height, width, channels, filters, padding, dtype):
    """Widths around the kernels' block sizes: 64 channels per task, tiles of 4×4 pixels, strips of 8."""
    with tu.use_backend("numba"):
        arrays = random_arrays(shapes(n, height, width, channels, filters, 3), dtype)
        assert_equals_torch("conv2d", arrays, padding=padding, relu=True)


@given(
    n=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 5),
    filters=st.integers(1, 5),
    size=st.integers(1, 5),
    padding=st.integers(0, 4),
    relu=st.booleans(),
)
def test_equals_torch_for_any_shape(backend, n, height, width, channels, filters, size, padding, relu):
    padding = max(padding, (size - min(height, width) + 1) // 2)
    arrays = random_arrays(shapes(n, height, width, channels, filters, size), np.float64)
    assert_equals_torch("conv2d", arrays, padding=padding, relu=relu)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
def test_gradients_equal_finite_differences(backend, padding, relu):
    inputs = [tu.Tensor(a, requires_grad=True) for a in random_arrays(shapes(2, 4, 5, 2, 3, 3), np.float64)]
    assert tu.gradcheck(lambda *t: tu.conv2d(*t, padding=padding, relu=relu), inputs)


def test_equation(backend):
    """The equation of the docstring, pixel by pixel, without PyTorch."""
    x, weight, bias = random_arrays(shapes(2, 4, 5, 2, 3, 3), np.float64)
    y = tu.conv2d(tu.Tensor(x), tu.Tensor(weight), tu.Tensor(bias)).numpy()
    for n, i, j, f in np.ndindex(y.shape):
        expected = bias[f] + np.sum(weight[..., f] * x[n, i : i + 3, j : j + 3])
        assert y[n, i, j, f] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2, 32])
def test_nan_reaches_every_output_that_it_goes_into(backend, channels, dtype, relu):
    x, weight, bias = random_arrays(shapes(1, 12, 13, channels, channels, 3), dtype)
    x[0, 6, 7, 0] = np.nan
    y = tu.conv2d(tu.Tensor(x), tu.Tensor(weight), tu.Tensor(bias), relu=relu).numpy()
    assert np.isnan(y[0, 4:7, 5:8]).all()
    assert not np.isnan(y[0, 11:]).any()


@pytest.mark.parametrize("needed", range(3))
def test_only_the_gradients_that_are_needed(backend, needed):
    tensors = [tu.Tensor(a) for a in random_arrays(shapes(1, 4, 4, 2, 3, 3), np.float32)]
    tensors[needed].requires_grad = True
    y = tu.conv2d(*tensors)
    computed = y._function.backward(np.ones(y.shape, np.float32))
    assert [gradient is not None for gradient in computed] == [i == needed for i in range(3)]
    tu.conv2d(*tensors).backward(np.ones(y.shape))
    assert [tensor.grad is not None for tensor in tensors] == [i == needed for i in range(3)]


@pytest.mark.parametrize("name", ["numba", "cuda-emulated"])
def test_bias_gradient_of_many_pixels_keeps_its_digits(name):
    """A million terms, one after the other in float32, lose 1e-3 of the sum: it is computed in float64."""
    grad_output = np.full((1, 1000, 1000, 1), 0.1, np.float32)
    expected = np.array([1e6 * np.float64(np.float32(0.1))], np.float32)
    with tu.use_backend(name):
        assert_close(backward_bias(grad_output), expected, tolerance=1e-6)


def test_shapes_that_do_not_fit():
    x, weight, bias = (tu.Tensor(a) for a in random_arrays(shapes(1, 8, 8, 4, 5, 3), np.float32))
    with pytest.raises(ShapeError, match="3 input channels"):
        tu.conv2d(x, tu.Tensor(np.zeros((3, 3, 3, 5), np.float32)))
    for shape in [(4,), (5, 1)]:
        with pytest.raises(ShapeError, match="bias"):
            tu.conv2d(x, weight, tu.Tensor(np.zeros(shape, np.float32)))
    for shape in [(8, 8, 4), (1, 1, 8, 8, 4)]:
        with pytest.raises(ShapeError, match=f"{len(shape)} axes"):
            tu.conv2d(tu.Tensor(np.zeros(shape, np.float32)), weight)
    for window in [(2, 4), (3, 5)]:
        with pytest.raises(ShapeError, match=f"{window[0]}×{window[1]}"):
            tu.conv2d(x, tu.Tensor(np.zeros((*window, 4, 5), np.float32)), bias)
    for shape, found in [((1, 2, 8, 4), r"\(1, 2, 8, 4\)"), ((1, 8, 2, 4), r"\(1, 8, 2, 4\)")]:
        with pytest.raises(ShapeError, match=found):
            tu.conv2d(tu.Tensor(np.zeros(shape, np.float32)), weight)
    with pytest.raises(OptionError, match="padding is -1"):
        tu.conv2d(x, weight, padding=-1)


def test_types_that_do_not_fit():
    x, weight, bias = (tu.Tensor(a) for a in random_arrays(shapes(1, 8, 8, 4, 5, 3), np.float32))
    with pytest.raises(DtypeError, match=r"bias +float64"):
        tu.conv2d(x, weight, tu.Tensor(bias.data.astype(np.float64)))


def test_a_1x1_convolution_is_a_matrix_product(backend):
    x, weight = random_arrays([(2, 3, 5, 4), (1, 1, 4, 6)], np.float64)
    y = forward(x, weight, None, 0, False)
    np.testing.assert_allclose(y.reshape(-1, 6), x.reshape(-1, 4) @ weight[0, 0], rtol=0, atol=1e-13)
