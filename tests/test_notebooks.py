"""The chapters as notebooks: made by sphinx-gallery, run by Jupyter out of the archive that the site has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient, of tests/requirements.txt")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of tests/requirements.txt")
pytest.importorskip("sphinx_gallery", reason="needs pip install -e '.[docs]'")
from sphinx_gallery import notebook as gallery  # noqa: E402

TOP = Path(__file__).parents[1]
sys.path.insert(0, str(TOP / "docs"))
import notebooks  # noqa: E402

CHAPTERS = sorted(path.stem for path in TOP.glob("tutorials/[0-9]*.py"))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The archive of the notebooks, unpacked."""
    made, target = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("unpacked")
    scripts = [str(shutil.copy(TOP / "tutorials" / f"{chapter}.py", made)) for chapter in CHAPTERS]
    gallery.python_to_jupyter_cli(scripts)
    archives = [made / "first.zip", made / "second.zip"]
    for archive in archives:
        notebooks.write_archive(archive, made)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(archives[0]) as archive:
        archive.extractall(target)
    return target / notebooks.FOLDER


@pytest.fixture
def kernel(unpacked, monkeypatch):
    """Run a notebook in the unpacked folder `tutorials/`, with its engine, and return it."""
    monkeypatch.setenv("PYTHONPATH", str(unpacked))
    monkeypatch.setenv("TINYUNET_BACKEND", "numpy")  # compiles nothing

    def run(notebook):
        where = {"metadata": {"path": str(unpacked / "tutorials")}}
        nbclient.NotebookClient(notebook, kernel_name="python3", timeout=240, resources=where).execute()
        return notebook

    return run


def outputs(cell, kind):
    """Return the outputs of a cell of a type of data: image/png, text/html."""
    return [output for output in cell.outputs if kind in output.get("data", {})]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_a_chapter_runs_as_a_notebook_out_of_the_archive(unpacked, kernel):
    notebook = nbformat.read(unpacked / "tutorials" / "01_autograd.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (first,) = (cell for cell in cells if '@exercise("01.1")' in cell.source)
    first.source = first.source.replace("return ...", "return grad_y * b, grad_y * a")
    kernel(notebook)
    everything = "".join(map(printed, cells))
    assert "Exercise 01.1, multiply_backward: solved in 1 line(s)." in everything
    assert "Exercise 01.6, slope_forwards: open." in everything
    assert sum(len(outputs(cell, "image/png")) for cell in cells) >= 3
    (moving,) = (cell for cell in cells if "animate(" in cell.source)
    assert len(outputs(moving, "text/html")) == 1
    assert not outputs(moving, "image/png")  # the last frame once more


def test_the_archive_has_the_engine_and_the_checks(unpacked):
    script = (
        "import tinyunet, tutorials.check as check, pathlib\n"
        "for module in (tinyunet, check): assert pathlib.Path(module.__file__).is_relative_to(UNPACKED)\n"
        "assert check.main(['03', '--start']) == 0\n"
        "assert check.main(['03.4', '--hint']) == 0\n"
        "assert check.main(['03', '--recall']) == 0\n"
    ).replace("UNPACKED", repr(str(unpacked)))
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    subprocess.run([sys.executable, "-c", script], cwd=unpacked, env=environment, check=True, timeout=120)
    assert sorted(path.stem for path in unpacked.glob("tutorials/*.ipynb")) == CHAPTERS
    kept = {path.name for path in (TOP / "kernels").rglob("*.cu*")}
    assert {path.name for path in (unpacked / "kernels").rglob("*.cu*")} == kept


def test_binder_makes_a_notebook_of_each_chapter(tmp_path):
    tutorials = tmp_path / "tutorials"
    tutorials.mkdir()
    for chapter in CHAPTERS:
        shutil.copy(TOP / "tutorials" / f"{chapter}.py", tutorials)
    stand_in = tmp_path / "bin" / "python"  # compiling is tested elsewhere
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\ntest "$*" = "-m tinyunet.compile"\n')
    stand_in.chmod(0o755)
    path = os.pathsep.join([str(stand_in.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [str(TOP / ".binder" / "postBuild")]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, check=True, timeout=120)
    assert sorted(path.stem for path in tutorials.glob("*.ipynb")) == CHAPTERS


def test_the_first_cell_is_comments_that_name_the_archive():
    assert all(line.startswith("# ") for line in notebooks.FIRST_CELL.splitlines())
    assert notebooks.FIRST_CELL.count(notebooks.ARCHIVE) == 2
