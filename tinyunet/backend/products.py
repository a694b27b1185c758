"""Products of matrices inside Numba kernels, with a right factor that is written in panels.

A processor multiplies fastest where what it needs next lies in a near cache, in the order in which it is
needed. BLAS copies both factors into such an order first, or does without; for the small products of a
convolution both cost much of the time. Here the right factor is copied once and multiplies many rows of
pixels, or the transforms of `conv2d_winograd` write it, in any order. It is written in *panels*: its columns
in groups of PANEL, each group row by row, one group after the other. Places in memory, for a matrix B of 100
rows and panels of 64:

    columns    0 … 63          64 … 127
    row 0      0 … 63          6400 … 6463
    row 1      64 … 127        6464 … 6527

The last panel has the columns that are left, rounded up to whole registers (`padded`). The room after them is
filled with zeros. It is multiplied like the rest, though the products go nowhere, and what memory happens to
hold may be tiny: numbers below 1e-38 take a processor by Intel a hundred times as long as others.

**In registers.** C = A B is computed in tiles of some rows and one panel. The sums of a tile stay in
registers. For each column of A and row of B, a tile of 6 rows and 4 registers loads the 4 registers of B,
spreads 6 numbers of A over a register each, and multiplies and adds 24 times: the inner kernel of [1]_.

**In the cache.** All rows of A use a panel while it is near, SUMMANDS of its rows at a time.

An element of C is a sum in the order of the summands, in pieces of SUMMANDS: its bits depend on the sizes
alone, not on threads. On one core, in GFLOP/s, these products and OpenBLAS, on a Xeon with AVX-512 and on an
EPYC of the third generation with AVX2:

    (30 × 128)(128 × 128)     133, 111        (48 × 1024)(1024 × 1024)     87, 54
    (48 × 128)(128 × 128)      83,  70        (96 × 256)(256 × 64)         88, 78

References
----------
.. [1] Goto and van de Geijn 2008, Anatomy of High-Performance Matrix Multiplication, ACM Transactions on
   Mathematical Software 34 (3), section 6.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import prange, types

from tinyunet.backend import allocator, simd
from tinyunet.backend.jit import kernel, parallel_kernel
from tinyunet.backend.simd import LANES

# Registers side by side in a panel, and for each width the rows of a tile: a processor with AVX-512 has 32
# registers, of which a tile of 6 × 4 leaves 8 to the factors; one with AVX2 has 16.
REGISTERS = 4 if LANES == 16 else 2
ROWS = {1: 16, 2: 8, 3: 8, 4: 6} if LANES == 16 else {1: 8, 2: 6}
PANEL = REGISTERS * LANES  # columns
SUMMANDS = 256  # rows of a panel of 64: 64 kB

_INTEGER = ir.IntType(64)


@kernel
def padded(columns):
    """Round up to whole registers: the columns that a matrix in panels has room for."""
    return -(-columns // LANES) * LANES


@kernel
def panel_width(columns, left):
    """The columns, with room, of the panel that begins at column `left`."""
    return min(PANEL, (columns - left + LANES - 1) // LANES * LANES)


@kernel
def write_row(numbers, row, rows, panels):
    """Write one row of a right factor into panels with this many rows: an array of rows × padded columns."""
    for left in range(0, numbers.size, PANEL):
        width = panel_width(numbers.size, left)
        source, target = numbers[left : left + PANEL], panels[left * rows + row * width :]
        for e in range(source.size):
            target[e] = source[e]
        for e in range(source.size, width):
            target[e] = 0


def in_panels(factors):
    """Copy right factors, an array (count, k, n), into panels: (count, k · padded(n))."""
    count, rows, columns = factors.shape
    panels = allocator.empty((count, rows * padded(columns)), factors.dtype)
    _write_factors(factors, panels)
    return panels


@parallel_kernel
def _write_factors(factors, panels):
    count, rows, _ = factors.shape
    for task in prange(count * rows):
        factor, row = task // rows, task % rows
        write_row(factors[factor, row], row, rows, panels[factor])


@kernel
def multiply(a, b, add, c):
    """C = A B, or C + A B if `add`, for A (m, k), B (k, n) in panels, C (m, n).

    The rows of A and C may have gaps between them, as those of a part of a matrix have.
    """
    _multiply(a, a.strides[0] // a.itemsize, 1, a.shape[1], b, add, c)


@kernel
def multiply_transposed(a, b, add, c):
    """C = Aᵀ B, or C + Aᵀ B if `add`, for A (k, m), B (k, n) in panels, C (m, n)."""
    _multiply(a, 1, a.strides[0] // a.itemsize, a.shape[0], b, add, c)


@kernel
def multiply_windows(line, step, length, b, add, c):
    """Multiply by B the windows of a line, each `length` numbers from `step` · i on, as rows i of A."""
    _multiply(line, step, 1, length, b, add, c)


@kernel
def multiply_windows_transposed(line, step, count, b, add, c):
    """Multiply Aᵀ by B, for such windows, `count` of them, as rows of A."""
    _multiply(line, 1, step, count, b, add, c)


@kernel
def _multiply(a, row, summand, summands, b, add, c):
    """C = A B or C + A B. row, summand : the distances between two rows, and two summands, of A's memory."""
    rows, columns = c.shape
    line = c.strides[0] // c.itemsize
    for left in range(0, columns, PANEL):
        width = panel_width(columns, left)
        for first in range(0, summands, SUMMANDS):
            count, begin = min(SUMMANDS, summands - first), left * summands + first * width
            top = 0
            while top < rows:
                at, to = top * row + first * summand, top * line + left
                more = add or first > 0
                top += _tile(
                    a, at, row, summand, b, begin, width, count, c, to, line, rows - top, columns - left, more
                )


@simd.intrinsic
def _tile(context, a, at, row, summand, b, begin, width, count, c, to, line, rows, columns, add):
    """Compute a tile of C, with as many rows as registers allow, and return their number.

    `at`, `begin` and `to` are the places of its first elements in the memory of A, B and C; `rows` and
    `columns` of C are left from there on.
    """
    if a.dtype not in (types.float32, types.float64) or not a.dtype == b.dtype == c.dtype:
        return None
    integer = types.intp
    signature = integer(a, *[integer] * 3, b, *[integer] * 3, c, *[integer] * 4, types.boolean)

    def generate(context, builder, sig, args):
        def place(array, element):
            arrays = types.void(sig.args[array], types.intp)
            return simd.address(context, builder, arrays, (args[array], args[element]))

        left, right, result = place(0, 1), place(4, 5), place(8, 9)
        row, summand, width, count, line, rows, columns, add = (args[i] for i in (2, 3, 6, 7, 10, 11, 12, 13))
        # A chain of questions, one for each width and height: the tile that fits first is computed. All loops
        # over the registers of a tile are unrolled here, since a register has no index.
        last, done = builder.append_basic_block("done"), []
        for registers, most in ROWS.items():
            wide = builder.icmp_signed("==", width, _INTEGER(registers * LANES))
            for height in (most, *(height for height in (8, 4, 2, 1) if height < most)):
                fits = builder.and_(wide, builder.icmp_signed(">=", rows, _INTEGER(height)))
                body, other = builder.append_basic_block("tile"), builder.append_basic_block("smaller")
                builder.cbranch(fits, body, other)
                builder.position_at_end(body)
                sums = _sums(builder, height, registers, (left, row, summand), right, count)
                in_last = builder.sub(columns, _INTEGER((registers - 1) * LANES))
                _put(builder, sums, result, line, in_last, add)
                done.append((height, builder.block))
                builder.branch(last)
                builder.position_at_end(other)
        builder.unreachable()
        builder.position_at_end(last)
        height = builder.phi(_INTEGER)
        for value, block in done:
            height.add_incoming(_INTEGER(value), block)
        return height

    return signature, generate


_tile.source_files.append(__file__)


def _sums(builder: Any, rows: int, registers: int, left: Any, right: Any, count: Any) -> Any:
    """Generate the loop over the summands. Returns the registers of each row."""
    first, row, summand = left
    before, loop, after = builder.block, *map(builder.append_basic_block, ("summands", "store"))
    lines = [builder.gep(first, [builder.mul(row, _INTEGER(i))]) for i in range(rows)]
    vector = ir.VectorType(first.type.pointee, LANES)
    zero = ir.Constant(vector, None)
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_INTEGER)
    sums = [[builder.phi(vector) for _ in range(registers)] for _ in range(rows)]
    start = builder.gep(right, [builder.mul(k, _INTEGER(registers * LANES))])
    places = [builder.gep(start, [_INTEGER(r * LANES)]) for r in range(registers)]
    factors = [simd.read(builder, place, simd.EVERY) for place in places]
    offset = builder.mul(k, summand)
    added = []
    for i, line in enumerate(lines):
        number = simd.spread(builder, builder.load(builder.gep(line, [offset])))
        row = zip(factors, sums[i], strict=True)
        added.append([simd.multiply_add(builder, number, factor, total) for factor, total in row])
    following = builder.add(k, _INTEGER(1))
    phis = [(k, _INTEGER(0), following)]
    phis += [(s, zero, t) for u, v in zip(sums, added, strict=True) for s, t in zip(u, v, strict=True)]
    for phi, start, value in phis:
        phi.add_incoming(start, before)
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return added


def _put(builder: Any, sums: Any, result: Any, line: Any, columns: Any, add: Any) -> None:
    """Generate the stores of a tile, which add to what is there if `add`.

    columns : of C, from the tile's last register of each row on. Where they fill it, nothing is masked: a
    masked store takes a processor with AVX2 by AMD as long as a dozen others.
    """
    fill = builder.icmp_signed(">=", columns, _INTEGER(LANES))
    with builder.if_else(fill) as (whole, part):
        for filled, branch in ((True, whole), (False, part)):
            with branch, builder.if_else(add) as (added, alone):
                for adds, place in ((True, added), (False, alone)):
                    with place:
                        mask = simd.EVERY if filled else simd.lanes_below(builder, columns)
                        _put_rows(builder, sums, result, line, mask, adds)


def _put_rows(builder: Any, sums: Any, result: Any, line: Any, mask: Any, adds: bool) -> None:
    """Generate them for one case. mask : the lanes of the last register of each row."""
    for i, registers in enumerate(sums):
        start = builder.gep(result, [builder.mul(line, _INTEGER(i))])
        for r, value in enumerate(registers):
            place = builder.gep(start, [_INTEGER(r * LANES)])
            lanes = mask if r == len(registers) - 1 else simd.EVERY
            if adds:
                value = builder.fadd(simd.read(builder, place, lanes), value, flags=simd.ROUNDING)
            simd.write(builder, place, lanes, value)
