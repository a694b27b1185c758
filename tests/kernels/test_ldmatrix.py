"""`ldmatrix` in the emulator and in the interpreter of PTX: which number goes where, and what must not be."""

import numpy as np
import ptx
import pytest

from tinyunet.backend.cuda import run_checked
from tinyunet.backend.cuda_emulator import Traffic
from tinyunet.errors import KernelError

# Each lane writes a row of eight numbers, or `count` of them, `pitch` numbers after the row before. Then it
# lends the row at first + step · lane to ldmatrix.
KERNEL = """
#ifdef CUDA_EMULATED
#define LOAD(TRANSPOSED, FORM) emulator::load_matrices<TRANSPOSED>(d, own, EMULATED_LINE)
#else
#define LOAD(TRANSPOSED, FORM)                                                                  \\
    asm volatile("ldmatrix.sync.aligned.m8n8." FORM ".shared.b16 {%0,%1,%2,%3}, [%4];"          \\
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])                               \\
                 : "r"(unsigned(__cvta_generic_to_shared(own))) : "memory")
#endif
extern "C" __global__ void spread(const unsigned short* x, int* y, int transposed, int pitch, int count,
                                  int first, int step, int waits, int lanes) {
    __shared__ __align__(16) unsigned short rows[2048];
    for (int e = 0; e < count; e++) rows[threadIdx.x * pitch + e] = x[threadIdx.x * 8 + e];
    if (waits) __syncthreads();
    if (threadIdx.x >= lanes) return;
    const unsigned short* own = rows + first + step * int(threadIdx.x);
    unsigned d[4];
    if (transposed)
        LOAD(true, "x4.trans");
    else
        LOAD(false, "x4");
    for (int matrix = 0; matrix < 4; matrix++) y[threadIdx.x * 4 + matrix] = d[matrix];
}
"""
LINE = 21  # of the load that is not transposed


def arguments(transposed=0, pitch=8, count=8, first=0, step=8, waits=1, lanes=32):
    """Make the kernel's arguments; by default each lane lends the row that it wrote."""
    scalars = (transposed, pitch, count, first, step, waits, lanes)
    return np.arange(256, dtype=np.uint16), np.zeros(128, np.int32), *map(np.int32, scalars)


def emulate(**changes):
    """Run the kernel in the checking build; return the numbers of each lane and the report."""
    given = arguments(**changes)
    report = run_checked(KERNEL, "spread", (1,), (32,), *given)
    return given[1].view(np.uint16), report


def interpret(**changes):
    """Run the kernel's PTX; return the numbers of each lane."""
    given = arguments(**changes)
    ptx.run_source(KERNEL, "spread", (1, 1, 1), (32, 1, 1), *given)
    return given[1].view(np.uint16)


@pytest.mark.parametrize("transposed", [0, 1])
def test_each_lane_gets_two_numbers_of_each_matrix(transposed):
    """Lane by lane, a matrix is read along its rows or, transposed, along its columns."""
    matrices = np.arange(256).reshape(4, 8, 8)
    for changes, order in [({}, 1), ({"pitch": 24, "first": 31 * 24, "step": -24}, -1)]:
        lent = matrices[::order, ::order]
        expected = lent.swapaxes(1, 2) if transposed else lent
        expected = expected.reshape(4, 32, 2).swapaxes(0, 1).ravel()
        np.testing.assert_array_equal(emulate(transposed=transposed, **changes)[0], expected)
        np.testing.assert_array_equal(interpret(transposed=transposed, **changes), expected)


@pytest.mark.parametrize(("pitch", "turns"), [(8, 4), (32, 16), (40, 4), (64, 32)])
def test_wavefronts(pitch, turns):
    """Eight rows of 16 bytes are a turn if no two are in the same banks: not every 64 or 128 bytes."""
    _, report = emulate(pitch=pitch, step=pitch)
    assert report.lines[LINE] == Traffic(0, 0, turns, 4)


@pytest.mark.parametrize(
    ("changes", "emulated", "interpreted"),
    [
        (
            {"first": 4},
            r"misaligned: thread 0 reads 16 bytes at the shared memory\[2\]",
            "misaligned: 16 bytes at 8 of shared memory",
        ),
        (
            {"first": 2048},
            "out of bounds: thread 0",
            "out of bounds: 16 bytes at 4096 of 4096 bytes of shared memory",
        ),
        (
            {"count": 6},
            "thread 0 reads word 3 of the shared memory, which no thread of the block has written",
            "accesses cell 3 of shared memory, which nobody has written",
        ),
        (
            {"waits": 0, "first": 31 * 8, "step": -8},
            "thread 0 reads word 124 of the shared memory, which no thread of the block has written",
            "race: thread 0 accesses cell 124 of shared memory, which thread 31 wrote",
        ),
        (
            {"lanes": 31},
            "thread 0 waits for lanes of its warp that do not arrive",
            "thread 0 waits for lanes of its warp that do not arrive",
        ),
    ],
    ids=["misaligned", "out of bounds", "not written", "no barrier", "a lane missing"],
)
def test_mistakes_are_found(changes, emulated, interpreted):
    with pytest.raises(KernelError, match=rf"kernels\.cu:{LINE}: {emulated}"):
        emulate(**changes)
    with pytest.raises(ptx.Fault, match=interpreted):
        interpret(**changes)
