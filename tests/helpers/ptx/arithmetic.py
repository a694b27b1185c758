"""Instructions on integers and predicates, comparisons, choices and moves.

`bind` turns an instruction into a function of the threads that take part, True for all or an array of bool.
Each kind of instruction has a function here or in `floating_point` that does this, in `BINDERS` by its name.
"""

import re

import numpy as np

from ptx.fault import Fault
from ptx.registers import TYPES, bits_of

BINDERS = {}


def executes(*names):
    """Register a function that binds the instructions of these names."""

    def register(function):
        BINDERS.update(dict.fromkeys(names, function))
        return function

    return register


def unknown(instruction):
    """Make the Fault for an instruction that the interpreter does not know."""
    return Fault(f"the interpreter does not know {'.'.join(instruction.opcode)}: add it in tests/helpers/ptx")


def bind(instruction, registers):
    """Return a function (where) that runs the instruction."""
    binder = BINDERS.get(instruction.opcode[0])
    if binder is None:
        raise unknown(instruction)
    return binder(instruction, registers)


def type_of(instruction):
    """Return the type that an opcode ends with."""
    if instruction.opcode[-1] not in TYPES:
        raise unknown(instruction)
    return TYPES[instruction.opcode[-1]]


def computed(target, function, *sources):
    """Return a function (where) that writes a function of the sources."""
    return lambda where: np.copyto(target, function(*sources), where=where)


def is_float(instruction):
    return instruction.opcode[-1] in ("f32", "f64")


BITWISE = {
    "add": np.add,
    "sub": np.subtract,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
WITH_SIGN = {"min": np.minimum, "max": np.maximum}


def bind_integer(instruction, registers):
    """Bind additions, logic, minima and maxima; predicates are integers of one bit."""
    name, dtype = instruction.opcode[0], type_of(instruction)
    if set(instruction.opcode) & {"sat", "cc", "relu"}:
        raise unknown(instruction)
    ufunc = WITH_SIGN.get(name) or BITWISE[name]
    dtype = dtype if name in WITH_SIGN else bits_of(dtype)
    target, *sources = _operands(instruction, registers, dtype)
    return lambda where: ufunc(*sources, out=target, where=where)


def _operands(instruction, registers, dtype):
    first, *rest = instruction.operands
    return [registers.target(first, dtype), *(registers.source(text, dtype) for text in rest)]


@executes("and", "or", "xor")
def bind_logic(instruction, registers):
    return bind_integer(instruction, registers)


@executes("not", "cnot")
def bind_not(instruction, registers):
    dtype = bits_of(type_of(instruction))
    target, source = _operands(instruction, registers, dtype)
    if instruction.opcode[0] == "cnot":
        return computed(target, lambda a: a == 0, source)
    return lambda where: np.invert(source, out=target, where=where)


def bind_negative(instruction, registers):
    target, source = _operands(instruction, registers, type_of(instruction))
    ufunc = {"neg": np.negative, "abs": np.abs}[instruction.opcode[0]]
    return lambda where: ufunc(source, out=target, where=where)


def high_half(a, b):
    """Return the upper half of the product."""
    if a.dtype.itemsize < 8:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
        return (a.astype(wide) * b.astype(wide) >> 8 * a.dtype.itemsize).astype(a.dtype)
    exact = np.multiply(np.asarray(a, object), np.asarray(b, object)) >> 64
    return np.array(exact, a.dtype)


def bind_product(instruction, registers):
    """Bind ``mul`` and ``mad``: the lower half, the upper half or the whole of a product."""
    dtype = type_of(instruction)
    part = instruction.opcode[1]
    if part == "wide":
        wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
        target = registers.target(instruction.operands[0], wide)
        a, b = (registers.source(text, dtype) for text in instruction.operands[1:3])
        c = [registers.source(text, wide) for text in instruction.operands[3:]]
        return computed(target, lambda a, b, *c: sum(c, np.multiply(a, b, dtype=wide)), a, b, *c)
    if part == "hi":
        target, a, b, *c = _operands(instruction, registers, dtype)
        return computed(target, lambda a, b, *c: sum(c, high_half(a, b)), a, b, *c)
    if part != "lo":
        raise unknown(instruction)
    target, a, b, *c = _operands(instruction, registers, bits_of(dtype))
    if not c:
        return lambda where: np.multiply(a, b, out=target, where=where)
    return computed(target, lambda a, b, c: a * b + c, a, b, *c)


def quotient(a, b):
    """Divide integers as C does, towards 0. Division by 0, which PTX does not define, is a Fault."""
    whole = np.floor_divide(a, b)
    return whole + (((a < 0) != (b < 0)) & (whole * b != a)).astype(a.dtype)


def bind_division(instruction, registers):
    """Bind ``div`` and ``rem`` of integers."""
    target, a, b = _operands(instruction, registers, type_of(instruction))
    remainder = instruction.opcode[0] == "rem"

    def run(where):
        by = np.broadcast_to(b, target.shape)
        if (by[where] == 0).any():
            raise Fault("a division by 0")
        by = np.where(by == 0, by.dtype.type(1), by)
        result = quotient(a, by)
        np.copyto(target, a - result * by if remainder else result, where=where)

    return run


executes("rem")(bind_division)


@executes("shl", "shr")
def bind_shift(instruction, registers):
    """Bind shifts. By the width or more, nothing but the sign is left."""
    dtype = type_of(instruction)
    left = instruction.opcode[0] == "shl"
    dtype = bits_of(dtype) if left else dtype
    target = registers.target(instruction.operands[0], dtype)
    a = registers.source(instruction.operands[1], dtype)
    amount = registers.source(instruction.operands[2], TYPES["u32"])
    width = 8 * dtype.itemsize

    def shifted(a, amount):
        by = np.minimum(amount, width - 1).astype(dtype)
        result = np.left_shift(a, by) if left else np.right_shift(a, by)
        return result if dtype.kind == "i" else np.where(amount >= width, dtype.type(0), result)

    return computed(target, shifted, a, amount)


@executes("bfi")
def bind_insertion(instruction, registers):
    """Bind ``bfi.b32``: the lowest bits of a, as many as the last operand says, replace bits of b."""
    if instruction.opcode != ("bfi", "b32"):
        raise unknown(instruction)
    target, a, b, first, count = _operands(instruction, registers, TYPES["b32"])

    def inserted(a, b, first, count):
        first, count = (np.minimum(x & 0xFF, 32).astype(np.uint64) for x in (first, count))
        field = ((np.uint64(1) << count) - np.uint64(1) << first).astype(np.uint32)
        return b & ~field | (a.astype(np.uint64) << first).astype(np.uint32) & field

    return computed(target, inserted, a, b, first, count)


COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}


def either_is_nan(a, b):
    return np.isnan(a) | np.isnan(b)


def comparison(name, floats):
    """Return the function of a comparison. With a NaN ``ltu`` is true, ``lt`` and ``ne`` are not."""
    if name in ("nan", "num"):
        return either_is_nan if name == "nan" else lambda a, b: ~either_is_nan(a, b)
    if floats and name == "ne":
        return lambda a, b: (a != b) & ~either_is_nan(a, b)
    if name.endswith("u") and name[:-1] in COMPARISONS:
        return lambda a, b: COMPARISONS[name[:-1]](a, b) | either_is_nan(a, b)
    return COMPARISONS[name]


LOGIC = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


@executes("setp")
def bind_comparison(instruction, registers):
    """Bind ``setp``, perhaps combined with another predicate: ``setp.lt.and.s32 %p1|%p2, a, b, !%p3``."""
    from ptx.floating_point import flushing

    dtype = type_of(instruction)
    compare = comparison(instruction.opcode[1], dtype.kind == "f")
    prepared = flushing(instruction)
    names = instruction.operands[0].split("|")
    targets = [registers.target(name, TYPES["pred"]) for name in names]
    a, b = (registers.source(text, dtype) for text in instruction.operands[1:3])
    combine = LOGIC.get(instruction.opcode[2])
    if combine:
        negated, name = re.fullmatch(r"(!?)(.+)", instruction.operands[3]).groups()
        other = registers.source(name, TYPES["pred"])

    def run(where):
        result = compare(prepared(a), prepared(b))
        results = [result, ~result] if len(targets) > 1 else [result]
        for target, value in zip(targets, results, strict=True):
            np.copyto(target, combine(value, ~other if negated else other) if combine else value, where=where)

    return run


@executes("selp")
def bind_choice(instruction, registers):
    dtype = type_of(instruction)
    target = registers.target(instruction.operands[0], dtype)
    a, b = (registers.source(text, dtype) for text in instruction.operands[1:3])
    predicate = registers.source(instruction.operands[3], TYPES["pred"])
    return computed(target, np.where, predicate, a, b)


@executes("mov")
def bind_move(instruction, registers):
    """Bind ``mov``, which may also join two registers in one, or split one."""
    dtype = bits_of(type_of(instruction))
    to, source = instruction.operands
    if to.startswith("{") or source.startswith("{"):
        return _bind_parts(to, source, dtype, registers)
    target, source = registers.target(to, dtype), registers.source(source, dtype)
    return lambda where: np.copyto(target, source, where=where)


def _bind_parts(to, source, dtype, registers):
    parts = [part.strip() for part in (to if to.startswith("{") else source).strip("{}").split(",")]
    width = 8 * dtype.itemsize // len(parts)
    part_type = np.dtype(f"u{width // 8}")
    if to.startswith("{"):
        whole = registers.source(source, dtype)
        targets = [registers.target(part, part_type) for part in parts]

        def split(where):
            values = [(whole >> dtype.type(width * i)).astype(part_type) for i in range(len(parts))]
            for target, value in zip(targets, values, strict=True):
                np.copyto(target, value, where=where)

        return split
    target = registers.target(to, dtype)
    sources = [registers.source(part, part_type) for part in parts]

    def join(where):
        whole = sum(s.astype(dtype) << dtype.type(width * i) for i, s in enumerate(sources))
        np.copyto(target, whole, where=where)

    return join


@executes("cvta")
def bind_address(instruction, registers):
    """Bind conversions of addresses. The spaces have addresses of their own here, none is generic."""
    target, source = _operands(instruction, registers, bits_of(type_of(instruction)))
    return lambda where: np.copyto(target, source, where=where)


@executes("clz", "popc", "brev")
def bind_count(instruction, registers):
    """Bind counts of bits."""
    dtype = bits_of(type_of(instruction))
    name = instruction.opcode[0]
    result = dtype if name == "brev" else TYPES["u32"]
    target = registers.target(instruction.operands[0], result)
    source = registers.source(instruction.operands[1], dtype)
    width = 8 * dtype.itemsize

    def bits(a):
        return (a[..., None] >> np.arange(width, dtype=dtype)) & dtype.type(1)  # the lowest first

    functions = {
        "popc": lambda a: bits(a).sum(axis=-1),
        "clz": lambda a: width - (bits(a) * np.arange(1, width + 1)).max(axis=-1).astype(int),
        "brev": lambda a: (bits(a) << np.arange(width - 1, -1, -1, dtype=dtype)).sum(axis=-1, dtype=dtype),
    }
    return lambda where: np.copyto(target, functions[name](source), where=where, casting="unsafe")
