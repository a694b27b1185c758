"""The parts of the demonstration in the browser that are not committed: onnxruntime-web, and sample images.

    python docs/browser_demo.py

fetches onnxruntime-web by npm into docs/onnxruntime-web, once. A site that is built without npm has the page
all the same, which then says what is missing.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "1.30.0"
FILES = {  # SHA-256 of what the page loads: plain WebAssembly, for the processor
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
DOCS = Path(__file__).parent
RUNTIME = DOCS / "onnxruntime-web"
SAMPLES = ((512, 512), (301, 417), (150, 203))  # sides; of a seed that the network was not trained on


def has_runtime() -> bool:
    """Return whether onnxruntime-web lies in `RUNTIME`, as it was published."""
    return all(
        (RUNTIME / name).is_file() and hashlib.sha256((RUNTIME / name).read_bytes()).hexdigest() == expected
        for name, expected in FILES.items()
    )


def fetch_runtime() -> str:
    """Fetch onnxruntime-web unless it is there; returns the reason if that fails, "" otherwise."""
    if has_runtime():
        return ""
    npm = shutil.which("npm")
    if npm is None:
        return "there is no npm"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            npm,
            "pack",
            f"onnxruntime-web@{VERSION}",
            "--silent",
            "--fetch-retries=1",
            "--pack-destination",
            folder,
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            RUNTIME.mkdir(exist_ok=True)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as package:
                for name in FILES:
                    member = package.extractfile(f"package/dist/{name}")
                    assert member is not None
                    (RUNTIME / name).write_bytes(member.read())
        except subprocess.CalledProcessError as error:
            return f"npm pack failed: {error.stderr.strip()}"
        except (OSError, KeyError, StopIteration, tarfile.TarError, subprocess.TimeoutExpired) as error:
            return f"npm pack failed: {error!r}"
    return "" if has_runtime() else "npm gave files with other checksums"


def complete(static: Path) -> None:
    """Put the sample images, and onnxruntime-web if it is there, into a site's folder _static."""
    from PIL import Image

    from tinyunet.data import synthetic_cells

    images = synthetic_cells(n=len(SAMPLES), size=512, seed=2015).images
    for number, (image, (height, width)) in enumerate(zip(images, SAMPLES, strict=True)):
        Image.fromarray(image[:height, :width, 0]).save(static / "demo" / f"sample-{number}.png")
    if has_runtime():
        shutil.copytree(RUNTIME, static / "onnxruntime-web", dirs_exist_ok=True)


if __name__ == "__main__":
    if reason := fetch_runtime():
        sys.exit(f"docs/browser_demo.py: onnxruntime-web {VERSION} was not fetched: {reason}")
