"""Instructions on numbers with a point, and conversions.

Each result is the exact one rounded once, as PTX says, with two exceptions: a float32 ``fma`` is rounded to
float64 first, so that one in 2^29 of its results may be the other neighbour; and what PTX calls ``approx`` is
rounded correctly here, while hardware errs in the last bits.
"""

import numpy as np

from ptx.arithmetic import (
    bind_division,
    bind_integer,
    bind_negative,
    bind_product,
    executes,
    is_float,
    type_of,
    unknown,
)
from ptx.registers import TYPES, bits_of

ROUNDINGS = ("rn", "rz", "rm", "rp")


def flushed(values):
    """Replace subnormal float32 numbers by 0 with their sign."""
    bits = values.view(np.uint32)
    # Their exponent is 0, and their fraction is not: an unsigned 0 - 1 is large.
    subnormal = (bits & np.uint32(0x7FFFFFFF)) - np.uint32(1) < np.uint32(0x007FFFFF)
    if not subnormal.any():
        return values
    return np.where(subnormal, bits & np.uint32(0x80000000), bits).view(np.float32)


def flushing(instruction):
    """Return `flushed` for an instruction that flushes subnormal numbers, or a function that does nothing."""
    return flushed if "ftz" in instruction.opcode else lambda values: values


def rounding(instruction):
    """Return the direction that an opcode names; without one it is to the nearest."""
    return next((part for part in instruction.opcode if part in ROUNDINGS), "rn")


def to_float32(exact, direction):
    """Round float64 to float32: to the nearest, to zero (rz), down (rm) or up (rp)."""
    nearest = exact.astype(np.float32)
    if direction == "rn":
        return nearest
    too_large, too_small = nearest > exact, nearest < exact
    down = too_large & ((direction == "rm") | ((direction == "rz") & (exact > 0)))
    up = too_small & ((direction == "rp") | ((direction == "rz") & (exact < 0)))
    nearest = np.where(down, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return np.where(up, np.nextafter(nearest, np.float32(np.inf)), nearest)


def _operands(instruction, registers):
    dtype = type_of(instruction)
    first, *rest = instruction.operands
    return [registers.target(first, dtype), *(registers.source(text, dtype) for text in rest)]


def _bound(instruction, registers, function):
    """Bind a function of float64, rounded in the direction that the opcode names."""
    target, *sources = _operands(instruction, registers)
    prepared, direction = flushing(instruction), rounding(instruction)
    if "sat" in instruction.opcode or (target.dtype == np.float64 and direction != "rn"):
        raise unknown(instruction)

    def run(where):
        given = [prepared(source) for source in sources]
        if target.dtype == np.float32:
            result = prepared(to_float32(function(*(a.astype(np.float64) for a in given)), direction))
        else:
            result = function(*given)
        np.copyto(target, result, where=where)

    return run


def _two_products(a, b):
    """Return the product of float64 numbers and its rounding error (Dekker 1971, Veltkamp's splitting)."""

    def halves(x):
        big = x * 134217729.0  # 2^27 + 1
        high = big - (big - x)
        return high, x - high

    product = a * b
    (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def multiply_add(a, b, c):
    """Compute a · b + c with the product exact, in float64."""
    product, error = _two_products(a, b)
    total = product + c
    rest = (product - (total - (total - product))) + (c - (total - product))
    exact = total + (rest + error)
    return np.where(np.isfinite(product + c) & np.isfinite(error), exact, total)


def _multiply_add_of_float32(a, b, c):
    return a * b + c  # the product is exact in float64


@executes("fma")
def bind_multiply_add(instruction, registers):
    wide = type_of(instruction) == np.float64
    return _bound(instruction, registers, multiply_add if wide else _multiply_add_of_float32)


FUNCTIONS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "sqrt": np.sqrt,
    "rcp": lambda a: 1 / a,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}
INTEGER_BINDERS = {"add": bind_integer, "sub": bind_integer, "mul": bind_product, "div": bind_division}


@executes(*FUNCTIONS)
def bind_function(instruction, registers):
    """Bind arithmetic. NumPy rounds the basic operations of float32 correctly: no float64 is needed."""
    name = instruction.opcode[0]
    if not is_float(instruction):
        return INTEGER_BINDERS[name](instruction, registers)
    if type_of(instruction) == np.float32 and name in INTEGER_BINDERS and rounding(instruction) == "rn":
        if "sat" in instruction.opcode:
            raise unknown(instruction)
        target, a, b = _operands(instruction, registers)
        function, prepared = FUNCTIONS[name], flushing(instruction)
        return lambda where: np.copyto(target, prepared(function(prepared(a), prepared(b))), where=where)
    return _bound(instruction, registers, FUNCTIONS[name])


@executes("mad")
def bind_mad(instruction, registers):
    bind_it = bind_multiply_add if is_float(instruction) else bind_product
    return bind_it(instruction, registers)


@executes("min", "max")
def bind_extreme(instruction, registers):
    """Bind minima and maxima. Of a number and a NaN the number is taken, with ``.NaN`` the NaN."""
    if not is_float(instruction):
        return bind_integer(instruction, registers)
    target, a, b = _operands(instruction, registers)
    prepared, nan = flushing(instruction), "NaN" in instruction.opcode
    ufunc = {"min": (np.fmin, np.minimum), "max": (np.fmax, np.maximum)}[instruction.opcode[0]][nan]
    return lambda where: ufunc(prepared(a), prepared(b), out=target, where=where)


@executes("neg", "abs")
def bind_sign(instruction, registers):
    if not is_float(instruction):
        return bind_negative(instruction, registers)
    target, a = _operands(instruction, registers)
    prepared = flushing(instruction)
    ufunc = {"neg": np.negative, "abs": np.abs}[instruction.opcode[0]]
    return lambda where: ufunc(prepared(a), out=target, where=where)


@executes("copysign")
def bind_copysign(instruction, registers):
    target, sign, size = _operands(instruction, registers)
    return lambda where: np.copysign(size, sign, out=target, where=where)


@executes("testp")
def bind_test(instruction, registers):
    dtype = type_of(instruction)
    tests = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "notanumber": np.isnan,
        "number": lambda a: ~np.isnan(a),
    }
    if instruction.opcode[1] not in tests:
        raise unknown(instruction)
    target = registers.target(instruction.operands[0], TYPES["pred"])
    source = registers.source(instruction.operands[1], dtype)
    test = tests[instruction.opcode[1]]
    return lambda where: np.copyto(target, test(source), where=where)


# Conversions

TO_INTEGERS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@executes("cvt")
def bind_conversion(instruction, registers):
    """Bind ``cvt.rounding.to.from``."""
    if {"bf16", "bf16x2", "tf32"} & set(instruction.opcode):
        return _bind_short_conversion(instruction, registers)
    if any(name not in TYPES for name in instruction.opcode[-2:]):
        raise unknown(instruction)
    to, of = (TYPES[name] for name in instruction.opcode[-2:])
    write = registers.writer(instruction.operands[0], to)
    read = registers.reader(instruction.operands[1], of)
    convert = _conversion(instruction, to, of)
    return lambda where: write(convert(np.asarray(read())), where)


def _conversion(instruction, to, of):
    parts = instruction.opcode
    to_integer = next((TO_INTEGERS[part] for part in parts if part in TO_INTEGERS), None)
    direction = rounding(instruction)

    def convert(values):
        if of == np.float32 and "ftz" in parts:
            values = flushed(values)
        if to_integer:
            values = to_integer(values)
        if to.kind != "f":
            return _to_integer(values, to) if of.kind == "f" or "sat" in parts else values.astype(to)
        if to == np.float32 and (of == np.float64 or of.kind != "f"):
            values = to_float32(values.astype(np.float64), direction)
        values = values.astype(to)
        if "sat" in parts:
            values = np.clip(np.where(np.isnan(values), to.type(0), values), to.type(0), to.type(1))
        return flushed(values) if to == np.float32 and "ftz" in parts else values

    return convert


def _to_integer(values, to):
    """Convert; what lies beyond the type becomes its end, a NaN becomes 0."""
    ends = np.iinfo(to)
    if values.dtype.kind != "f":
        return np.clip(values, ends.min, ends.max).astype(to)
    inside = np.where(
        np.isnan(values), 0, np.clip(values.astype(np.float64), float(ends.min), float(ends.max))
    )
    beyond = inside >= float(ends.max)  # float64 rounds the end of a 64-bit type up
    return np.where(beyond, to.type(ends.max), np.where(beyond, 0, inside).astype(to))


def to_tf32(bits):
    """Round the bits of float32 to 10 fraction bits, ties away from zero."""
    finite = bits & np.uint32(0x7F800000) != np.uint32(0x7F800000)
    return np.where(finite, (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000), bits)


def to_bf16(bits):
    """Round the bits of float32 to 7 fraction bits, ties to even: the upper half of the bits."""
    wide = bits.astype(np.uint64)
    rounded = wide + np.uint64(0x7FFF) + (wide >> np.uint64(16) & np.uint64(1)) >> np.uint64(16)
    nan = wide & np.uint64(0x7FFFFFFF) > np.uint64(0x7F800000)
    return np.where(nan, np.uint64(0x7FFF), rounded).astype(np.uint32)


def _bind_short_conversion(instruction, registers):
    """Bind conversions to the factors of tensor cores."""
    form = ".".join(instruction.opcode[1:])
    sources = [registers.reader(text, TYPES["b32"]) for text in instruction.operands[1:]]
    if form in ("rna.tf32.f32", "rn.bf16x2.f32"):
        write = registers.writer(instruction.operands[0], TYPES["b32"])
        if form == "rna.tf32.f32":
            return lambda where: write(to_tf32(np.asarray(sources[0]())), where)

        def pair(where):
            upper, lower = (to_bf16(np.asarray(source())) for source in sources)
            write(upper << np.uint32(16) | lower, where)

        return pair
    if form == "rn.bf16.f32":
        write = registers.writer(instruction.operands[0], TYPES["b16"])
        return lambda where: write(to_bf16(np.asarray(sources[0]())).astype(np.uint16), where)
    if form == "f32.bf16":
        write = registers.writer(instruction.operands[0], bits_of(TYPES["f32"]))
        half = registers.reader(instruction.operands[1], TYPES["b16"])
        return lambda where: write(np.asarray(half()).astype(np.uint32) << np.uint32(16), where)
    raise unknown(instruction)
