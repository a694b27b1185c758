"""The CUDA convolution: every rung against PyTorch, rounded factors, and the rung that is chosen.

The kernels run on the CPU, and on a GPU where there is one.
"""

import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracle import assert_close, assert_equals_torch, random_arrays
from ptx.tensor_cores import largest_error

import tinyunet as tu
from benchmarks import dry_run
from tinyunet.backend import active_backend, to_backend, to_host
from tinyunet.backend.cuda_log import launch_log
from tinyunet.errors import KernelError
from tinyunet.ops import conv2d_cuda
from tinyunet.ops.conv2d import backward_input_numpy, backward_weight_numpy, forward_numpy
from tinyunet.ops.conv2d_cuda import RUNGS
from tinyunet.ops.relu import backward as backward_of_relu


def arrays(n, height, width, channels, filters, size):
    shapes = [(n, height, width, channels), (size, size, channels, filters), (filters,)]
    return random_arrays(shapes, np.float32)


@pytest.fixture(params=[rung for rung in conv2d_cuda.RUNGS if not rung.startswith(("tensor", "wgmma"))])
def rung(request, monkeypatch):
    """Launch this rung for any channel counts."""
    monkeypatch.setattr(conv2d_cuda, "fastest_rung", lambda channels, filters, size: request.param)
    return request.param


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 3, 4, 5])
def test_equals_torch(build, rung, size, padding):
    """With a padding of 2 around a 1×1 window, that of the gradient of x is negative."""
    channels, filters = (4, 8) if rung in ("few_channels", "blocked") else (3, 5)
    assert_equals_torch("conv2d", arrays(2, 7, 11, channels, filters, size), padding=padding, relu=True)


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 14, 13, 20, 68, 3),  # more than one block along the pixels and the filters
        (1, 11, 11, 36, 4, 3),  # a weight of more than 128 rows, and of more than 64 columns once flipped
        (1, 46, 50, 4, 4, 1),  # more pixels than one part of the weight gradient
    ],
)
def test_several_blocks(build, rung, sizes):
    assert_equals_torch("conv2d", arrays(*sizes))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    ("sizes", "padding"),
    [
        ((2, 9, 11, 1, 8, 3), 0),
        ((2, 9, 11, 3, 36, 3), 2),  # 27 columns of patches, three passes, and more filters than a block has
        ((1, 13, 12, 2, 4, 5), 2),  # 50 columns, not a multiple of 9
        ((1, 46, 50, 1, 4, 1), 0),  # more pixels than one part of the weight gradient
    ],
)
def test_images_equal_torch(build, sizes, padding, precision):
    """In all precisions, because their factors are not rounded."""
    with tu.use_backend(active_backend(), precision), launch_log() as log:
        assert_equals_torch("conv2d", arrays(*sizes), padding=padding, relu=True)
    assert {"conv2d_forward_few_channels", "conv2d_backward_weight_few_channels"} <= set(log.totals)


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
def test_winograd_equals_torch(build, monkeypatch, sizes, padding):
    """With a padding of 3, that of the gradient of x is negative."""
    monkeypatch.setattr(conv2d_cuda, "fastest_rung", lambda channels, filters, size: conv2d_cuda.WINOGRAD)
    assert_equals_torch("conv2d", arrays(*sizes, 3), padding=padding, relu=True)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("sizes", [(2, 8, 6, 4, 8), (1, 10, 9, 36, 68)])
def test_winograd_on_tensor_cores_equals_torch(build, monkeypatch, sizes, padding):
    """To the same tolerance."""
    monkeypatch.setattr(conv2d_cuda, "fastest_winograd", lambda: conv2d_cuda.WINOGRAD_TENSOR)
    monkeypatch.setenv("TINYUNET_CONV", "winograd")
    with launch_log() as log:
        assert_equals_torch("conv2d", arrays(*sizes, 3), padding=padding, relu=True)
    products = {name for name in log.totals if "multiply" in name}
    assert products == {f"conv2d_winograd_tensor_multiply{end}" for end in ("", "_transposed")}


def test_winograd_in_several_parts(build, monkeypatch):
    """More tiles than a block multiplies (128), and than a thread sums for a weight's gradient (512)."""
    monkeypatch.setattr(conv2d_cuda, "fastest_rung", lambda channels, filters, size: conv2d_cuda.WINOGRAD)
    assert_equals_torch("conv2d", arrays(1, 94, 91, 4, 4, 3))


def rounded_to_tf32(array):
    """The nearest numbers of 11 significant bits."""
    return ((array.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def rounded_to_bf16(array):
    """The nearest numbers of 8 significant bits, by PyTorch."""
    return torch.tensor(array).bfloat16().float().numpy()


OF_FOUR = [((2, 7, 9, 4, 8, 3), 1), ((1, 12, 13, 20, 68, 3), 0), ((1, 46, 50, 4, 4, 1), 0)]
OF_EIGHT = [((2, 7, 9, 8, 16, 3), 1), ((1, 12, 13, 24, 136, 3), 0), ((1, 46, 50, 8, 8, 1), 0)]


@pytest.mark.parametrize(
    ("rung", "rounded", "sizes", "padding"),
    [
        *(("tensor", rounded_to_tf32, *sizes) for sizes in OF_FOUR),
        *(("tensor_bf16", rounded_to_bf16, *sizes) for sizes in OF_FOUR),
        *((rung, rounded_to_bf16, *sizes) for rung in conv2d_cuda.OF_COPIES for sizes in OF_EIGHT),
    ],
)
def test_tensor_cores_compute_with_rounded_factors(build, rung, rounded, sizes, padding):
    """Products of numbers of 11 bits or fewer are exact, so that only the sums differ from the exact ones."""
    if not conv2d_cuda.takes(rung, *sizes[3:5]):
        pytest.skip(f"no {rung} was run: this GPU lacks its instructions")
    x, weight, bias = map(to_backend, arrays(*sizes))
    y = conv2d_cuda.forward(x, weight, bias, padding, True, rung)
    grad_output = to_backend(np.random.default_rng(1).standard_normal(y.shape), np.float32)
    grad_x = conv2d_cuda.backward_input(grad_output, weight, padding, rung)
    grad_weight = conv2d_cuda.backward_weight(x, grad_output, padding, sizes[-1], rung)

    x, weight, grad_output = (rounded(to_host(a)).astype(float) for a in (x, weight, grad_output))
    taps, channels, filters = sizes[-1] ** 2, *sizes[3:5]
    for ours, exact, products in (
        (y, forward_numpy(x, weight, to_host(bias), padding, True), taps * channels),
        (grad_x, backward_input_numpy(grad_output, weight, padding), taps * filters),
        (grad_weight, backward_weight_numpy(x, grad_output, padding, sizes[-1]), grad_output[..., 0].size),
    ):
        assert_close(ours, exact.astype(np.float32), tolerance=largest_error(products))


@pytest.mark.parametrize(("sizes", "padding"), OF_EIGHT[:2])
def test_copies_give_the_bits_of_factors_rounded_later(emulated, sizes, padding):
    """Where tensor cores add sixteen products at once, as those that are emulated do, in whichever order."""
    x, weight, bias = arrays(*sizes)
    results = []
    for rung in ("tensor_bf16", *conv2d_cuda.OF_COPIES):
        y = conv2d_cuda.forward(x, weight, bias, padding, False, rung)
        grad_x = conv2d_cuda.backward_input(y, weight, padding, rung)
        results.append([y, grad_x, conv2d_cuda.backward_weight(x, y, padding, sizes[-1], rung)])
    for later, *beforehand in zip(*results, strict=True):
        for ours in beforehand:
            np.testing.assert_array_equal(ours, later)


@pytest.mark.parametrize(("sizes", "padding"), OF_EIGHT[:2])
def test_the_backward_by_copies_in_one_pass(emulated, monkeypatch, sizes, padding):
    """It has the bits of separate steps, because a copy of a copy is the same. That of x is made only once.

    Sums for the bias are in double precision, so that the order matters less than the rounding to float32.
    """
    x, weight, bias = (tu.Tensor(array, requires_grad=True) for array in arrays(*sizes))
    monkeypatch.setattr(conv2d_cuda, "MIN_COPIED", 8)
    monkeypatch.setattr(conv2d_cuda, "MIN_MULTIPLICATIONS", 1)
    with tu.use_backend("cuda-emulated", "bf16"), launch_log() as log:
        y = tu.conv2d(x, weight, bias, padding=padding, relu=True)
        (grad_y,) = random_arrays([y.shape], np.float32, seed=1)
        y.backward(grad_y)
    assert log.totals["conv2d_round_to_bf16"].launches == 2  # x and the weight
    before, rung = backward_of_relu(grad_y, y.data), conv2d_cuda.COPIES
    np.testing.assert_array_equal(x.grad, conv2d_cuda.backward_input(before, weight.data, padding, rung))
    expected = conv2d_cuda.backward_weight(x.data, before, padding, sizes[-1], rung)
    np.testing.assert_array_equal(weight.grad, expected)
    np.testing.assert_allclose(bias.grad, before.sum(axis=(0, 1, 2), dtype=float), rtol=2.0**-24 * 1.01)


def test_copies_are_rounded_as_by_pytorch(build):
    """Ties to even, subnormal numbers, what becomes infinite, and NaN."""
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x80000001, 0x00018000, 0x7F7FFFFF, 0xFF800000])
    x = np.append(bits.astype(np.uint32).view(np.float32), np.float32(np.nan)).repeat(33)
    copy = to_host(conv2d_cuda._rounded_to_bf16(to_backend(x)))
    ours = (copy.astype(np.uint32) << np.uint32(16)).view(np.float32)
    np.testing.assert_array_equal(ours, rounded_to_bf16(x))


@pytest.mark.parametrize(("precision", "bits"), [("float32", 24), ("tf32", 11), ("bf16", 8)])
def test_the_chosen_precision(emulated, precision, bits):
    """1 + 2^-12 and 1 + 2^-9 stay or become 1, depending on the bits of a factor."""
    x = np.full((1, 1, 1, 4), 1 + 2.0**-9, np.float32)
    x[..., 1] = 1 + 2.0**-12
    weight = np.zeros((1, 1, 4, 4), np.float32)
    weight[0, 0, 0, 0] = weight[0, 0, 1, 1] = 1
    with tu.use_backend("cuda-emulated", precision):
        y = tu.conv2d(tu.Tensor(x), tu.Tensor(weight)).numpy().ravel()
    assert y.tolist() == [1 + (2.0**-9 if bits > 9 else 0), 1 + (2.0**-12 if bits > 12 else 0), 0, 0]


def test_without_bias(build, rung):
    x, weight, _ = arrays(1, 5, 6, 4, 4, 3)
    assert_equals_torch("conv2d", [x, weight, None])


def test_nan_reaches_the_outputs_that_it_goes_into(build):
    """And no others: what a tile holds beyond the last of the 72 columns must not be multiplied."""
    x, weight, bias = arrays(1, 12, 13, 8, 8, 3)
    x[0, 6, 7, 0] = np.nan
    expected = np.zeros((1, 10, 11, 8), bool)
    expected[:, 4:7, 5:8] = True
    x, weight, bias = map(to_backend, (x, weight, bias))
    for rung in (rung for rung in RUNGS if conv2d_cuda.takes(rung, 8, 8)):
        y = to_host(conv2d_cuda.forward(x, weight, bias, 0, True, rung))
        np.testing.assert_array_equal(np.isnan(y), expected, err_msg=rung)


@pytest.mark.parametrize(
    ("channels", "filters", "expected"),
    [(1, 64, RUNGS[:3]), (64, 2, RUNGS[:2]), (4, 8, RUNGS[:-2]), (24, 12, RUNGS[:-2]), (8, 16, RUNGS)],
)
def test_the_rungs_that_take_some_channels(channels, filters, expected):
    assert tuple(rung for rung in RUNGS if conv2d_cuda.takes(rung, channels, filters)) == expected


@pytest.mark.parametrize(("side", "expected"), [(170, {"tensor_bf16"}), (180, {"tensor_copies"})])
def test_copies_are_for_many_products(side, expected):
    """2^30 multiplications are a side of 173 pixels here, for y and both gradients."""

    def step():
        x, weight, bias = (
            dry_run.Array(shape, np.float32) for shape in [(1, side, side, 64), (3, 3, 64, 64), 64]
        )
        y = conv2d_cuda.forward(x, weight, bias, 1, True)
        before, _ = conv2d_cuda.backward_relu(y, y, weight.shape)
        conv2d_cuda.backward_input(before, weight, 1)
        conv2d_cuda.backward_weight(x, before, 1, 3)

    kernels = [each.kernel for each in dry_run.launches(lambda: step, "bf16")]
    products = re.findall(r"conv2d_(?:forward|backward_weight)_(\w+)", " ".join(kernels))
    assert (len(products), set(products)) == (3, expected)
    assert ("conv2d_backward_relu" in kernels) == (expected == {conv2d_cuda.COPIES})


@pytest.mark.parametrize(
    ("sizes", "precision", "algorithm", "expected"),
    [
        ((64, 64, 3), "float32", "auto", "winograd"),
        ((64, 64, 3), "float32", "direct", "blocked"),
        ((64, 64, 1), "float32", "auto", "blocked"),
        ((28, 64, 3), "float32", "auto", "blocked"),
        ((28, 64, 3), "float32", "winograd", "winograd"),
        ((64, 64, 3), "tf32", "auto", "tensor"),
        ((64, 64, 3), "bf16", "winograd", "tensor_copies"),
        ((64, 60, 3), "bf16", "auto", "tensor_bf16"),
        ((68, 64, 3), "bf16", "auto", "tensor_bf16"),
        ((56, 64, 3), "bf16", "auto", "tensor_bf16"),
        ((1, 64, 3), "float32", "auto", "few_channels"),
        ((3, 64, 3), "bf16", "auto", "few_channels"),
        ((1, 2, 3), "float32", "auto", "tiled"),
        ((4, 64, 3), "float32", "auto", "few_channels"),
        ((4, 64, 3), "bf16", "auto", "tensor_bf16"),
        ((8, 64, 3), "float32", "auto", "blocked"),
        ((64, 2, 1), "tf32", "auto", "tiled"),
    ],
)
def test_the_chosen_rung(emulated, monkeypatch, sizes, precision, algorithm, expected):
    monkeypatch.setenv("TINYUNET_CONV", algorithm)
    with tu.use_backend("cuda-emulated", precision):
        assert conv2d_cuda.fastest_rung(*sizes) == expected


@pytest.mark.parametrize(("digits", "lacks"), [("80", True), ("89", True), ("90", False), ("100", True)])
def test_a_gpu_that_lacks_the_instructions_of_warpgroups(on_stand_in, monkeypatch, digits, lacks):
    """It takes all rungs but one, of which an error says so."""
    monkeypatch.setattr(on_stand_in.cuda, "Device", lambda: SimpleNamespace(compute_capability=digits))
    x, weight, _ = map(to_backend, arrays(1, 4, 5, 8, 8, 3))
    assert [rung for rung in RUNGS if not conv2d_cuda.takes(rung, 8, 8)] == ["wgmma"] * lacks
    with pytest.raises(KernelError, match=r"(?s)lacks.*sm_90a.*another rung") if lacks else nullcontext():
        conv2d_cuda.forward(x, weight, None, 0, False, "wgmma")


@pytest.mark.parametrize(
    ("digits", "expected"),
    [
        *((digits, "winograd") for digits in ("61", "75", "86", "87", "89", "100", "103", "120")),
        *((digits, "winograd_tensor") for digits in ("80", "90")),
    ],
)
def test_the_gpu_decides_where_float32_is_multiplied(on_stand_in, monkeypatch, digits, expected):
    """On tensor cores where these are fast in TF32."""
    monkeypatch.setattr(on_stand_in.cuda, "Device", lambda: SimpleNamespace(compute_capability=digits))
    assert conv2d_cuda.fastest_rung(64, 64, 3) == expected
