"""Time and memory of a prediction in windows against the size of the image and the number of workers.

    python -m benchmarks.scale --sides 2000 4000 8000 --memory 1GB
    python -m benchmarks.scale --workers 1 2 4 --sides 4000 --turns 3

Each image is predicted in a process of its own, by an untrained network of base width 4 and depth 2, whose
objects are of all sizes. Ratios are to the first side: time per pixel should stay, and so should memory. With
--workers, one image is predicted by each number of workers in turn, by one thread each; the ratio is that of
the medians to the first number. The time to start the workers is not counted, nor is their memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ONE = """
import json, re, sys, time
from pathlib import Path
import tinyunet as tu
from tinyunet.backend import active_backend
from tinyunet.data.windows import open_windows
from tinyunet.prediction.budget import memory_bytes
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.slides import SlideOptions, SlideWriter

def load():
    return [tu.UNet(base_channels=4, depth=2, seed=1).eval()]

def predict(source, out, memory, share):
    started = time.perf_counter()
    writer = SlideWriter(load(), open_windows(source), out, SlideOptions(), None, memory, share)
    writer.predict()
    predicted = time.perf_counter()
    objects = writer.number(ObjectRule(10, 1.0))
    writer.finish()
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    print(json.dumps([predicted - started, time.perf_counter() - predicted, peak, objects]))

if __name__ == "__main__":
    source, out, memory = Path(sys.argv[1]), Path(sys.argv[2]), memory_bytes(sys.argv[3])
    workers = int(sys.argv[4])
    if workers:
        from tinyunet.prediction.cluster import connected
        from tinyunet.prediction.workers import Job

        with connected(workers, None) as cluster:
            job = Job(load, source, out, SlideOptions(), None, active_backend(), "float32", memory)
            job = cluster.check(job)
            predict(source, out, memory, cluster.share(job))
    else:
        predict(source, out, memory, None)
"""


class Measured(NamedTuple):
    """Seconds for the network and for the objects, the peak in bytes, and how many objects were found."""

    network: float
    numbering: float
    peak: int
    objects: int

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.network + self.numbering


def make_image(path: Path, side: int) -> None:
    """Write smooth noise of 16 bits, block by block."""
    import numpy as np
    import zarr
    from scipy import ndimage

    array = zarr.create_array(
        path, shape=(side, side), chunks=(256, 256), shards=(2048, 2048), dtype="uint16"
    )
    for top in range(0, side, 2048):
        for left in range(0, side, 2048):
            size = min(2048, side - top), min(2048, side - left)
            noise = np.random.default_rng([top, left]).standard_normal(size, np.float32)
            grey = 1000 + 3000 * ndimage.gaussian_filter(noise, 5)
            array[top : top + size[0], left : left + size[1]] = grey.clip(0, 65535).astype(np.uint16)


def measure(source: Path, memory: str, workers: int = 0) -> Measured:
    """Predict an image, in the process itself or by several workers of one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "one.py"  # a file, which workers can import
        program.write_text(ONE)
        command = [sys.executable, str(program), str(source), str(Path(folder) / "out.zarr"), memory]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *filter(None, sys.path)])}
        if workers:
            environment["NUMBA_NUM_THREADS"] = str(workers)
        done = subprocess.run(
            [*command, str(workers)], check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
    return Measured(*json.loads(done.stdout))


def by_side(sides: list[int], memory: str) -> None:
    """Print time and memory for each side."""
    print("side    pixels   network  objects   per pixel   peak      objects found")
    first: tuple[float, int] | None = None
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            make_image(Path(folder) / "slide.zarr", side)
            measured = measure(Path(folder) / "slide.zarr", memory)
        per_pixel, peak = measured.seconds / side**2, measured.peak
        first = first or (per_pixel, peak)
        print(
            f"{side:6d}  {side**2 / 1e6:6.0f} M {measured.network:7.1f} s {measured.numbering:7.1f} s "
            f"  {per_pixel / first[0]:6.2f}×   {peak / 1e9:5.2f} GB ({peak / first[1]:.2f}×)"
            f"  {measured.objects:,}",
            flush=True,
        )


def by_workers(numbers: list[int], side: int, memory: str, turns: int) -> None:
    """Print the time for each number of workers, in alternating turns."""
    with tempfile.TemporaryDirectory() as folder:
        make_image(Path(folder) / "slide.zarr", side)
        found = [
            {workers: measure(Path(folder) / "slide.zarr", memory, workers) for workers in numbers}
            for _ in range(turns)
        ]
    print(f"{side} × {side} pixels, medians of {turns} turns\nworkers  network  objects   both   ratio")
    first = 0.0
    for workers in numbers:
        network, numbering, both = (
            statistics.median(getattr(turn[workers], name) for turn in found)
            for name in ("network", "numbering", "seconds")
        )
        first = first or both
        print(f"{workers:7d} {network:7.1f} s {numbering:6.1f} s {both:6.1f} s  {both / first:.2f}×")


def main() -> None:
    """Measure all sides, or all numbers of workers, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--workers", type=int, nargs="+", help="compare these; the first of --sides is used")
    parser.add_argument("--turns", type=int, default=3, help="of each number of workers")
    options = parser.parse_args()
    if options.workers:
        by_workers(options.workers, options.sides[0], options.memory, options.turns)
    else:
        by_side(options.sides, options.memory)


if __name__ == "__main__":
    main()
