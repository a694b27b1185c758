"""Products of matrices on tensor cores: ``mma.sync``, whose operands are spread over the lanes of a warp.

How they add is described in `kernels/emulator/tensor_cores.hpp`, for the emulator too: products are exact,
sums truncated. The table of GPUs is read from there.
"""

import re
from functools import cache

import numpy as np

from ptx.arithmetic import executes, unknown
from ptx.floating_point import to_float32
from ptx.registers import TYPES
from tinyunet.backend.cuda_emulator import EMULATOR_FOLDER

WARP = 32
LANE = np.arange(WARP)
GROUP, THREAD = LANE // 4, LANE % 4  # as PTX calls them: groupID, threadID_in_group
NOTHING = -10_000  # the exponent of 0, below all others


@cache
def tensor_core(architecture):
    """Return the fraction bits kept, and the bytes of factors whose products are added at once.

    Parameters
    ----------
    architecture : int
        80 for compute capability 8.0.
    """
    text = (EMULATOR_FOLDER / "tensor_cores.hpp").read_text(encoding="utf-8")
    rows = [tuple(map(int, row)) for row in re.findall(r"\{(\d+), (\d+), (\d+)\},", text)]
    return max(row for row in rows if row[0] <= architecture)[1:]


def largest_error(products):
    """Bound the error of a sum of products on any GPU of the table, in units of the largest result.

    On the coarsest, sm_80 with TF32, four products are added at once. Each of the five summands loses less
    than 2^-24 of the largest of them, and the sum less than 2^-23 when it is cut off to float32. The largest
    is taken to be no larger than the largest result. One more rounding is that of the bias.
    """
    return (7 * -(-products // 4) + 1) * 2.0**-24


def multiply_add(a, b, c, fraction_bits, at_once):
    """Compute a · b + c as a tensor core does.

    Parameters
    ----------
    a, b : array, shapes (..., M, K) and (..., K, N), float64
        Numbers of few bits: their products are exact.
    c : array, shape (..., M, N), float32
    fraction_bits, at_once : int
        The bits kept of a sum, and the number of products that are added at once.

    Returns
    -------
    array, shape (..., M, N), float32
    """
    for first in range(0, a.shape[-1], at_once):
        part = slice(first, first + at_once)
        c = _add_products(a[..., :, part], b[..., part, :], c, fraction_bits)
    return c


def _add_products(a, b, c, fraction_bits):
    (a_part, a_exponent), (b_part, b_exponent) = np.frexp(a), np.frexp(np.swapaxes(b, -1, -2))
    parts = a_part[..., :, None, :] * b_part[..., None, :, :]  # (..., M, N, products)
    exponents = a_exponent[..., :, None, :] + b_exponent[..., None, :, :]
    c_part, c_exponent = np.frexp(c.astype(np.float64))
    # frexp's fractions begin at a half, their products at a quarter: a product's exponent, the sum of its
    # factors', is one larger than that of c with the same first bit.
    parts = np.concatenate([parts, c_part[..., None]], -1)
    exponents = np.concatenate([exponents, c_exponent[..., None]], -1)
    counted = np.concatenate([exponents[..., :-1] - 1, c_exponent[..., None]], -1)
    largest = np.where(parts != 0, counted, NOTHING).max(axis=-1) - 1
    shift = fraction_bits - largest
    total = np.trunc(np.ldexp(parts, exponents + shift[..., None])).sum(axis=-1)
    sums = to_float32(np.ldexp(total, -shift), "rz")
    plain = a @ b + c
    return np.where(np.isfinite(plain), sums, plain.astype(np.float32))


def tf32(bits):
    """Return the numbers in registers: one each, whose last bits hardware ignores."""
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)[None]


def bf16(bits):
    """Return the numbers in registers: two each, the first in the lower half."""
    return np.stack(
        [(bits << np.uint32(16)).view(np.float32), (bits & np.uint32(0xFFFF0000)).view(np.float32)]
    )


# For each form the numbers in a register, and the bytes of a factor.
FORMS = {
    "m16n8k8.row.col.f32.tf32.tf32.f32": (tf32, 4),
    "m16n8k16.row.col.f32.bf16.bf16.f32": (bf16, 2),
}


@executes("mma")
def bind_multiply(instruction, registers):
    """Bind ``mma.sync.aligned``: D (16×8) = A (16×K) · B (K×8) + C, by the warps that take part whole.

    With g = lane / 4 and t = lane % 4 a register holds numbers that are adjacent along K, and a lane has of A
    rows g, g+8, g, g+8, of B column g, of D and C rows g, g, g+8, g+8 and columns 2t, 2t+1, 2t, 2t+1 (PTX
    ISA, "Matrix Fragments for mma.m16n8k8" and "…m16n8k16").
    """
    form = ".".join(instruction.opcode[3:])
    if instruction.opcode[1:3] != ("sync", "aligned") or form not in FORMS:
        raise unknown(instruction)
    numbers, width = FORMS[form]
    fraction_bits, bytes_at_once = tensor_core(registers.architecture)
    names = [[name.strip() for name in text.strip("{}").split(",")] for text in instruction.operands]
    d = [registers.target(name, TYPES["f32"]) for name in names[0]]
    a, b = ([registers.source(name, TYPES["b32"]) for name in part] for part in names[1:3])
    c = [registers.source(name, TYPES["f32"]) for name in names[3]]

    def run(where):
        warps = np.broadcast_to(where, registers.threads).reshape(-1, WARP).all(axis=1)
        result = multiply_add(
            _left(_of_warps(a, warps), numbers),
            _right(_of_warps(b, warps), numbers),
            _sums(_of_warps(c, warps)),
            fraction_bits,
            bytes_at_once // width,
        )
        for e, target in enumerate(d):
            target.reshape(-1, WARP)[warps] = result[:, GROUP + e // 2 * 8, 2 * THREAD + e % 2]

    return run


def _of_warps(arrays, warps):
    threads = len(warps) * WARP
    return [np.broadcast_to(array, threads).reshape(-1, WARP)[warps] for array in arrays]


def _left(registers, numbers):
    values = [numbers(bits) for bits in registers]  # (per register, warps, lanes)
    per, count = values[0].shape[:2]
    a = np.empty((count, 16, 8 * per))
    for e, of_register in enumerate(values):
        for i in range(per):
            a[:, GROUP + e % 2 * 8, per * (THREAD + e // 2 * 4) + i] = of_register[i]
    return a


def _right(registers, numbers):
    values = [numbers(bits) for bits in registers]
    per, count = values[0].shape[:2]
    b = np.empty((count, 8 * per, 8))
    for e, of_register in enumerate(values):
        for i in range(per):
            b[:, per * (THREAD + e * 4) + i, GROUP] = of_register[i]
    return b


def _sums(registers):
    c = np.empty((len(registers[0]), 16, 8), np.float32)
    for e, of_register in enumerate(registers):
        c[:, GROUP + e // 2 * 8, 2 * THREAD + e % 2] = of_register
    return c
