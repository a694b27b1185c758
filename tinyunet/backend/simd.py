"""Vector registers inside Numba kernels: several float32 side by side, added and multiplied at once.

The compiler vectorises many loops by itself, but not all: a loop that reads six arrays and writes six others
must first check that none of them overlap, which costs more than a loop over 16 channels, and with 36 arrays
it stays scalar. Here a kernel uses registers explicitly: `load` takes the elements from a place on into a
register, `+`, `-` and `*` work on registers and numbers, `store` writes a register to memory. A place is the
number of elements from the start of the array's memory, whatever its axes are.

>>> import numpy as np
>>> import numba
>>> @numba.njit
... def double(x, y):
...     for i in range(0, x.size, LANES):
...         count = min(LANES, x.size - i)
...         store(y, i, count, np.float32(2) * load(x, i, count))
>>> x, y = np.arange(37, dtype=np.float32), np.zeros(37, np.float32)
>>> double(x, y)
>>> bool((y == 2 * x).all())
True

A register has LANES elements: 16 with AVX-512, 8 elsewhere (two registers of 4 if the processor has no wider
ones). Where fewer elements are left, the lanes from `count` on are loaded as 0 and not stored.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import binding, ir
from numba import extending, types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature

LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8

_INT = ir.IntType(32)
VECTOR = ir.VectorType(ir.FloatType(), LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)
_INDICES = ir.VectorType(_INT, LANES)
EVERY = ir.Constant(_MASK, [1] * LANES)  # lane
# What the compiler may do to arithmetic with registers: make one instruction, rounded once, of a product and
# a sum. Without any flag Numba would set those of the kernel, among them `reassoc`. But a kernel has two
# forms, one for whole registers and one for the last lanes, which must add in the same order.
ROUNDING = ("contract",)


class Register(types.Type):
    """Numba's type of a register."""


register = Register(name=f"register{LANES}")


@extending.register_model(Register)
class _Model(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any):
        super().__init__(manager, kind, VECTOR)


def _operator(function: Any, instruction: str) -> None:
    """Define an operator for two registers, and for a register and a float32."""
    pairs = [(register, register), (types.float32, register), (register, types.float32)]
    cases = [signature(register, *pair) for pair in pairs]
    infer_global(function)(type(f"_{instruction}", (ConcreteTemplate,), {"cases": cases}))

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*map(spread, (builder, builder), args), flags=ROUNDING)

    for pair in pairs:
        extending.lower_builtin(function, *pair)(lower)


def spread(builder: Any, value: Any) -> Any:
    """Return a register as it is, and a number in every lane of a register."""
    if isinstance(value.type, ir.VectorType):
        return value
    nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(nothing, value, _INT(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_INDICES, [0] * LANES))


for _function, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _operator(_function, _instruction)


def intrinsic(function: Any) -> Any:
    made: Any = extending.intrinsic(function)
    made.source_files = [__file__]  # a kernel that uses it depends on this file: see tinyunet.backend.jit
    return made


def address(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """The address of element args[1] in the memory of array args[0]."""
    array = context.make_array(sig.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


def lanes_below(builder: Any, count: Any) -> Any:
    """A mask that is true in the lanes below `count`."""
    spread = ir.Constant(_INDICES, ir.Undefined)
    spread = builder.insert_element(spread, builder.trunc(count, _INT), _INT(0))
    spread = builder.shuffle_vector(spread, spread, ir.Constant(_INDICES, [0] * LANES))
    return builder.icmp_signed("<", ir.Constant(_INDICES, list(range(LANES))), spread)


def call(builder: Any, name: str, result: Any, args: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _suffix(vector: Any) -> str:
    """How the name of an LLVM function for these registers ends."""
    return f"v{LANES}f{64 if vector.element == ir.DoubleType() else 32}"


def read(builder: Any, place: Any, mask: Any) -> Any:
    """Load a register from the address of a number; 0 in the lanes where the mask is false."""
    vector = ir.VectorType(place.type.pointee, LANES)
    pointer, zero = builder.bitcast(place, vector.as_pointer()), ir.Constant(vector, None)
    return call(builder, f"llvm.masked.load.{_suffix(vector)}.p0", vector, [pointer, _INT(4), mask, zero])


def write(builder: Any, place: Any, mask: Any, values: Any) -> None:
    """Store the lanes of a register where the mask is true."""
    pointer, name = builder.bitcast(place, values.type.as_pointer()), _suffix(values.type)
    call(builder, f"llvm.masked.store.{name}.p0", ir.VoidType(), [values, pointer, _INT(4), mask])


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Compute a · b + c, rounded once where the processor has an instruction for it."""
    return call(builder, f"llvm.fmuladd.{_suffix(a.type)}", a.type, [a, b, c])


def is_float32(array: Any) -> bool:
    return isinstance(array, types.Array) and array.dtype == types.float32


@intrinsic
def load(context, array, at, count):
    """Load the elements at, at + 1, …, at + count - 1 of a float32 array's memory; 0 in the other lanes."""
    if not is_float32(array):
        return None

    def generate(context, builder, sig, args):
        return read(builder, address(context, builder, sig, args), lanes_below(builder, args[2]))

    return register(array, types.intp, types.intp), generate


@intrinsic
def store(context, array, at, count, values):
    """Write the first `count` lanes to a float32 array's memory, from element `at` on."""
    if not is_float32(array):
        return None

    def generate(context, builder, sig, args):
        write(builder, address(context, builder, sig, args), lanes_below(builder, args[2]), args[3])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, register), generate


@intrinsic
def at_least(context, floor, values):
    """The larger of a number and each lane; a NaN stays."""

    def generate(context, builder, sig, args):
        floor = spread(builder, args[0])
        return builder.select(builder.fcmp_ordered("<", args[1], floor), floor, args[1])

    return register(types.float32, register), generate


@intrinsic
def where_positive(context, y, values):
    """Each lane where that of y is positive, and 0 elsewhere."""

    def generate(context, builder, sig, args):
        zero = ir.Constant(VECTOR, None)
        return builder.select(builder.fcmp_ordered(">", args[0], zero), args[1], zero)

    return register(register, register), generate


@intrinsic
def transpose(context, source, at, step, target, to, pitch):
    """Copy a square of LANES × LANES elements, transposed. step, pitch : the distances between two rows.

    In the registers of the rows, exchange pairs of lanes that are 1, 2, 4, … apart, in pairs of rows that are
    as far apart. When row and column numbers have exchanged every bit, the square is transposed.
    """
    if not (is_float32(source) and is_float32(target)):
        return None

    def generate(context, builder, sig, args):
        def place(i, number):
            array = types.void(sig.args[i], types.intp)
            at = builder.add(args[i + 1], builder.mul(args[i + 2], ir.IntType(64)(number)))
            return address(context, builder, array, (args[i], at))

        rows = [read(builder, place(0, i), EVERY) for i in range(LANES)]
        apart = 1
        while apart < LANES:
            for i in (i for i in range(LANES) if not i & apart):
                a, b = rows[i], rows[i + apart]
                lower = [n if not n & apart else LANES + n - apart for n in range(LANES)]
                upper = [n + apart if not n & apart else LANES + n for n in range(LANES)]
                rows[i] = builder.shuffle_vector(a, b, ir.Constant(_INDICES, lower))
                rows[i + apart] = builder.shuffle_vector(a, b, ir.Constant(_INDICES, upper))
            apart *= 2
        for i, row in enumerate(rows):
            write(builder, place(3, i), EVERY, row)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, integer, target, integer, integer), generate


@intrinsic
def prefetch(context, array, at):
    """Fetch the cache line of an element that will soon be loaded. It may lie outside the array."""

    def generate(context, builder, sig, args):
        place = builder.bitcast(address(context, builder, sig, args), ir.IntType(8).as_pointer())
        call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, _INT(0), _INT(3), _INT(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate
