"""The chapters as notebooks, together with all that they import, in one archive for the site.

sphinx-gallery makes a notebook of each chapter. The archive holds them beside the modules of the chapters,
with the engine to install, so that it can be taken to any Jupyter.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[1]
NOTEBOOKS = TOP / "docs" / "chapters"
ARCHIVE = "tinyunet-tutorials.zip"
FOLDER = ARCHIVE.removesuffix(".zip")
ENGINE = ("pyproject.toml", "README.md", "LICENSE", "tinyunet/**/*", "kernels/**/*")
TUTORIALS = ("tutorials/*.py", "tutorials/*.md", "tutorials/solutions/*.py")

# The first cell of each notebook.
FIRST_CELL = f"""\
# Where the project is not installed (a JupyterHub, Colab), upload {ARCHIVE}, then run once, without the #:
# !unzip -qn {ARCHIVE}
# %pip install -q ./{FOLDER}
# %cd {FOLDER}/tutorials"""


def files(notebooks: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name in the archive, and the place, of each file."""
    for pattern in (*ENGINE, *TUTORIALS):
        for path in sorted(TOP.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(TOP).as_posix(), path
    for path in sorted(notebooks.glob("*.ipynb")):
        yield f"tutorials/{path.name}", path


def write_archive(target: Path, notebooks: Path = NOTEBOOKS) -> None:
    """Write the archive, the same bytes from the same files."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, path in files(notebooks):
            entry = zipfile.ZipInfo(f"{FOLDER}/{name}")  # with the time 1980-01-01
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())


def complete(app: Any, exception: Exception | None) -> None:
    """Put the archive into a built site."""
    if exception is None and app.builder.format == "html":
        write_archive(Path(app.outdir) / "_static" / ARCHIVE)


def setup(app: Any) -> dict[str, Any]:
    """Write the archive at the end of a build."""
    app.connect("build-finished", complete)
    return {"parallel_read_safe": True}
