"""The weighted loss against PyTorch and finite differences; extreme logits, ignored pixels, wrong targets."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import DTYPES, TORCH, assert_close, assert_equals_torch

import tinyunet as tu
from tinyunet.errors import DataError, DtypeError, OptionError, ShapeError
from tinyunet.ops.softmax_cross_entropy import loss_of_checked


def pixels(n=2, height=7, width=11, classes=3, dtype=np.float64, seed=0):
    """Logits, targets and weights."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (n, height, width))
    weight = rng.uniform(0.1, 10, target.shape).astype(dtype)
    return 3 * rng.standard_normal((n, height, width, classes)).astype(dtype), target, weight


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("ignore_label", [None, 1, 255, -1])
def test_equals_torch(kernel_dtype, reduction, weighted, ignore_label):
    logits, target, weight = pixels(dtype=kernel_dtype)
    if ignore_label is not None:
        target[0, ::2, 1::3] = ignore_label
    options = {"weight": weight if weighted else None, "reduction": reduction, "ignore_label": ignore_label}
    assert_equals_torch("softmax_cross_entropy", [logits], target=target, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("sizes", "ignore_label"), [((2, 3, 4, 2), None), ((2, 13, 21, 3), 1)])
def test_one_and_several_blocks(kernel_dtype, sizes, ignore_label, reduction):
    """Blocks of threads, for CUDA; and logits whose exponentials overflow."""
    logits, target, weight = pixels(*sizes, dtype=kernel_dtype)
    options = {"target": target, "weight": weight, "reduction": reduction, "ignore_label": ignore_label}
    assert_equals_torch("softmax_cross_entropy", [logits], **options)
    assert_equals_torch("softmax_cross_entropy", [logits * 1e4], **options)


def test_more_blocks_than_threads(emulated_or_gpu):
    """The last block sums the results of the others: 260, with 256 threads."""
    logits, target, weight = pixels(1, 260, 256, 2, np.float32)
    weight[:] = 1
    weight[0, 256:] = 1000  # the blocks of the second round
    assert_equals_torch("softmax_cross_entropy", [logits], target=target, weight=weight)


@given(
    n=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    classes=st.integers(1, 6),
    reduction=st.sampled_from(["mean", "sum"]),
)
def test_equals_torch_for_any_shape(backend, n, height, width, classes, reduction):
    logits, target, weight = pixels(n, height, width, classes)
    options = {"target": target, "weight": weight, "reduction": reduction}
    if classes > 1:
        assert_equals_torch("softmax_cross_entropy", [logits], **options)
    else:  # all probabilities are 1
        assert tu.softmax_cross_entropy(tu.Tensor(logits), **options).item() == 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_equal_finite_differences(backend, reduction):
    logits, target, weight = pixels(1, 3, 4, 3)
    target[0, 1, 1] = 9
    assert tu.gradcheck(
        lambda z: tu.softmax_cross_entropy(z, target, weight, reduction, ignore_label=9),
        [tu.Tensor(logits, requires_grad=True)],
    )


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int64, np.uint64])
def test_every_integer_type_of_target(backend, kind):
    """In the 8 bits without a sign of most label images, -1, the mark of an ignored pixel, would be 255."""
    logits, target, weight = pixels()
    target[0, 2, 3:5] = 100
    expected = TORCH["softmax_cross_entropy"](torch.tensor(logits), target, weight, ignore_label=100)
    loss = tu.softmax_cross_entropy(tu.Tensor(logits), target.astype(kind), weight, ignore_label=100)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_targets_and_weights_are_kept_as_they_were(backend, kind):
    """Also if they have the types that the kernels take: ignored pixels are marked in a copy."""
    logits, target, weight = pixels(dtype=np.float32)
    target = target.astype(kind)
    given = target.copy(), weight.copy()
    tu.softmax_cross_entropy(tu.Tensor(logits, requires_grad=True), *given, ignore_label=1).backward()
    np.testing.assert_array_equal(given[0], target)
    np.testing.assert_array_equal(given[1], weight)


@pytest.mark.parametrize("order", ["F", "strided"])
def test_targets_and_weights_that_are_views(backend, order):
    logits, target, weight = pixels()
    expected = tu.softmax_cross_entropy(tu.Tensor(logits), target, weight).item()
    if order == "F":
        target, weight = np.asfortranarray(target), np.asfortranarray(weight)
    else:
        target, weight = np.repeat(target, 2, axis=2)[:, :, ::2], np.repeat(weight, 2, axis=1)[:, ::2]
    assert tu.softmax_cross_entropy(tu.Tensor(logits), target, weight).item() == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_logits(backend, dtype):
    """±10,000: their exponentials overflow and underflow, the loss and its gradient do not."""
    logits = np.random.default_rng(0).choice([-1e4, 0, 1e4], (1, 9, 9, 3)).astype(dtype)
    target = np.random.default_rng(1).integers(0, 3, (1, 9, 9))
    assert_equals_torch("softmax_cross_entropy", [logits], target=target, reduction="sum")
    loss = tu.softmax_cross_entropy(tu.Tensor(logits), target, reduction="sum")
    reference = TORCH["softmax_cross_entropy"](torch.tensor(logits.astype(float)), target, None, "sum")
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6 if dtype == np.float32 else 1e-12)
    assert math.isfinite(loss.item())


@pytest.mark.parametrize("classes", [2, 3, 16])
def test_a_small_loss_of_large_logits_keeps_its_digits(backend, classes):
    """log(1 + e^-5), not the 1/128 that the neighbours of 100,000 in float32 would round it to."""
    logits = np.full((1, 3, 5, classes), -1e5, np.float32)
    logits[..., :2] = 1e5, 1e5 - 5
    loss = tu.softmax_cross_entropy(tu.Tensor(logits), np.zeros((1, 3, 5), int)).item()
    assert loss == pytest.approx(math.log1p(math.exp(-5)), rel=1e-5)  # exp and log round, the sum does not


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("why", ["ignored", "weight 0"])
def test_nothing_to_count_is_zero(backend, why, reduction):
    logits, target, weight = pixels()
    ignored = why == "ignored"
    tensor = tu.Tensor(logits, requires_grad=True)
    loss = tu.softmax_cross_entropy(
        tensor,
        np.full_like(target, 255) if ignored else target,
        weight if ignored else np.zeros_like(weight),
        reduction,
        ignore_label=255 if ignored else None,
    )
    assert loss.item() == 0
    loss.backward()
    assert not tensor.grad.any()


def test_ignored_pixels_may_hold_nan(backend):
    """Outside of the labelled region the image may have no values either."""
    logits, target, weight = pixels()
    target[1] = 255
    expected = tu.softmax_cross_entropy(tu.Tensor(logits[:1]), target[:1], weight[:1]).item()
    logits[1], weight[1] = np.nan, np.nan
    tensor = tu.Tensor(logits, requires_grad=True)
    loss = tu.softmax_cross_entropy(tensor, target, weight, ignore_label=255)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert not tensor.grad[1].any()


def test_nan_elsewhere_is_seen(backend):
    logits, target, weight = pixels()
    logits[1, 2, 3, 0] = np.nan
    assert math.isnan(tu.softmax_cross_entropy(tu.Tensor(logits), target, weight).item())


def test_a_float32_loss_of_many_pixels_keeps_its_digits(backend):
    """Half a million equal terms, log 2 each: added up one by one in float32 they lose 1e-4 of the sum."""
    logits = tu.Tensor(np.zeros((1, 512, 1024, 2), np.float32))
    loss = tu.softmax_cross_entropy(logits, np.zeros((1, 512, 1024), np.uint8), reduction="sum")
    assert_close(loss.data, np.asarray(2**19 * math.log(2), np.float32), tolerance=2e-7)


@pytest.mark.parametrize(("value", "ignore_label"), [(3, None), (-1, None), (255, None), (-100, 255)])
def test_a_target_that_is_no_class_is_named(value, ignore_label):
    logits, target, _ = pixels()
    target[1, 4, 7] = target[1, 5, 0] = value
    with pytest.raises(DataError, match=rf"target {value} at \(1, 4, 7\)(?s:.)*wrong pixels +2"):
        tu.softmax_cross_entropy(tu.Tensor(logits), target, ignore_label=ignore_label)


def test_arguments_that_do_not_fit():
    logits, target, weight = pixels()
    z = tu.Tensor(logits)
    for other, found in [(target[:, :, :10], r"\(2, 7, 10\)"), (target.swapaxes(1, 2), r"\(2, 11, 7\)")]:
        with pytest.raises(ShapeError, match=found):
            tu.softmax_cross_entropy(z, other)
    with pytest.raises(ShapeError, match="weights"):
        tu.softmax_cross_entropy(z, target, weight[:1])
    with pytest.raises(ShapeError, match="weights"):
        loss_of_checked(z, target, weight[:1])
    with pytest.raises(ShapeError, match="logits has 3 axes"):
        tu.softmax_cross_entropy(tu.Tensor(logits[0]), target)
    with pytest.raises(OptionError, match="'none'"):
        tu.softmax_cross_entropy(z, target, reduction="none")
    for other in (target.astype(float), target > 0):
        with pytest.raises(DtypeError, match=f"target is {other.dtype}"):
            tu.softmax_cross_entropy(z, other)
