"""A stand-in for CuPy where there is no GPU: `sys.modules["cupy"] = fake_cupy`.

Its arrays are of a class of their own. As CuPy's do, they refuse to become NumPy arrays without being asked,
and to be mixed with them, so that code which forgets on which side an array lies fails here as it would on a
GPU. Kernels of a `RawModule` run on the CPU emulator, on the NumPy arrays within.

Only what tinyunet uses is there. `tests/cuda/test_cupy.py` holds the names against the real CuPy, where that
is installed.
"""

import re
import tempfile
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tinyunet import cuda_emulator
from tinyunet.cuda import KERNEL_FOLDER, kernels_in
from tinyunet.errors import KernelError

__version__ = "stand-in"
MIXED = "Implicit conversion to a NumPy array is not allowed"  # CuPy's words


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


class CompileException(Exception):
    """cupy.cuda.compiler.CompileException."""


class Device:
    """The memory of the GPU that is not there: how much it has, and how much is taken."""

    total = 2**40
    used = 0
    held = 0  # by the pool, which keeps what is given back to it

    @classmethod
    def allocate(cls, array):
        if cls.used + array.nbytes > cls.total:
            raise OutOfMemoryError(f"Out of memory allocating {array.nbytes} bytes")
        cls.used += array.nbytes
        cls.held = max(cls.held, cls.used)
        weakref.finalize(array, cls.free, array.nbytes)

    @classmethod
    def free(cls, size):
        cls.used -= size

    @classmethod
    def free_all_blocks(cls):
        cls.held = cls.used

    @classmethod
    def total_bytes(cls):
        return cls.held


def get_default_memory_pool():
    return Device


class ndarray:  # noqa: N801  CuPy's name
    """An array on the GPU; in truth in `hidden`."""

    __array_ufunc__ = None  # NumPy's operators give up
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
        return self.hidden.copy()

    def item(self):
        return self.hidden.item()

    def copy(self):
        return _new(self.hidden.copy())

    def astype(self, dtype):
        return _new(self.hidden.astype(dtype))

    def sum(self):
        return _new(np.asarray(self.hidden.sum()))

    def __add__(self, other):
        return _new(np.asarray(self.hidden + _inside(other)))

    def __mul__(self, other):
        return _new(np.asarray(self.hidden * _inside(other)))

    def __getitem__(self, key):
        return ndarray(np.asarray(self.hidden[key]))  # of one element too, where NumPy gives a scalar

    def reshape(self, *shape):
        return ndarray(self.hidden.reshape(shape))

    def transpose(self, *axes):
        return ndarray(self.hidden.transpose(axes))

    def __setitem__(self, key, value):
        self.hidden[key] = _inside(value)


def _new(hidden):
    """Take over an array that no one else holds."""
    Device.allocate(hidden)
    return ndarray(hidden)


def _inside(operand):
    """What an operator of CuPy takes: its own arrays and Python's numbers."""
    if isinstance(operand, ndarray):
        return operand.hidden
    if isinstance(operand, (int, float)):
        return operand
    raise TypeError(f"Unsupported type {type(operand)}")


def asarray(a, dtype=None, order=None, *, blocking=False):
    """Copies from the computer's memory; `a` itself where it is on the GPU and of this type."""
    if isinstance(a, ndarray):
        return a if dtype in (None, a.dtype) and a.flags.c_contiguous else _new(a.hidden.astype(dtype))
    assert blocking, "the array may be changed before it was copied"
    return _new(np.array(a, dtype, order=order))


def concatenate(arrays):
    return _new(np.concatenate([a.hidden for a in arrays]))


def ascontiguousarray(a):
    return a if a.flags.c_contiguous else _new(np.ascontiguousarray(a.hidden))


def empty(shape, dtype=float):
    """Every byte is 255: a NaN, or a number that is noticed."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[:] = 255
    return _new(array)


def zeros(shape, dtype=float):
    return _new(np.zeros(shape, dtype))


def zeros_like(a):
    return zeros(a.shape, a.dtype)


def ones_like(a):
    return _new(np.ones(a.shape, a.dtype))


class RawModule:
    """CUDA source; compiled, for the CPU, when a kernel is asked for."""

    def __init__(self, *, code, options=()):
        self.code, self.options = code, options

    def get_function(self, name):
        source = _file_with(self.code)
        kernels = kernels_in(source)
        try:
            run = cuda_emulator.function(source, name, tuple(p.name for p in kernels[name]), tuple(kernels))
        except KernelError as error:
            line = re.search(r"\.cu:(\d+):\d+: (error: .*)", str(error))
            raise CompileException(f"default_program({line[1]}): {line[2]}") from None

        def kernel(grid, block, args, *, shared_mem=0):
            assert shared_mem == 0
            for argument in args:
                assert isinstance(argument, (ndarray, np.generic)), f"{name} was given {type(argument)}"
            run(grid, block, tuple(a.hidden if isinstance(a, ndarray) else a for a in args))

        return kernel


def _file_with(code):
    """The file of ours that the code was read from, whose compiled form is at hand; else a new one."""
    for source in KERNEL_FOLDER.glob("*.cu"):
        if source.read_text(encoding="utf-8") == code:
            return source
    source = Path(tempfile.mkdtemp()) / "of_a_test.cu"
    source.write_text(code, encoding="utf-8")
    return source


cuda = SimpleNamespace(
    is_available=lambda: True,
    runtime=SimpleNamespace(
        driverGetVersion=lambda: 13020,
        runtimeGetVersion=lambda: 13020,
        memGetInfo=lambda: (Device.total - Device.held, Device.total),
    ),
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    compiler=SimpleNamespace(CompileException=CompileException),
)
