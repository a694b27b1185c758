"""The fast 3×3 convolution: its matrices exactly, its passes against float64, and its bits.

`test_conv2d.py` compares the same code with PyTorch, through the op. Here the shapes reach both algorithms
(blocks of tiles in the cache, one step after the other), more than one block, chunk and part, and tiles,
strips and blocks that are not full.
"""

from fractions import Fraction

import numpy as np
import pytest
from threads import assert_same_bits_for_any_number_of_threads

import tinyunet as tu
from tinyunet.backend import products
from tinyunet.backend.jit import kernel
from tinyunet.errors import OptionError
from tinyunet.ops import conv2d, conv2d_winograd, conv2d_winograd_transforms

# Relative to the largest value. The cases below reach at most 1.6e-6; 6e-7 for the outputs of `activations`.
TOLERANCE = 1e-5

SHAPES = [  # n, height, width, channels, filters, padding
    (1, 30, 31, 64, 64, 0),
    (2, 17, 23, 5, 7, 1),
    (1, 150, 141, 8, 16, 0),  # more than one block and strip, and the weight gradient in groups
    (1, 6, 5, 3, 4, 0),
    (3, 3, 3, 2, 2, 0),
    (1, 1, 2, 3, 2, 1),
    (2, 9, 12, 16, 8, 3),  # more padding than the window
    (1, 14, 11, 300, 270, 0),  # wide: one step after the other
]


@pytest.fixture(params=["as chosen", "in small pieces"])
def pieces(request, monkeypatch):
    """The sizes as they are, or so small that every layer is wide and in several chunks and parts."""
    if request.param == "in small pieces":
        monkeypatch.setattr(conv2d_winograd, "NARROW_FORWARD", 0)
        monkeypatch.setattr(conv2d_winograd, "NARROW_BACKWARD", 0)
        monkeypatch.setattr(conv2d_winograd, "CHUNK", 1)


def arrays(n, height, width, channels, filters, padding, kind="normal"):
    """x, weight, bias and an output gradient, float32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, height, width, channels))
    if kind == "activations":  # positive and smooth, as after a ReLU: nothing cancels in the sums
        rows, columns = np.mgrid[:height, :width]
        waves = rng.uniform(0, 0.3, (2, channels))
        x = 2 + np.sin(rows[..., None] * waves[0] + columns[..., None] * waves[1]) + 0.01 * x
    weight = rng.standard_normal((3, 3, channels, filters)) * np.sqrt(2 / (9 * channels))
    grad = rng.standard_normal((n, height + 2 * padding - 2, width + 2 * padding - 2, filters))
    return [a.astype(np.float32) for a in (x, weight, rng.standard_normal(filters), grad)]


def assert_close(actual, expected):
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["normal", "activations"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_float64(pieces, shape, kind):
    x, weight, bias, grad = arrays(*shape, kind)
    x64, weight64, bias64, grad64 = (a.astype(np.float64) for a in (x, weight, bias, grad))
    padding = shape[-1]
    for relu in (False, True):
        y = conv2d_winograd.forward(x, weight, bias, padding, relu)
        assert_close(y, conv2d.forward_numpy(x64, weight64, bias64, padding, relu))
    grad_x = conv2d_winograd.backward_input(grad, weight, padding)
    assert_close(grad_x, conv2d.backward_input_numpy(grad64, weight64, padding))
    grad_weight = conv2d_winograd.backward_weight(x, grad, padding)
    assert_close(grad_weight, conv2d.backward_weight_numpy(x64, grad64, padding, 3))


def test_transforms_are_the_matrices():
    """The functions, applied to unit vectors, give the columns of the computed matrices."""
    a_t, g, b_t = (np.array(m, np.float64) for m in conv2d_winograd_transforms.matrices())
    t = conv2d_winograd_transforms
    for function, matrix in [
        (t.input_1d, b_t),
        (t.output_1d, a_t),
        (t.output_grad_1d, a_t.T),
        (t.weight_1d, g),
        (t.weight_grad_1d, g.T),
    ]:
        columns = [function.py_func(*unit) for unit in np.eye(matrix.shape[1], dtype=np.float32)]
        exact = matrix is b_t or matrix is a_t
        np.testing.assert_allclose(np.array(columns).T, matrix, rtol=0 if exact else 1e-6, atol=0)


@pytest.mark.parametrize(
    "points", [conv2d_winograd_transforms.POINTS, [Fraction(p) for p in (0, 1, -1, 2, -2)]]
)
def test_matrices_give_the_correlation_exactly(points):
    """In fractions, for every product of one input and one weight: y_i gets g_r d_{i+r} and nothing else."""
    a_t, g, b_t = (np.array(m, dtype=object) for m in conv2d_winograd_transforms.matrices(points))
    for r in range(3):
        for e in range(6):
            y = a_t @ (g[:, r] * b_t[:, e])
            assert list(y) == [int(i + r == e) for i in range(4)]


@pytest.mark.parametrize("factor", ["weight", "output_grad"])
def test_right_factors_have_zeros_after_the_last_filter(factor):
    """They are multiplied too, and denormal numbers that memory happens to hold would slow that down."""
    filters, room = 21, products.padded(21)
    given = np.random.default_rng(0).standard_normal((5, 5, filters), dtype=np.float32)
    u = np.full((36, room), np.nan, np.float32)
    if factor == "weight":
        transform_of_weight(given, u)
    else:
        transform_of_output_grad(given, u)
    assert np.isfinite(u[:, :filters]).all()
    np.testing.assert_array_equal(u[:, filters:], 0)


@kernel
def transform_of_weight(weight, u):
    conv2d_winograd_transforms.transform_weight(weight, 0, weight.shape[2], u, 0, u.shape[1], weight.shape[2])


@kernel
def transform_of_output_grad(grad, z):
    filters = grad.shape[2]
    row = grad.shape[1] * filters
    conv2d_winograd_transforms.transform_output_grad(
        grad, 0, row, filters, z, 0, z.shape[1], filters, z.shape[1]
    )


@pytest.mark.parametrize("shape", [(1, 150, 141, 8, 16, 0), (2, 14, 11, 300, 270, 1)])
def test_same_bits_each_time_and_for_any_number_of_threads(pieces, shape):
    x, weight, bias, grad = arrays(*shape)
    assert_same_bits_for_any_number_of_threads(
        lambda: (
            conv2d_winograd.forward(x, weight, bias, shape[-1], True),
            conv2d_winograd.backward_input(grad, weight, shape[-1]),
            conv2d_winograd.backward_weight(x, grad, shape[-1]),
        )
    )


def test_nan_spreads_no_further_than_the_tiles_it_is_in():
    x, weight, bias, _ = arrays(1, 30, 30, 8, 8, 0)
    x[0, 13, 14, 3] = np.nan
    nan = np.isnan(conv2d_winograd.forward(x, weight, bias, 0, True)).any(axis=(0, 3))
    assert nan[11:14, 12:15].all()
    assert not nan[:8].any()
    assert not nan[16:].any()


def test_choice(monkeypatch):
    suits = conv2d_winograd.suits
    monkeypatch.delenv("TINYUNET_CONV", raising=False)
    assert suits(np.float32, 3, 64, 64)
    assert not suits(np.float32, 3, 1, 64)  # too few products for each transform
    assert not suits(np.float32, 1, 64, 64)
    assert not suits(np.float64, 3, 64, 64)
    monkeypatch.setenv("TINYUNET_CONV", "winograd")
    assert suits(np.float32, 3, 1, 64)
    assert not suits(np.float64, 3, 64, 64)
    monkeypatch.setenv("TINYUNET_CONV", "direct")
    assert not suits(np.float32, 3, 64, 64)
    monkeypatch.setenv("TINYUNET_CONV", "fft")
    with pytest.raises(OptionError, match="'fft'"):
        suits(np.float32, 3, 64, 64)


@pytest.mark.parametrize(("choice", "other"), [("direct", "forward"), ("winograd", "_forward")])
def test_the_environment_variable_decides(monkeypatch, choice, other):
    """With each choice the op works without the other algorithm."""
    monkeypatch.setenv("TINYUNET_CONV", choice)
    monkeypatch.setattr(conv2d_winograd if choice == "direct" else conv2d, other, None)
    x, weight, bias, _ = arrays(1, 8, 8, 8, 8, 0)
    with tu.use_backend("numba"):
        y = conv2d.forward(x, weight, bias, 0, False)
    assert_close(y, conv2d.forward_numpy(*(a.astype(np.float64) for a in (x, weight, bias)), 0, False))
