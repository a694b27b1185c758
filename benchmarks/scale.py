"""Time and memory of a prediction in windows against the size of the image and the number of workers.

    python -m benchmarks.scale --sides 2000 4000 8000 --memory 1.2GB --out scale.json --picture scale.png
    python -m benchmarks.scale --workers 1 2 --sides 4000 --turns 3
    python -m benchmarks.scale --tiles 196 500 1111 --sides 4000

A network of base width 4 and depth 2 first learns synthetic cells, for some seconds. The images, of 16 bits,
are made of such cells, so that the number of objects grows with their area. Each image is predicted in a
process of its own. Ratios are to the first side: time per pixel should stay, and so should memory. With
--workers, one image is predicted by each number of workers in turn, by one thread each; the ratio is that of
the medians to the first number. The time to start the workers is not counted, nor is their memory. With
--tiles, the classes and objects of one image are compared with those computed in memory, for each tile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ONE = """
import json, re, sys, time
from functools import partial
from pathlib import Path
from tinyunet.backend import active_backend
from tinyunet.data.windows import open_windows
from tinyunet.exchange.exported import load_models, load_networks
from tinyunet.prediction.budget import memory_bytes
from tinyunet.prediction.slides import SlideOptions, SlideWriter

def predict(run, source, out, memory, share):
    started = time.perf_counter()
    network, = load_networks(run)
    writer = SlideWriter([network.model], open_windows(source), out, SlideOptions(), None, memory, share)
    writer.predict()
    predicted = time.perf_counter()
    objects = writer.number(network.checkpoint.objects)
    writer.finish()
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    print(json.dumps([predicted - started, time.perf_counter() - predicted, peak, objects]))

if __name__ == "__main__":
    run, source, out = map(Path, sys.argv[1:4])
    memory, workers = memory_bytes(sys.argv[4]), int(sys.argv[5])
    if workers:
        from tinyunet.prediction.cluster import connected
        from tinyunet.prediction.workers import Job

        with connected(workers, None) as cluster:
            load = partial(load_models, run)
            job = Job(load, source, out, SlideOptions(), None, active_backend(), "float32", memory)
            job = cluster.check(job)
            predict(run, source, out, memory, cluster.share(job))
    else:
        predict(run, source, out, memory, None)
"""
WIDTH = ["--base-channels", "4", "--depth", "2", "--tile", "196"]
# With seed 0 the probability of cells is still 0.46 after these steps.
TRAIN = [*WIDTH, "--steps", "60", "--validate-every", "60", "--seed", "1"]
BLOCK = 2048  # pixels: side of the cells that are drawn once


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


def train(folder: Path) -> Path:
    """Train the network; return its run."""
    run = folder / "run"
    command = [sys.executable, "-m", "tinyunet.train", *TRAIN, "--out", str(run)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return run


def make_image(path: Path, side: int) -> None:
    """Write cells with noise, block by block: those of one block, turned and mirrored."""
    import numpy as np
    import zarr

    from tinyunet.data import synthetic_cells

    array = zarr.create_array(
        path, shape=(side, side), chunks=(256, 256), shards=(BLOCK, BLOCK), dtype="uint16"
    )
    cells = synthetic_cells(n=1, size=BLOCK, seed=0).images[0][..., 0].astype(np.float32)
    for top in range(0, side, BLOCK):
        for left in range(0, side, BLOCK):
            rng = np.random.default_rng([top, left])
            turned = np.rot90(cells, int(rng.integers(4)))[:: rng.choice([-1, 1])]
            size = min(BLOCK, side - top), min(BLOCK, side - left)
            grey = 100 * turned[: size[0], : size[1]] + 200 * rng.standard_normal(size, np.float32)
            array[top : top + size[0], left : left + size[1]] = grey.clip(0, 65535).astype(np.uint16)


def measure(run: Path, source: Path, memory: str, workers: int = 0) -> Measured:
    """Predict an image, in the process itself or by several workers of one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "one.py"  # a file, which workers can import
        program.write_text(ONE)
        places = map(str, (program, run, source, Path(folder) / "out.zarr"))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *filter(None, sys.path)])}
        if workers:
            environment["NUMBA_NUM_THREADS"] = str(workers)
        command = [sys.executable, *places, memory, str(workers)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return Measured(*json.loads(done.stdout))


def by_side(sides: Iterable[int], memory: str) -> Iterator[tuple[int, Measured]]:
    """Predict an image of each side, and yield what it took."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(Path(folder))
        for side in sides:
            with tempfile.TemporaryDirectory() as of_side:
                make_image(Path(of_side) / "slide.zarr", side)
                yield side, measure(run, Path(of_side) / "slide.zarr", memory)


def print_sides(rows: Iterable[tuple[int, Measured]]) -> list[tuple[int, Measured]]:
    """Print a line for each side as soon as it is measured; return all."""
    print("side    pixels   network  objects   per pixel   peak      objects found")
    done: list[tuple[int, Measured]] = []
    for side, measured in rows:
        done.append((side, measured))
        first_side, first = done[0]
        per_pixel = measured.seconds / side**2 / (first.seconds / first_side**2)
        print(
            f"{side:6d}  {side**2 / 1e6:6.0f} M {measured.network:7.1f} s {measured.numbering:7.1f} s "
            f"  {per_pixel:6.2f}×   {measured.peak / 1e9:5.2f} GB ({measured.peak / first.peak:.2f}×)"
            f"  {measured.objects:,}",
            flush=True,
        )
    return done


def draw(rows: list[tuple[int, Measured]], path: Path) -> None:
    """Draw time per pixel and peak memory against the number of pixels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    pixels = [side**2 / 1e6 for side, _ in rows]
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    parts = {"network": [m.network for _, m in rows], "objects": [m.numbering for _, m in rows]}
    for name, seconds in parts.items():
        per_pixel = [1e3 * s / p for s, p in zip(seconds, pixels, strict=True)]
        time.plot(pixels, per_pixel, marker="o", label=name)
    time.set(ylabel="milliseconds per million pixels", ylim=(0, None))
    time.legend()
    memory.plot(pixels, [m.peak / 1e9 for _, m in rows], marker="o", label="whole process, peak")
    between = [pixels[0] * (pixels[-1] / pixels[0]) ** (i / 50) for i in range(51)]
    memory.plot(between, [2 * p / 1e3 for p in between], "--", color="grey", label="the image alone, 16 bits")
    memory.set(ylabel="gigabytes", ylim=(0, 2 * max(m.peak for _, m in rows) / 1e9))
    memory.legend()
    for axis in (time, memory):
        axis.set(xscale="log", xlabel="million pixels")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def by_workers(numbers: list[int], side: int, memory: str, turns: int) -> None:
    """Print the time for each number of workers, in alternating turns."""
    with tempfile.TemporaryDirectory() as folder:
        run, slide = train(Path(folder)), Path(folder) / "slide.zarr"
        make_image(slide, side)
        found = [{workers: measure(run, slide, memory, workers) for workers in numbers} for _ in range(turns)]
    print(f"{side} × {side} pixels, medians of {turns} turns\nworkers  network  objects   both   ratio")
    first = 0.0
    for workers in numbers:
        network, numbering, both = (
            statistics.median(getattr(turn[workers], name) for turn in found)
            for name in ("network", "numbering", "seconds")
        )
        first = first or both
        print(f"{workers:7d} {network:7.1f} s {numbering:6.1f} s {both:6.1f} s  {both / first:.2f}×")


def by_tiles(tiles: list[int], side: int, memory: str) -> None:
    """Print how many pixels differ between windows and memory in class and in object, for each tile."""
    import numpy as np
    import zarr

    from tinyunet.data import normalise
    from tinyunet.data.windows import open_windows
    from tinyunet.exchange.exported import load_networks
    from tinyunet.prediction.budget import memory_bytes
    from tinyunet.prediction.instances import label_instances
    from tinyunet.prediction.slides import SlideOptions, SlideWriter
    from tinyunet.prediction.tiling import predict_tiled

    with tempfile.TemporaryDirectory() as folder:
        slide = Path(folder) / "slide.zarr"
        (network,) = load_networks(train(Path(folder)))
        make_image(slide, side)
        image, rule = normalise(np.asarray(zarr.open(slide))[..., None]), network.checkpoint.objects
        for tile in tiles:
            classes = predict_tiled(network.model, image, tile=tile).argmax(axis=2)
            objects = label_instances(classes > 0, min_size=rule.min_size, split_depth=rule.split_depth)
            out, options = Path(folder) / f"{tile}.zarr", SlideOptions(tile=tile)
            writer = SlideWriter(
                [network.model], open_windows(slide), out, options, None, memory_bytes(memory)
            )
            writer.predict()
            writer.number(rule)
            writer.finish()
            written = zarr.open_group(out, mode="r")
            differ = [
                int((np.asarray(written[name]) != expected).sum())
                for name, expected in (("0", classes), ("labels/objects/0", objects))
            ]
            print(
                f"tile {tile}, {objects.max():,} objects: {differ[0]} pixels differ in class, "
                f"{differ[1]} in object",
                flush=True,
            )


def main() -> None:
    """Measure all sides or all numbers of workers, or compare all tiles, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--memory", default="1.2GB")
    parser.add_argument("--out", type=Path, help="a file of JSON for the rows of the sides")
    parser.add_argument("--picture", type=Path, help="a picture of the rows of the sides")
    parser.add_argument("--workers", type=int, nargs="+", help="compare these; the first of --sides is used")
    parser.add_argument("--tiles", type=int, nargs="+", help="compare the results of these with memory")
    parser.add_argument("--turns", type=int, default=3, help="of each number of workers")
    options = parser.parse_args()
    if options.workers:
        by_workers(options.workers, options.sides[0], options.memory, options.turns)
        return
    if options.tiles:
        by_tiles(options.tiles, options.sides[0], options.memory)
        return
    rows = print_sides(by_side(options.sides, options.memory))
    if options.out:
        found = [{"side": side, **measured._asdict()} for side, measured in rows]
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    if options.picture:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()
