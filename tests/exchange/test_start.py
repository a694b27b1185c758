"""Weights to start from, of a run or of an exported file, in a network like theirs or another one."""

import hashlib
import json
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
import torch
from networks import with_statistics
from safetensors.numpy import load_file, save_file

import tinyunet as tu
from tinyunet.errors import CheckpointError, OptionError
from tinyunet.exchange.onnx import to_onnx
from tinyunet.exchange.record import Record
from tinyunet.exchange.start import read_start
from tinyunet.exchange.torch_names import torch_file
from tinyunet.models import make_network
from tinyunet.training.checkpoint import Checkpoint, save_checkpoint
from tinyunet.training.config import TrainConfig

NETWORK = {"model": "unet", **tu.UNet.options(), "base_channels": 2, "depth": 1, "normalisation": "batch"}


@pytest.fixture
def trained():
    return with_statistics(make_network(**NETWORK))


@pytest.fixture(params=["run", "checkpoint", "exported", "tuned in PyTorch"])
def path(request, trained, tmp_path):
    """The network of `trained`, in each form that can be started from."""
    weights, exported = trained.state_dict(), tmp_path / "model.safetensors"
    if request.param in ("run", "checkpoint"):
        stored = Checkpoint(NETWORK, asdict(TrainConfig()), 1, {}, weights, {})
        save_checkpoint(tmp_path / "best.safetensors", stored)
        return tmp_path if request.param == "run" else tmp_path / "best.safetensors"
    exported.write_bytes(torch_file(weights, {"network": NETWORK}))
    if request.param != "exported":  # PyTorch adds the number of batches of each normalisation
        arrays = load_file(exported)
        counts = {
            f"{name.removesuffix('.running_var')}.num_batches_tracked": torch.tensor(5).numpy()
            for name in arrays
            if name.endswith(".running_var")
        }
        save_file({**arrays, **counts}, exported, {"tinyunet": json.dumps({"network": NETWORK})})
    return exported


def test_the_same_network_gets_every_weight(path, trained):
    start = read_start(path)
    assert start.config_options()["depth"] == 1
    model = make_network(**{**NETWORK, "seed": 1, "dropout": 0.1})
    assert start.load_into(model, {**NETWORK, "seed": 1, "dropout": 0.1}) == []
    for name, array in trained.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array, err_msg=name)


def test_other_channels_and_classes_replace_their_layers_only(path, trained):
    options = {**NETWORK, "in_channels": 3, "num_classes": 5, "seed": 1}
    model, fresh = make_network(**options), make_network(**options).state_dict()
    assert read_start(path).load_into(model, options) == ["contracting.0.first", "scores"]
    for name, array in model.state_dict().items():
        is_new = name.startswith(("contracting.0.first.", "scores."))
        np.testing.assert_array_equal(array, (fresh if is_new else trained.state_dict())[name], err_msg=name)


def test_the_classes_of_an_fcn_are_in_its_scores_and_its_upsampling(tmp_path):
    options = {"model": "fcn", **tu.FCN.options(), "base_channels": 1, "depth": 3}
    content = torch_file(make_network(**options).state_dict(), {"network": options})
    (tmp_path / "fcn.safetensors").write_bytes(content)
    options = {**options, "num_classes": 3}
    new = read_start(tmp_path / "fcn.safetensors").load_into(make_network(**options), options)
    assert new == ["scores.0", "up.0", "up.1", "up.2"]


@pytest.mark.parametrize(
    "other", [{"depth": 2}, {"base_channels": 4}, {"variant": "release"}, {"normalisation": "none"}]
)
def test_another_architecture_is_refused(path, other):
    options = {**NETWORK, **other}
    model = make_network(**options)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(OptionError, match=next(iter(other))):
        read_start(path).load_into(model, options)
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())


def test_files_that_cannot_be_started_from(trained, tmp_path):
    path = tmp_path / "model.safetensors"
    good = {"tinyunet": json.dumps({"network": NETWORK})}
    path.write_bytes(torch_file(trained.state_dict(), {"network": NETWORK}))
    arrays = load_file(path)
    broken = {
        "no array": ({k: v for k, v in arrays.items() if k != "scores.bias"}, good),
        "another array": ({**arrays, "extra": np.zeros(1, np.float32)}, good),
        "another shape": ({**arrays, "scores.bias": np.zeros(7, np.float32)}, good),
        "NaN": ({**arrays, "scores.bias": np.full(2, np.nan, np.float32)}, good),
        "no network": (arrays, {"tinyunet": "{}"}),
        "no JSON": (arrays, {"tinyunet": "{"}),
        "an unknown network": (arrays, {"tinyunet": json.dumps({"network": {"model": "resnet"}})}),
        "an option of another type": (arrays, {"tinyunet": json.dumps({"network": {"depth": "1"}})}),
        "another program's": (arrays, {"format": "pt"}),
    }
    for tensors, metadata in broken.values():
        save_file(tensors, path, metadata)
        with pytest.raises(CheckpointError):
            read_start(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        read_start(path)


@pytest.mark.parametrize("suffix", ["onnx", "zip"])
def test_onnx_starts_without_its_normalisation(trained, tmp_path, suffix):
    """Which is folded into its weights: the network predicts the same, and has none."""
    content = to_onnx(trained, Record(NETWORK).to_json())
    path = tmp_path / f"model.{suffix}"
    if suffix == "onnx":
        path.write_bytes(content)
    else:
        checksum = hashlib.sha256(content).hexdigest()
        text = f"type: model\nweights: {{onnx: {{source: a.onnx, sha256: '{checksum}'}}}}\n"
        with zipfile.ZipFile(path, "w") as package:
            package.writestr("rdf.yaml", text)
            package.writestr("a.onnx", content)
    start = read_start(path)
    assert start.config_options()["normalisation"] == "none"
    options = {**NETWORK, "normalisation": "none", "seed": 1}
    model = make_network(**options)
    assert start.load_into(model, options) == []
    model.eval()
    images = tu.Tensor(np.random.default_rng(0).standard_normal((1, 34, 34, 1), dtype=np.float32))
    with tu.no_grad():
        np.testing.assert_array_equal(model(images).numpy(), trained(images).numpy())
