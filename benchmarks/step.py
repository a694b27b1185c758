"""python -m benchmarks.step: time and memory of training and prediction, beside PyTorch's.

Each engine runs in a process of its own, so that each has a peak memory of its own. The processes take turns,
one step each, so that what else the machine does falls on all of them; the median over the turns counts,
and PyTorch is represented by the best of its forms (default layout, channels last, torch.compile of the
latter).

A step is forward, weighted loss, backward and SGD update of one 572-pixel tile (batch 1, float32); a forward
is the prediction of the same tile without a graph.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from tinyunet.environment import processor

TORCH_FORMS = ("torch", "torch channels_last", "torch compiled")


@dataclass(frozen=True)
class Options:
    """Compare training step, forward pass and peak memory with PyTorch's."""

    base: tuple[int, ...] = (16, 32, 64)
    """Base widths; the paper's is 64."""
    turns: int = 5
    """Timed turns of each engine, after two for warming up."""
    threads: int = 2
    """Of each engine."""
    compiled: bool = True
    """Whether torch.compile takes part; compiling takes a minute or two for each width."""
    out: Path | None = None
    """Where to write the figures as JSON."""


Task = Callable[[], Any]


def tinyunet_tasks(base: int, threads: int) -> dict[str, Task]:
    """One training step and one forward pass of tinyunet."""
    import numba

    import tinyunet as tu

    numba.set_num_threads(threads)
    image, target, weight = _tile()
    model = tu.UNet(base_channels=base)
    optimiser = tu.SGD(model.parameters(), lr=1e-5)
    x = tu.Tensor(image)

    def step() -> None:
        model.train()
        optimiser.zero_grad()
        tu.softmax_cross_entropy(model(x), target, weight).backward()
        optimiser.step()
        optimiser.zero_grad()

    def forward() -> None:
        model.eval()
        with tu.no_grad():
            model(x)

    return {"step": step, "forward": forward}


def torch_tasks(form: str, base: int, threads: int) -> dict[str, Task]:
    """The same of PyTorch, in one of its forms."""
    import torch

    from benchmarks.torch_unet import TorchUNet

    torch.set_num_threads(threads)
    layout = torch.contiguous_format if form == "torch" else torch.channels_last
    image, target, weight = _tile()
    x = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).to(memory_format=layout)
    labels, weights = torch.from_numpy(target), torch.from_numpy(weight)
    network = TorchUNet(base).to(memory_format=layout)
    model: Any = torch.compile(network) if form == "torch compiled" else network
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-5, momentum=0.99)

    def step() -> None:
        network.train()
        optimiser.zero_grad()
        losses = torch.nn.functional.cross_entropy(model(x), labels, reduction="none")
        ((losses * weights).sum() / weights.sum()).backward()
        optimiser.step()
        optimiser.zero_grad()

    def forward() -> None:
        network.eval()
        with torch.inference_mode():
            model(x)

    return {"step": step, "forward": forward}


def _tile() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((1, 572, 572, 1), dtype=np.float32),
        rng.integers(0, 2, (1, 388, 388)),
        rng.uniform(0.5, 5, (1, 388, 388)).astype(np.float32),
    )


def _serve(pipe: Connection, engine: str, task: str, base: int, threads: int) -> None:
    """A process: does the task when asked, answers with the seconds; in the end with its peak memory."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    tasks = tinyunet_tasks(base, threads) if engine == "tinyunet" else torch_tasks(engine, base, threads)
    while pipe.recv():
        start = time.perf_counter()
        tasks[task]()
        pipe.send(time.perf_counter() - start)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measure(task: str, base: int, options: Options) -> dict[str, dict[str, float]]:
    """Median seconds and peak bytes of each engine."""
    context = multiprocessing.get_context("spawn")
    engines = ("tinyunet", *TORCH_FORMS[: 3 if options.compiled else 2])
    pipes, processes = {}, []
    for engine in engines:
        pipes[engine], end = context.Pipe()
        processes.append(context.Process(target=_serve, args=(end, engine, task, base, options.threads)))
        processes[-1].start()
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    for turn in range(2 + options.turns):
        for engine, pipe in pipes.items():
            pipe.send(True)
            taken = pipe.recv()
            if turn >= 2:
                seconds[engine].append(taken)
            time.sleep(0.05)  # until the idle threads of this engine have stopped spinning
    for pipe in pipes.values():
        pipe.send(False)
    peaks = {engine: pipe.recv() for engine, pipe in pipes.items()}
    for process in processes:
        process.join()
    return {e: {"seconds": statistics.median(seconds[e]), "peak_bytes": peaks[e]} for e in engines}


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog="python -m benchmarks.step", description=__doc__)
    print(f"{processor()}, {options.threads} threads, {date.today()}")
    print(f"{'base':>4} {'':8} {'tinyunet':>18} {'best of PyTorch':>26} {'ratio':>7}")
    results = []
    for base in options.base:
        for task in ("step", "forward"):
            figures = measure(task, base, options)
            results.append({"base": base, "task": task, "engines": figures})
            _print_row(base, task, figures, "seconds", "s", 1.0)
            if task == "step":
                _print_row(base, "memory", figures, "peak_bytes", "GB", 1e9)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"processor": processor(), "threads": options.threads, "date": str(date.today())}
        options.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
        print(f"wrote {options.out}")


def _print_row(
    base: int, name: str, figures: dict[str, dict[str, float]], key: str, unit: str, scale: float
) -> None:
    ours = figures["tinyunet"][key]
    form, theirs = min(((e, f[key]) for e, f in figures.items() if e != "tinyunet"), key=lambda pair: pair[1])
    print(
        f"{base:>4} {name:8} {ours / scale:>15.3f} {unit:2} {theirs / scale:>9.3f} {unit:2}"
        f" {form.removeprefix('torch') or 'default':>13} {theirs / ours:>6.2f}×",
        flush=True,
    )


if __name__ == "__main__":
    main()
