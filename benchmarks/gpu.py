"""python -m benchmarks.gpu: compares the CUDA kernels with PyTorch's on the same GPU, in one run.

Needs an NVIDIA GPU, CuPy, and a PyTorch built for CUDA. Times are measured by CUDA events: medians over the
turns after warming up. The tasks of a group take turns. Shares are relative to peaks measured in the same
run: PyTorch's product of two large matrices in each precision, and its copy of a large array.

- layers: every convolution and up-convolution of the U-Net, in all rungs and directions, beside cuDNN's in
  each precision (`benchmarks/gpu_layers.py`);
- memory: the ops limited by memory, by the rows of `benchmarks/memory.py`;
- networks: the training step (kernel by kernel, and captured as a CUDA graph) and the prediction of a tile in
  each precision, beside PyTorch eager (in both layouts) and compiled, with the memory that each takes.

The results are written as JSON, beside two plots of the layers: the ladder and the roofline.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import tinyunet as tu
from benchmarks import gpu_clock, gpu_layers, memory
from benchmarks.gpu_clock import Task, milliseconds, peaks, set_precision
from benchmarks.layers import LAYOUTS
from benchmarks.step import random_tile
from benchmarks.torch_unet import TorchUNet
from tinyunet import command_line
from tinyunet.backend import array_library, to_backend
from tinyunet.backend.cuda_graph import CapturedStep
from tinyunet.errors import BackendError
from tinyunet.ops import conv2d_cuda
from tinyunet.ops.targets import checked_pixels

Group = Literal["layers", "memory", "networks"]
GROUPS: tuple[Group, ...] = ("layers", "memory", "networks")


@dataclass(frozen=True)
class Options:
    """Compare kernels, training step and prediction with PyTorch's on the same GPU."""

    base: int = 64
    """Base width; the paper's is 64."""
    tile: int = 572
    """Side of the input tile of layers and networks; the paper's is 572."""
    turns: int = 20
    """Timed turns, after three for warming up."""
    groups: tuple[Group, ...] = GROUPS
    """What to measure."""
    rungs: tuple[str, ...] = (*conv2d_cuda.RUNGS, *conv2d_cuda.WINOGRADS)
    """Rungs of the convolutions."""
    precisions: tuple[Literal["float32", "tf32", "bf16"], ...] = ("float32", "tf32", "bf16")
    """Precisions of the networks."""
    compiled: bool = True
    """Also measure torch.compile."""
    out: Path = Path("benchmarks/results/gpu.json")
    """Where to write the results as JSON; the plots go beside it."""


def main(options: Options) -> None:
    """Measure, print and write."""
    if not torch.cuda.is_available():
        raise BackendError(
            "benchmarks.gpu needs a GPU and a PyTorch built for CUDA",
            {"torch": torch.__version__},
            "run it on a machine with an NVIDIA GPU",
        )
    tu.use_backend("cuda")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = measured(options)
    print(f"wrote {options.out}")
    if "layers" in options.groups:
        for name, draw in (("ladder", gpu_layers.draw_ladder), ("roofline", gpu_layers.draw_roofline)):
            picture = options.out.with_name(f"{options.out.stem}_{name}.png")
            draw(results, picture)
            print(f"wrote {picture}")


def measured(options: Options) -> dict[str, Any]:
    """Measure the groups; write the results after each figure, because the next may fail."""
    torch.backends.cudnn.benchmark = True
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "date": str(date.today()),
        "torch": torch.__version__,
        "base": options.base,
        "tile": options.tile,
        "peaks": peaks(options.turns),
    }
    print(results)
    measure = {"layers": measure_layers, "memory": measure_memory, "networks": measure_networks}
    for group in options.groups:
        results[group] = []
        for figures in measure[group](options, results["peaks"]):
            results[group].append(figures)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    return results


def measure_layers(options: Options, peaks: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Measure each layer in all rungs and directions."""
    for case in gpu_layers.cases(options.base, options.tile, options.rungs):
        yield gpu_layers.measured(case, options.turns, peaks)


def measure_memory(options: Options, peaks: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Measure each op limited by memory: ours, and PyTorch's in the faster layout."""
    for row in memory.rows(options.base, options.tile, gpu_clock.DEVICE):
        variants = {"tinyunet": row.ours, **{str(layout): row.torch(layout) for layout in LAYOUTS}}
        took = milliseconds(variants, options.turns)
        ours, theirs = took.pop("tinyunet"), min(took.values())
        share = row.bytes / ours * 1e3 / peaks["copy"]
        print(f"{row.name:<30}{ours:9.3f} ms {share:4.0%} of a copy, PyTorch {theirs:9.3f} ms", flush=True)
        yield {"op": row.name, "bytes": row.bytes, "ms": ours, "share_of_copy": share, "PyTorch ms": theirs}


def measure_networks(options: Options, peaks: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Measure training step and prediction in each precision."""
    for precision in options.precisions:
        yield measure_network(precision, options)


def measure_network(precision: str, options: Options) -> dict[str, Any]:
    """Measure milliseconds and peak bytes in one precision: ours, with graph and without, and PyTorch's."""
    figures: dict[str, Any] = {"precision": precision}
    with tu.use_backend("cuda", precision):
        for form, captured in (("tinyunet", None), ("tinyunet, CUDA graph", CapturedStep())):
            pool = array_library().get_default_memory_pool()
            pool.free_all_blocks()
            took = milliseconds(our_tasks(options.base, options.tile, captured), options.turns)
            figures[form] = {**took, "bytes": pool.total_bytes() + (captured.bytes if captured else 0)}
        pool.free_all_blocks()
    for form in ["eager", "channels_last", *(["compiled"] if options.compiled else [])]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        took = milliseconds(torch_tasks(form, precision, options.base, options.tile), options.turns)
        figures[form] = {**took, "bytes": torch.cuda.max_memory_allocated()}
    print(figures, flush=True)
    return figures


def our_tasks(base: int, tile: int, captured: CapturedStep | None) -> dict[str, Task]:
    """Make a training step on one tile, and a prediction where the step is not captured as a graph."""
    image, target, weight = random_tile(tile)
    target, weight = checked_pixels("benchmark", target, weight, 2)
    arrays = {"image": image, "target": target, "weight": weight}
    model = tu.UNet(base_channels=base)
    optimiser = tu.SGD(model.parameters(), lr=1e-5)
    on_gpu = {name: to_backend(array) for name, array in arrays.items()}
    rng = np.random.default_rng(0)

    def step(rng: np.random.Generator, image: Any, target: Any, weight: Any) -> Any:
        model.train()
        model.dropout_rng = rng
        loss = model.loss(tu.Tensor(image), target, weight)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return loss.data

    def prediction() -> None:
        model.eval()
        with tu.no_grad():
            model(tu.Tensor(on_gpu["image"]))

    if captured:
        return {"step": lambda: captured.run(step, rng, **on_gpu)}
    return {"step": lambda: step(rng, **on_gpu), "prediction": prediction}


def torch_tasks(form: str, precision: str, base: int, tile: int) -> dict[str, Task]:
    """Make the same tasks for PyTorch, in one of its forms."""
    layout = torch.contiguous_format if form == "eager" else torch.channels_last
    image, target, weight = random_tile(tile)
    device = gpu_clock.DEVICE
    x = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).to(device, memory_format=layout)
    labels, weights = (torch.from_numpy(a).to(device) for a in (target, weight / weight.sum()))
    network: Any = TorchUNet(base).to(device)
    network = network.to(memory_format=layout)
    model = torch.compile(network) if form == "compiled" else network
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


if __name__ == "__main__":
    import tyro  # here, because benchmarks.first_day needs the rest where tyro is missing

    command_line.run(lambda: main(tyro.cli(Options, description=__doc__)))
