"""Time to the first step, and memory, of a training on a set larger than memory.

    python -m benchmarks.data_sets --images 10000 --side 1024 --format tif

Makes a folder of images with numbered objects (TIFF, of which only the labels are compressed, or PNG), starts
a training on it in a process of its own, and stops it after a few steps. A training on a few small images
comes first, so that kernels are compiled. Seconds are those of the clock and, for a machine that has other
work, of the processor; they begin with the process, before anything is imported.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

KINDS = 32  # different images; the others are copies of these files

ONE = """
import json, re, sys, time
from pathlib import Path
from tinyunet import diagnosis, train
from tinyunet.reporting.recorder import recorded
from tinyunet.training.config import read_data
from tinyunet.training.events import Stepped
from tinyunet.training.run_folder import RunFolder

out, steps = Path(sys.argv[2]), int(sys.argv[3])
arguments = ["--data", sys.argv[1], "--out", str(out), "--steps", str(steps), *sys.argv[4:]]
options = train.parse(arguments)
images = read_data(options.config)
print(images.summary(), file=sys.stderr)
options, command = train.decide(options, images, " ".join(["train", *arguments]))
trainer = train.make_trainer(options.config, images, options)
diagnosis.warnings(trainer.setup)
folder, found = RunFolder(out), []
with train.open_run(trainer, options, folder):
    for event in recorded(trainer, folder, command):
        if isinstance(event, Stepped):
            found.append((time.clock_gettime(time.CLOCK_BOOTTIME), time.process_time()))
        if len(found) == steps:
            break
stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
started = int(stat[19]) / 100  # in hundredths of a second after the machine's start (proc(5), starttime)
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
(first, first_cpu), (last, _) = found[0], found[-1]
print(json.dumps([first - started, first_cpu, (last - first) / max(1, steps - 1), peak]))
"""


def make_set(folder: Path, images: int, side: int, suffix: str) -> None:
    """Write images of discs on noise, and the numbers of the discs."""
    import tifffile
    from PIL import Image

    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(min(images, KINDS)):
        image, labels = _image(side, seed=number)
        paths = _paths(folder, number, suffix)
        if suffix == "tif":
            tifffile.imwrite(paths[0], image)
            tifffile.imwrite(paths[1], labels, compression="zlib")
        else:
            for path, pixels in zip(paths, (image, labels), strict=True):
                Image.fromarray(pixels).save(path, compress_level=1)
    for number in range(KINDS, images):
        for path, copied in zip(*(_paths(folder, n, suffix) for n in (number, number % KINDS)), strict=True):
            shutil.copyfile(copied, path)


def _paths(folder: Path, number: int, suffix: str) -> tuple[Path, Path]:
    return folder / "images" / f"{number:05d}.{suffix}", folder / "masks" / f"{number:05d}.{suffix}"


def _image(side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng, labels = np.random.default_rng(seed), np.zeros((side, side), np.uint8)
    spacing = max(24, side // 14)  # at most 255 numbers
    places = np.arange(spacing // 2, side - spacing // 2, spacing)
    y, x = np.mgrid[:spacing, :spacing] - spacing // 2
    for number, (row, column) in enumerate(((r, c) for r in places for c in places), 1):
        top, left = row - spacing // 2, column - spacing // 2
        window = labels[top : top + spacing, left : left + spacing]
        window[np.hypot(y, x) < rng.uniform(0.2, 0.45) * spacing] = number
    return (40 + 120 * (labels > 0) + rng.normal(0, 10, labels.shape)).clip(0, 255).astype(np.uint8), labels


def measure(data: Path, out: Path, steps: int, options: list[str]) -> tuple[float, float, float, int]:
    """Return the seconds to the first step, by the clock and the processor; those of a step; the peak."""
    command = [sys.executable, "-c", ONE, str(data), str(out), str(steps), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    first, first_cpu, step, peak = json.loads(done.stdout.splitlines()[-1])
    return first, first_cpu, step, peak


def main() -> None:
    """Make the sets, train on each, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--format", choices=["tif", "png"], default="tif")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the sets are made; a temporary folder if omitted")
    parser.add_argument(
        "--options", nargs=argparse.REMAINDER, default=[], help="more options of the training"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        make_set(Path(work) / "few", 8, 256, options.format)
        measure(Path(work) / "few", Path(work) / "compiled", 2, options.options)
        print("images        first step   (processor)   each step   peak")
        for images in options.images:
            data = Path(work) / f"set-{images}"
            make_set(data, images, options.side, options.format)
            first, cpu, step, peak = measure(
                data, Path(work) / f"run-{images}", options.steps, options.options
            )
            print(f"{images:6d} {first:14.1f} s {cpu:11.1f} s {step:9.2f} s {peak / 1e9:7.2f} GB", flush=True)


if __name__ == "__main__":
    main()
