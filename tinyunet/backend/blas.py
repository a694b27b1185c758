"""Matrix products inside Numba kernels: BLAS's `gemm`, called by each of our threads on its own block.

`numpy.dot` inside a Numba function keeps it from being cached on disk, so `gemm` takes the address of the
routine, out of the table that SciPy offers to Cython code, as a plain integer argument.

Our own loops are parallel, so BLAS gets one thread: two pools of threads on the same cores only fight, and
a product that is split the same way each time has the same bits each time.

**Pieces.** BLAS first copies both factors into an order of its own, which pays when each element is then used
often. On processors with AVX-512, OpenBLAS has kernels for small products that leave this out; and the
factors here mostly lie in the cache already. So there, larger products are cut into pieces that are small
enough. On one core of an EPYC 9004, in GFLOP/s, cut and not cut:

    (289 × 512)(512 × 512)     96, 85         (49 × 1024)(1024 × 1024)     70, 49

With the kernels for AVX2, pieces are slower (39, 83): there the products are left whole.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from scipy.linalg import cython_blas
from threadpoolctl import ThreadpoolController

from tinyunet.backend.jit import kernel


def _address(name: str) -> int:
    capsule = cython_blas.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))


_ADDRESSES = {np.dtype(np.float32): _address("sgemm"), np.dtype(np.float64): _address("dgemm")}
_CONTROLLER = ThreadpoolController()
_CONTROLLER.limit(limits=1, user_api="blas")

# OpenBLAS takes its kernels for small products up to 100³ multiply-adds, where it has them.
_SMALL = 100**3
_HAVE_SMALL = {"SkylakeX", "Cooperlake", "SapphireRapids"}
_FOUND = {library["architecture"] for library in _CONTROLLER.info() if library["internal_api"] == "openblas"}
_LARGEST = _SMALL if _FOUND and _FOUND <= _HAVE_SMALL else 2**62
ROWS, SUMMANDS, COLUMNS = 24, 256, 128  # of a piece


def gemm_routine(dtype: Any) -> tuple[int, int]:
    """The products' first argument, for this dtype (float32 or float64).

    It is where BLAS's `gemm` is in memory, and how many multiply-adds it shall be given at once.
    """
    return _ADDRESSES[np.dtype(dtype)], _LARGEST


intrinsic: Any = extending.intrinsic


@intrinsic
def _fortran_gemm(typingctx, address, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc):
    """Call gemm through its address. Integers and scalars go by reference, as Fortran wants them."""
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

# Fortran reads a row-major matrix as its transpose, so it is given the factors in the other order:
# (A B)^T = B^T A^T. The rows of a matrix may lie apart (a view of some columns), the elements of a row may
# not; `routine` comes from `gemm_routine`.


@kernel
def gemm(routine, a, b, beta, c):
    """C = A B + beta C, for A (m, k), B (k, n), C (m, n)."""
    (rows, summands), columns = a.shape, b.shape[1]
    if rows * summands * columns <= routine[1]:
        _multiply(routine[0], _PLAIN, a, b, beta, c)
        return
    for j in range(0, columns, COLUMNS):
        for e in range(0, summands, SUMMANDS):  # this piece of B serves all rows
            piece, kept = b[e : e + SUMMANDS, j : j + COLUMNS], beta if e == 0 else 1.0
            for i in range(0, rows, ROWS):
                some, out = a[i : i + ROWS, e : e + SUMMANDS], c[i : i + ROWS, j : j + COLUMNS]
                _multiply(routine[0], _PLAIN, some, piece, kept, out)


@kernel
def gemm_tn(routine, a, b, beta, c):
    """C = A^T B + beta C, for A (k, m), B (k, n), C (m, n)."""
    (summands, rows), columns = a.shape, b.shape[1]
    if rows * summands * columns <= routine[1]:
        _multiply(routine[0], _TRANSPOSED, a, b, beta, c)
        return
    for i in range(0, rows, ROWS):
        for j in range(0, columns, COLUMNS):
            for e in range(0, summands, SUMMANDS):  # all into this piece of C
                some, piece = a[e : e + SUMMANDS, i : i + ROWS], b[e : e + SUMMANDS, j : j + COLUMNS]
                out = c[i : i + ROWS, j : j + COLUMNS]
                _multiply(routine[0], _TRANSPOSED, some, piece, beta if e == 0 else 1.0, out)


@kernel
def _multiply(address, transposed, a, b, beta, c):
    """C = A B + beta C, or with A^T, in one call of BLAS."""
    _fortran_gemm(
        address, _PLAIN, transposed, c.shape[1], c.shape[0], b.shape[0],
        b.ctypes.data, _leading(b), a.ctypes.data, _leading(a),
        c.dtype.type(beta), c.ctypes.data, _leading(c),
    )  # fmt: skip


@kernel
def _leading(matrix):
    """The distance of two rows, in elements. A single row may have any stride in NumPy, not in BLAS."""
    return max(matrix.strides[0] // matrix.itemsize, matrix.shape[1])
