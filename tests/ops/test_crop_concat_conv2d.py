"""The skip's convolution in one op: the bits of crop_concat and conv2d, PyTorch, differences, memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import DTYPES, assert_equals_torch, random_arrays
from threads import assert_same_bits_for_any_number_of_threads

import tinyunet as tu
from tinyunet.backend import allocator, to_host
from tinyunet.errors import DtypeError, OptionError, ShapeError
from tinyunet.ops import conv2d_winograd


def shapes(n=2, size=(5, 6), skip_size=(8, 10), channels=(3, 2), filters=4, window=3):
    return [
        (n, *size, channels[0]),
        (n, *skip_size, channels[1]),
        (window, window, sum(channels), filters),
        (filters,),
    ]


def one_after_the_other(upsampled, skip, weight, bias=None, **options):
    return tu.conv2d(tu.crop_concat(upsampled, skip), weight, bias, **options)


def output_and_gradients(op, arrays, **options):
    tensors = [None if a is None else tu.Tensor(a, requires_grad=True) for a in arrays]
    y = op(*tensors, **options)
    y.backward(np.random.default_rng(1).standard_normal(y.shape))
    return [to_host(a) for a in (y.data, *(t.grad for t in tensors if t is not None))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("window", [1, 3])
def test_equals_torch(backend, window, padding, dtype):
    arrays = random_arrays(shapes(window=window), dtype)
    assert_equals_torch("crop_concat_conv2d", arrays, padding=padding, relu=padding > 0)


@pytest.mark.parametrize("padding", [0, 1])
def test_gradients_equal_finite_differences(backend, padding):
    arrays = random_arrays(shapes(size=(4, 3), skip_size=(6, 4), channels=(2, 1), filters=2), np.float64)
    inputs = [tu.Tensor(a, requires_grad=True) for a in arrays]
    assert tu.gradcheck(lambda *t: tu.crop_concat_conv2d(*t, padding=padding, relu=True), inputs)


@pytest.fixture(params=["as chosen", "in small pieces"])
def pieces(request, monkeypatch):
    """The sizes as they are, or so small that a wide layer's parts end within both maps."""
    if request.param == "in small pieces":
        monkeypatch.setattr(conv2d_winograd, "NARROW_FORWARD", 0)
        monkeypatch.setattr(conv2d_winograd, "NARROW_BACKWARD", 0)
        monkeypatch.setattr(conv2d_winograd, "CHUNK", 1)


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize(
    ("size", "skip_size", "channels", "filters"),
    [
        ((21, 26), (30, 33), (8, 8), 16),
        ((9, 10), (9, 10), (21, 70), 13),  # no crop; a register that has channels of both maps
        ((6, 5), (7, 5), (100, 5), 40),  # cropped by a row, below only
        ((56, 60), (64, 61), (9, 23), 8),  # the weight gradient in groups
        ((14, 11), (20, 20), (150, 150), 270),  # wide
    ],
)
def test_has_the_bits_of_the_two_ops_for_any_number_of_threads(
    pieces, size, skip_size, channels, filters, padding
):
    arrays = random_arrays(shapes(2, size, skip_size, channels, filters), np.float32)
    with tu.use_backend("numba"):
        expected = output_and_gradients(one_after_the_other, arrays, padding=padding, relu=True)
        actual = assert_same_bits_for_any_number_of_threads(
            lambda: output_and_gradients(tu.crop_concat_conv2d, arrays, padding=padding, relu=True)
        )
    for one, two in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, two)


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    more=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    filters=st.integers(1, 20),
    padding=st.integers(1, 4),
    bias=st.booleans(),
)
def test_has_the_bits_of_the_two_ops_for_any_shape(
    kernel_dtype, size, more, channels, filters, padding, bias
):
    skip_size = size[0] + more[0], size[1] + more[1]
    *arrays, last = random_arrays(shapes(1, size, skip_size, channels, filters), kernel_dtype)
    arrays.append(last if bias else None)
    expected = output_and_gradients(one_after_the_other, arrays, padding=padding)
    actual = output_and_gradients(tu.crop_concat_conv2d, arrays, padding=padding)
    for one, two in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_lies_around_the_centre_of_the_skip_does_not_matter(backend):
    """With padding, zeros surround the centre, not what the skip has there."""
    upsampled, skip, weight, bias = random_arrays(shapes(1, (6, 6), (10, 10), (8, 8), 8), np.float32)
    around = np.full_like(skip, np.nan)
    around[:, 2:8, 2:8] = skip[:, 2:8, 2:8]
    first, second = (
        output_and_gradients(tu.crop_concat_conv2d, [upsampled, s, weight, bias], padding=1)
        for s in (skip, around)
    )
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("needed", range(4))
def test_only_the_gradients_that_are_needed(backend, needed):
    tensors = [tu.Tensor(a) for a in random_arrays(shapes(1, (6, 6), (8, 8), (8, 8), 8), np.float32)]
    tensors[needed].requires_grad = True
    y = tu.crop_concat_conv2d(*tensors)
    y.backward(np.ones(y.shape))
    assert [tensor.grad is not None for tensor in tensors] == [i == needed for i in range(4)]


def test_takes_no_memory_for_a_concatenated_map():
    """Forward and backward need the output, its gradient, those of the inputs, and Winograd's blocks."""
    arrays = random_arrays(shapes(1, (200, 200), (240, 240), (64, 64), 8), np.float32)
    upsampled, skip, weight, bias = (tu.Tensor(a, requires_grad=True) for a in arrays)
    with tu.use_backend("numba"):
        allocator.peak()
        y = tu.crop_concat_conv2d(upsampled, skip, weight, bias)
        forward = allocator.peak()
        y.backward(np.zeros(y.shape))
        assert allocator.peak() < 1.5 * (upsampled.grad.nbytes + skip.grad.nbytes)
    joined = 2 * upsampled.data.nbytes
    assert forward < y.data.nbytes + 0.5 * joined


def test_inputs_that_do_not_fit():
    upsampled, skip, weight, bias = (tu.Tensor(a) for a in random_arrays(shapes(), np.float32))
    with pytest.raises(ShapeError, match="order"):
        tu.crop_concat_conv2d(skip, upsampled, weight, bias)
    with pytest.raises(ShapeError, match="4 input channels"):
        tu.crop_concat_conv2d(upsampled, skip, tu.Tensor(weight.data[:, :, :4]), bias)
    with pytest.raises(OptionError, match="-1"):
        tu.crop_concat_conv2d(upsampled, skip, weight, bias, padding=-1)
    with pytest.raises(DtypeError, match="float64"):
        tu.crop_concat_conv2d(upsampled, skip, tu.Tensor(weight.data.astype(np.float64)), bias)
