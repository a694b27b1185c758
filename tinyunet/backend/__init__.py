"""Which arrays, which kernels, and the machinery that runs them.

- `dispatch`: which backend computes, and where its arrays lie.
- `jit`, `simd`, `blas`, `allocator`: Numba kernels, compiled; vector registers and matrix products inside
them;
  memory kept from step to step.
- `cuda`, `cuda_graph`, `cuda_log`, `cuda_emulator`: CUDA kernels launched, captured, counted, run on a CPU.
"""

from tinyunet.backend.dispatch import (
    BACKENDS,
    DISPATCH_TABLE,
    PRECISIONS,
    Dispatch,
    active_backend,
    active_precision,
    array_library,
    compute_capability,
    lies_on_gpu,
    to_backend,
    to_host,
    use_backend,
)

__all__ = [
    "BACKENDS",
    "DISPATCH_TABLE",
    "PRECISIONS",
    "Dispatch",
    "active_backend",
    "active_precision",
    "array_library",
    "compute_capability",
    "lies_on_gpu",
    "to_backend",
    "to_host",
    "use_backend",
]
