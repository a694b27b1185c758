"""Products of matrices by warpgroups: ``wgmma``, whose factors are in shared memory, and what orders it."""

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ptx.arithmetic import unknown
from ptx.fault import Fault
from ptx.registers import TYPES
from ptx.tensor_cores import GROUP, THREAD, WARP, multiply_add, tensor_core

WARPS = 4  # of a warpgroup
ROWS, DEPTH = 64, 16  # of the left factor
CHUNK = 16  # bytes, of eight numbers
ALL_RIGHT = ("1", "1", "1")  # add to the sums, and negate no factor


@dataclass
class Product:
    """One instruction, executed by some warps."""

    warps: np.ndarray
    """Their numbers."""
    sums: tuple[str, ...]
    """The names of the registers with a thread's part of the result."""
    left: np.ndarray
    right: np.ndarray
    """For each warp the descriptor of a factor."""
    transposed: tuple[bool, bool]
    group: np.ndarray
    """The number of each warp's group that this one belongs to."""

    def part(self, chosen):
        """Return what some of the warps do."""
        left, right, group = self.left[chosen], self.right[chosen], self.group[chosen]
        return Product(self.warps[chosen], self.sums, left, right, self.transposed, group)


def places(descriptors, transposed, rows):
    """Return the addresses of a factor's numbers, shape (warps, rows, 16), or raise a Fault.

    Eight rows of 32, 64 or 128 bytes are a piece. In a row are neighbours along K or, transposed, along the
    other axis. The bits of an address that number the chunk of 16 bytes in its row are XORed with those that
    number the row (PTX ISA, "Matrix Descriptor Format" and "Canonical Layouts" of wgmma).
    """
    start, leading, stride = (
        (descriptors >> bit & 0x3FFF).astype(int)[:, None, None] * CHUNK for bit in (0, 16, 32)
    )
    modes = np.unique(descriptors >> 62)
    if len(modes) > 1 or modes[0] == 0 or (descriptors >> 49 & 7).any():
        raise Fault("the interpreter does not know a matrix without swizzle, or with a base offset")
    row = 256 >> int(modes[0])
    outer, k = np.arange(rows)[:, None], np.arange(DEPTH)
    if transposed:
        address = outer // (row // 2) * leading + outer % (row // 2) * 2 + k // 8 * stride + k % 8 * row
    else:
        address = outer // 8 * stride + outer % 8 * row + 2 * k
    address = start + address
    return address ^ (address >> 7 & (row // CHUNK - 1)) * CHUNK


class ProductQueue:
    """The asynchronous products of all warpgroups.

    A product reads its factors when a warp waits for it, as late as hardware may. Until then the registers of
    its sums hold NaN.
    """

    def __init__(self, machine):
        self.machine, self.pending = machine, []
        count = machine.threads // WARP
        self.groups = np.zeros(count, int)  # closed so far, by each warp
        self.fenced = np.zeros(count, bool)  # since it accessed the sums of products
        self.hidden = {}  # by the names of the registers: which warps' sums are not there yet, and all sums
        self.begun = defaultdict(list)  # by warpgroup: what its first warp has begun
        self.number = np.zeros(count, int)  # of products that each warp has begun

    def bind(self, instruction):
        """Bind ``wgmma`` in all its forms."""
        form = instruction.opcode[1]
        if "aligned" not in instruction.opcode:
            raise unknown(instruction)
        if form == "fence":
            return self.fence
        if form == "commit_group":
            return self.commit
        if form == "wait_group":
            left = int(instruction.operands[0])
            return lambda where: self.wait(where, left)
        return self._bind_product(instruction)

    def _bind_product(self, instruction):
        sums, left, right, *options = instruction.operands
        names = tuple(name.strip() for name in sums.strip("{}").split(","))
        shape = re.fullmatch(r"m64n(\d+)k16", instruction.opcode[4])
        known = shape and instruction.opcode[5:] == ("f32", "bf16", "bf16")
        if not known or len(names) != int(shape[1]) // 2 or tuple(options[:3]) != ALL_RIGHT:
            raise unknown(instruction)
        if self.machine.block_threads % (WARPS * WARP):
            raise Fault(f"{self.machine.block_threads} threads per block are no whole warpgroups")
        registers = self.machine.registers
        targets = [registers.target(name, TYPES["f32"]) for name in names]
        left, right = (registers.source(name, TYPES["b64"]) for name in (left, right))
        transposed = (options[3] == "1", options[4] == "1")
        return lambda where: self.begin(where, names, targets, left, right, transposed, instruction.line)

    def _warps(self, where):
        """Return the numbers of the warps that take part, whole."""
        return np.flatnonzero(np.broadcast_to(where, self.machine.threads).reshape(-1, WARP).all(axis=1))

    def fence(self, where):
        """Let the next product add to registers that were accessed before."""
        self.fenced[self._warps(where)] = True

    def begin(self, where, names, targets, left, right, transposed, line):
        """Begin a product."""
        warps = self._warps(where)
        descriptors = [self._uniform(factor, warps) for factor in (left, right)]
        for warp, *given in zip(warps, *descriptors, strict=True):
            self._note(warp, (*map(int, given), line))
        count = len(self.groups)
        hidden, sums = self.hidden.setdefault(
            names, (np.zeros(count, bool), np.zeros((len(names), count, WARP), np.float32))
        )
        fresh = warps[~hidden[warps]]
        if not self.fenced[fresh].all():
            raise Fault("no wgmma.fence since the registers of this product were accessed")
        for e, target in enumerate(targets):
            of_warps = target.reshape(-1, WARP)
            sums[e, fresh] = of_warps[fresh]
            of_warps[warps] = np.nan
        hidden[warps] = True
        self.pending.append(Product(warps, names, *descriptors, transposed, self.groups[warps]))

    def _uniform(self, descriptor, warps):
        lanes = np.broadcast_to(descriptor, self.machine.threads).reshape(-1, WARP)[warps]
        if (lanes != lanes[:, :1]).any():
            raise Fault("the lanes of a warp have different descriptors")
        return lanes[:, 0]

    def _note(self, warp, given):
        """Compare a warp's product with that of its warpgroup."""
        begun, number = self.begun[warp // WARPS], self.number[warp]
        self.number[warp] += 1
        if number == len(begun):
            begun.append(given)
        if begun[number] != given:
            raise Fault("the warps of a warpgroup begin different products")

    def commit(self, where):
        """Close the groups of warps: products from now on belong to the next."""
        self.groups[self._warps(where)] += 1

    def wait(self, where, left):
        """Finish the products of warps except for their last groups."""
        waits = np.zeros(len(self.groups), bool)
        waits[self._warps(where)] = True
        still = []
        for product in self.pending:
            ready = waits[product.warps] & (product.group < self.groups[product.warps] - left)
            if ready.any():
                self._finish(product.part(ready))
            if not ready.all():
                still.append(product.part(~ready))
        self.pending = still
        for names, (hidden, sums) in self.hidden.items():
            appear = hidden & waits
            for product in still:
                if product.sums == names:
                    appear[product.warps] = False
            for e, name in enumerate(names):
                target = self.machine.registers.target(name, TYPES["f32"]).reshape(-1, WARP)
                target[appear] = sums[e, appear]
            hidden[appear] = False
            self.fenced[appear] = False

    def _finish(self, product):
        warps, columns = product.warps, 2 * len(product.sums)
        row = warps[:, None] % WARPS * 16 + np.arange(16)
        left = np.take_along_axis(places(product.left, product.transposed[0], ROWS), row[..., None], axis=1)
        right = places(product.right, product.transposed[1], columns)
        a, b = (self._read(addresses, warps) for addresses in (left, right))
        _, sums = self.hidden[product.sums]
        e = np.arange(len(product.sums))[:, None]
        place = (GROUP + e // 2 % 2 * 8, e // 4 * 8 + 2 * THREAD + e % 2)
        c = np.empty((len(warps), 16, columns), np.float32)
        c[:, *place] = sums[:, warps].swapaxes(0, 1)
        bits, bytes_at_once = tensor_core(self.machine.kernel.architecture)
        result = multiply_add(a, b.swapaxes(1, 2), c, bits, bytes_at_once // 2)
        sums[:, warps] = result[:, *place].swapaxes(0, 1)

    def _read(self, addresses, warps):
        """Read numbers in shared memory, shape (warps, rows, 16), and check that they are ready."""
        machine = self.machine
        shared, threads = machine.shared, warps[:, None, None] * WARP
        cells = np.unique(
            np.stack(np.broadcast_arrays(threads, addresses // shared.grain), -1).reshape(-1, 2), axis=0
        )
        lanes = cells[:, 0] + np.arange(len(cells)) % WARP
        offsets = shared.locate(cells[:, 1] * shared.grain, shared.grain, lanes)
        now = machine.stamp(lanes)
        cells = offsets // shared.grain
        shared.shadow.read(cells, now)
        shared.shadow.check_written(cells, now)
        shared.shadow.check_fenced(cells, now, machine.fences_known_to)
        offsets = shared.locate(addresses.ravel(), 2, np.broadcast_to(threads, addresses.shape).ravel())
        bits = shared.buffer.view(np.uint16)[offsets // 2].astype(np.uint32)
        return (bits << np.uint32(16)).view(np.float32).astype(np.float64).reshape(addresses.shape)

    def check_all_took_part(self):
        """Raise a Fault if a warp lacks a product of its warpgroup."""
        for warpgroup, begun in self.begun.items():
            if (self.number[WARPS * warpgroup : WARPS * (warpgroup + 1)] < len(begun)).any():
                raise Fault("a warp takes no part in the products of its warpgroup")
