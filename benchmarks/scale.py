"""Time and memory of a prediction in windows against the size of the image.

    python -m benchmarks.scale --sides 2000 4000 8000 --memory 1GB

Each image is predicted in a process of its own, by an untrained network of base width 4 and depth 2, whose
objects are of all sizes. Ratios are to the first side: time per pixel should stay, and so should memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ONE = """
import json, re, sys, time
from pathlib import Path
import tinyunet as tu
from tinyunet.data.windows import open_windows
from tinyunet.prediction.budget import memory_bytes
from tinyunet.prediction.slides import SlideOptions, SlideWriter

source, out, memory = Path(sys.argv[1]), Path(sys.argv[2]), memory_bytes(sys.argv[3])
model = tu.UNet(base_channels=4, depth=2, seed=1).eval()
started = time.perf_counter()
writer = SlideWriter([model], open_windows(source), out, SlideOptions(), None, memory)
writer.predict()
predicted = time.perf_counter()
objects = writer.number(min_size=10, split=True)
writer.finish()
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
ended = time.perf_counter()
print(json.dumps([predicted - started, ended - predicted, peak, objects]))
"""


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


def measure(side: int, memory: str) -> tuple[float, float, int, int]:
    """Return the seconds for the network and for the objects, the peak in bytes, and how many objects."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "slide.zarr"
        make_image(source, side)
        command = [sys.executable, "-c", ONE, str(source), str(Path(folder) / "out.zarr"), memory]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    predict, number, peak, objects = json.loads(done.stdout)
    return predict, number, peak, objects


def main() -> None:
    """Measure all sides and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--memory", default="1GB")
    options = parser.parse_args()
    print("side    pixels   network  objects   per pixel   peak      objects found")
    first: tuple[float, int] | None = None
    for side in options.sides:
        predict, number, peak, objects = measure(side, options.memory)
        per_pixel = (predict + number) / side**2
        first = first or (per_pixel, peak)
        print(
            f"{side:6d}  {side**2 / 1e6:6.0f} M {predict:7.1f} s {number:7.1f} s "
            f"  {per_pixel / first[0]:6.2f}×   {peak / 1e9:5.2f} GB ({peak / first[1]:.2f}×)  {objects:,}",
            flush=True,
        )


if __name__ == "__main__":
    main()
