"""python -m benchmarks.gpu: the CUDA kernels beside PyTorch's on the same GPU, in one run.

Needs an NVIDIA GPU, CuPy, and a PyTorch that was built for CUDA. Times are those of CUDA events, medians over
the turns after warming up; the tasks of a group take turns. Shares are of peaks that the same run has
measured: PyTorch's product of two large matrices in each precision, and its copy of a large array. FLOP/s
are effective: 2 · K² · C · F for each pixel of a convolution's output.

Groups: every convolution of the U-Net in all rungs and directions; the training step (kernel by kernel, and
captured as a CUDA graph) and the prediction of a tile in each precision, beside PyTorch eager (in both
layouts) and compiled, with the memory of each. What a graph holds in a pool of its own is not counted.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

import tinyunet as tu
from benchmarks.layers import Layer, layers
from benchmarks.step import _tile as random_tile
from benchmarks.torch_unet import TorchUNet
from tinyunet import command_line
from tinyunet.backend import PRECISIONS, array_library, to_backend
from tinyunet.cuda_graph import CapturedStep
from tinyunet.errors import BackendError
from tinyunet.ops import conv2d_cuda
from tinyunet.ops.pixels import checked_pixels

PRECISION_OF_RUNG = {"tensor": "tf32", "tensor_bf16": "bf16"}  # of the others float32
WARM_UP = 3
Task = Callable[[], Any]


@dataclass(frozen=True)
class Options:
    """Compare kernels, training step and prediction with PyTorch's on the same GPU."""

    base: int = 64
    """Base width; the paper's is 64."""
    turns: int = 20
    """Timed turns, after three for warming up."""
    rungs: tuple[str, ...] = conv2d_cuda.RUNGS
    """Of the convolutions."""
    compiled: bool = True
    """Whether torch.compile takes part."""
    out: Path = Path("benchmarks/results/gpu.json")
    """Where to write the figures as JSON; the picture of the ladder goes beside it."""


def main(options: Options) -> None:
    """Measure, print and write."""
    if not torch.cuda.is_available():
        raise BackendError(
            "benchmarks.gpu needs a GPU and a PyTorch that was built for CUDA",
            {"torch": torch.__version__},
            "run it on a machine with an NVIDIA GPU",
        )
    tu.use_backend("cuda")
    torch.backends.cudnn.benchmark = True
    results: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "date": str(date.today()),
        "torch": torch.__version__,
        "base": options.base,
        "peaks": peaks(options.turns),
    }
    print(results)
    results["layers"] = [
        measure_layer(layer, options, results["peaks"]) for layer in layers(options.base, 572)
    ]
    results["networks"] = [measure_network(precision, options) for precision in PRECISIONS]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    draw_ladder(results, options.out.with_suffix(".png"))
    print(f"wrote {options.out} and {options.out.with_suffix('.png')}")


def milliseconds(tasks: Mapping[str, Task], events: Callable[[], Any], turns: int) -> dict[str, float]:
    """The median time of each task on the GPU.

    Parameters
    ----------
    events : callable
        Gives a new CUDA event, of the library whose stream the tasks run on.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(WARM_UP + turns):
        for name, task in tasks.items():
            start, end = events(), events()
            start.record()
            task()
            end.record()
            end.synchronize()
            if turn >= WARM_UP:
                times[name].append(elapsed(start, end))
    return {name: statistics.median(taken) for name, taken in times.items()}


def elapsed(start: Any, end: Any) -> float:
    """Milliseconds between two events of PyTorch or of CuPy."""
    if hasattr(start, "elapsed_time"):
        return start.elapsed_time(end)
    return array_library().cuda.get_elapsed_time(start, end)


def torch_event() -> torch.cuda.Event:
    """An event that keeps the time."""
    return torch.cuda.Event(enable_timing=True)


def set_precision(precision: str) -> Any:
    """Let PyTorch compute in it, inside the ``with`` block that is returned."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.autocast("cuda", torch.bfloat16) if precision == "bf16" else nullcontext()


def peaks(turns: int, size: int = 8192) -> dict[str, float]:
    """FLOP/s of a large product in each precision, bytes a second of a large copy (read and written)."""
    a = torch.randn(size, size, device="cuda")
    b = torch.empty_like(a)
    found = {}
    for precision in PRECISIONS:
        with set_precision(precision):
            took = milliseconds({"product": lambda: a @ a}, torch_event, turns)["product"]
        found[precision] = 2 * size**3 / took * 1e3
    found["copy"] = (
        2 * a.nbytes / milliseconds({"copy": lambda: b.copy_(a)}, torch_event, turns)["copy"] * 1e3
    )
    return found


def measure_layer(layer: Layer, options: Options, peaks: Mapping[str, float]) -> dict[str, Any]:
    """Each rung and direction of one convolution."""
    side = layer.size - layer.window + 1
    shapes = {
        "x": (1, layer.size, layer.size, layer.channels),
        "weight": (layer.window, layer.window, layer.channels, layer.filters),
        "grad": (1, side, side, layer.filters),
    }
    rng = np.random.default_rng(0)
    arrays = {name: to_backend(rng.standard_normal(shape, np.float32)) for name, shape in shapes.items()}
    figures = {}
    for rung in rungs_for(layer, options.rungs):
        tasks = tasks_of(rung, layer.window, **arrays)
        took = milliseconds(tasks, array_library().cuda.Event, options.turns)
        figures[rung] = {name: with_rates(t, layer.flop, rung, peaks) for name, t in took.items()}
        print(f"{layer.size:4} {layer.channels:4} → {layer.filters:4} {rung:<12}", figures[rung], flush=True)
    return {**asdict(layer), "flop": layer.flop, "rungs": figures}


def rungs_for(layer: Layer, rungs: tuple[str, ...]) -> list[str]:
    """Those that take the channel counts of a layer."""
    fast = layer.channels % 4 == 0 and layer.filters % 4 == 0
    return [rung for rung in rungs if fast or rung in ("naive", "tiled")]


def tasks_of(rung: str, size: int, x: Any, weight: Any, grad: Any) -> dict[str, Task]:
    """The three directions of a convolution."""
    return {
        "forward": lambda: conv2d_cuda.forward(x, weight, None, 0, True, rung),
        "input gradient": lambda: conv2d_cuda.backward_input(grad, weight, 0, rung),
        "weight gradient": lambda: conv2d_cuda.backward_weight(x, grad, 0, size, rung),
    }


def with_rates(took: float, flop: float, rung: str, peaks: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds, TFLOP/s and the share of the peak in the rung's precision."""
    rate = flop / took * 1e3
    peak = peaks[PRECISION_OF_RUNG.get(rung, "float32")]
    return {"ms": took, "tflops": rate / 1e12, "share": rate / peak}


def measure_network(precision: str, options: Options) -> dict[str, Any]:
    """Step and prediction of ours and of PyTorch's forms in one precision: milliseconds and peak bytes."""
    figures: dict[str, Any] = {"precision": precision}
    pool = array_library().get_default_memory_pool()
    pool.free_all_blocks()
    with tu.use_backend("cuda", precision):
        event = array_library().cuda.Event
        took = milliseconds(our_tasks(options.base), event, options.turns)
    figures["tinyunet"] = {**took, "bytes": pool.total_bytes()}
    pool.free_all_blocks()
    forms = ["eager", "channels_last", *(["compiled"] if options.compiled else [])]
    for form in forms:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        took = milliseconds(torch_tasks(form, precision, options.base), torch_event, options.turns)
        figures[form] = {**took, "bytes": torch.cuda.max_memory_allocated()}
    print(figures, flush=True)
    return figures


def our_tasks(base: int) -> dict[str, Task]:
    """A training step, the same as a CUDA graph, and a prediction of the paper's tile."""
    image, target, weight = random_tile()
    target, weight = checked_pixels("benchmark", target, weight, 2)
    arrays = {"image": image, "target": target, "weight": weight}
    model = tu.UNet(base_channels=base)
    optimiser = tu.SGD(model.parameters(), lr=1e-5)
    on_gpu = {name: to_backend(array) for name, array in arrays.items()}
    rng, captured = np.random.default_rng(0), CapturedStep()

    def step(rng: np.random.Generator, image: Any, target: Any, weight: Any) -> Any:
        model.train().dropout_rng = rng
        loss = model.loss(tu.Tensor(image), target, weight)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return loss.data

    def prediction() -> None:
        model.eval()
        with tu.no_grad():
            model(tu.Tensor(on_gpu["image"]))

    return {
        "step": lambda: step(rng, **on_gpu),
        "captured step": lambda: captured.run(step, rng, **arrays),  # which copies its arrays to the GPU
        "prediction": prediction,
    }


def torch_tasks(form: str, precision: str, base: int) -> dict[str, Task]:
    """The same of PyTorch, in one of its forms."""
    layout = torch.contiguous_format if form == "eager" else torch.channels_last
    image, target, weight = random_tile()
    x = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).cuda().to(memory_format=layout)
    labels, weights = torch.from_numpy(target).cuda(), torch.from_numpy(weight / weight.sum()).cuda()
    network = TorchUNet(base).cuda().to(memory_format=layout)
    model: Any = torch.compile(network) if form == "compiled" else network
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-5, momentum=0.99)

    def step() -> None:
        network.train()
        with set_precision(precision):
            losses = torch.nn.functional.cross_entropy(model(x), labels, reduction="none")
            loss = (losses * weights).sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    def prediction() -> None:
        network.eval()
        with torch.inference_mode(), set_precision(precision):
            model(x)

    return {"step": step, "prediction": prediction}


def draw_ladder(results: Mapping[str, Any], path: Path) -> None:
    """TFLOP/s of each rung, a group of bars a layer, forward."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots()
    rungs = list(conv2d_cuda.RUNGS)
    for place, rung in enumerate(rungs):
        rates = [
            layer["rungs"].get(rung, {}).get("forward", {}).get("tflops", 0) for layer in results["layers"]
        ]
        axes.bar(np.arange(len(rates)) + place / (len(rungs) + 1), rates, 1 / (len(rungs) + 1), label=rung)
    names = [f"{layer['size']}\n{layer['channels']}→{layer['filters']}" for layer in results["layers"]]
    axes.set_xticks(np.arange(len(names)) + 0.4, names, fontsize=7)
    axes.set(title=f"{results['gpu']}, {results['date']}: conv2d forward", ylabel="TFLOP/s", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    command_line.run(lambda: main(tyro.cli(Options, description=__doc__)))
