"""The backends: which kernels run, where arrays lie, and the machinery that compiles and launches kernels.

- `dispatch`: which backend computes, and where its arrays lie.
- `jit`, `simd`, `products`: Numba kernels compiled, with vector registers and matrix products inside them.
- `allocator`, `sums`: memory kept from step to step; the sum of two gradients.
- `changes`: the count of a tensor's changes in place.
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
    in_this_context,
    lies_on_gpu,
    require_on_backend,
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
    "in_this_context",
    "lies_on_gpu",
    "require_on_backend",
    "to_backend",
    "to_host",
    "use_backend",
]
