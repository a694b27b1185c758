"""python -m benchmarks.first_day: what the first minutes on a GPU should find out.

`benchmarks/first_day.sh` runs the parts below one by one, next to the tests marked "gpu" and to
`benchmarks.gpu`, each with a time limit, and packs what they wrote into one archive. Checks come first and
times after.

- correct: every convolution of the U-Net at full size, on all rungs and in all directions, against PyTorch's
  in float64 on the same GPU. Memory starts as NaN, and each result is computed twice: the bits are the same.
- profile: the time of a training step in each precision, as a graph and without, and of each kernel in it.
- networks, layers: `benchmarks.gpu`, beside PyTorch with cuDNN, with fewer turns.
- train: the time of a step of the trainer itself, and how long it waits for its sample.

`--read ARCHIVE` writes what an archive holds into the pages, or what a rehearsal brought into copies of
them: see `benchmarks/gpu_pages.py`.

`--tiny` shrinks all sizes, for a rehearsal on the backend "cuda-emulated" (TINYUNET_BACKEND). The parts need
nothing but the repository, NumPy, Numba, CuPy and PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tinyunet as tu
from benchmarks import gpu
from benchmarks.layers import Layer, layers
from tinyunet import command_line
from tinyunet.backend import PRECISIONS, array_library, to_backend
from tinyunet.backend.cuda_graph import CapturedStep
from tinyunet.ops import conv2d_cuda

Figures = dict[str, Any]

# The largest relative error (of the Euclidean norms) against float64. float32: 2^-24 a rounding, which grows
# with the square root of up to 330,000 products, and Winograd's transforms, which cost a digit. The other
# precisions round each factor to 11 or 8 bits: a relative error of 2^-12 or 2^-9 at most for each factor,
# in products that differ in sign, so that the errors do not add up.
LARGEST_ERROR = {"float32": 2e-5, "tf32": 2e-3, "bf16": 2e-2}
# Of the other rungs: float32.
PRECISION_OF = {"tensor": "tf32", "tensor_bf16": "bf16", "tensor_copies": "bf16", "wgmma": "bf16"}


class Day:
    """The backend, how large everything is, and the folder for the figures."""

    def __init__(self, tiny: bool, out: Path):
        self.tiny, self.out = tiny, out
        self.backend = os.environ.get("TINYUNET_BACKEND", "cuda")
        self.on_gpu = self.backend == "cuda"
        self.device = "cuda" if self.on_gpu else "cpu"
        self.base, self.tile = (4, 188) if tiny else (64, 572)

    def wait(self) -> None:
        """Wait until the GPU has finished."""
        if self.on_gpu:
            array_library().cuda.get_current_stream().synchronize()

    def milliseconds(self, task: Callable[[], Any], turns: int) -> float:
        """Return the median time of a task, from Python's call until the GPU has finished."""
        times = []
        for _ in range(turns):
            self.wait()
            start = time.perf_counter()
            task()
            self.wait()
            times.append(time.perf_counter() - start)
        return 1e3 * float(np.median(times))


def correct(day: Day) -> Figures:
    """Compare every layer with PyTorch in float64."""
    if day.on_gpu:
        _begin_as_nan()
    found = [figure for layer in _layers(day) for figure in _layer_errors(day, layer)]
    worst: dict[str, float] = defaultdict(float)
    for figure in found:
        key = f"{figure['rung']} {figure['direction']}"
        worst[key] = max(worst[key], figure["error"])
        if figure["wrong"]:
            print("WRONG", figure, flush=True)
    for key, error in sorted(worst.items()):
        print(f"{key:30s} largest relative error {error:.1e}")
    print(f"{len(found)} results, {sum(figure['wrong'] for figure in found)} wrong")
    return {"results": found}


def _layers(day: Day) -> list[Layer]:
    every = layers(day.base, day.tile)
    return sorted(every, key=lambda layer: layer.size)[:3] if day.tiny else every


def _begin_as_nan() -> None:
    """From now on let the memory of every new array begin as NaN: a result that nothing wrote is noticed."""
    cupy = array_library()
    pool = cupy.get_default_memory_pool()

    def allocate(size: int) -> Any:
        memory = pool.malloc(size)
        if size:
            memory.memset_async(0xFF, size)
        return memory

    cupy.cuda.set_allocator(allocate)


def _layer_errors(day: Day, layer: Layer) -> Iterator[Figures]:
    """Yield the error of each rung and direction of a layer."""
    arrays = _random_arrays(day, layer)
    exact = _exact_results(*arrays)
    x, weight, bias, grad = (to_backend(array.cpu().numpy()) for array in arrays)
    for rung in _rungs(layer):
        tasks = {
            "forward": lambda rung=rung: conv2d_cuda.forward(x, weight, bias, 0, False, rung),
            "backward_input": lambda rung=rung: conv2d_cuda.backward_input(grad, weight, 0, rung),
            "backward_weight": lambda rung=rung: conv2d_cuda.backward_weight(x, grad, 0, layer.window, rung),
        }
        for direction, task in tasks.items():
            first, again = task(), task()
            difference = exact[direction] - first
            error = float(np.sqrt((difference**2).sum() / (exact[direction] ** 2).sum()))
            same_bits = bool((first.view(np.uint32) == again.view(np.uint32)).all())
            allowed = LARGEST_ERROR[PRECISION_OF.get(rung, "float32")]
            yield {
                "layer": f"{layer.size}: {layer.channels}→{layer.filters}",
                "rung": rung,
                "direction": direction,
                "error": error,
                "same_bits": same_bits,
                "wrong": not (error < allowed and same_bits),  # NaN is wrong
            }


def _random_arrays(day: Day, layer: Layer) -> list[torch.Tensor]:
    """Draw x, weight, bias and the output's gradient."""
    generator = torch.Generator(device=day.device).manual_seed(layer.size * layer.channels)
    size, channels, filters, window = layer.size, layer.channels, layer.filters, layer.window
    side = size - window + 1
    shapes = [(1, size, size, channels), (window, window, channels, filters), (filters,)]
    shapes.append((1, side, side, filters))
    return [torch.randn(shape, generator=generator, device=day.device) for shape in shapes]


def _exact_results(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, grad: torch.Tensor
) -> dict[str, Any]:
    """Compute the three directions in float64, in our axes, where the backend computes."""
    x, weight, grad = x.permute(0, 3, 1, 2), weight.permute(3, 2, 0, 1), grad.permute(0, 3, 1, 2)
    x, weight, bias, grad = (array.double().contiguous() for array in (x, weight, bias, grad))
    y = torch.nn.functional.conv2d(x, weight, bias)
    no, yes = [0, 0], [1, 1]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, yes, no, yes, False, no, 1, (True, True, False)
    )
    found = {
        "forward": y.permute(0, 2, 3, 1),
        "backward_input": grad_x.permute(0, 2, 3, 1),
        "backward_weight": grad_weight.permute(2, 3, 1, 0),
    }
    return {name: to_backend(array.contiguous().cpu().numpy()) for name, array in found.items()}


def _rungs(layer: Layer) -> list[str]:
    """List the rungs that take a layer."""
    rungs = [*conv2d_cuda.RUNGS, *(conv2d_cuda.WINOGRADS if layer.window == 3 else ())]
    return [rung for rung in rungs if conv2d_cuda.takes(rung, layer.channels, layer.filters)]


def profile(day: Day) -> Figures:
    """Time a training step in each precision, and its kernels."""
    report = {}
    for precision in PRECISIONS:
        with tu.use_backend(day.backend, precision):
            report[precision] = _profile_step(day)
        figures = report[precision]
        print(
            f"{precision}: graph {figures['graph_ms']:.2f} ms, without {figures['eager_ms']:.2f} ms, "
            f"Python alone {figures['python_ms']:.2f} ms"
        )
        longest = sorted(figures["kernels_us"].items(), key=lambda item: -item[1][1])
        for name, (count, microseconds) in longest[:16]:
            print(f"   {name[:48]:48s} ×{count:5.0f} {microseconds:9.1f} µs", flush=True)
    return report


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Make a warning an error: a step that could not be captured warns, and is slower."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def _profile_step(day: Day) -> Figures:
    turns = 1 if day.tiny else 20
    captured = CapturedStep()
    graph = gpu.our_tasks(day.base, day.tile, captured)["step"]
    with _no_warnings():
        for _ in range(4):
            graph()
    figures: Figures = {"graph_ms": day.milliseconds(graph, turns)}
    del captured, graph
    eager = gpu.our_tasks(day.base, day.tile, None)["step"]
    figures["eager_ms"] = day.milliseconds(eager, min(turns, 3))
    start = time.perf_counter()
    eager()
    figures["python_ms"] = 1e3 * (time.perf_counter() - start)
    day.wait()
    figures["kernels_us"] = _kernel_times(day, eager) if day.on_gpu else {}
    return figures


def _kernel_times(day: Day, step: Callable[[], Any]) -> dict[str, tuple[float, float]]:
    """Return for each kernel its launches in a step and their time in µs, by CUPTI through PyTorch."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    repeats = 3
    with profiler(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        for _ in range(repeats):
            step()
        day.wait()
    events = [event for event in profiled.key_averages() if event.self_device_time_total]
    return {e.key: (e.count / repeats, e.self_device_time_total / repeats) for e in events}


def networks(day: Day) -> Figures:
    """Compare training step, prediction and the ops limited by memory with PyTorch's."""
    return _beside_pytorch(
        day,
        gpu.Options(groups=("networks", "memory"), turns=10, compiled=False, out=day.out / "networks.json"),
    )


def layers_(day: Day) -> Figures:
    """Compare each layer with cuDNN's."""
    names = ("few_channels", "blocked", "tensor", "tensor_bf16", "tensor_copies", "wgmma")
    rungs = (*names, *conv2d_cuda.WINOGRADS)
    return _beside_pytorch(
        day,
        gpu.Options(groups=("layers",), rungs=rungs, turns=5, compiled=False, out=day.out / "layers.json"),
    )


def _beside_pytorch(day: Day, options: gpu.Options) -> Figures:
    if not day.on_gpu:
        print("skipped: PyTorch's kernels need a GPU")
        return {}
    return gpu.measured(options)


def train(day: Day) -> Figures:
    """Time the trainer's own steps, samples included."""
    from tinyunet.data import split, synthetic_cells
    from tinyunet.training.config import TrainConfig
    from tinyunet.training.events import Stepped
    from tinyunet.training.trainer import Trainer

    config = TrainConfig(
        steps=6 if day.tiny else 80,
        base_channels=4 if day.tiny else 64,
        depth=1 if day.tiny else 4,
        tile=20 if day.tiny else 388,
        holdout="1",
        validate_every=10**6,
        lr=1e-4,
    )
    images = synthetic_cells(n=3, size=80 if day.tiny else 700, seed=0)
    report = {}
    for precision in ("float32", "bf16"):
        with tu.use_backend(day.backend, precision), _no_warnings():
            trainer = Trainer(config, *split(images, config.holdout))
            steps = [event for event in trainer.run() if isinstance(event, Stepped)]
        late = steps[len(steps) // 2 :]
        figures = {
            "ms_per_step": 1e3 * float(np.median([step.seconds for step in late])),
            "ms_waited": 1e3 * float(np.median([step.waited for step in late])),
            "losses": [step.loss for step in steps],
        }
        report[precision] = figures
        print(
            f"{precision}: {figures['ms_per_step']:.2f} ms per step, {figures['ms_waited']:.2f} of them for "
            f"the sample; loss {steps[0].loss:.4f} to {steps[-1].loss:.4f}",
            flush=True,
        )
    return report


PARTS = {
    "correct": correct,
    "profile": profile,
    "networks": networks,
    "layers": layers_,
    "train": train,
}


def main() -> None:
    """Run one part and write its figures, or read archives."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.first_day",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=PARTS, nargs="?")
    parser.add_argument(
        "--read", type=Path, nargs="+", metavar="ARCHIVE", help="fill the pages from archives"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a rehearsal")
    parser.add_argument("--out", type=Path, default=Path("first_day"), help="folder for the figures")
    options = parser.parse_args()
    if (options.part is None) == (options.read is None):
        parser.error("give a part, or --read and archives")
    command_line.run(lambda: read_archives(options.read) if options.read else run(options))


def read_archives(archives: list[Path]) -> None:
    """Fill the pages from archives."""
    from benchmarks import gpu_pages  # here, because the parts need less

    for path in gpu_pages.read(archives):
        print(f"wrote {path}")


def run(options: argparse.Namespace) -> None:
    """Run one part, and write its figures."""
    day = Day(options.tiny, options.out)
    tu.use_backend(day.backend)
    options.out.mkdir(parents=True, exist_ok=True)
    figures = PARTS[options.part](day)
    name = torch.cuda.get_device_name() if day.on_gpu else day.backend
    report = {"device": name, "tiny": day.tiny, "date": time.strftime("%Y-%m-%d"), **figures}
    (options.out / f"{options.part}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
