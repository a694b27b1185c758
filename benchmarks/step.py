"""python -m benchmarks.step: time and memory of training and prediction, beside PyTorch's.

Each engine runs in its own process and so has its own peak memory. The processes take turns, so that other
load on the machine falls on all of them. A turn is two steps or forward passes, of which the second counts:
while others had their turns, the engine's threads slept and its memory left the caches, which a training does
not meet. The median over the turns counts. The least, which other load has disturbed least, stands below it.
PyTorch is represented by the best of its forms in float32: default layout, channels last, channels last under
torch.compile; for prediction also channels last with the whole image at once. Beside these stand what a user
of a processor with bf16 instructions would pick, PyTorch's autocast to bf16 with channels last, and for
prediction the same network in onnxruntime.

- A step is the forward pass, weighted loss, backward pass and SGD update of one 572-pixel tile (batch 1,
  float32). Ours is also timed with one thread, to show what the second one gains, and its page faults are
  counted, because each means freshly allocated memory.
- A forward pass predicts the same tile without recording a graph.
- A prediction covers an image of 2048×2048 pixels in tiles: ours by `predict_tiled`, mirrored halo and
  softmax included; PyTorch's by the network alone, on as many tiles of the same size, after one tile to warm
  up.
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
from typing import Any, Literal

import numpy as np

from tinyunet.reporting.environment import processor

TORCH_FORMS = ("torch", "torch channels_last", "torch compiled")
BF16, ONNX = "bf16 autocast", "onnxruntime"
TaskName = Literal["step", "forward", "prediction"]
TASKS: tuple[TaskName, ...] = ("step", "forward", "prediction")
INPUT, IMAGE, HALO = 572, 2048, 92  # pixels


@dataclass(frozen=True)
class Options:
    """Compare training step, forward pass and peak memory with PyTorch's."""

    base: tuple[int, ...] = (16, 32, 64)
    """Base widths; the paper's is 64."""
    turns: int = 5
    """Timed turns of each engine."""
    threads: int = 2
    """Threads per engine."""
    tasks: tuple[TaskName, ...] = TASKS
    """The tasks to time."""
    compiled: bool = True
    """Include torch.compile, which takes a minute or two per width."""
    bf16: bool = True
    """Include PyTorch's autocast to bf16, minutes per step where the processor has no instructions for it."""
    patience: float = 300.0
    """Seconds after which another engine that has not finished a turn is left out."""
    out: Path | None = None
    """Where to write the figures as JSON."""


Task = Callable[[], Any]


def tinyunet_tasks(base: int, threads: int) -> dict[str, Task]:
    """One training step and one forward pass of tinyunet."""
    import numba

    import tinyunet as tu
    from tinyunet.ops.targets import checked_pixels

    numba.set_num_threads(threads)
    image, target, weight = random_tile()
    model = tu.UNet(base_channels=base)
    optimiser = tu.SGD(model.parameters(), lr=1e-5)
    x = tu.Tensor(image)

    def step() -> None:
        model.train()
        optimiser.zero_grad()
        model.loss(x, *checked_pixels("benchmark", target, weight, 2)).backward()
        optimiser.step()
        optimiser.zero_grad()

    def forward() -> None:
        model.eval()
        with tu.no_grad():
            model(x)

    def predict() -> None:
        tu.predict_tiled(model, np.resize(image[0], (IMAGE, IMAGE, 1)))

    return {"step": step, "forward": forward, "prediction": predict}


def torch_tasks(form: str, base: int, threads: int) -> dict[str, Task]:
    """Return the same tasks for PyTorch, in one of its forms."""
    import torch

    from benchmarks.torch_unet import TorchUNet
    from tinyunet.models.geometry import unet
    from tinyunet.prediction.tiling import TILE, plan

    torch.set_num_threads(threads)
    layout = torch.contiguous_format if form == "torch" else torch.channels_last
    image, target, weight = random_tile()
    x = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).to(memory_format=layout)
    labels, weights = torch.from_numpy(target), torch.from_numpy(weight)
    network: Any = TorchUNet(base)
    network = network.to(memory_format=layout)
    compiled = torch.compile(network) if form == "torch compiled" else network

    def model(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=form == BF16):
            return compiled(x).float()

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

    def predict() -> None:
        rows = plan(unet(4), IMAGE, IMAGE if form == "torch whole" else TILE)
        image = torch.zeros((1, 1, rows.input, rows.input))
        with torch.inference_mode():
            for _ in range(len(rows.parts) ** 2):
                torch.softmax(model(image.to(memory_format=layout)), 1)

    return {"step": step, "forward": forward, "prediction": predict}


def onnx_tasks(base: int, threads: int) -> dict[str, Task]:
    """Return the prediction by onnxruntime, with the tiles of PyTorch's."""
    import onnxruntime

    import tinyunet as tu
    from tinyunet.exchange.onnx import to_onnx
    from tinyunet.models.geometry import unet
    from tinyunet.prediction.tiling import TILE, plan

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    content = to_onnx(tu.UNet(base_channels=base), {})
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def forward() -> None:
        session.run(None, {name: np.zeros((1, 1, INPUT, INPUT), np.float32)})

    def predict() -> None:
        rows = plan(unet(4), IMAGE, TILE)
        tile = np.zeros((1, 1, rows.input, rows.input), np.float32)
        for _ in range(len(rows.parts) ** 2):
            session.run(None, {name: tile})

    return {"forward": forward, "prediction": predict}


def random_tile(side: int = INPUT) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An input tile, and classes and weights for the pixels of the U-Net's output."""
    inner = side - 2 * HALO
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((1, side, side, 1), dtype=np.float32),
        rng.integers(0, 2, (1, inner, inner)),
        rng.uniform(0.5, 5, (1, inner, inner)).astype(np.float32),
    )


def _serve(pipe: Connection, engine: str, base: int, threads: int) -> None:
    """Run each task that arrives; answer with seconds and page faults, at the end with the peak memory."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if engine.startswith("tinyunet"):
        tasks = tinyunet_tasks(base, threads)
    elif engine == ONNX:
        tasks = onnx_tasks(base, threads)
    else:
        tasks = torch_tasks(engine, base, threads)
    while task := pipe.recv():
        if task != "prediction":  # of many passes, so that the first hardly counts
            tasks[task]()
        faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        tasks[task]()
        seconds = time.perf_counter() - start
        pipe.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _engines(task: str, options: Options) -> dict[str, int]:
    """The engines that take part in a task, each with its number of threads."""
    bf16 = [BF16] if options.bf16 else []
    names = ["tinyunet", *TORCH_FORMS[: 3 if options.compiled else 2], *bf16]
    if task == "prediction":
        names = ["tinyunet", *TORCH_FORMS[:2], "torch whole", *bf16, ONNX]
    engines = dict.fromkeys(names, options.threads)
    return {**engines, "tinyunet, 1 thread": 1} if task == "step" and options.threads > 1 else engines


def measure(task: str, base: int, options: Options) -> dict[str, dict[str, float]]:
    """Median seconds, page faults and peak bytes of each engine."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, {}
    for engine, threads in _engines(task, options).items():
        pipes[engine], end = context.Pipe()
        processes[engine] = context.Process(target=_serve, args=(end, engine, base, threads))
        processes[engine].start()
    taken: dict[str, list[tuple[float, int]]] = {engine: [] for engine in pipes}
    warming_up = ["forward"] if task == "prediction" else [task] * 2
    turns = [*warming_up, *[task] * options.turns]
    for turn in turns:
        for engine in list(pipes):
            pipes[engine].send(turn)
            # Ours may compile its kernels first.
            if pipes[engine].poll(None if engine.startswith("tinyunet") else options.patience):
                taken[engine].append(pipes[engine].recv())
            else:
                print(f"{engine}: no answer within {options.patience:.0f} s, left out", flush=True)
                processes.pop(engine).kill()
                del pipes[engine]
            time.sleep(0.05)  # until the idle threads of this engine have stopped spinning
    figures = {}
    for engine, pipe in pipes.items():
        pipe.send("")
        counted = taken[engine][-options.turns :]
        seconds, faults = (statistics.median(values) for values in zip(*counted, strict=True))
        figures[engine] = {
            "seconds": seconds,
            "least_seconds": min(seconds for seconds, _ in counted),
            "page_faults": faults,
            "peak_bytes": pipe.recv(),
        }
        processes[engine].join()
    return figures


def main() -> None:
    """The command."""
    import tyro  # here, because benchmarks.first_day needs the rest where tyro is missing

    options = tyro.cli(Options, prog="python -m benchmarks.step", description=__doc__)
    print(f"{processor()}, {options.threads} threads, {date.today()}")
    print(f"{'base':>4} {'':10} {'tinyunet':>18} {'best of PyTorch':>26} {'ratio':>7}")
    results = []
    for base in options.base:
        for task in options.tasks:
            figures = measure(task, base, options)
            results.append({"base": base, "task": task, "engines": figures})
            _print_row(base, task, figures, "seconds", "s", 1.0)
            _print_row(base, "  least", figures, "least_seconds", "s", 1.0)
            if task == "step":
                _print_row(base, "memory", figures, "peak_bytes", "GB", 1e9)
                _print_row(base, "new pages", figures, "page_faults", "", 1.0)
                _print_threads(figures, options.threads, "seconds")
                _print_threads(figures, options.threads, "least_seconds")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"processor": processor(), "threads": options.threads, "date": str(date.today())}
        options.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
        print(f"wrote {options.out}")


def _print_threads(figures: dict[str, dict[str, float]], threads: int, key: str) -> None:
    if "tinyunet, 1 thread" in figures:
        one, more = (figures[e][key] for e in ("tinyunet, 1 thread", "tinyunet"))
        name = "least, one thread" if key == "least_seconds" else "one thread"
        print(f"{'':4} {name:17}{one:>8.3f} s    {threads} threads: {one / more:.2f}× as fast", flush=True)


def _print_row(
    base: int, name: str, figures: dict[str, dict[str, float]], key: str, unit: str, scale: float
) -> None:
    ours = figures["tinyunet"][key]
    in_float32 = [engine for engine in figures if engine.startswith("torch")]
    best = min(in_float32, key=lambda engine: figures[engine][key])
    for form in (best, *(engine for engine in (BF16, ONNX) if engine in figures)):
        theirs = figures[form][key]
        ratio = f"{theirs / ours:>6.2f}×" if ours else ""  # a step may touch no new page
        print(
            f"{base:>4} {name:10} {ours / scale:>15.3f} {unit:2} {theirs / scale:>9.3f} {unit:2}"
            f" {form.removeprefix('torch ').replace('torch', 'default'):>13} {ratio}".rstrip(),
            flush=True,
        )


if __name__ == "__main__":
    main()
