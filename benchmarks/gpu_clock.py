"""Times tasks on a GPU by CUDA events, and measures the peaks that a run compares itself with.

PyTorch and CuPy both use the default stream by default, so events of either library time the tasks of both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import torch

from tinyunet.backend import PRECISIONS

DEVICE = "cuda"  # PyTorch's
WARM_UP = 3
MIN_MILLISECONDS = 1.0  # between two events: longer than Python takes for a launch
Key = TypeVar("Key")
Task = Callable[[], Any]


def milliseconds(tasks: Mapping[Key, Task], turns: int) -> dict[Key, float]:
    """Return the median time of each task on the GPU. The tasks take turns; the first three do not count.

    A short task is repeated in each turn, so that the GPU does not wait for Python.
    """
    times: dict[Key, list[float]] = {name: [] for name in tasks}
    repeats = dict.fromkeys(tasks, 1)
    for turn in range(WARM_UP + turns):
        for name, task in tasks.items():
            took = _milliseconds(task, repeats[name])
            times[name].append(took)
            if turn < WARM_UP:
                repeats[name] = max(1, math.ceil(MIN_MILLISECONDS / took))
    return {name: statistics.median(taken[WARM_UP:]) for name, taken in times.items()}


def _milliseconds(task: Task, repeats: int) -> float:
    """Time some repetitions of a task; return the time of one."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        task()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


def set_precision(precision: str) -> Any:
    """Make PyTorch compute in a precision, inside the ``with`` block that is returned."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.autocast(DEVICE, torch.bfloat16) if precision == "bf16" else nullcontext()


def peaks(turns: int, size: int = 8192) -> dict[str, float]:
    """Measure the FLOP/s of a large product in each precision, and as "copy" the bytes/s of a copy."""
    a = torch.randn(size, size, device=DEVICE)
    b = torch.empty_like(a)
    found = {}
    for precision in PRECISIONS:
        factor = a.bfloat16() if precision == "bf16" else a
        with set_precision(precision):
            took = milliseconds({"product": partial(torch.matmul, factor, factor)}, turns)["product"]
        found[precision] = 2 * size**3 / took * 1e3
    found["copy"] = 2 * a.nbytes / milliseconds({"copy": lambda: b.copy_(a)}, turns)["copy"] * 1e3
    return found
