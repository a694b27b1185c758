"""The GPUs for which `benchmarks.gpu_model` predicts, with the figures that it needs and their sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Machine:
    """A GPU.

    Attributes
    ----------
    name, architecture : str
        The architecture as the compiler names it: "sm_" and the digits of the compute capability.
    processors : int
        Streaming multiprocessors.
    clock : float
        Cycles per second.
    threads, blocks, shared : int
        What a multiprocessor holds; shared memory in bytes.
    lanes : mapping of str to int
        Results per cycle and multiprocessor, by unit.
    tensor : mapping of str to float
        Multiplications per cycle and multiprocessor of `mma.sync` and, on Hopper, of `wgmma`, by the type of
        the factors.
    cache : float
        Bytes that L2 keeps.
    cache_speed, memory_speed : float
        Bytes per second.
    latencies : tuple of int
        Cycles until a load arrives from L1, L2, and DRAM.
    """

    name: str
    architecture: str
    processors: int
    clock: float
    threads: int
    blocks: int
    shared: int
    lanes: Mapping[str, int]
    tensor: Mapping[str, float]
    cache: float
    cache_speed: float
    memory_speed: float
    latencies: tuple[int, int, int]


# Sources. Multiprocessors, clocks, peaks of tensor cores, sizes and speeds of memories: NVIDIA's white papers
# on the A100 (2020), the H100 (2022) and Ada (2022), and the data sheet of the H200. Threads, blocks and
# results per cycle: CUDA C++ Programming Guide, "Arithmetic Instructions" and "Technical Specifications per
# Compute Capability". L2's speed, how many bytes it serves at that speed, and latencies: measured by
# github.com/te42kyfo/gpu-benches (gpu-l2-cache, gpu-latency, cuda-latency) on an H200, an H100 PCIe, an A100
# and an L40, which stands for the RTX 4090 with as many bytes per cycle and multiprocessor. DRAM: 86 % of the
# data sheet's speed, as PyTorch's copy reached on the H200 (results/gpu.json). mma.sync gets 63 % of the peak
# of Hopper's tensor cores (Luo et al., arXiv 2402.13499). wgmma is taken to get 73 %, the 786 TFLOP/s that
# PyTorch's product in bf16 reached on an H200 (github.com/NVIDIA/tilus, pull request 86). The overhead: what
# the smallest kernels of a CUDA graph take on an H200 (gpu-benches, gpu-small-kernels).
COPY = 0.86
MMA_ON_HOPPER = 0.63
WGMMA_ON_HOPPER = 786.2e12 / (2 * 2048 * 132 * 1.98e9)
_LANES = {"imad": 64, "integer": 64, "special": 16}
_HOPPER: dict[str, Any] = {
    "architecture": "sm_90",
    "processors": 132,
    "clock": 1.98e9,
    "threads": 2048,
    "blocks": 32,
    "shared": 228 * 1024,
    "lanes": {**_LANES, "fma": 128, "double": 64},
    "tensor": {
        "TF32": 1024 * MMA_ON_HOPPER,
        "BF16": 2048 * MMA_ON_HOPPER,
        "BF16 of warpgroups": 2048 * WGMMA_ON_HOPPER,
    },
    "cache": 44e6,
    "cache_speed": 9.7e12,
    "latencies": (34, 265, 650),
}
H200 = Machine("H200", **_HOPPER, memory_speed=4.8e12 * COPY)
MACHINES = (
    H200,
    Machine("H100 SXM", **_HOPPER, memory_speed=3.35e12 * COPY),
    Machine(
        "A100 80 GB",
        architecture="sm_80",
        processors=108,
        clock=1.41e9,
        threads=2048,
        blocks=32,
        shared=164 * 1024,
        lanes={**_LANES, "fma": 64, "double": 32},
        tensor={"TF32": 512, "BF16": 1024},
        cache=28e6,
        cache_speed=5.4e12,
        memory_speed=2.039e12 * COPY,
        latencies=(36, 211, 570),
    ),
    Machine(
        "RTX 4090",
        architecture="sm_89",
        processors=128,
        clock=2.52e9,
        threads=1536,
        blocks=24,
        shared=100 * 1024,
        lanes={**_LANES, "fma": 128, "double": 2},
        tensor={"TF32": 128, "BF16": 256},
        cache=72e6,
        cache_speed=5.2e12 * (128 * 2.52) / (142 * 2.49),
        memory_speed=1.008e12 * COPY,
        latencies=(36, 277, 631),
    ),
)
