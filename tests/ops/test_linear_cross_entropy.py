"""The last layer fused with the loss, against PyTorch, finite differences, and the two ops that it fuses."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import DTYPES, assert_close, assert_equals_torch, random_arrays
from scipy.special import log_softmax, softmax

import tinyunet as tu
from tinyunet.backend import to_host
from tinyunet.errors import DataError, DtypeError, OptionError, ShapeError
from tinyunet.ops import linear_cross_entropy_softmax
from tinyunet.ops.linear_cross_entropy import PART_PIXELS


def features(n=2, height=7, width=11, channels=6, classes=3, dtype=np.float64, seed=0):
    """Features, weight and bias of the layer; options with per-pixel targets and weights."""
    shapes = [(n, height, width, channels), (1, 1, channels, classes), (classes,)]
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (n, height, width))
    weight = rng.uniform(0.1, 10, target.shape).astype(dtype)
    return random_arrays(shapes, dtype, seed), {"target": target, "pixel_weight": weight}


def loss_and_gradients(op, arrays, **options):
    """The loss and the gradients of all inputs, fused or not, as arrays."""
    tensors = [tu.Tensor(a, requires_grad=True) for a in arrays]
    loss = op(*tensors, **options)
    loss.backward()
    return [loss.data, *(t.grad for t in tensors)]


def unfused(x, weight, bias, target, pixel_weight=None, reduction="mean", ignore_label=None):
    return tu.softmax_cross_entropy(tu.conv2d(x, weight, bias), target, pixel_weight, reduction, ignore_label)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("ignore_label", [None, 1, 255, -1])
def test_equals_torch(backend, reduction, weighted, ignore_label, dtype):
    """Here the gradient of the loss is not 1."""
    arrays, options = features(dtype=dtype)
    if ignore_label is not None:
        options["target"][0, ::2, 1::3] = ignore_label
    if not weighted:
        del options["pixel_weight"]
    assert_equals_torch(
        "linear_cross_entropy", arrays, **options, reduction=reduction, ignore_label=ignore_label
    )


@pytest.mark.parametrize("ignore_label", [None, 1])
@pytest.mark.parametrize(
    ("shape", "channels", "classes"),
    [
        ((1, 3, 5), 64, 2),  # as in the paper: two pixels per warp
        ((2, 13, 21), 16, 3),  # several parts, the last of them not full
        ((1, 20, 33), 12, 4),  # one lane in four has no channels
        ((1, 5, 7), 128, 2),  # one warp per pixel
        ((1, 9, 33), 4, 2),  # one lane per pixel
        ((1, 5, 7), 132, 2),  # not fused, as the next two
        ((1, 5, 7), 5, 3),
        ((1, 5, 7), 8, 5),
    ],
)
def test_sizes_of_the_cuda_kernel(kernel_dtype, shape, channels, classes, ignore_label):
    arrays, options = features(*shape, channels, classes, kernel_dtype)
    options["ignore_label"] = ignore_label
    assert_equals_torch("linear_cross_entropy", arrays, **options)
    arrays[0] *= 1e4  # scores whose exponentials overflow
    assert_equals_torch("linear_cross_entropy", arrays, **options, reduction="sum")


@pytest.mark.parametrize("channels", [5, 16])
def test_the_loss_without_gradients_has_the_same_bits(kernel_dtype, channels):
    arrays, options = features(2, 13, 21, channels, 2, kernel_dtype)
    with_gradients = tu.linear_cross_entropy(*(tu.Tensor(a, requires_grad=True) for a in arrays), **options)
    loss = tu.linear_cross_entropy(*map(tu.Tensor, arrays), **options)
    assert not loss.requires_grad
    assert loss.item() == with_gradients.item()


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("channel", [0, 5])
def test_nan_is_seen_unless_its_pixel_is_ignored(kernel_dtype, channel, ignored):
    """In the loss and every gradient; of an ignored pixel, in the gradient of its channel's weight only."""
    x, weight, bias = random_arrays([(1, 3, 7, 8), (1, 1, 8, 2), (2,)], kernel_dtype)
    x[0, 1, 2, channel] = np.nan
    target = np.zeros((1, 3, 7), int)
    target[0, 1, 2] = 9 if ignored else 1
    tensors = [tu.Tensor(a, requires_grad=True) for a in (x, weight, bias)]
    loss = tu.linear_cross_entropy(*tensors, target, ignore_label=9)
    loss.backward()
    grad_x, grad_weight, grad_bias = (np.isnan(to_host(t.grad)) for t in tensors)
    assert np.isnan(loss.numpy()) == (not ignored)
    np.testing.assert_array_equal(grad_x.any(axis=3).nonzero(), ([], [], []) if ignored else ([0], [1], [2]))
    assert grad_weight[0, 0].all(axis=1).tolist() == [not ignored or c == channel for c in range(8)]
    assert grad_bias.all() == (not ignored)


@given(
    n=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.integers(1, 40),
    classes=st.integers(2, 7),
)
def test_equals_torch_for_any_shape(backend, n, height, width, channels, classes):
    arrays, options = features(n, height, width, channels, classes)
    assert_equals_torch("linear_cross_entropy", arrays, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, PART_PIXELS), (1, 1, PART_PIXELS + 1), (3, 50, 41)])
def test_more_pixels_than_a_part(backend, sizes, dtype):
    arrays, options = features(*sizes, channels=17, classes=2, dtype=dtype)
    assert_equals_torch("linear_cross_entropy", arrays, **options)


def test_one_class_is_certain(backend):
    arrays, options = features(classes=1)
    loss, *gradients = loss_and_gradients(tu.linear_cross_entropy, arrays, **options)
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_equal_finite_differences(backend, reduction):
    arrays, options = features(1, 3, 4, 5, 3)
    options["target"][0, 1, 1] = 9
    assert tu.gradcheck(
        lambda *t: tu.linear_cross_entropy(*t, **options, reduction=reduction, ignore_label=9),
        [tu.Tensor(a, requires_grad=True) for a in arrays],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5])
def test_equals_the_two_ops(backend, classes, dtype):
    arrays, options = features(2, 40, 37, 16, classes, dtype)
    options["target"][1, 3:9] = 255
    ours = loss_and_gradients(tu.linear_cross_entropy, arrays, **options, ignore_label=255)
    theirs = loss_and_gradients(unfused, arrays, **options, ignore_label=255)
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our, their)


def test_without_bias_and_without_gradients(backend):
    (x, weight, _), options = features()
    expected = unfused(tu.Tensor(x), tu.Tensor(weight), None, **options)
    loss = tu.linear_cross_entropy(tu.Tensor(x), tu.Tensor(weight), None, **options)
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_only_what_needs_a_gradient_has_one(backend):
    (x, weight, bias), options = features()
    x, weight, bias = tu.Tensor(x), tu.Tensor(weight, requires_grad=True), tu.Tensor(bias)
    tu.linear_cross_entropy(x, weight, bias, **options).backward()
    assert weight.grad is not None
    assert x.grad is None
    assert bias.grad is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_scores(backend, dtype):
    """±10,000 and more: their exponentials overflow and underflow, the loss and its gradients do not."""
    arrays, options = features(dtype=dtype)
    arrays[0] = np.random.default_rng(0).choice([-1e4, 0, 1e4], arrays[0].shape).astype(dtype)
    assert_equals_torch("linear_cross_entropy", arrays, **options, reduction="sum")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("why", ["ignored", "weight 0"])
def test_nothing_to_count_is_zero(backend, why, reduction):
    arrays, options = features()
    if why == "ignored":
        options["target"][:], options["pixel_weight"][:] = 255, np.nan
    else:
        options["pixel_weight"][:] = 0
    results = loss_and_gradients(
        tu.linear_cross_entropy, arrays, **options, reduction=reduction, ignore_label=255
    )
    assert not any(result.any() for result in results)


def test_a_float32_loss_of_many_pixels_keeps_its_digits(backend):
    """Half a million equal terms, log 2 each, and as many of a half in the gradient of the bias."""
    shapes = [(1, 512, 1024, 4), (1, 1, 4, 2), (2,)]
    x, weight, bias = (tu.Tensor(np.zeros(shape, np.float32), requires_grad=True) for shape in shapes)
    loss = tu.linear_cross_entropy(x, weight, bias, np.zeros((1, 512, 1024), np.uint8), reduction="sum")
    assert_close(loss.data, np.asarray(2**19 * math.log(2), np.float32), tolerance=2e-7)
    loss.backward()
    assert bias.grad.tolist() == [-(2**18), 2**18]


def test_a_target_that_is_no_class_is_named():
    arrays, options = features()
    options["target"][1, 4, 7] = 3
    with pytest.raises(DataError, match=r"target 3 at \(1, 4, 7\)"):
        tu.linear_cross_entropy(*map(tu.Tensor, arrays), **options)


def test_arguments_that_do_not_fit():
    (x, weight, bias), options = features()
    target = options["target"]
    call = tu.linear_cross_entropy
    x, weight, bias = map(tu.Tensor, (x, weight, bias))
    with pytest.raises(ShapeError, match=r"\(2, 7, 11, 6\)"):
        call(x, weight, bias, target[:, :, :10])
    with pytest.raises(ShapeError, match="weights"):
        call(x, weight, bias, target, options["pixel_weight"][:1])
    with pytest.raises(ShapeError, match="5 input channels"):
        call(x, tu.Tensor(weight.data[:, :, :5]), bias, target)
    with pytest.raises(ShapeError, match="bias"):
        call(x, weight, tu.Tensor(bias.data[:2]), target)
    with pytest.raises(ShapeError, match="1×3"):
        call(x, tu.Tensor(np.zeros((1, 3, 6, 3))), bias, target)
    with pytest.raises(ShapeError, match="weight has 2 axes"):
        call(x, tu.Tensor(weight.data[0, 0]), bias, target)
    with pytest.raises(OptionError, match="'none'"):
        call(x, weight, bias, target, reduction="none")
    with pytest.raises(DtypeError, match="target is float64"):
        call(x, weight, bias, target.astype(float))
    with pytest.raises(DtypeError, match="float32"):
        call(x, tu.Tensor(weight.data.astype(np.float32)), bias, target)


# The softmax of the Numba kernel, with its own exponentials and logarithms, against SciPy. Four rounding
# errors are allowed: of a probability in units of 1, of the loss in units of itself and 1. The sum of n
# losses, in float64 and in any order, adds n halves of an error (Higham 2002, Accuracy and Stability of
# Numerical Algorithms, section 4.2).


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("spread", [0.01, 1, 30, 3000])
def test_softmax_equals_scipy(spread, classes, dtype):
    pixels, rng = 3001, np.random.default_rng(classes)
    scores = (spread * rng.standard_normal((classes, pixels))).astype(dtype)
    target = rng.integers(-1, classes, pixels).astype(np.int32)
    weight = np.ones(pixels, dtype)
    series = linear_cross_entropy_softmax.series(np.dtype(dtype))
    memory, grad = np.empty((linear_cross_entropy_softmax.SCRATCH_ROWS, pixels), dtype), np.empty_like(scores)
    bits = memory[-1].view(series[2].dtype)
    energy = linear_cross_entropy_softmax.softmax(scores.copy(), target, weight, series, memory, bits, grad)

    counted, places = target >= 0, np.maximum(target, 0)
    exact = scores.astype(np.longdouble)
    expected = softmax(exact, axis=0) - (np.arange(classes)[:, np.newaxis] == target)
    losses = -np.take_along_axis(log_softmax(exact, axis=0), places[np.newaxis], axis=0)[0]
    error = 4 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(grad, np.where(counted, expected, 0), rtol=0, atol=error)
    np.testing.assert_allclose(memory[3][counted], losses[counted], rtol=error, atol=error)
    of_the_sum = pixels * float(np.finfo(float).eps) / 2
    assert energy == pytest.approx(float(losses[counted].sum()), rel=error + of_the_sum, abs=error * pixels)
