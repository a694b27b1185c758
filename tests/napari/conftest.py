"""Cells in layers, and a run that was trained on them.

These tests need nothing from the conftest above, so that they also run where PyTorch is missing:
``pytest --confcutdir tests/napari tests/napari``.
"""

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # before Qt is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numba
import numpy as np
import pytest

from tinyunet.data import synthetic_cells
from tinyunet.napari.layers import layer_set
from tinyunet.napari.training import Choices, train_on_layers

numba.set_num_threads(1)
TINY = ("--base-channels", "2", "--depth", "1", "--tile", "32", "--validate-every", "2", "--lr", "0.05")


@pytest.fixture(scope="session")
def cells():
    """A stack of four images of 96 × 96 pixels, and the numbered cells of each."""
    images = synthetic_cells(n=4, size=96, seed=1)
    return np.stack(images.images)[..., 0], np.stack(images.labels)


@pytest.fixture(scope="session")
def trained(cells, tmp_path_factory):
    """A run of six steps on these cells."""
    run = tmp_path_factory.mktemp("trained") / "run"
    for _ in train_on_layers(layer_set(*cells), Choices(run, steps=6, extra=TINY), lambda: False):
        pass
    return run


@pytest.fixture
def choices(tmp_path):
    """`choices(**changes)` describes a run of a fraction of a second in a new folder."""

    def make(name="run", steps=6, extra=(), **changes):
        return Choices(Path(tmp_path / name), steps=steps, extra=(*TINY, *extra), **changes)

    return make
