"""Kernels run by `run_checked`: wavefronts compared with counts by hand, and mistakes."""

import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from oracle import random_arrays

import tinyunet as tu
from tinyunet.backend import cuda, cuda_emulator
from tinyunet.backend.cuda import KERNEL_FOLDER, kernels_in, run_checked, source_of
from tinyunet.backend.cuda_emulator import Traffic
from tinyunet.backend.cuda_log import launch_log
from tinyunet.errors import KernelError

TRANSPOSE = """extern "C" __global__ void transpose(const float* x, float* y) {
    __shared__ float tile[32][WIDTH];
    int row = threadIdx.y, column = threadIdx.x;
    tile[row][column] = x[row * 32 + column];
    __syncthreads();
    y[row * 32 + column] = tile[column][row];
}
"""


def squares():
    x = np.arange(1024, dtype=np.float32).reshape(32, 32)
    return x, np.zeros_like(x)


@pytest.mark.parametrize(("width", "turns"), [(32, 32 * 32), (33, 32), (34, 2 * 32)])
def test_banks(emulated, width, turns):
    """With 32 columns, each column lies in one bank; with 33 it is spread over all of them."""
    x, y = squares()
    report = run_checked(TRANSPOSE.replace("WIDTH", str(width)), "transpose", (1,), (32, 32), x, y)
    np.testing.assert_array_equal(y, x.T)
    assert report.lines == {4: Traffic(32, 32, 32, 32), 6: Traffic(32, 32, turns, 32)}
    assert f"{turns:>8}      32    6      y[row * 32 + column] = tile[column][row];" in str(report)


@pytest.mark.parametrize(
    ("index", "wavefronts", "at_best"),
    [
        ("i", 1, 1),
        ("31 - i", 1, 1),  # in any order
        ("0", 1, 1),  # one word for all
        ("2 * i", 2, 1),
        ("32 * i", 32, 1),
        ("i + 1", 2, 1),  # from one segment into the next
        ("i < 8 ? i : 8", 1, 1),
    ],
)
def test_segments(emulated, index, wavefronts, at_best):
    source = f"""extern "C" __global__ void read(const float* x, float* y) {{
    int i = threadIdx.x;
    float value = x[{index}];
    y[i] = value;
}}"""
    x = np.zeros(1024, np.float32)
    report = run_checked(source, "read", (1,), (32,), x, np.zeros(32, np.float32))
    assert report.lines == {3: Traffic(wavefronts, at_best), 4: Traffic(1, 1)}


def test_four_numbers_at_once(emulated):
    """The 512 bytes of a warp are four segments, and four turns of the banks."""
    source = """extern "C" __global__ void copy(const float* x, float* y) {
    __shared__ float4 kept[32];
    kept[threadIdx.x] = ((const float4*)x)[threadIdx.x];
    ((float4*)y)[threadIdx.x] = kept[threadIdx.x];
}"""
    x = np.arange(128, dtype=np.float32)
    y = np.zeros_like(x)
    report = run_checked(source, "copy", (1,), (32,), x, y)
    np.testing.assert_array_equal(y, x)
    assert report.lines == {3: Traffic(4, 4, 4, 4), 4: Traffic(4, 4, 4, 4)}


def test_an_asynchronous_copy_is_one_access(emulated):
    """The copy of 16 bytes is made when it is waited for, and counts also where it fills in zeros."""
    source = """extern "C" __global__ void copy(const float* x, float* y, int count) {
    __shared__ __align__(16) float kept[128];
    int i = threadIdx.x;
    emulator::copy_async(&kept[4 * i], i < count ? &x[4 * i] : nullptr);
    emulator::end_group_of_copies();
    emulator::wait_for_copies(0);
    y[i] = kept[4 * i];
}"""
    x, y = np.ones(128, np.float32), np.zeros(32, np.float32)
    report = run_checked(source, "copy", (1,), (32,), x, y, 16)
    np.testing.assert_array_equal(y, [1] * 16 + [0] * 16)
    assert report.lines.get(4, Traffic()) == Traffic()
    assert report.lines[6] == Traffic(2, 2, 4, 4)


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_the_sums_of_batch_norm_read_maps_with_the_fewest_wavefronts(emulated, channels):
    """Neighbouring threads read neighbouring numbers, also where a pixel has fewer than a warp has lanes."""
    pixels, blocks = 2 * 32 * 256 // channels, 2
    (x,) = random_arrays([(pixels, channels)], np.float32)
    means, squares = np.zeros((2, channels, blocks))
    report = run_checked(
        KERNEL_FOLDER / "batch_norm.cu",
        "batch_norm_statistics",
        *((blocks,), (256,)),
        *(x, means, squares, channels, channels, pixels),
    )
    reads = [
        report.lines[number]
        for number, line in enumerate(report.source.splitlines(), 1)
        if "= x[pixel * channels" in line
    ]
    assert reads == [Traffic(x.nbytes // 128, x.nbytes // 128)] * 2


@pytest.mark.parametrize("channels", [16, 64])
def test_features_and_their_gradient_need_the_fewest_wavefronts(emulated, channels):
    """The weights of the last layer need at most four times the fewest."""
    pixels, lanes = 300, channels // 4
    x, weight, bias = random_arrays([(pixels, channels), (channels, 2), (2,)], np.float32)
    target, grad_x, parts = np.zeros(pixels, np.int32), np.zeros_like(x), np.zeros((2, 2 * channels + 5))
    pixel_weight = np.ones(pixels, np.float32)
    report = run_checked(
        KERNEL_FOLDER / "linear_cross_entropy.cu",
        "linear_cross_entropy_forward",
        *((2,), (256,)),
        *(x, weight, bias, target, pixel_weight, grad_x, parts),
        *(channels, 2, lanes, 1, 256, pixels),
    )
    found = {}
    for number, line in enumerate(report.source.splitlines(), 1):
        for name in ("as_float4(x[", "as_float4(grad_x[", "= weight["):
            if name in line:
                found[name] = report.lines[number]
    needed = x.nbytes // 128
    assert found["as_float4(x["] == found["as_float4(grad_x["] == Traffic(needed, needed)
    assert found["= weight["].global_wavefronts <= 4 * found["= weight["].global_at_best


@pytest.mark.parametrize("direction", ["forward", "backward_weight"])
@pytest.mark.parametrize("rung", ["tensor", "tensor_bf16"])
def test_factors_are_read_from_all_banks(emulated, rung, direction):
    """On their way into the tensor cores 32 lanes read from 32 banks."""
    x, weight, bias = random_arrays([(1, 18, 18, 16), (3, 3, 16, 64), (64,)], np.float32)
    y, parts = np.zeros((1, 16, 16, 64), np.float32), np.zeros((1, 3, 3, 16, 64), np.float32)
    arrays, ends = {
        "forward": ((x, weight, bias, y), (0, 256)),
        "backward_weight": ((x, y, parts), (256, 2048)),
    }[direction]
    name = f"conv2d_{direction}_{rung}"
    source = source_of("conv2d", name)
    arguments = cuda._checked_arguments(
        name, kernels_in(source)[name], (*arrays, 18, 18, 16, 3, 0, 64, *ends)
    )
    with cuda_emulator.checks():
        lines = cuda._function(source, name, {})((2, 1, 1), (128, 1, 1), arguments).by_line()
    reads = [
        lines[number]
        for number, text in enumerate(source.read_text(encoding="utf-8").splitlines(), 1)
        if number in lines and ("{ return left[" in text or "{ return right[" in text)
    ]
    assert len(reads) == 2
    assert all(read.shared_wavefronts == read.shared_at_best > 0 for read in reads)


@pytest.mark.parametrize("direction", ["multiply", "multiply_transposed"])
def test_winograds_factors_are_in_different_banks(emulated, direction):
    """All accesses to shared memory take as few wavefronts as their bytes."""
    name = f"conv2d_winograd_tensor_{direction}"
    v, u, result = (np.zeros((64, 64), np.float32) for _ in range(3))  # four stages
    parts = (64,) * (direction == "multiply_transposed")
    report = run_checked(source_of("conv2d", name), name, (1,), (64,), v, u, result, 64, 64, 64, *parts)
    found = [line for line in report.lines.values() if line.shared_at_best]
    assert all(line.shared_wavefronts == line.shared_at_best for line in found)
    # Each of two warps reads 64×16 and 16×32 numbers of a stage. Each stage, and two after the last, gets
    # 64×16 and 16×64.
    reads, copies = 4 * 2 * (64 + 32) * 16, (4 + 2) * (64 + 64) * 16
    assert sum(line.shared_at_best for line in found) == (reads + copies) * 4 // 128


@pytest.mark.parametrize("filters", [128, 64])
@pytest.mark.parametrize("direction", ["forward", "backward_weight"])
def test_the_chunks_of_copies_are_in_different_banks(emulated, direction, filters):
    """Copies to shared memory and ldmatrix take as few wavefronts as the bytes that they move."""
    x, weight, y = (
        np.zeros(shape, np.uint16) for shape in [(1, 18, 18, 32), (3, 3, 32, filters), (1, 16, 16, filters)]
    )
    bias, result, parts = (np.zeros(shape, np.float32) for shape in [filters, y.shape, (1, *weight.shape)])
    # 256 × 288 by 288 × 128 are 2 blocks of 9 stages, with two rows of four warps that have results each;
    # 288 × 256 by 256 × 128 are 3 blocks of 8, of which the last has one row of such warps.
    arrays, ends, blocks, stages, rows_of_warps = {
        "forward": ((x, weight, bias, result), (0, 256), 2, 9, 4),
        "backward_weight": ((x, y, parts), (256, 256), 3, 8, 5),
    }[direction]
    name = f"conv2d_{direction}_tensor_copies"
    source = source_of("conv2d", name)
    report = run_checked(source, name, (blocks, 1), (256,), *arrays, 18, 18, 32, 3, 0, filters, *ends)
    found = {}
    for number, line in enumerate(report.source.splitlines(), 1):
        for text in ("emulator::load_matrices", "run_stages("):
            if text in line and number in report.lines:
                found[text] = report.lines[number][2:]
    # A warp with results loads six times four matrices for each of the two halves of a stage. Each stage, and
    # two more after the last, gets two tiles of 8 KB.
    warps = rows_of_warps * filters // 32
    assert found == {
        "emulator::load_matrices": 2 * (warps * stages * 2 * 6 * 4,),
        "run_stages(": 2 * (blocks * (stages + 2) * 2 * 8192 // 128,),
    }


@pytest.mark.parametrize("direction", ["forward", "backward_weight"])
def test_products_of_warpgroups_read_from_all_banks(emulated, direction):
    """Tensor cores read factors, and copies arrive, in as few wavefronts as the bytes take."""
    x, weight, y = (
        np.zeros(shape, np.uint16) for shape in [(1, 18, 18, 32), (3, 3, 32, 128), (1, 16, 16, 128)]
    )
    bias, result, parts = (np.zeros(shape, np.float32) for shape in [128, y.shape, (1, *weight.shape)])
    arrays, ends, blocks, stages = {
        "forward": ((x, weight, bias, result), (0, 256), 2, 9),
        "backward_weight": ((x, y, parts), (256, 256), 3, 8),
    }[direction]
    name = f"conv2d_{direction}_wgmma"
    source = source_of("conv2d", name)
    report = run_checked(source, name, (blocks, 1), (256,), *arrays, 18, 18, 32, 3, 0, 128, *ends)
    found = Counter()
    for number, text in enumerate(report.source.splitlines(), 1):
        if number in report.lines and (called := re.match(" *(begin_product|wait_for_copies)<", text)):
            line = report.lines[number]
            assert line.shared_wavefronts == line.shared_at_best
            found[called[1]] += line.shared_at_best
    # Two warpgroups multiply 64×16 by 16×128 numbers twice in a stage. Each stage, and two more after the
    # last, gets two tiles of 8 KB.
    assert found == {
        "begin_product": blocks * stages * 2 * 2 * (64 + 128) * 16 * 2 // 128,
        "wait_for_copies": blocks * (stages + 2) * 2 * 8192 // 128,
    }


@pytest.mark.parametrize("name", ["conv2d_flip_weight", "conv2d_flip_to_bf16"])
def test_a_flip_takes_the_fewest_wavefronts(emulated, name):
    """Both memories serve a warp in as few wavefronts as can be, also where a column of a tile is read."""
    channels, filters, dtype = 32, 64, np.uint16 if name.endswith("bf16") else np.float32
    weight, flipped = np.zeros((9, channels, filters), np.float32), np.zeros((9, filters, channels), dtype)
    arguments = (weight, flipped, channels, filters)
    report = run_checked(source_of("conv2d", name), name, (2, 1, 9), (32, 8), *arguments)
    total = np.sum([*report.lines.values()], axis=0)
    warps = weight.size // 32
    assert total.tolist() == 4 * [2 * warps]


def test_what_the_first_warp_accesses(emulated):
    """Element by element, of the first block; -1 for a thread that does nothing."""
    source = """extern "C" __global__ void odd(const float* x, float* y, int n) {
    __shared__ float kept[64];
    int i = blockIdx.x * 32 + threadIdx.x;
    for (int k = 0; k < n - 28; k++) kept[31 - threadIdx.x + 32 * k] = i < n ? x[2 * i + k] : 0;
    __syncthreads();
    if (i < n) y[i] = kept[threadIdx.x];
}"""
    x, y = np.zeros(128, np.float32), np.zeros(40, np.float32)
    report = run_checked(source, "odd", (2,), (32,), x, y, 30)
    active = [*range(30), -1, -1]
    found = [access for access in report.first_warp if access.array]
    assert found == [
        (4, "x", False, 0, tuple(2 * i if i >= 0 else -1 for i in active)),
        (4, "x", False, 1, tuple(2 * i + 1 if i >= 0 else -1 for i in active)),
        (6, "y", True, 0, tuple(active)),
    ]
    written = [access for access in report.first_warp if not access.array and access.writes]
    first = min(written[0].elements)
    assert [np.subtract(access.elements, first).tolist() for access in written] == [
        list(range(31, -1, -1)),
        list(range(63, 31, -1)),
    ]


def test_lanes_that_take_no_part(emulated):
    """Lanes 1 to 16 write once, lanes 17 to 31 twice: two instructions of the warp."""
    source = """extern "C" __global__ void some(float* x) {
    for (int k = 0; k < threadIdx.x; k += 16) x[k * 32 + threadIdx.x] = 1;
}"""
    x = np.zeros(1024, np.float32)
    report = run_checked(source, "some", (1,), (32,), x)
    assert x.reshape(-1, 32).sum(axis=1)[[0, 16]].tolist() == [31, 15]
    assert report.lines == {2: Traffic(2, 2)}


def test_mistakes(emulated, tmp_path):
    """Each names the line. A changed file is compiled again."""
    x, y = squares()
    good = TRANSPOSE.replace("WIDTH", "33")
    file = tmp_path / "square.cu"
    file.write_text(good)
    run_checked(file, "transpose", (1,), (32, 32), x, y)
    file.write_text(good.replace("__syncthreads();", ""))
    with pytest.raises(KernelError, match=r"square\.cu:6: thread 1 reads word 33"):
        run_checked(file, "transpose", (1,), (32, 32), x, y)
    with pytest.raises(KernelError, match=r"kernels\.cu:4: out of bounds: .* x\[512\]"):
        run_checked(good, "transpose", (1,), (32, 32), x[:16], y)
    with pytest.raises(KernelError, match=r"'missing'\n +kernels +transpose\n"):
        run_checked(good, "missing", (1,), (32, 32), x, y)
    with pytest.raises(KernelError, match=r"2 parameters .*\n.*x, y"):
        run_checked(good, "transpose", (1,), (32, 32), x)
    with pytest.raises(KernelError, match=r"kernels\.cu:2:.*WIDTH"):
        run_checked(TRANSPOSE, "transpose", (1,), (32, 32), x, y)


def test_the_log_counts_wavefronts_in_the_checking_build(emulated):
    x = np.ones((1, 4, 4, 4), np.float32)
    with launch_log() as log, cuda_emulator.checks():
        tu.relu(tu.Tensor(x))
        tu.relu(tu.Tensor(x))
    assert log.totals["relu_forward"].traffic == Traffic(8, 8)
    assert str(log).splitlines()[0].split()[5:] == ["global", "at", "best", "shared", "at", "best"]
    assert str(log).splitlines()[1].split() == ["relu_forward", "2", "1.0", "0.0", "0.00", "8", "8", "0", "0"]
    with launch_log() as log:
        tu.relu(tu.Tensor(x))
    assert log.totals["relu_forward"].traffic == Traffic()
    assert "global" not in str(log)


def test_the_log_of_a_whole_program(emulated):
    code = "import tinyunet as tu, numpy as np; tu.relu(tu.Tensor(np.ones((4, 4), np.float32)))"
    environment = {"TINYUNET_BACKEND": "cuda-emulated", "TINYUNET_LAUNCH_LOG": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    name, *counts = result.stderr.splitlines()[1].split()
    assert name == "relu_forward"
    assert list(map(float, counts)) == [1, 0.1, 0, 0, 2, 2, 0, 0]
