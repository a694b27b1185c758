"""Weights for PyTorch: the twins of the documentation load them and compute what the engine computes."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import with_statistics
from safetensors import safe_open

import tinyunet as tu
from tinyunet.exchange.torch_names import torch_file
from tinyunet.models import make_network

TWINS = Path(tu.__file__).parents[1] / "docs" / "torch_twins.py"


@pytest.fixture(scope="module")
def twins():
    spec = importlib.util.spec_from_file_location("torch_twins", TWINS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_twins_compute_the_same(twins, options, tmp_path):
    """To 1e-5 of the largest score, as the engine's own tests allow for another order of sums."""
    model = with_statistics(make_network(**options))
    (tmp_path / "model.safetensors").write_bytes(torch_file(model.state_dict(), {"network": options}))
    twin = twins.load(tmp_path / "model.safetensors")
    sides = model.geometry.smallest, model.geometry.smallest + model.geometry.step
    images = np.random.default_rng(2).standard_normal((1, *sides, 2), dtype=np.float32)
    with tu.no_grad(), torch.no_grad():
        ours = model(tu.Tensor(images)).numpy()
        theirs = twin(torch.tensor(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_the_record_is_in_the_file(tmp_path):
    model = tu.UNet(base_channels=1, depth=1)
    (tmp_path / "model.safetensors").write_bytes(torch_file(model.state_dict(), {"step": 3}))
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["tinyunet"]) == {"step": 3}
