"""Products by warpgroups in the emulator and in the interpreter of PTX: results, and what must not be."""

import numpy as np
import ptx
import pytest

from tinyunet.backend.cuda import KERNEL_FOLDER, run_checked
from tinyunet.backend.cuda_emulator import Traffic
from tinyunet.errors import KernelError

ROWS, COLUMNS, DEPTH = 64, 128, 32
# One warpgroup multiplies 64×32 by 32×128 numbers, each factor in one of two layouts. A tile is filled by
# index, so that the layouts are written down here once more, without the kernels' own tiles.
HEADER = (KERNEL_FOLDER / "warpgroups.cuh").read_text(encoding="utf-8")
KERNEL = """
// Rows of 32 numbers along K, 64 bytes, or of 64 numbers along the other axis, 128 bytes.
__device__ int place_in_tile(bool transposed, int outer, int k) {
    if (transposed) return outer / 64 * 32 * 64 + k * 64 + (outer % 64 / 8 ^ k % 8) * 8 + outer % 8;
    return outer * 32 + (k / 8 ^ outer / 2 % 4) * 8 + k % 8;
}
__device__ unsigned long long descriptor_of_tile(bool transposed, const unsigned short* tile) {
    if (transposed) return descriptor_of<128>(*tile, 32 * 128, 8 * 128);
    return descriptor_of<64>(*tile, 16, 8 * 64);
}
// x[outer * outer_step + k * k_step], two neighbours in a row at a time: a word, which one thread writes.
__device__ void fill_tile(bool transposed, unsigned short* tile, const unsigned short* x, int rows,
                          int outer_step, int k_step) {
    for (int i = threadIdx.x; i < rows * 16; i += 128)
        for (int e = 0; e < 2; e++) {
            int outer = transposed ? i % (rows / 2) * 2 + e : i / 16;
            int k = transposed ? i / (rows / 2) : i % 16 * 2 + e;
            tile[place_in_tile(transposed, outer, k)] = x[outer * outer_step + k * k_step];
        }
}

template <bool LEFT, bool RIGHT>
__device__ __forceinline__ void multiply(const unsigned short* x, const unsigned short* weight, float* y) {
    __shared__ __align__(1024) unsigned short left[64 * 32];
    __shared__ __align__(1024) unsigned short right[128 * 32];
    int thread = threadIdx.x;
    fill_tile(LEFT, left, x, 64, 32, 1);
    fill_tile(RIGHT, right, weight, 128, 1, 128);
    fence_proxy();
    __syncthreads();
    Sums<128> sums;
#pragma unroll
    for (float& sum : sums.of) sum = 1;
    unsigned long long a = descriptor_of_tile(LEFT, left), b = descriptor_of_tile(RIGHT, right);
    fence_registers(sums);
    begin_product<LEFT, RIGHT>(sums, a, b);  // both halves
    begin_product<LEFT, RIGHT>(sums, advanced(a, LEFT ? 16 * 128 : 32), advanced(b, RIGHT ? 16 * 128 : 32));
    end_group_of_products();
    wait_for_products<0>(sums);
    int g = thread % 32 / 4, t = thread % 4;
#pragma unroll
    for (int e = 0; e < 64; e++)
        y[(thread / 32 * 16 + g + e / 2 % 2 * 8) * 128 + e / 4 * 8 + 2 * t + e % 2] = sums.of[e];
}
extern "C" __global__ void multiply_tiles(const unsigned short* x, const unsigned short* weight, float* y) {
    multiply<LEFT_TRANSPOSED, RIGHT_TRANSPOSED>(x, weight, y);
}
"""
LAYOUTS = pytest.mark.parametrize(
    "layout", [(left, right) for left in ("false", "true") for right in ("false", "true")], ids=" by ".join
)
rng = np.random.default_rng(0)
LEFT, RIGHT = (rng.integers(-8, 9, shape).astype(np.float32) for shape in [(ROWS, DEPTH), (DEPTH, COLUMNS)])


def bf16(numbers):
    """Return numbers of few bits as bfloat16, in integers of 16 bits."""
    return (numbers.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def arguments():
    return bf16(LEFT), bf16(RIGHT), np.full((ROWS, COLUMNS), np.nan, np.float32)


def source_for(layout, kernel=KERNEL):
    """Return the text of the kernel for factors that are transposed or not."""
    left, right = layout
    return HEADER + kernel.replace("LEFT_TRANSPOSED", left).replace("RIGHT_TRANSPOSED", right)


def emulate(source):
    """Run a kernel in the checking build; return the result and the report."""
    given = arguments()
    report = run_checked(source, "multiply_tiles", (1,), (128,), *given)
    return given[2], report


def interpret(source):
    """Run a kernel's PTX; return the result."""
    given = arguments()
    ptx.run_source(source, "multiply_tiles", (1, 1, 1), (128, 1, 1), *given, architecture="sm_90a")
    return given[2]


@LAYOUTS
def test_the_product_of_both_halves(layout):
    """Exact, because all numbers are small integers. The sums begin with 1.

    Tensor cores read 64×16 and 128×16 numbers of two bytes twice, in turns of 128 bytes: no two of eight
    chunks are in the same banks.
    """
    source, expected = source_for(layout), LEFT @ RIGHT + 1
    result, report = emulate(source)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(interpret(source), expected)
    found = [
        report.lines[number]
        for number, text in enumerate(source.splitlines(), 1)
        if "    emulator::begin_product" in text and number in report.lines
    ]
    turns = 2 * (ROWS + COLUMNS) * 16 * 2 // 128
    assert found == [Traffic(0, 0, turns, turns)]


WRONG = "a wrong result"
# For each mistake a name, the text to replace, its replacement, and what emulator and interpreter find.
MISTAKES = [
    ("no wait", "    wait_for_products<0>(sums);", "", WRONG, WRONG),
    ("a wait for the group before", "wait_for_products<0>", "wait_for_products<1>", WRONG, WRONG),
    ("products in no group", "    end_group_of_products();", "", WRONG, WRONG),
    (
        "registers without a fence",
        "    fence_registers(sums);",
        "",
        "no wgmma.fence since the registers of this product were accessed",
        "no wgmma.fence since the registers of this product were accessed",
    ),
    (
        "no proxy fence",
        "    fence_proxy();\n    __sync",
        "    __sync",
        "a product reads word .* with no fence.proxy.async by that thread in between",
        "not ready: .* with no fence.proxy.async since it was written",
    ),
    (
        "a proxy fence after the barrier",
        "    fence_proxy();\n    __syncthreads();",
        "    __syncthreads();\n    fence_proxy();",
        "a product reads word .* with no fence.proxy.async by that thread in between",
        "not ready: .* with no fence.proxy.async since it was written",
    ),
    (
        "a proxy fence before the last writes",
        "    fill_tile(RIGHT, right, weight, 128, 1, 128);\n    fence_proxy();",
        "    fence_proxy();\n    fill_tile(RIGHT, right, weight, 128, 1, 128);",
        "a product reads word .* with no fence.proxy.async by that thread in between",
        "not ready: .* with no fence.proxy.async since it was written",
    ),
    (
        "no barrier",
        "    __syncthreads();\n    Sums",
        "    Sums",
        "race: thread .* reads the shared memory|which no thread of the block has written|no fence.proxy",
        "race: thread .* which thread .* wrote|which nobody has written",
    ),
    (
        "a factor that is written before the product is done",
        "    wait_for_products<0>(sums);",
        "    left[2 * thread] = 0x7fc0;\n    wait_for_products<0>(sums);",
        "race: thread .* the shared memory|with no fence.proxy.async",
        "race: thread .* of shared memory|with no fence.proxy.async",
    ),
    (
        "half of a warpgroup",
        "    begin_product<LEFT, RIGHT>(sums, a, b);  // both",
        "    if (thread < 64) begin_product<LEFT, RIGHT>(sums, a, b);  // both",
        "begins another product than its warpgroup does|takes no part in a product of its warpgroup",
        "the warps of a warpgroup begin different products|takes no part in the products",
    ),
    (
        "other factors for each warp",
        "a = descriptor_of_tile(LEFT, left)",
        "a = advanced(descriptor_of_tile(LEFT, left), thread / 32 * 1024)",
        "thread 32 begins another product than its warpgroup does",
        "the warps of a warpgroup begin different products",
    ),
    ("another distance of pieces", "8 * 128);", "4 * 128);", WRONG, WRONG),
    ("another distance of panels", "32 * 128, 8", "16 * 128, 8", WRONG, WRONG),
    ("columns for rows", "begin_product<LEFT, RIGHT>", "begin_product<!LEFT, RIGHT>", WRONG, WRONG),
    (
        "no swizzle",
        "<< 62;",
        "<< 60;",
        "does not know matrices without swizzle",
        "does not know a matrix without swizzle",
    ),
    (
        "beyond shared memory",
        "a = descriptor_of_tile(LEFT, left)",
        "a = advanced(descriptor_of_tile(LEFT, left), 1 << 16)",
        "a product reads byte .* of .* bytes of shared memory",
        "out of bounds: 4 bytes at .* of shared memory",
    ),
    (
        "a tile that begins between two patterns",
        "unsigned short left[64 * 32];",
        "unsigned short room[64 * 32 + 64];\n    unsigned short* left = room + 64;",
        WRONG,
        WRONG,
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "emulated", "interpreted"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES]
)
def test_mistakes_are_found(old, new, emulated, interpreted):
    source, expected = source_for(("false", "true")), LEFT @ RIGHT + 1
    source, before = source.replace(old, new, 1), source
    assert source != before
    for run, found, kind in (
        (lambda: emulate(source)[0], emulated, KernelError),
        (lambda: interpret(source), interpreted, ptx.Fault),
    ):
        if found == WRONG:
            assert not np.array_equal(run(), expected)
        else:
            with pytest.raises(kind, match=found):
                run()
