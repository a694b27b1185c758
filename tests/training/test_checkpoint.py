"""Checkpoints come back as they were stored, damage is detected, and a failed write costs nothing."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinyunet.autograd import Tensor
from tinyunet.errors import CheckpointError, OptionError
from tinyunet.models import UNet
from tinyunet.training import checkpoint as checkpoint_module
from tinyunet.training.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint

OPTIONS = {"in_channels": 1, "num_classes": 2, "base_channels": 2, "depth": 1, "padding": "same", "seed": 3}
NETWORK = {"model": "unet", **OPTIONS}


@pytest.fixture
def checkpoint():
    model = UNet(**OPTIONS)
    rng = np.random.default_rng(0)
    velocity = {name: rng.normal(size=p.shape).astype(p.dtype) for name, p in model.named_parameters()}
    return Checkpoint(
        network=NETWORK,
        config={"data": "Zellen, größere", "lr": 1e-3, "augmentation": {"flips": True}, "kind": None},
        step=7,
        progress={"best_score": 0.1 + 0.2, "best_step": 4},
        weights=model.state_dict(),
        velocity=velocity,
    )


@pytest.fixture
def path(tmp_path, checkpoint):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, checkpoint)
    return path


def assert_same(found, expected):
    for name in ("network", "config", "step", "progress"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("weights", "velocity"):
        arrays, own = getattr(found, name), getattr(expected, name)
        assert arrays.keys() == own.keys()
        for key, array in arrays.items():
            assert array.dtype == own[key].dtype
            assert array.shape == own[key].shape
            assert array.tobytes() == own[key].tobytes()


def test_round_trip_bit_for_bit(path, checkpoint):
    name = next(iter(checkpoint.weights))
    odd = np.array([np.nan, -0.0, np.inf, np.float32(1e-45)], np.float32)
    other = replace(checkpoint, velocity={name: odd})
    save_checkpoint(path, other)
    assert_same(load_checkpoint(path), other)
    assert os.listdir(path.parent) == [path.name]  # nothing left beside it


def test_a_views_elements_are_stored_in_their_order(tmp_path, checkpoint):
    view = np.arange(12, dtype=np.float32).reshape(3, 4).T
    save_checkpoint(tmp_path / "view", replace(checkpoint, velocity={"view": view}))
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "view").velocity["view"], view)


def test_the_model_predicts_as_before(tmp_path, path, checkpoint):
    model = UNet(**{**OPTIONS, "seed": 8})
    trained = replace(checkpoint, weights=model.state_dict())
    save_checkpoint(tmp_path / "best.safetensors", trained)
    x = Tensor(np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32))
    for source in (tmp_path, tmp_path / "best.safetensors"):  # of a folder, the best and not the last
        found, stored = load_model(source)
        assert not found.training
        assert stored.step == 7
        np.testing.assert_array_equal(found(x).data, model.eval()(x).data)


def test_weights_of_another_network(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "x", replace(checkpoint, network={**NETWORK, "base_channels": 3}))
    with pytest.raises(CheckpointError, match="shape"):
        load_model(tmp_path / "x")


def test_no_single_damaged_byte_goes_unseen(tmp_path):
    """In the data or in the header, such as one digit of the step."""
    path = tmp_path / "small"
    arrays = {"scores.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    save_checkpoint(path, Checkpoint(NETWORK, {"lr": 0.001}, 7, {"best_score": 0.5}, arrays, arrays))
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value)


def test_a_damaged_shape(tmp_path):
    """The same bytes, read as three rows of two instead of two of three."""
    path = tmp_path / "small"
    save_checkpoint(path, Checkpoint(NETWORK, {}, 7, {}, {"w": np.arange(6.0).reshape(2, 3)}, {}))
    whole = path.read_bytes()
    assert whole.count(b'"shape":[2,3]') == 1
    path.write_bytes(whole.replace(b'"shape":[2,3]', b'"shape":[3,2]'))
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(path)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=path.name):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        b"a text\n" * 50,
        pickle.dumps({"weight": np.zeros(3)}),
        b"\x80\x02}q\x00.",
        b"\x89PNG\r\n\x1a\n" + bytes(99),
    ],
    ids=["text", "pickle", "old pickle", "png"],
)
def test_foreign_file(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_of_another_program(tmp_path, metadata):
    save_file({"layer.weight": np.zeros(3)}, tmp_path / "x", metadata)
    with pytest.raises(CheckpointError, match="expected  tinyunet 1") as error:
        load_checkpoint(tmp_path / "x")
    assert ("pt" if metadata else "another program") in str(error.value)


def test_safetensors_of_another_program_with_types_that_numpy_lacks(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    save_torch({"weight": torch.zeros(3, dtype=torch.bfloat16)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match="expected  tinyunet 1"):
        load_checkpoint(tmp_path / "x")


def test_another_version(path, checkpoint, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "FORMAT", "tinyunet 0")
    save_checkpoint(path, checkpoint)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"found +tinyunet 0"):
        load_checkpoint(path)


def test_missing(tmp_path):
    for wanted in (tmp_path / "no.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match=wanted.name):
            load_checkpoint(wanted)
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        load_model(tmp_path)


def no_space(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "fails", ["training.checkpoint.save", "atomic_write.os.fsync", "atomic_write.os.replace"]
)
def test_a_failed_write_leaves_the_old_file(path, checkpoint, monkeypatch, fails):
    monkeypatch.setattr(f"tinyunet.{fails}", no_space)
    with pytest.raises(CheckpointError, match=r"(?s)last\.safetensors.*No space.*kept"):
        save_checkpoint(path, replace(checkpoint, step=8))
    monkeypatch.undo()
    assert_same(load_checkpoint(path), checkpoint)
    assert os.listdir(path.parent) == [path.name]


def test_an_interrupted_write_leaves_the_old_file(path, checkpoint, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("tinyunet.atomic_write.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, replace(checkpoint, step=8))
    monkeypatch.undo()
    assert_same(load_checkpoint(path), checkpoint)
    assert os.listdir(path.parent) == [path.name]


KILLED = """
import resource, signal, sys
from pathlib import Path
from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint
path = Path(sys.argv[1])
checkpoint = load_checkpoint(path)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2,) * 2)
save_checkpoint(path, checkpoint)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size")
def test_killed_while_writing(path, checkpoint):
    """Half a file is left beside the old one. It is replaced by the next write, and does not pile up."""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=200, check=False)
        assert done.returncode == -signal.SIGXFSZ
    assert sorted(os.listdir(path.parent)) == [path.name, f"{path.name}.part"]
    assert_same(load_checkpoint(path), checkpoint)
    save_checkpoint(path, checkpoint)
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_that_is_a_file(path, checkpoint):
    with pytest.raises(CheckpointError, match="older checkpoint  none"):
        save_checkpoint(path / "last.safetensors", checkpoint)


LIMITED = """
import resource, sys
from pathlib import Path
from dataclasses import replace
from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint
from tinyunet.errors import CheckpointError, OptionError
path = Path(sys.argv[1])
checkpoint = load_checkpoint(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2,) * 2)
try:
    save_checkpoint(path, replace(checkpoint, step=8))
except CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size")
def test_a_write_that_the_system_cuts_off(path, checkpoint):
    """The operating system refuses the second half of the file, as a full disk does."""
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "older checkpoint  kept" in done.stdout
    assert_same(load_checkpoint(path), checkpoint)
    assert os.listdir(path.parent) == [path.name]


def test_another_program_reads_the_file(path, checkpoint):
    """It is plain safetensors, whose header is JSON: no pickle anywhere."""
    arrays = load_file(path)
    for name, array in checkpoint.weights.items():
        np.testing.assert_array_equal(arrays[f"weight/{name}"], array)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["header"])["step"] == 7


def test_a_network_of_another_version(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "x", replace(checkpoint, network={**NETWORK, "model": "transformer"}))
    with pytest.raises(OptionError, match="'transformer'"):
        load_model(tmp_path / "x")
