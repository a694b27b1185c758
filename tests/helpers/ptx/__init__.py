"""An interpreter of PTX: what NVRTC made of the kernels, inline PTX included, runs on the CPU in NumPy.

The emulator (`kernels/emulator/`) compiles the source with g++ and so never sees the bodies with inline PTX.
Here these run, by the words of the PTX ISA, launched by the engine's own launch code:

    with use_backend("cuda-emulated"), ptx.interpreted():
        ...

A register is an array with one number per thread, so that an instruction is one NumPy call for all threads of
several blocks. Threads that take different branches run one after the other, the one that is furthest
behind first.

=================  =====================================================================================
`parse`            the text of a module: its kernels, their instructions, variables and labels
`registers`        the registers of all threads, and operands as arrays of the type that is asked for
`arithmetic`       integers, comparisons, conversions
`floating_point`   the same for numbers with a point: rounding, subnormal numbers
`tensor_cores`     ``mma.sync``, with sums truncated as on each generation of GPUs
`memory`           arrays with their bounds; what a block shares; what a thread has to itself
`races`            who accessed what last, and whether anything orders two accesses
`warpgroups`       products by four warps, from shared memory (`wgmma`)
`transfers`        loads, stores, matrices from shared memory, asynchronous copies
`machine`          threads, warps and blocks: branches, barriers, shuffles
`launch`           takes the emulator's place behind the engine's launch code
=================  =====================================================================================

What is wrong with a kernel is a `Fault`, which names the instruction and its line in the source: an access
out of bounds or misaligned, a race, a read of what nobody wrote or what is still being copied, a barrier that
not all threads reach. An instruction that the interpreter does not know is one, too.
"""

from ptx.fault import Fault
from ptx.launch import Interpretation, interpreted, run_source

__all__ = ["Fault", "Interpretation", "interpreted", "run_source"]
