"""The interpreter of PTX itself: arithmetic, warps and memory, on small kernels compiled by NVRTC."""

import math
from fractions import Fraction

import numpy as np
import ptx
import pytest
from ptx.floating_point import multiply_add as multiply_add_of_float64
from ptx.tensor_cores import multiply_add, tensor_core

KERNEL = 'extern "C" __global__ void kernel'
INTEGERS = np.array([0, 1, -1, 2, -2, 7, -7, 255, 65537, 2**31 - 1, -(2**31)], np.int32)


def elementwise(expression, result, *arrays):
    """Evaluate a CUDA expression of a, b and c for each element."""
    types = {"i": "int", "u": "unsigned", "f": "float"}

    def c_type(dtype):
        return {"int64": "long long", "float64": "double"}.get(
            str(np.dtype(dtype)), types[np.dtype(dtype).kind]
        )

    names = "abc"[: len(arrays)]
    parameters = [f"const {c_type(a.dtype)}* {n}s" for n, a in zip(names, arrays, strict=True)]
    values = " ".join(
        f"{c_type(a.dtype)} {n} = {n}s[threadIdx.x];" for n, a in zip(names, arrays, strict=True)
    )
    parameters = ", ".join([*parameters, f"{c_type(result)}* y"])
    source = f"{KERNEL}({parameters}) {{ {values} y[threadIdx.x] = {expression}; }}\n"
    y = np.zeros(arrays[0].shape, result)
    ptx.run_source(source, "kernel", (1, 1, 1), (len(y), 1, 1), *arrays, y)
    return y


# The last a % 64 bits of a into b, from bit b % 64 on.
INSERTED = """[=] {
    int d;
    asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(b & 63), "r"(a & 63));
    return d;
}()"""


def field(a, b):
    """Return the 32 bits that INSERTED replaces, set."""
    return (1 << a % 64) - 1 << b % 64 & 2**32 - 1


def pairs():
    """Return all pairs of the integers."""
    return [np.ascontiguousarray(a.ravel()) for a in np.meshgrid(INTEGERS, INTEGERS)]


@pytest.mark.parametrize(
    ("expression", "by_hand"),
    [
        ("b == 0 ? 0 : a / b", lambda a, b: 0 if b == 0 else int(Fraction(a, b))),
        ("b == 0 ? 0 : a % b", lambda a, b: 0 if b == 0 else int(math.fmod(a, b))),
        ("__mulhi(a, b)", lambda a, b: a * b >> 32),
        ("a * b - (a ^ b)", lambda a, b: a * b - (a ^ b)),
        ("a >> (b & 31)", lambda a, b: a >> (b & 31)),
        ("a << (b & 31)", lambda a, b: a << (b & 31)),
        ("min(a, b) | max(a, ~b)", lambda a, b: min(a, b) | max(a, ~b)),
        ("__popc(a)", lambda a, b: (a % 2**32).bit_count()),
        ("__clz(b)", lambda a, b: 32 - (b % 2**32).bit_length()),
        ("__brev(a) ^ b", lambda a, b: int(f"{a % 2**32:032b}"[::-1], 2) ^ b),
        ("int(unsigned(a) / 7u)", lambda a, b: a % 2**32 // 7),
        ("a < b ? a - b : abs(b)", lambda a, b: a - b if a < b else abs(b)),
        (INSERTED, lambda a, b: b & ~field(a, b) | a << b % 64 & field(a, b)),
    ],
)  # fmt: skip
def test_integers(expression, by_hand):
    """Integers have 32 bits and wrap around, and division rounds towards 0, unlike Python's."""
    a, b = pairs()
    fitting = ~((a == -(2**31)) & (b == -1))  # this quotient C leaves undefined
    a, b = a[fitting], b[fitting]
    expected = [(by_hand(int(i), int(j)) + 2**31) % 2**32 - 2**31 for i, j in zip(a, b, strict=True)]
    np.testing.assert_array_equal(elementwise(expression, np.int32, a, b), expected)


def test_division_by_zero_is_found():
    with pytest.raises(ptx.Fault, match="division by 0"):
        elementwise("a / b", np.int32, INTEGERS, np.zeros_like(INTEGERS))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("int(a)", [0, 0, 2, -2, 2**31 - 1, -(2**31), 0, 0]),
        ("__float2int_rn(a)", [0, 0, 2, -2, 2**31 - 1, -(2**31), 0, 0]),
        ("__float2int_rd(a)", [0, 0, 2, -3, 2**31 - 1, -(2**31), 0, 0]),
        ("__float2int_ru(a)", [1, 0, 3, -2, 2**31 - 1, -(2**31), 0, 0]),
    ],
)
def test_conversions_saturate(expression, expected):
    """A NaN becomes 0, as does a subnormal number, which ``.ftz`` flushes."""
    a = np.array([0.5, -0.0, 2.5, -2.5, 3e9, -np.inf, np.nan, 1e-40], np.float32)
    np.testing.assert_array_equal(elementwise(expression, np.int32, a), expected)


def test_subnormal_numbers_are_flushed_with_their_sign():
    a = np.array([1e-40, -1e-40, 2e-38, 1.0], np.float32)
    b = np.array([1, 1, 0.5, 1e-40], np.float32)
    y = elementwise("a * b", np.float32, a, b)
    np.testing.assert_array_equal(y.view(np.uint32), np.array([0, -0.0, 0, 0], np.float32).view(np.uint32))


def test_a_product_is_added_before_it_is_rounded():
    small = np.array([2.0**-12], np.float32)
    a = 1 + small
    np.testing.assert_array_equal(elementwise("fmaf(a, a, -1 - 2 * b)", np.float32, a, small), [2.0**-24])
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1000)) * 2.0 ** rng.integers(-9, 9, 1000)
    c = -a * b * (1 + rng.standard_normal(1000) * 2.0 ** rng.integers(-60, 3, 1000))
    exact = [float(Fraction(i) * Fraction(j) + Fraction(k)) for i, j, k in zip(a, b, c, strict=True)]
    np.testing.assert_array_max_ulp(multiply_add_of_float64(a, b, c), np.array(exact), maxulp=1)


@pytest.mark.parametrize(
    ("expression", "function", "ulp"),
    [("expf(a)", np.exp, 2), ("logf(a)", np.log, 1), ("sqrtf(a)", np.sqrt, 0), ("1 / a", np.reciprocal, 0),
     ("powf(a, 1.3f)", lambda a: a.astype(float) ** float(np.float32(1.3)), 4), ("tanhf(a)", np.tanh, 2)],
)  # fmt: skip
def test_functions_are_as_exact_as_cuda_promises(expression, function, ulp):
    """The largest errors by the CUDA C++ programming guide, in units of the last place."""
    a = np.geomspace(1e-3, 80, 301).astype(np.float32)
    expected = function(a.astype(float)).astype(np.float32)
    np.testing.assert_array_max_ulp(elementwise(expression, np.float32, a), expected, maxulp=max(ulp, 1))


def test_double_precision_with_an_array_per_thread():
    """The array is indexed by a variable, so that it lies in local memory."""
    source = f"""{KERNEL}(const int* order, double* y) {{
        double powers[8], power = 1;
        for (int i = 0; i < 8; i++, power *= 1.1 + threadIdx.x) powers[order[i]] = power;
        double sum = 0;
        for (int i = 0; i < 8; i++) sum += fmod(powers[(i + threadIdx.x) % 8], 3.0);
        y[threadIdx.x] = sum;
    }}
    """
    order, y = np.array([3, 1, 7, 0, 5, 2, 6, 4], np.int32), np.zeros(40)
    ptx.run_source(source, "kernel", (1, 1, 1), (40, 1, 1), order, y)
    powers = (1.1 + np.arange(40)[:, None]) ** np.arange(8)
    np.testing.assert_allclose(y, np.fmod(powers, 3.0).sum(axis=1), rtol=0, atol=1e-3)


# Warps and memory

THROUGH_A_NEIGHBOUR = f"""{KERNEL}(float* y) {{
    __shared__ float of_lane[32];
    of_lane[threadIdx.x] = 2 * threadIdx.x;
    __syncwarp();
    y[threadIdx.x] = of_lane[31 - threadIdx.x];
}}
"""


def test_a_missing_syncwarp_is_found():
    y = np.zeros(32, np.float32)
    ptx.run_source(THROUGH_A_NEIGHBOUR, "kernel", (1, 1, 1), (32, 1, 1), y)
    np.testing.assert_array_equal(y, np.arange(62, -1, -2))

    def without(text):
        assert "bar.warp.sync" in text
        return text.replace("bar.warp.sync", "// bar.warp.sync")

    with pytest.raises(ptx.Fault, match=r"race: thread \d+ accesses cell \d+ of shared memory"):
        ptx.run_source(THROUGH_A_NEIGHBOUR, "kernel", (1, 1, 1), (32, 1, 1), y, change=without)


def test_lanes_that_take_different_branches_meet_at_a_shuffle():
    source = f"""{KERNEL}(const int* turns, int* y) {{
        int value = threadIdx.x;
        for (int i = 0; i < turns[threadIdx.x]; i++) value = value * 3 % 1000;
        y[threadIdx.x] = __shfl_xor_sync(0xffffffff, value, 1) + 1000 * __shfl_down_sync(0xffffffff, value, 2)
            + 1000000 * __shfl_sync(0xffffffff, value % 1000, 3, 8) % 1000
            + __shfl_up_sync(0xffffffff, value, 1, 16);
    }}
    """
    turns, y = np.arange(32, dtype=np.int32) * 7 % 5, np.zeros(32, np.int32)
    ptx.run_source(source, "kernel", (1, 1, 1), (32, 1, 1), turns, y)
    lane = np.arange(32)
    value = lane * 3**turns % 1000
    below = np.where(lane + 2 < 32, lane + 2, lane)
    above = np.where(lane % 16, lane - 1, lane)
    of_eight = 1000000 * value[lane // 8 * 8 + 3] % 1000
    np.testing.assert_array_equal(y, value[lane ^ 1] + 1000 * value[below] + of_eight + value[above])


@pytest.mark.parametrize(
    ("body", "threads", "found"),
    [
        ("if (t < 9) y[t] = __shfl_xor_sync(~0u, y[t], 1);", 32, "lanes of its warp that do not arrive"),
        ("y[t] = __shfl_xor_sync(0xffffffff, y[t], 1);", 40, "lanes of its warp that do not arrive"),
        ("y[t] = __shfl_xor_sync(0x0000ffff, y[t], 16);", 16, "lane 16, which is not in its mask"),
        ("if (t < 7) return; __syncthreads(); y[t] = 1;", 32, "thread 0 ended without reaching it"),
        ("if (t < 7) { y[t] = 1; __syncthreads(); y[t] = 2; } else { y[t] = 3; __syncthreads(); }", 32,
         "divergent barrier: thread 7 waits at"),
        ("__shared__ float s[2]; s[t / 32] = t; y[t] = s[t / 32];", 64, "another thread writes at once"),
        ("y[0] = t;", 2, "race"),
        ("asm volatile(\"trap;\");", 2, "stops itself"),
    ],
)  # fmt: skip
def test_what_warps_and_blocks_do_wrong_is_found(body, threads, found):
    source = f"{KERNEL}(float* y) {{ int t = threadIdx.x; {body} }}\n"
    with pytest.raises(ptx.Fault, match=found):
        ptx.run_source(source, "kernel", (1, 1, 1), (threads, 1, 1), np.zeros(64, np.float32))


def test_blocks_must_not_write_what_others_read():
    source = f"{KERNEL}(float* y) {{ y[blockIdx.x] = y[(blockIdx.x + 1) % gridDim.x]; }}\n"
    with pytest.raises(ptx.Fault, match=r"race: thread .* of global memory"):
        ptx.run_source(source, "kernel", (5, 1, 1), (1, 1, 1), np.zeros(5, np.float32))


def test_dynamic_shared_memory_has_the_size_of_the_launch():
    source = f"""extern __shared__ float numbers[];
    {KERNEL}(float* y) {{
        numbers[threadIdx.x] = threadIdx.x;
        __syncthreads();
        y[threadIdx.x] = numbers[blockDim.x - 1 - threadIdx.x];
    }}
    """
    y = np.zeros(48, np.float32)
    ptx.run_source(source, "kernel", (1, 1, 1), (48, 1, 1), y, shared_mem=4 * 48)
    np.testing.assert_array_equal(y, np.arange(47, -1, -1))
    with pytest.raises(ptx.Fault, match="out of bounds: 4 bytes at 184 of 184 bytes of shared memory"):
        ptx.run_source(source, "kernel", (1, 1, 1), (48, 1, 1), y, shared_mem=4 * 46)


# Tensor cores


def test_tensor_cores_cut_off_what_is_small_beside_the_largest():
    """By the table: behind the largest summand's first bit 24 bits are kept on sm_80, 25 on sm_90."""
    one = np.ones((1, 1), np.float32)
    a = np.full((1, 8), 2.0**-13)
    b = np.full((8, 1), 2.0**-12)  # products of 2^-25, eight of which are 2^-22
    sums = {architecture: multiply_add(a, b, one, bits, at_once // 4)
            for architecture in (80, 90) for bits, at_once in [tensor_core(architecture)]}  # fmt: skip
    assert sums[80] == 1
    assert sums[90] == 1 + 2.0**-22
    # Cut off, not rounded: 2^-23 is the last bit of float32.
    assert multiply_add(a[:, :7] * 2, b[:7], one, 25, 8) == 1 + 3 * 2.0**-23
    assert multiply_add(-a[:, :7] * 2, b[:7], -one, 25, 8) == -1 - 3 * 2.0**-23


def test_tensor_cores_add_some_products_at_once():
    """What was cut off in one step is not seen by the next: 1 + 2^24 - 2^24."""
    a, b = np.array([[1, 2.0**13, -(2.0**13)]]), np.array([[1], [2.0**13], [2.0**13]])
    zero = np.zeros((1, 1), np.float32)
    assert multiply_add(a, b, zero, 25, 3) == 0
    assert multiply_add(a[:, ::-1], b[::-1], zero, 25, 2) == 1
    assert multiply_add(a, b, zero, 30, 3) == 1


def test_tensor_cores_pass_on_what_is_not_finite():
    a, b, zero = np.array([[np.inf, 1.0]]), np.array([[1.0], [2.0]]), np.zeros((1, 1), np.float32)
    assert multiply_add(a, b, zero, 25, 8) == np.inf
    with np.errstate(invalid="ignore"):
        assert np.isnan(multiply_add(a, np.array([[0.0], [1.0]]), zero, 25, 8))
