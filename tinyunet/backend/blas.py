"""Matrix products inside Numba kernels: BLAS's `gemm`, called by each of our threads on its own block.

`numpy.dot` inside a Numba function keeps it from being cached on disk, so `gemm` takes the address of the
routine, out of the table that SciPy offers to Cython code, as a plain integer argument.

**Threads.** Our own loops are parallel, so BLAS gets one thread: two pools of threads on the same cores only
fight, and a product that is divided in the same way each time has the same bits each time. The number is one
for the process, so the limit holds from the first kernel that enters `with gemm_routine(...)` to the last
that leaves it, in whatever threads; then the caller's number is restored, unless the caller has set another
meanwhile. That takes a few microseconds per kernel. OpenBLAS, MKL and BLIS are known; another BLAS keeps its
threads, and then neither speed nor bits are promised.

**Pieces.** BLAS first copies both factors into an order of its own, which pays when each element is then used
often. On processors with AVX-512, OpenBLAS has kernels for small products that leave this out; and the
factors here mostly lie in the cache already. So there, larger products are cut into pieces that are small
enough. On one core of an EPYC 9004, in GFLOP/s, cut and whole:

    (289 × 512)(512 × 512)     96, 85         (49 × 1024)(1024 × 1024)     70, 49

With the kernels for AVX2, pieces are slower (39, 83): there the products stay whole.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from scipy.linalg import cython_blas

from tinyunet.backend.jit import kernel


def _address(name: str) -> int:
    capsule = cython_blas.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))


def _libraries() -> list[ctypes.CDLL]:
    """The libraries in which to look for functions of SciPy's BLAS; all of them are loaded already.

    A look-up in SciPy's own module reaches the libraries that it depends on, but not on Windows: hence the
    BLAS of SciPy's wheel.
    """
    wheel = Path(scipy.__file__).parents[1] / "scipy.libs"
    files = [Path(cython_blas.__file__), *sorted(wheel.glob("*openblas*"))]
    return [ctypes.PyDLL(str(file)) for file in files]


def _function(*names: str) -> Any:
    """The first function of SciPy's BLAS that has one of these names, or None."""
    found = (getattr(library, name, None) for library in _LIBRARIES for name in names)
    return next((function for function in found if function is not None), None)


_ADDRESSES = {np.dtype(np.float32): _address("sgemm"), np.dtype(np.float64): _address("dgemm")}
_LIBRARIES = _libraries()
_get_threads: Callable[[], int] | None = _function(
    "scipy_openblas_get_num_threads",
    "openblas_get_num_threads",
    "MKL_Get_Max_Threads",
    "bli_thread_get_num_threads",
)
_set_threads: Callable[[int], Any] | None = _function(
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads",
    "MKL_Set_Num_Threads",
    "bli_thread_set_num_threads",
)


def processor() -> str:
    """The processor for which OpenBLAS has chosen its kernels; "" for another BLAS."""
    name = _function("scipy_openblas_get_corename", "openblas_get_corename")
    if name is None:
        return ""
    name.restype = ctypes.c_char_p
    return name().decode()


# OpenBLAS takes its kernels for small products up to 100³ multiply-adds, where it has them.
_SMALL = 100**3
_HAVE_SMALL = {"SkylakeX", "Cooperlake", "SapphireRapids"}
_LARGEST = _SMALL if processor() in _HAVE_SMALL else 2**62
PIECE_ROWS, PIECE_SUMMANDS, PIECE_COLUMNS = 24, 256, 128


class _OneThread:
    """Limits BLAS to one thread from the first entry to the last exit, whatever threads enter."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.threads_of_caller = 1

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0 and _get_threads and _set_threads:
                self.threads_of_caller = _get_threads()
                _set_threads(1)
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and _get_threads and _set_threads and _get_threads() == 1:
                _set_threads(self.threads_of_caller)


_one_thread = _OneThread()


@contextmanager
def gemm_routine(dtype: Any) -> Iterator[tuple[int, int]]:
    """Give a kernel the first argument of its products, and BLAS one thread meanwhile.

    Parameters
    ----------
    dtype : float32 or float64

    Yields
    ------
    tuple of int
        The address of BLAS's `gemm`, and the most multiply-adds that one call of it should compute.
    """
    with _one_thread:
        yield _ADDRESSES[np.dtype(dtype)], _LARGEST


intrinsic: Any = extending.intrinsic


@intrinsic
def _fortran_gemm(typingctx, address, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc):
    """Call gemm through its address. Fortran takes integers and scalars by reference."""
    signature = types.void(
        address, trans_a, trans_b, m, n, k, types.uintp, lda, types.uintp, ldb, beta, types.uintp, ldc
    )

    def codegen(context, builder, sig, args):
        char, integer = ir.IntType(8), ir.IntType(32)
        real = context.get_value_type(sig.args[10])
        address, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc = args

        def by_reference(value, kind):
            if isinstance(kind, ir.IntType) and value.type.width != kind.width:
                value = builder.trunc(value, kind)
            slot = cgutils.alloca_once(builder, kind)
            builder.store(value, slot)
            return slot

        def pointer(value):
            return builder.inttoptr(value, real.as_pointer())

        alpha = by_reference(ir.Constant(real, 1.0), real)
        arguments = [
            by_reference(trans_a, char),
            by_reference(trans_b, char),
            *(by_reference(size, integer) for size in (m, n, k)),
            alpha,
            pointer(a),
            by_reference(lda, integer),
            pointer(b),
            by_reference(ldb, integer),
            by_reference(beta, real),
            pointer(c),
            by_reference(ldc, integer),
        ]
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)
        return context.get_dummy_value()

    return signature, codegen


_PLAIN, _TRANSPOSED = ord("N"), ord("T")

# Fortran reads a row-major matrix as its transpose, so it is given the factors in reverse order:
# (A B)ᵀ = Bᵀ Aᵀ. The rows of a matrix may lie apart (a view of some of its columns), the elements of a row
# may not. `routine` comes from `gemm_routine`.


@kernel
def gemm(routine, a, b, beta, c):
    """C = A B + beta C, for A (m, k), B (k, n), C (m, n)."""
    (rows, summands), columns = a.shape, b.shape[1]
    if rows * summands * columns <= routine[1]:
        _multiply(routine[0], _PLAIN, a, b, beta, c)
        return
    for j in range(0, columns, PIECE_COLUMNS):
        for e in range(0, summands, PIECE_SUMMANDS):  # this piece of B serves all rows
            b_piece, kept = b[e : e + PIECE_SUMMANDS, j : j + PIECE_COLUMNS], beta if e == 0 else 1.0
            for i in range(0, rows, PIECE_ROWS):
                a_piece = a[i : i + PIECE_ROWS, e : e + PIECE_SUMMANDS]
                c_piece = c[i : i + PIECE_ROWS, j : j + PIECE_COLUMNS]
                _multiply(routine[0], _PLAIN, a_piece, b_piece, kept, c_piece)


@kernel
def gemm_tn(routine, a, b, beta, c):
    """C = Aᵀ B + beta C, for A (k, m), B (k, n), C (m, n)."""
    (summands, rows), columns = a.shape, b.shape[1]
    if rows * summands * columns <= routine[1]:
        _multiply(routine[0], _TRANSPOSED, a, b, beta, c)
        return
    for i in range(0, rows, PIECE_ROWS):
        for j in range(0, columns, PIECE_COLUMNS):
            c_piece = c[i : i + PIECE_ROWS, j : j + PIECE_COLUMNS]
            for e in range(0, summands, PIECE_SUMMANDS):
                a_piece = a[e : e + PIECE_SUMMANDS, i : i + PIECE_ROWS]
                b_piece = b[e : e + PIECE_SUMMANDS, j : j + PIECE_COLUMNS]
                _multiply(routine[0], _TRANSPOSED, a_piece, b_piece, beta if e == 0 else 1.0, c_piece)


@kernel
def _multiply(address, transposed, a, b, beta, c):
    """C = A B + beta C, or with Aᵀ, in one call of BLAS."""
    _fortran_gemm(
        address, _PLAIN, transposed, c.shape[1], c.shape[0], b.shape[0],
        b.ctypes.data, _leading(b), a.ctypes.data, _leading(a),
        c.dtype.type(beta), c.ctypes.data, _leading(c),
    )  # fmt: skip


@kernel
def _leading(matrix):
    """The distance between two rows, in elements. A single row may have any stride in NumPy, not in BLAS."""
    return max(matrix.strides[0] // matrix.itemsize, matrix.shape[1])
