"""Loads, stores, matrices spread over a warp (``ldmatrix``) and asynchronous copies (``cp.async``)."""

import re
from dataclasses import dataclass

import numpy as np

from ptx.arithmetic import unknown
from ptx.fault import Fault
from ptx.races import Stamp
from ptx.registers import TYPES, bits_of
from ptx.tensor_cores import GROUP, THREAD

ADDRESS = re.compile(r"\[\s*([^\]\s+]+)\s*(?:\+\s*(-?\w+))?\s*\]")
SPACES = ("global", "shared", "local", "param")
COPY = MATRIX_ROW = 16  # bytes


class Places:
    """Finds the bytes of an operand ``[%rd1+8]`` in one of the memories.

    Parameters
    ----------
    machine : Machine
    text : str
    space : str
    """

    def __init__(self, machine, text, space):
        name, offset = ADDRESS.fullmatch(text).groups()
        self.machine, self.space, self.offset = machine, space, int(offset or "0", 0)
        registers = machine.registers
        width = registers.bits(name).dtype if registers.is_register(name) else np.dtype(np.uint64)
        self.base = registers.source(name, width)
        memories = {"global": machine.arrays, "shared": machine.shared, "local": machine.local}
        self.memory = memories[space]

    def addresses(self, lanes):
        """Return the addresses of some threads."""
        base = np.broadcast_to(self.base, self.machine.threads)[lanes].astype(np.int64)
        return base + self.offset

    def offsets(self, lanes, size):
        """Return where in the memory's buffer these addresses are, or raise a Fault."""
        addresses = self.addresses(lanes)
        if self.space == "global":
            return self.memory.locate(addresses, size)
        return self.memory.locate(addresses, size, lanes)


def bind_transfer(instruction, machine):
    """Bind ``ld`` and ``st``."""
    opcode = instruction.opcode
    space = next((part for part in opcode if part.partition("::")[0] in SPACES), None)
    if space is None or opcode[-1] not in TYPES or {"relaxed", "acquire", "release"} & set(opcode):
        raise unknown(instruction)
    space = space.partition("::")[0]
    if space == "param":
        return _bind_parameter(instruction, machine)
    loads = opcode[0] == "ld"
    numbers, place = instruction.operands if loads else instruction.operands[::-1]
    names = [name.strip() for name in numbers.strip("{}").split(",")]
    bind = _bind_load if loads else _bind_store
    return bind(machine, Places(machine, place, space), names, TYPES[opcode[-1]])


def _bind_load(machine, places, names, dtype):
    writers = [machine.registers.writer(name, dtype) for name in names]
    values = np.zeros((len(names), machine.threads), dtype)
    of_buffer = places.memory.buffer.view(bits_of(dtype))

    def run(where):
        lanes = machine.lanes(where)
        offsets = places.offsets(lanes, len(names) * dtype.itemsize)
        note(machine, places.memory, offsets, len(names) * dtype.itemsize, lanes, writes=False)
        index = offsets // dtype.itemsize
        for i, write in enumerate(writers):
            values[i, lanes] = of_buffer[index + i].view(dtype)
            write(values[i], where)

    return run


def _bind_store(machine, places, names, dtype):
    readers = [machine.registers.reader(name, dtype) for name in names]
    of_buffer = places.memory.buffer.view(dtype)

    def run(where):
        lanes = machine.lanes(where)
        offsets = places.offsets(lanes, len(names) * dtype.itemsize)
        note(machine, places.memory, offsets, len(names) * dtype.itemsize, lanes, writes=True)
        index = offsets // dtype.itemsize
        for i, read in enumerate(readers):
            of_buffer[index + i] = np.broadcast_to(read(), machine.threads)[lanes]

    return run


def note(machine, memory, offsets, size, lanes, writes):
    """Tell the memory's shadow of accesses, which raises a Fault for a race."""
    shadow = memory.shadow
    if shadow is None:
        return
    now = machine.stamp(lanes)
    for cells in _cells(memory, offsets, size):
        if writes:
            shadow.write(cells, now)
            continue
        shadow.read(cells, now)
        if memory is machine.shared:
            shadow.check_written(cells, now)


def _cells(memory, offsets, size):
    """Yield the cells of the shadow that accesses of some bytes touch, one for each access at a time."""
    for byte in range(0, size, memory.grain):
        yield (offsets + byte) // memory.grain


def bind_matrices(instruction, machine):
    """Bind ``ldmatrix``: four 8×8 matrices of 16-bit numbers, by the warps that take part whole.

    Lane i has the address of row i % 8 of matrix i / 8. With g = lane / 4 and t = lane % 4, the register for
    a matrix gets columns 2t and 2t+1 of row g, transposed rows 2t and 2t+1 of column g (PTX ISA, "ldmatrix").
    """
    form, transposed = ".".join(instruction.opcode).replace(".trans", ""), "trans" in instruction.opcode
    if form != "ldmatrix.sync.aligned.m8n8.x4.shared.b16":
        raise unknown(instruction)
    names = [name.strip() for name in instruction.operands[0].strip("{}").split(",")]
    targets = [machine.registers.target(name, TYPES["b32"]) for name in names]
    places, memory = Places(machine, instruction.operands[1], "shared"), machine.shared
    numbers = memory.buffer.view(np.uint16)

    def run(where):
        lanes = machine.lanes(where)
        rows = places.offsets(lanes, MATRIX_ROW).reshape(-1, 4, 8)
        for matrix, target in enumerate(targets):
            halves = []
            for i in range(2):
                row, column = (2 * THREAD + i, GROUP) if transposed else (GROUP, 2 * THREAD + i)
                at = (rows[:, matrix, row] + 2 * column).reshape(-1)
                note(machine, memory, at, 2, lanes, writes=False)
                halves.append(numbers[at // 2].astype(np.uint32))
            target[lanes] = halves[0] | halves[1] << np.uint32(16)

    return run


def _bind_parameter(instruction, machine):
    dtype = TYPES[instruction.opcode[-1]]
    name, offset = ADDRESS.fullmatch(instruction.operands[1]).groups()
    if offset or name not in machine.parameters:
        raise unknown(instruction)
    value = np.asarray(machine.parameters[name])
    if value.dtype.itemsize != dtype.itemsize:
        raise Fault(f"{name} has {dtype.itemsize} bytes, the launch passes {value.dtype.itemsize}")
    write = machine.registers.writer(instruction.operands[0], dtype)
    values = np.full(machine.threads, value.view(dtype))
    return lambda where: write(values, where)


# Asynchronous copies


@dataclass
class Copies:
    """Copies of one instruction that are on their way: an element per thread."""

    lanes: np.ndarray
    to: np.ndarray
    source: np.ndarray
    size: np.ndarray
    """Bytes to copy; zeros follow up to COPY."""
    group: np.ndarray
    """The group of the thread's copies that this one belongs to."""

    def part(self, chosen):
        """Return some of the copies."""
        return Copies(*(getattr(self, name)[chosen] for name in ("lanes", "to", "source", "size", "group")))


class CopyQueue:
    """The asynchronous copies of all threads.

    A copy is carried out when its thread waits for it, though hardware may do so at any time before. Until
    then nobody may access where it goes.
    """

    def __init__(self, machine):
        self.machine, self.pending = machine, []
        self.groups = np.zeros(machine.threads, int)  # closed so far

    def bind(self, instruction):
        """Bind ``cp.async`` with 16 bytes, ``commit_group`` and ``wait_group``."""
        form = instruction.opcode[2]
        if form == "commit_group":
            return self.commit
        if form in ("wait_group", "wait_all"):
            left = int(instruction.operands[0]) if form == "wait_group" else 0
            return lambda where: self.wait(where, left, unclosed=form == "wait_all")
        if form != "cg" or int(instruction.operands[2]) != COPY:
            raise unknown(instruction)
        to = Places(self.machine, instruction.operands[0], "shared")
        source = Places(self.machine, instruction.operands[1], "global")
        size = self.machine.registers.source((*instruction.operands, str(COPY))[3], TYPES["u32"])
        return lambda where: self.begin(where, to, source, size)

    def begin(self, where, to, source, size):
        """Begin copies."""
        machine, lanes = self.machine, self.machine.lanes(where)
        sizes = np.broadcast_to(size, machine.threads)[lanes].astype(int)
        if (sizes > COPY).any():
            raise Fault(f"a copy of {sizes.max()} bytes, more than {COPY}")
        places = to.offsets(lanes, COPY)
        sources = np.zeros_like(places)
        reads = sizes > 0
        sources[reads] = source.offsets(lanes[reads], COPY)
        note(machine, machine.arrays, sources[reads], COPY, lanes[reads], writes=False)
        now = machine.stamp(lanes)
        for cells in _cells(machine.shared, places, COPY):
            machine.shared.shadow.begin_copy(cells, now)
        self.pending.append(Copies(lanes, places, sources, sizes, self.groups[lanes]))

    def commit(self, where):
        """Close the groups of threads: copies from now on belong to the next."""
        self.groups[self.machine.lanes(where)] += 1

    def wait(self, where, left, unclosed=False):
        """Carry out the copies of threads except for their last groups."""
        waits = np.zeros(self.machine.threads, bool)
        waits[self.machine.lanes(where)] = True
        still = []
        for copies in self.pending:
            ready = waits[copies.lanes] & ((copies.group < self.groups[copies.lanes] - left) | unclosed)
            if ready.any():
                self._carry_out(copies.part(ready))
            if not ready.all():
                still.append(copies.part(~ready))
        self.pending = still

    def _carry_out(self, copies):
        machine = self.machine
        bytes_of = np.arange(COPY)
        data = machine.arrays.buffer[copies.source[:, None] + bytes_of]
        data[bytes_of >= copies.size[:, None]] = 0
        machine.shared.buffer[copies.to[:, None] + bytes_of] = data
        now = machine.stamp(copies.lanes)
        for cells in _cells(machine.shared, copies.to, COPY):
            machine.shared.shadow.end_copy(cells, Stamp(*now))
