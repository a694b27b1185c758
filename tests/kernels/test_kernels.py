"""Every CUDA kernel, every rung, against PyTorch: run on the CPU, and on a GPU where there is one."""

from functools import partial

import numpy as np
import pytest
import torch
from oracle import assert_close, assert_equals_torch, random_arrays

import tinyunet as tu
from tinyunet.backend import DISPATCH_TABLE, to_backend, to_host
from tinyunet.errors import KernelError
from tinyunet.nn.sgd import step, step_numpy
from tinyunet.ops import conv2d_cuda, conv_transpose2d_cuda
from tinyunet.ops.conv2d import backward_input_numpy, backward_weight_numpy, forward_numpy
from tinyunet.ops.dropout import backward as dropout_backward
from tinyunet.ops.dropout import forward as dropout_forward
from tinyunet.ops.dropout import forward_numpy as dropout_numpy

# Elementwise kernels: fewer elements than a block has threads, and some blocks of which the last is not full.
SIZES = [(1, 2, 4, 3), (2, 10, 14, 5)]


@pytest.mark.parametrize("shape", SIZES)
def test_elementwise(build, shape):
    assert_equals_torch("relu", random_arrays([shape], np.float32))
    assert_equals_torch("add", random_arrays([shape, shape], np.float32))
    assert_equals_torch("max_pool2d", random_arrays([shape], np.float32))


def test_relu_keeps_nan(build):
    y = tu.relu(tu.Tensor(np.array([np.nan, -np.inf, np.inf, -1], np.float32))).numpy()
    np.testing.assert_array_equal(y, np.array([np.nan, 0, np.inf, 0], np.float32))


def test_max_pool2d_ties_and_nan(build):
    """The first of equals, as in PyTorch; a NaN counts as the maximum wherever it is."""
    x = np.random.default_rng(0).integers(-1, 2, (1, 12, 14, 3)).astype(np.float32)
    assert_equals_torch("max_pool2d", [x])
    for place in range(4):
        x = np.ones((1, 2, 2, 1), np.float32)
        x[0, place // 2, place % 2] = np.nan
        tensor = tu.Tensor(x, requires_grad=True)
        y = tu.max_pool2d(tensor)
        y.backward(np.ones(y.shape))
        assert np.isnan(y.numpy()).all()
        assert to_host(tensor.grad).reshape(-1).tolist() == [float(k == place) for k in range(4)]


@pytest.mark.parametrize("sizes", [(4, 5, 7, 8), (6, 6, 6, 6), (1, 3, 10, 3)])
def test_crop_concat(build, sizes):
    height, width, skip_height, skip_width = sizes
    shapes = [(2, height, width, 3), (2, skip_height, skip_width, 5)]
    assert_equals_torch("crop_concat", random_arrays(shapes, np.float32))


@pytest.mark.parametrize("seed", [0, 12345, 2**63 + 5, 2**64 - 1])
def test_dropout_drops_the_same_elements_as_numpy(build, seed):
    (x,) = random_arrays([(2, 5, 7, 9)], np.float32)
    expected = dropout_numpy(x, 0.3, np.uint64(seed))
    for dropout in (dropout_forward, dropout_backward):
        np.testing.assert_array_equal(to_host(dropout(to_backend(x), 0.3, np.uint64(seed))), expected)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "sizes", [(2, 4, 5, 3, 6, 2), (1, 3, 2, 20, 9, 2), (1, 40, 55, 2, 1, 2), (2, 4, 5, 2, 2, 4)]
)
@pytest.mark.parametrize("rung", conv_transpose2d_cuda.RUNGS)
def test_conv_transpose2d(build, monkeypatch, rung, sizes, relu):
    """The last but one has more pixels than one part of the weight gradient."""
    for direction in ("forward", "backward_input", "backward_weight"):
        launch = partial(getattr(conv_transpose2d_cuda, direction), rung=rung)
        monkeypatch.setitem(DISPATCH_TABLE["conv_transpose2d", direction].implementations, "cuda", launch)
    n, height, width, channels, filters, size = sizes
    shapes = [(n, height, width, channels), (size, size, channels, filters), (filters,)]
    assert_equals_torch("conv_transpose2d", random_arrays(shapes, np.float32), relu=relu)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("shape", "ignore_label"), [((2, 3, 4, 2), None), ((2, 13, 21, 3), 1)])
def test_softmax_cross_entropy(build, shape, ignore_label, reduction):
    (logits,) = random_arrays([shape], np.float32)
    rng = np.random.default_rng(2)
    target = rng.integers(0, shape[3], shape[:3])
    weight = rng.uniform(0.1, 10, shape[:3]).astype(np.float32)
    options = {"target": target, "weight": weight, "reduction": reduction, "ignore_label": ignore_label}
    assert_equals_torch("softmax_cross_entropy", [logits], **options)
    assert_equals_torch("softmax_cross_entropy", [logits * 1e4], **options)  # whose exponentials overflow


def test_softmax_cross_entropy_of_more_blocks_than_threads(emulated_or_gpu):
    """A last block adds up the sums of the others: 260 with 256 threads."""
    (logits,) = random_arrays([(1, 260, 256, 2)], np.float32)
    target = np.random.default_rng(2).integers(0, 2, logits.shape[:3])
    weight = np.ones(target.shape, np.float32)
    weight[0, 256:] = 1000  # the blocks that come in the second turn
    assert_equals_torch("softmax_cross_entropy", [logits], target=target, weight=weight)


@pytest.mark.parametrize("ignore_label", [None, 1])
@pytest.mark.parametrize(
    ("shape", "channels", "classes"),
    [
        ((1, 3, 5), 64, 2),  # as in the paper: two pixels a warp
        ((2, 13, 21), 16, 3),  # several parts, the last of them not full
        ((1, 20, 33), 12, 4),  # one lane in four has no channels
        ((1, 5, 7), 128, 2),  # a whole warp a pixel
        ((1, 9, 33), 4, 2),  # a lane a pixel
        ((1, 5, 7), 132, 2),  # not fused, as the next two
        ((1, 5, 7), 5, 3),
        ((1, 5, 7), 8, 5),
    ],
)
def test_linear_cross_entropy(build, shape, channels, classes, ignore_label):
    arrays = random_arrays([(*shape, channels), (1, 1, channels, classes), (classes,)], np.float32)
    rng = np.random.default_rng(2)
    target = rng.integers(0, classes, shape)
    options = {"target": target, "pixel_weight": rng.uniform(0.1, 10, shape), "ignore_label": ignore_label}
    assert_equals_torch("linear_cross_entropy", arrays, **options)
    arrays[0] *= 1e4  # scores whose exponentials overflow
    assert_equals_torch("linear_cross_entropy", arrays, **options, reduction="sum")


@pytest.mark.parametrize("channels", [5, 16])
def test_linear_cross_entropy_without_gradients(build, channels):
    shapes = [(2, 13, 21, channels), (1, 1, channels, 2), (2,)]
    arrays = random_arrays(shapes, np.float32)
    target = np.random.default_rng(2).integers(0, 2, shapes[0][:3])
    with_gradients = tu.linear_cross_entropy(*(tu.Tensor(a, requires_grad=True) for a in arrays), target)
    loss = tu.linear_cross_entropy(*map(tu.Tensor, arrays), target)
    assert not loss.requires_grad
    assert loss.item() == with_gradients.item()


@pytest.mark.parametrize("ignored", [False, True])
def test_linear_cross_entropy_keeps_nan(build, ignored):
    """Seen in the loss unless its pixel is ignored, and in the gradient of its channel's weight."""
    x, weight, bias = random_arrays([(1, 3, 7, 8), (1, 1, 8, 2), (2,)], np.float32)
    x[0, 1, 2, 3] = np.nan
    target = np.zeros((1, 3, 7), int)
    target[0, 1, 2] = 9 if ignored else 1
    tensors = [tu.Tensor(a, requires_grad=True) for a in (x, weight, bias)]
    loss = tu.linear_cross_entropy(*tensors, target, ignore_label=9)
    loss.backward()
    grad_x, grad_weight, grad_bias = (np.isnan(to_host(t.grad)) for t in tensors)
    assert np.isnan(loss.numpy()) == (not ignored)
    np.testing.assert_array_equal(grad_x.any(axis=3).nonzero(), ([], [], []) if ignored else ([0], [1], [2]))
    assert grad_weight[0, 0].all(axis=1).tolist() == [not ignored or c == 3 for c in range(8)]
    assert grad_bias.all() == (not ignored)


def test_sgd(build):
    """Of parameters with less than a block, with several blocks, with one element, with whole blocks.

    Each operation rounds once; the processor may join two.
    """
    shapes = [(5,), (3, 3, 7, 5), (1,), (2, 256), (7,)]
    expected = [random_arrays(shapes, np.float32, seed) for seed in range(3)]
    lists = [[to_backend(array.copy()) for array in arrays] for arrays in expected]
    step(*lists, 0.01, 0.9, 1e-3)
    step_numpy(*expected, 0.01, 0.9, 1e-3)
    for ours, theirs in zip(lists, expected, strict=True):
        for array, reference in zip(ours, theirs, strict=True):
            assert_close(array, reference, tolerance=3e-7)


def test_sgd_finds_no_array_of_another_type(emulated):
    arrays = random_arrays([(5,), (4,)], np.float32)
    with pytest.raises(KernelError, match=r"sgd_step: grad\[1\] is an array of float64"):
        step(arrays, [arrays[0], arrays[1].astype(np.float64)], arrays, 0.1, 0.9, 0.0)


def conv2d_arrays(n, height, width, channels, filters, size):
    shapes = [(n, height, width, channels), (size, size, channels, filters), (filters,)]
    return random_arrays(shapes, np.float32)


@pytest.fixture(params=[rung for rung in conv2d_cuda.RUNGS if not rung.startswith("tensor")])
def rung(request, monkeypatch):
    """Launch this rung, whatever the channel counts are."""
    monkeypatch.setattr(conv2d_cuda, "fastest_rung", lambda channels, filters, size: request.param)
    return request.param


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 3, 4, 5])
def test_conv2d(build, rung, size, padding):
    """Padding of 2 around a 1×1 window: the gradient of x then has a negative one."""
    channels, filters = (4, 8) if rung == "blocked" else (3, 5)
    assert_equals_torch(
        "conv2d", conv2d_arrays(2, 7, 11, channels, filters, size), padding=padding, relu=True
    )


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 14, 13, 20, 68, 3),  # more than one block along the pixels and the filters
        (1, 11, 11, 36, 4, 3),  # a weight of more than 128 rows, and of more than 64 columns once turned
        (1, 46, 50, 4, 4, 1),  # more pixels than one part of the weight gradient
    ],
)
def test_conv2d_of_several_blocks(build, rung, sizes):
    assert_equals_torch("conv2d", conv2d_arrays(*sizes))


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "sizes",
    [
        (2, 8, 6, 4, 8),  # whole tiles, or rows and columns beyond the output, by padding
        (1, 7, 11, 8, 4),
        (1, 13, 12, 36, 68),  # more than one block along the filters
        (1, 3, 3, 4, 4),  # an output of one pixel
    ],
)
def test_winograd(build, monkeypatch, sizes, padding):
    """Padding of 3 has a gradient of x with a negative one."""
    monkeypatch.setattr(conv2d_cuda, "fastest_rung", lambda channels, filters, size: conv2d_cuda.WINOGRAD)
    assert_equals_torch("conv2d", conv2d_arrays(*sizes, 3), padding=padding, relu=True)


def test_winograd_of_several_parts(build, monkeypatch):
    """More tiles than a block multiplies (128), and than a thread adds up in a weight's gradient (512)."""
    monkeypatch.setattr(conv2d_cuda, "fastest_rung", lambda channels, filters, size: conv2d_cuda.WINOGRAD)
    assert_equals_torch("conv2d", conv2d_arrays(1, 94, 91, 4, 4, 3))


def rounded_to_tf32(array):
    """The nearest numbers with 10 bits behind the point."""
    return ((array.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def rounded_to_bf16(array):
    """PyTorch's."""
    return torch.tensor(array).bfloat16().float().numpy()


@pytest.mark.parametrize(
    ("rung", "rounded"), [("tensor", rounded_to_tf32), ("tensor_bf16", rounded_to_bf16)], ids=["tf32", "bf16"]
)
@pytest.mark.parametrize(
    ("sizes", "padding"), [((2, 7, 9, 4, 8, 3), 1), ((1, 12, 13, 20, 68, 3), 0), ((1, 46, 50, 4, 4, 1), 0)]
)
def test_tensor_cores_compute_with_rounded_factors(build, sizes, padding, rung, rounded):
    """Products of numbers of 11 bits or fewer are exact, so that only the sums differ from those of NumPy."""
    x, weight, bias = map(to_backend, conv2d_arrays(*sizes))
    y = conv2d_cuda.forward(x, weight, bias, padding, True, rung)
    grad_output = to_backend(np.random.default_rng(1).standard_normal(y.shape), np.float32)
    grad_x = conv2d_cuda.backward_input(grad_output, weight, padding, rung)
    grad_weight = conv2d_cuda.backward_weight(x, grad_output, padding, sizes[-1], rung)

    x, weight, grad_output = (rounded(to_host(a)) for a in (x, weight, grad_output))
    bias = to_host(bias)
    assert_close(y, forward_numpy(x, weight, bias, padding, True))
    assert_close(grad_x, backward_input_numpy(grad_output, weight, padding))
    assert_close(grad_weight, backward_weight_numpy(x, grad_output, padding, sizes[-1]))


@pytest.mark.parametrize(("precision", "bits"), [("float32", 24), ("tf32", 11), ("bf16", 8)])
def test_the_precision_that_is_chosen(emulated, precision, bits):
    """1 + 2^-12 and 1 + 2^-9 stay, or become 1, by as many bits as a factor keeps."""
    x = np.full((1, 1, 1, 4), 1 + 2.0**-9, np.float32)
    x[..., 1] = 1 + 2.0**-12
    weight = np.zeros((1, 1, 4, 4), np.float32)
    weight[0, 0, 0, 0] = weight[0, 0, 1, 1] = 1
    with tu.use_backend("cuda-emulated", precision):
        y = tu.conv2d(tu.Tensor(x), tu.Tensor(weight)).numpy().ravel()
    assert y.tolist() == [1 + (2.0**-9 if bits > 9 else 0), 1 + (2.0**-12 if bits > 12 else 0), 0, 0]


def test_conv2d_without_bias(build, rung):
    x, weight, _ = conv2d_arrays(1, 5, 6, 4, 4, 3)
    assert_equals_torch("conv2d", [x, weight, None])


def test_conv2d_nan_reaches_the_outputs_that_it_goes_into(build):
    """And no others: of tiles that stick out past the last of the 36 columns, nothing may be multiplied."""
    x, weight, bias = conv2d_arrays(1, 12, 13, 4, 8, 3)
    x[0, 6, 7, 0] = np.nan
    expected = np.zeros((1, 10, 11, 8), bool)
    expected[:, 4:7, 5:8] = True
    x, weight, bias = map(to_backend, (x, weight, bias))
    for rung in conv2d_cuda.RUNGS:
        y = to_host(conv2d_cuda.forward(x, weight, bias, 0, True, rung))
        np.testing.assert_array_equal(np.isnan(y), expected, err_msg=rung)


@pytest.mark.parametrize(
    ("sizes", "precision", "algorithm", "expected"),
    [
        ((64, 64, 3), "float32", "auto", "winograd"),
        ((64, 64, 3), "float32", "direct", "blocked"),
        ((64, 64, 1), "float32", "auto", "blocked"),
        ((28, 64, 3), "float32", "auto", "blocked"),
        ((28, 64, 3), "float32", "winograd", "winograd"),
        ((64, 64, 3), "tf32", "auto", "tensor"),
        ((64, 64, 3), "bf16", "winograd", "tensor_bf16"),
        ((1, 64, 3), "float32", "auto", "tiled"),
        ((64, 2, 1), "tf32", "auto", "tiled"),
    ],
)
def test_the_rung_that_is_chosen(emulated, monkeypatch, sizes, precision, algorithm, expected):
    monkeypatch.setenv("TINYUNET_CONV", algorithm)
    with tu.use_backend("cuda-emulated", precision):
        assert conv2d_cuda.fastest_rung(*sizes) == expected


def test_bias_gradient_of_many_pixels_keeps_its_digits(emulated):
    """A million terms one after the other in float32 would lose 1e-3 of the sum."""
    grad_output = np.full((1, 1000, 1000, 1), 0.1, np.float32)
    expected = np.array([1e6 * np.float64(np.float32(0.1))], np.float32)
    assert_close(conv2d_cuda.backward_bias(grad_output), expected, tolerance=1e-6)
