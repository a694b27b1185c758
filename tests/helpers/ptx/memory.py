"""The memory that kernels see: arrays with their bounds, and what a block or a thread has for itself.

Addresses are not those of the host. Each array begins at a multiple of 2^40 of its own, so that whoever
leaves one array never arrives in another.
"""

import numpy as np

from ptx.fault import Fault
from ptx.races import Shadow

ROOM = 1 << 40  # addresses for each array
ALIGNMENT = 512  # of an array, as CuPy's are


class Arrays:
    """Global memory: copies of the arrays of one launch, side by side in one buffer.

    Arrays of which one holds part of another share their bytes.

    Parameters
    ----------
    arrays : dict of str to ndarray
    tables : sequence of str
        The arrays that hold addresses, which become those that the kernel sees. They are not written back.
    """

    def __init__(self, arrays, tables=()):
        self.groups = _overlapping([item for item in arrays.items() if item[1].size])
        self.starts, self.sizes = [], []
        end = 0
        for begin, stop, _ in self.groups:
            self.starts.append(end)
            self.sizes.append(stop - begin)
            end += -(-(stop - begin) // ALIGNMENT) * ALIGNMENT
        self.buffer = np.full(end, 255, np.uint8)
        for name, array, part in self._parts():
            part[:] = array.reshape(-1).view(np.uint8)
            if name in tables:
                part.view(np.uint64)[:] = [self.translate(int(number)) for number in array.flat]
        self.tables = tables
        self.starts, self.sizes = np.array(self.starts, int), np.array(self.sizes, int)
        # Bytes for each cell of the shadow.
        self.grain = min([4, *(array.itemsize for array in arrays.values())])
        self.shadow = Shadow(end // self.grain, "global memory")

    def _parts(self):
        """Yield name and array, and its bytes in the buffer."""
        for (begin, _, members), start in zip(self.groups, self.starts, strict=True):
            for name, array in members:
                offset = start + array.ctypes.data - begin
                yield name, array, self.buffer[offset : offset + array.nbytes]

    def address(self, array):
        """Return where a kernel finds an array; 0 for one without elements."""
        return self.translate(array.ctypes.data) if array.size else 0

    def translate(self, host):
        """Return where a kernel finds what lies at an address of the host."""
        for number, (begin, stop, _) in enumerate(self.groups, 1):
            if begin <= host < stop:
                return number * ROOM + host - begin
        return host

    def write_back(self):
        """Copy to the host what the kernel changed."""
        for name, array, part in self._parts():
            if name not in self.tables and not np.array_equal(part, array.reshape(-1).view(np.uint8)):
                array[...] = part.view(array.dtype).reshape(array.shape)

    def locate(self, addresses, size):
        """Return offsets in the buffer for accesses of some bytes, or raise a Fault."""
        number, inside = addresses // ROOM - 1, addresses % ROOM
        known = (number >= 0) & (number < len(self.groups))
        good = known & (inside + size <= self.sizes[np.where(known, number, 0)])
        if not good.all():
            raise Fault(f"out of bounds: {size} bytes at {self.name(int(addresses[~good][0]))}")
        if (addresses % size).any():
            wrong = int(addresses[addresses % size != 0][0])
            raise Fault(f"misaligned: {size} bytes at {self.name(wrong)}, no multiple of {size}")
        return self.starts[number] + inside

    def name(self, address):
        """Name the array at or near an address, with the index there."""
        number, inside = divmod(address + ROOM // 2, ROOM)
        if not 1 <= number <= len(self.groups):
            return f"address {address:#x}, where no array is"
        name, array = self.groups[number - 1][2][0]
        index = (inside - ROOM // 2) // array.itemsize
        return f"{name}[{index}], which has {array.size} elements"


def _overlapping(items):
    """Group arrays whose bytes overlap: lists of [begin, end, members]."""
    groups = []
    for name, array in sorted(items, key=lambda item: item[1].ctypes.data):
        begin = array.ctypes.data
        if groups and begin < groups[-1][1]:
            groups[-1][1] = max(groups[-1][1], begin + array.nbytes)
            groups[-1][2].append((name, array))
        else:
            groups.append([begin, begin + array.nbytes, [(name, array)]])
    return groups


class Window:
    """Memory of which each owner, a block or a thread, has a piece with addresses from 0.

    Parameters
    ----------
    variables : dict of str to Variable
    space : str
        "shared" or "local".
    owner : array of int
        The owner of each thread's piece, from 0.
    dynamic : int
        Bytes for a variable that was declared without a size.
    """

    def __init__(self, variables, space, owner, dynamic=0):
        self.space, self.owner, self.symbols = space, owner, {}
        end = 0
        # A variable without a size comes last.
        for name, variable in sorted(variables.items(), key=lambda item: item[1].size == 0):
            if variable.space == space:
                end = -(-end // variable.alignment) * variable.alignment
                self.symbols[name] = end
                end += variable.size or dynamic
        self.size, self.grain = end, 4
        self.stride = -(-end // 16) * 16
        owners = int(owner.max()) + 1
        self.buffer = np.full(owners * self.stride, 255, np.uint8)  # NaN
        self.shadow = (
            Shadow(owners * self.stride // self.grain, "shared memory") if space == "shared" else None
        )

    def locate(self, addresses, size, lanes):
        """Return offsets in the buffer for accesses of some bytes, or raise a Fault."""
        good = (addresses >= 0) & (addresses + size <= self.size)
        if not good.all():
            wrong = int(addresses[~good][0])
            raise Fault(f"out of bounds: {size} bytes at {wrong} of {self.size} bytes of {self.space} memory")
        if (addresses % size).any():
            wrong = int(addresses[addresses % size != 0][0])
            raise Fault(f"misaligned: {size} bytes at {wrong} of {self.space} memory, no multiple of {size}")
        return self.owner[lanes] * self.stride + addresses
