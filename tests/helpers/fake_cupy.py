"""A stand-in for CuPy where there is no GPU: `sys.modules["cupy"] = fake_cupy`.

Its arrays have their own class. Like CuPy's they refuse to become NumPy arrays implicitly, and to be mixed
with them, so that code which confuses the two fails here as it would on a GPU. Kernels of a `RawModule` run
on the CPU emulator, on the NumPy arrays inside.

A capturing stream runs nothing: it records calls with addresses and scalars, and a `Graph` runs them on what
is at these addresses when it is launched. Transfers are refused, as by CuPy. Freed memory is reused by its
pool, as CuPy's is, and an address that no pool has any more is illegal.

Only the names that tinyunet uses are here. `tests/backend/test_cupy.py` compares them with the real CuPy,
where that is installed.
"""

import re
import tempfile
import threading
import weakref
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from tinyunet.backend import cuda_emulator
from tinyunet.backend.cuda import kernels_in
from tinyunet.backend.cuda_emulator import KERNEL_FOLDER, text_of
from tinyunet.errors import KernelError

__version__ = "stand-in"
MIXED = "Implicit conversion to a NumPy array is not allowed"  # CuPy's message
ALIGNMENT = 512


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


class CompileException(Exception):
    """cupy.cuda.compiler.CompileException."""


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""


class CUDADriverError(RuntimeError):
    """cupy.cuda.driver.CUDADriverError."""


class Device:
    """The memory of the imitated GPU."""

    total = 2**40
    pools: ClassVar = weakref.WeakSet()

    held = 0
    lost = 0  # bytes that pools held when deleted: CuPy 14.1 and 14.2 never return them

    @classmethod
    def at(cls, address, size):
        """Find the memory that contains some bytes at an address: where it begins, and its bytes."""
        for pool in cls.pools:
            for start, memory in pool.memories.items():
                if start <= address and address + size <= start + memory.size:
                    return start, memory.bytes
        raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")


class Memory:
    """cupy.cuda.Memory: taken from the GPU, and returned when deleted."""

    size = 0

    def __init__(self, size):
        if Device.held + size > Device.total:
            raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        room = np.empty(size + ALIGNMENT, np.uint8)
        begin = -room.ctypes.data % ALIGNMENT
        self.size, self.bytes = size, room[begin : begin + size]
        Device.held += size

    def __del__(self):
        Device.held -= self.size


class MemoryPointer:
    """cupy.cuda.MemoryPointer."""

    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.bytes.ctypes.data + offset


class MemoryPool:
    """cupy.cuda.MemoryPool: keeps freed memory for the next arrays of the same stream.

    Like CuPy's, it takes the smallest free piece that is large enough and splits off the rest. Free
    neighbours are merged.
    """

    def __init__(self, allocator=lambda size: MemoryPointer(Memory(size), 0)):
        self.allocator = allocator
        self.memories = {}  # by address
        self.free = {}  # pieces by address: (size, stream, address of the memory)
        self.used = 0
        Device.pools.add(self)

    def __del__(self):
        Device.lost += self.total_bytes()

    def malloc(self, size):
        size = -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
        stream = id(_thread.stream)
        fitting = [(p[0], address) for address, p in self.free.items() if p[0] >= size and p[1] == stream]
        # Of equal pieces the one freed first, because the order of addresses depends on the rest of the
        # process.
        address = min(fitting, key=itemgetter(0))[1] if fitting else self.more(size, stream)
        whole, _, memory = self.free.pop(address)
        if whole > size:
            self.free[address + size] = whole - size, stream, memory
        self.used += size
        return PooledMemory(self, address, (size, stream, memory))

    def more(self, size, stream):
        """Allocate a new piece; if memory is short, return all free memory to the GPU first."""
        try:
            pointer = self.allocator(size)
        except CUDARuntimeError:
            self.free_all_blocks()
            try:
                pointer = self.allocator(size)
            except CUDARuntimeError:
                raise OutOfMemoryError(f"Out of memory allocating {size} bytes") from None
        self.memories[pointer.ptr] = pointer.mem
        self.free[pointer.ptr] = size, stream, pointer.ptr
        return pointer.ptr

    def take_back(self, address, piece):
        size, stream, memory = piece
        self.used -= size
        if self.free.get(address + size, ())[1:] == piece[1:]:
            size += self.free.pop(address + size)[0]
        for before, (length, *rest) in self.free.items():
            if before + length == address and rest == [stream, memory]:
                self.free[before] = length + size, stream, memory
                return
        self.free[address] = size, stream, memory

    def free_all_blocks(self):
        for address, (size, _, memory) in list(self.free.items()):
            if size == self.memories[memory].size:
                del self.free[address], self.memories[memory]

    def used_bytes(self):
        return self.used

    def total_bytes(self):
        return sum(memory.size for memory in self.memories.values())


class PooledMemory:
    """cupy.cuda.memory.PooledMemory: the memory of an array, returned to the pool when deleted."""

    def __init__(self, pool, ptr, piece):
        self.pool, self.ptr, self.piece = weakref.ref(pool), ptr, piece
        self.memory = pool.memories[
            piece[2]
        ]  # so that a mistake does not crash, as CUDA's memory ends with its pool

    def __del__(self):
        if pool := self.pool():
            pool.take_back(self.ptr, self.piece)

    def array(self, shape, dtype):
        """Make a NumPy array of this memory, which it and all its views keep alive."""
        self.__array_interface__ = {
            "version": 3,
            "data": (self.ptr, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
        }
        return np.asarray(self)


class Stream:
    """cupy.cuda.Stream: a context in which calls run at once, or are captured."""

    def __init__(self, null=False, non_blocking=False):
        self.may_capture = non_blocking and not null
        self.captured, self.valid = None, True

    def __enter__(self):
        self.before, _thread.stream = _thread.stream, self
        return self

    def __exit__(self, *_):
        _thread.stream = self.before

    def begin_capture(self):
        if not self.may_capture:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.captured, self.valid = [], True

    def end_capture(self):
        captured, self.captured = self.captured, None
        if not self.valid:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture"
            )
        return Graph(captured)


class Graph:
    """cupy.cuda.Graph: the captured calls, in order."""

    def __init__(self, captured):
        self.captured = captured

    def launch(self):
        for function, operands in self.captured:
            function(*(o.array() if isinstance(o, _Address) else o for o in operands))


class _Address:
    """An array as a kernel knows it, by its address. Its memory may have been freed in between."""

    def __init__(self, array):
        self.address, self.shape, self.strides = array.data.ptr, array.shape, array.strides
        self.dtype, self.size = array.dtype, array.nbytes

    def array(self):
        start, block = Device.at(self.address, self.size)
        return np.ndarray(self.shape, self.dtype, block, self.address - start, self.strides)


class _Thread(threading.local):
    """Each thread has its own stream and allocator, as in CuPy."""

    def __init__(self):
        self.stream, self.allocator = Stream(null=True), _default_pool.malloc


_default_pool = MemoryPool()
_thread = _Thread()


def get_default_memory_pool():
    return _default_pool


@contextmanager
def using_allocator(allocator):
    before, _thread.allocator = _thread.allocator, allocator
    try:
        yield
    finally:
        _thread.allocator = before


def _run(function, *operands):
    """Run a function now, or at each launch of the graph being captured."""
    if _thread.stream.captured is None:
        function(*(o.hidden if isinstance(o, ndarray) else o for o in operands))
    else:
        recorded = [_Address(o) if isinstance(o, ndarray) else o for o in operands]
        _thread.stream.captured.append((function, recorded))


def _transfer(kind):
    """Check a transfer between host and GPU memory, which CuPy refuses while a stream captures."""
    if _thread.stream.captured is not None:
        raise RuntimeError(f"the current stream is capturing, so {kind} transfers are disallowed")


def _synchronise():
    """Wait for the GPU, which invalidates a capture."""
    if _thread.stream.captured is not None:
        _thread.stream.valid = False
        raise CUDARuntimeError(
            "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
        )


class ndarray:  # noqa: N801  CuPy's name
    """An array on the imitated GPU; its values are in `hidden`."""

    __array_ufunc__ = None  # makes NumPy's operators refuse it
    __cuda_array_interface__ = property(lambda self: {"shape": self.shape, "version": 3})

    def __init__(self, hidden):
        self.hidden = hidden

    def __array__(self, *_, **__):
        raise TypeError(MIXED)

    shape = property(lambda self: self.hidden.shape)
    strides = property(lambda self: self.hidden.strides)
    dtype = property(lambda self: self.hidden.dtype)
    size = property(lambda self: self.hidden.size)
    nbytes = property(lambda self: self.hidden.nbytes)
    flags = property(lambda self: self.hidden.flags)
    data = property(lambda self: SimpleNamespace(ptr=self.hidden.ctypes.data))

    def get(self):
        _transfer("D2H")
        return self.hidden.copy()

    def item(self):
        return self.get().item()

    def set(self, arr):
        _transfer("H2D")
        assert isinstance(arr, np.ndarray)
        assert (arr.dtype, arr.shape) == (self.dtype, self.shape)
        self.hidden[...] = arr

    def copy(self):
        return self.astype(self.dtype)

    def astype(self, dtype):
        return _filled(empty(self.shape, dtype), self)

    def __add__(self, other):
        if not isinstance(other, ndarray):
            raise TypeError(f"Unsupported type {type(other)}")
        total = empty(self.shape, self.dtype)
        _run(lambda total, a, b: np.add(a, b, out=total), total, self, other)
        return total

    def __getitem__(self, key):
        key = key if isinstance(key, tuple) else (key,)
        # A view also of one element, where NumPy would return a scalar.
        return ndarray(self.hidden[key if Ellipsis in key else (*key, ...)])

    def reshape(self, *shape):
        return ndarray(self.hidden.reshape(shape))

    def transpose(self, *axes):
        return ndarray(self.hidden.transpose(axes))

    def __setitem__(self, key, value):
        if not isinstance(value, (ndarray, int, float)):
            raise TypeError(f"Unsupported type {type(value)}")
        _filled(self[key], value)


def _filled(array, value):
    """Fill the array with a number or with the values of another array."""
    _run(lambda array, value: np.copyto(array, value, casting="unsafe"), array, value)
    return array


def asarray(a, dtype=None, order=None, *, blocking=False):
    """Copy from host memory; return `a` itself where it is on the GPU and of this type.

    A single number is not copied but is the argument of a kernel that fills the array.
    """
    if isinstance(a, ndarray):
        return a if dtype in (None, a.dtype) and a.flags.c_contiguous else a.astype(dtype)
    assert blocking, "the array may change before it is copied"
    a = np.array(a, dtype, order=order)
    array = empty(a.shape, a.dtype)
    if a.ndim == 0:
        return _filled(array, a)
    array.set(a)
    return array


def concatenate(arrays):
    joined = empty((sum(a.shape[0] for a in arrays), *arrays[0].shape[1:]), arrays[0].dtype)
    _run(lambda joined, *parts: np.concatenate(parts, out=joined), joined, *arrays)
    return joined


def ascontiguousarray(a):
    return a if a.flags.c_contiguous else a.copy()


def empty(shape, dtype=float):
    """Set every byte to 255: a NaN, or a conspicuous integer."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    hidden = _thread.allocator(size).array(shape, dtype)
    hidden.reshape(-1).view(np.uint8)[:] = 255
    return ndarray(hidden)


def zeros(shape, dtype=float):
    return _filled(empty(shape, dtype), 0)


def zeros_like(a):
    return zeros(a.shape, a.dtype)


def ones_like(a):
    return _filled(empty(a.shape, a.dtype), 1)


class RawModule:
    """CUDA source, compiled for the CPU when a kernel is requested."""

    def __init__(self, *, code, options=()):
        self.code, self.options = code, options

    def get_function(self, name):
        _synchronise()
        source = _file_with(self.code)
        kernels = kernels_in(source)
        try:
            run = cuda_emulator.function(source, name, tuple(p.name for p in kernels[name]), tuple(kernels))
        except KernelError as error:
            file, line, message = re.search(r"(\w+\.cuh?):(\d+):\d+: (error: .*)", str(error)).groups()
            raise CompileException(f"{file}({line}): {message}") from None

        def kernel(grid, block, args, *, shared_mem=0):
            assert shared_mem == 0
            for argument in args:
                assert isinstance(argument, (ndarray, np.generic)), f"{name} was given {type(argument)}"
            _run(lambda *arrays: run(grid, block, arrays), *args)

        return kernel


def _file_with(code):
    """Find the file of this repository with this code, whose compiled form is cached, or write a new one."""
    for source in KERNEL_FOLDER.glob("*.cu"):
        if text_of(source) == code:
            return source
    source = Path(tempfile.mkdtemp()) / "of_a_test.cu"
    source.write_text(code, encoding="utf-8")
    return source


class OnlyDevice:
    """cupy.cuda.Device: the only one."""

    compute_capability = "89"  # of a GPU for which the engine chooses as for the emulator

    def use(self):
        """Use it in this thread, as all threads do."""


cuda = SimpleNamespace(
    is_available=lambda: True,
    Device=OnlyDevice,
    runtime=SimpleNamespace(
        driverGetVersion=lambda: 13020,
        runtimeGetVersion=lambda: 13020,
        memGetInfo=lambda: (Device.total - Device.held, Device.total),
        CUDARuntimeError=CUDARuntimeError,
    ),
    driver=SimpleNamespace(CUDADriverError=CUDADriverError),
    Memory=Memory,
    MemoryPointer=MemoryPointer,
    MemoryPool=MemoryPool,
    Stream=Stream,
    using_allocator=using_allocator,
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    compiler=SimpleNamespace(CompileException=CompileException),
)
