"""The up-convolution against PyTorch, finite differences and its adjoint."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import DTYPES, assert_equals_torch, random_arrays
from threads import assert_same_bits_for_any_number_of_threads
from torch.nn import functional as F

import tinyunet as tu
from tinyunet.backend import DISPATCH_TABLE
from tinyunet.backend.cuda_log import launch_log
from tinyunet.errors import DtypeError, ShapeError
from tinyunet.ops import conv2d_cuda, conv_transpose2d, conv_transpose2d_cuda


def shapes(n, height, width, channels, filters, bias=True, size=2):
    return [(n, height, width, channels), (size, size, channels, filters), (filters,) if bias else None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(2, 7, 11, 3, 4), (1, 5, 3, 130, 70), (2, 9, 7, 33, 8)])
def test_equals_torch(backend, sizes, bias, relu, dtype):
    """Once in blocks of 64 channels, once with two columns of filters that fill registers: row by row."""
    assert_equals_torch("conv_transpose2d", random_arrays(shapes(*sizes, bias), dtype), relu=relu)


@given(
    n=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.integers(1, 5),
    filters=st.integers(1, 5),
    size=st.sampled_from([2, 4]),
    relu=st.booleans(),
)
def test_equals_torch_for_any_shape(backend, n, height, width, channels, filters, size, relu):
    arrays = random_arrays(shapes(n, height, width, channels, filters, size=size), np.float64)
    assert_equals_torch("conv_transpose2d", arrays, relu=relu)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_overlapping_windows_equal_torch(backend, bias, relu, dtype):
    arrays = random_arrays(shapes(2, 7, 5, 3, 4, bias, size=4), dtype)
    assert_equals_torch("conv_transpose2d", arrays, relu=relu)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "sizes", [(2, 4, 5, 3, 6, 2), (1, 3, 2, 20, 9, 2), (1, 40, 55, 2, 1, 2), (2, 4, 5, 2, 2, 4)]
)
@pytest.mark.parametrize("rung", conv_transpose2d_cuda.RUNGS)
def test_every_rung_equals_torch(build, monkeypatch, rung, sizes, relu):
    """(1, 40, 55, …) has more pixels than one part of the weight gradient."""
    for direction in ("forward", "backward_input", "backward_weight", "backward_bias"):
        launch = partial(getattr(conv_transpose2d_cuda, direction), rung=rung)
        monkeypatch.setitem(DISPATCH_TABLE["conv_transpose2d", direction].implementations, "cuda", launch)
    *sizes, size = sizes
    assert_equals_torch("conv_transpose2d", random_arrays(shapes(*sizes, size=size), np.float32), relu=relu)


def test_the_weight_gradient_by_rows_has_the_same_bits_for_any_number_of_threads():
    x, grad = random_arrays([(2, 9, 7, 33), (2, 18, 14, 8)], np.float32)
    assert_same_bits_for_any_number_of_threads(lambda: [conv_transpose2d.backward_weight_numba(x, grad)])


@pytest.mark.parametrize("filters", [8, 6])
def test_the_backward_by_copies_gathers_once(emulated, monkeypatch, filters):
    """It has the bits of separate steps. Copies are made of four filters at once, else of gathered rows."""
    monkeypatch.setattr(conv2d_cuda, "MIN_COPIED", 8)
    monkeypatch.setattr(conv2d_cuda, "MIN_MULTIPLICATIONS", 1)
    arrays = random_arrays(shapes(2, 3, 5, 8, filters), np.float32)
    x, weight, bias = (tu.Tensor(array, requires_grad=True) for array in arrays)
    with tu.use_backend("cuda-emulated", "bf16"), launch_log() as log:
        y = tu.conv_transpose2d(x, weight, bias)
        (grad_y,) = random_arrays([y.shape], np.float32, seed=1)
        y.backward(grad_y)
        expected = conv_transpose2d_cuda.backward_input(grad_y, weight.data)
        expected_weight = conv_transpose2d_cuda.backward_weight(x.data, grad_y)
    np.testing.assert_array_equal(x.grad, expected)
    np.testing.assert_array_equal(weight.grad, expected_weight)
    np.testing.assert_allclose(bias.grad, grad_y.sum(axis=(0, 1, 2), dtype=float), rtol=2.0**-24 * 1.01)
    copied = "conv2d_gather_to_bf16" if filters == 8 else "conv_transpose2d_gather"
    assert log.totals[copied].launches == (1 if filters == 8 else 3)  # two of them are those expected


@pytest.mark.parametrize("needed", range(3))
def test_the_gradient_of_one_input_of_overlapping_windows(needed):
    """The others are not needed, and not computed."""
    arrays = random_arrays(shapes(1, 3, 4, 2, 3, size=4), np.float64)
    all_of_them = [tu.Tensor(a, requires_grad=True) for a in arrays]
    one = [tu.Tensor(a, requires_grad=i == needed) for i, a in enumerate(arrays)]
    for tensors in (all_of_them, one):
        tu.conv_transpose2d(*tensors).backward(np.ones((1, 6, 8, 3)))
    computed = tu.conv_transpose2d(*one)._function.backward(np.ones((1, 6, 8, 3)))
    assert [gradient is not None for gradient in computed] == [i == needed for i in range(3)]
    np.testing.assert_array_equal(one[needed].grad, all_of_them[needed].grad)
    assert [t.grad is not None for t in one] == [i == needed for i in range(3)]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [2, 4])
def test_gradients_equal_finite_differences(backend, size, relu):
    arrays = random_arrays(shapes(2, 3, 4, 2, 3, size=size), np.float64)
    inputs = [tu.Tensor(a, requires_grad=True) for a in arrays]
    assert tu.gradcheck(lambda *t: tu.conv_transpose2d(*t, relu=relu), inputs)


def test_adjoint_of_a_convolution_of_stride_2(backend):
    """<up(x), y> = <x, down(y)>, with down from PyTorch."""
    x, weight, _ = random_arrays(shapes(2, 5, 3, 4, 6, bias=False), np.float64)
    up = tu.conv_transpose2d(tu.Tensor(x), tu.Tensor(weight)).numpy()
    y = np.random.default_rng(2).standard_normal(up.shape)
    down = F.conv2d(torch.tensor(y).permute(0, 3, 1, 2), torch.tensor(weight).permute(2, 3, 0, 1), stride=2)
    np.testing.assert_allclose(np.vdot(up, y), np.vdot(x, down.permute(0, 2, 3, 1).numpy()), rtol=1e-12)


@pytest.mark.parametrize("relu", [False, True])
def test_nan_reaches_every_output_that_it_goes_into(backend, relu):
    x, weight, bias = random_arrays(shapes(1, 3, 4, 2, 3), np.float32)
    x[0, 1, 2, 0] = np.nan
    y = tu.conv_transpose2d(tu.Tensor(x), tu.Tensor(weight), tu.Tensor(bias), relu=relu).numpy()
    expected = np.zeros(y.shape, bool)
    expected[0, 2:4, 4:6] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


def test_inputs_that_do_not_fit():
    x, weight, _ = (tu.Tensor(a) for a in random_arrays(shapes(1, 4, 4, 6, 3), np.float32))
    with pytest.raises(ShapeError, match="5 input channels"):
        tu.conv_transpose2d(x, tu.Tensor(np.zeros((2, 2, 5, 3), np.float32)))
    for window in [(3, 3), (2, 4), (4, 2)]:
        with pytest.raises(ShapeError, match=rf"\({window[0]}, {window[1]}, 6, 3\)"):
            tu.conv_transpose2d(x, tu.Tensor(np.zeros((*window, 6, 3), np.float32)))
    with pytest.raises(ShapeError, match="bias"):
        tu.conv_transpose2d(x, weight, tu.Tensor(np.zeros((1, 3), np.float32)))
    with pytest.raises(DtypeError, match="float64"):
        tu.conv_transpose2d(x, tu.Tensor(weight.data.astype(np.float64)))
