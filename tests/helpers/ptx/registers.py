"""The registers of all threads: for each name an array with one element per thread.

An array holds bits, of the width that the register was declared with; an instruction looks at them as numbers
of its own type. At first they are `UNWRITTEN`: a NaN, a number that is no index, an address of no array. So a
result that depends on a register before it is written is wrong, and predicates differ from lane to lane.
"""

import re

import numpy as np

from ptx.fault import Fault

TYPES = {
    **{f"u{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"b{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "pred": np.dtype(bool),
}
UNWRITTEN = 0xFFFBBAD5FFFBBAD5
INTEGER = re.compile(r"-?(0[xX][0-9a-fA-F]+|\d+)U?")
FLOAT = re.compile(r"0[fFdD]([0-9a-fA-F]{8}|[0-9a-fA-F]{16})")


def bits_of(dtype):
    """Return the unsigned type of the same width."""
    return dtype if dtype.kind == "b" else np.dtype(f"u{dtype.itemsize}")


class Registers:
    """The registers of `threads` threads.

    Parameters
    ----------
    kernel : Kernel
    threads : int
    special : dict of str to array
        The registers that cannot be written, such as ``%tid.x``.
    symbols : dict of str to int
        The addresses of variables.
    """

    def __init__(self, kernel, threads, special, symbols):
        self.types, self.threads, self.symbols = kernel.register_types, threads, symbols
        self.arrays = {name: np.asarray(values, np.uint32) for name, values in special.items()}

    def bits(self, name):
        """Return the array of a register, as it was declared."""
        if name not in self.arrays:
            kind = self.types.get(name) or self.types.get(re.sub(r"\d+$", "", name))
            if kind is None:
                raise Fault(f"the interpreter does not know the operand {name}")
            self.arrays[name] = self._unwritten(bits_of(TYPES[kind]))
        return self.arrays[name]

    def _unwritten(self, dtype):
        if dtype.kind == "b":
            return np.arange(self.threads) % 2 == 1
        return np.full(self.threads, UNWRITTEN & (1 << 8 * dtype.itemsize) - 1, dtype)

    def is_register(self, text):
        """Tell a register from a number or the name of a variable."""
        return text.startswith("%") or text in self.types

    def target(self, text, dtype):
        """Return a register as an array of numbers, to be written. ``_`` takes what nobody needs."""
        if text == "_":
            return np.empty(self.threads, dtype)
        return self._viewed(text, dtype)

    def source(self, text, dtype):
        """Return an operand to be read: the array of a register, or a number."""
        return self._viewed(text, dtype) if self.is_register(text) else self.number(text, dtype)

    def _viewed(self, text, dtype):
        bits = self.bits(text)
        if bits.dtype.itemsize != dtype.itemsize or (bits.dtype.kind == "b") != (dtype.kind == "b"):
            raise Fault(f"{text} has {8 * bits.dtype.itemsize} bits, the instruction's type is {dtype}")
        return bits.view(dtype)

    def number(self, text, dtype):
        """Return the value of a literal, or the address of a variable."""
        if text in self.symbols:
            return bits_of(dtype).type(self.symbols[text]).view(dtype)
        if match := FLOAT.fullmatch(text):
            of = np.float32 if len(match[1]) == 8 else np.float64
            value = bits_of(np.dtype(of)).type(int(match[1], 16)).view(of)
            return value if dtype.kind == "f" else value.view(bits_of(dtype)).view(dtype)
        if INTEGER.fullmatch(text):
            if dtype.kind == "b":
                return np.bool_(int(text))
            value = int(text.rstrip("U"), 0) & (1 << 8 * dtype.itemsize) - 1
            return bits_of(dtype).type(value).view(dtype)
        raise Fault(f"the interpreter does not know the operand {text}")

    def reader(self, text, dtype):
        """Return a function that gives an operand, of a register that may be wider."""
        if not self.is_register(text):
            value = self.number(text, dtype)
            return lambda: value
        bits = self.bits(text)
        if bits.dtype.itemsize == dtype.itemsize:
            view = bits.view(dtype)
            return lambda: view
        if bits.dtype.itemsize < dtype.itemsize:
            raise Fault(f"{text} has {8 * bits.dtype.itemsize} bits, the instruction's type is {dtype}")
        return lambda: bits.astype(bits_of(dtype)).view(dtype)

    def writer(self, text, dtype):
        """Return a function (values, where) that writes numbers into a register, which may be wider."""
        bits = self.bits(text)
        if dtype.kind == "f" or bits.dtype.itemsize <= dtype.itemsize:
            view = self._viewed(text, dtype)
        else:  # integers are extended, those with a sign by their sign
            view = bits.view(f"{dtype.kind}{bits.dtype.itemsize}")
        return lambda values, where: np.copyto(view, values, where=where)
