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
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tinyunet.autograd import Tensor
from tinyunet.errors import CheckpointError
from tinyunet.models import UNet
from tinyunet.nn import AdamW
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
        optimiser={"velocity": velocity},
    )


@pytest.fixture
def path(tmp_path, checkpoint):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, checkpoint)
    return path


def assert_same(found, expected):
    for name in ("network", "config", "step", "progress"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.optimiser.keys() == expected.optimiser.keys()
    for arrays, own in [
        (found.weights, expected.weights),
        *((found.optimiser[part], own) for part, own in expected.optimiser.items()),
    ]:
        assert arrays.keys() == own.keys()
        for key, array in arrays.items():
            assert array.dtype == own[key].dtype
            assert array.shape == own[key].shape
            assert array.tobytes() == own[key].tobytes()


def test_round_trip_bit_for_bit(path, checkpoint):
    velocity = {name: array.copy() for name, array in checkpoint.optimiser["velocity"].items()}
    velocity["contracting.0.first.bias"][:] = [-0.0, np.float32(1e-45)]
    other = replace(checkpoint, optimiser={"velocity": velocity})
    save_checkpoint(path, other)
    assert_same(load_checkpoint(path), other)
    assert os.listdir(path.parent) == [path.name]  # nothing left beside it


def test_statistics_are_stored_with_the_weights_and_have_no_velocity(path, checkpoint):
    """A file of one kind of network is refused as one of the other."""
    network, rng = {**NETWORK, "normalisation": "batch"}, np.random.default_rng(0)
    model = UNet(**OPTIONS, normalisation="batch")
    for _, buffer in model.named_buffers():
        buffer.data[:] = rng.uniform(1, 2, buffer.shape)
    velocity = {name: np.ones_like(p.data) for name, p in model.named_parameters()}
    normalised = replace(
        checkpoint, network=network, weights=model.state_dict(), optimiser={"velocity": velocity}
    )
    save_checkpoint(path, normalised)
    assert_same(load_checkpoint(path), normalised)
    loaded, _ = load_model(path)
    for (_, found), (_, own) in zip(loaded.named_buffers(), model.named_buffers(), strict=True):
        np.testing.assert_array_equal(found.data, own.data)

    for wrong in (
        replace(checkpoint, network=network),
        replace(normalised, network=NETWORK),
        replace(normalised, optimiser={"velocity": model.state_dict()}),
        replace(normalised, weights=velocity),
    ):
        save_checkpoint(path, wrong)
        with pytest.raises(CheckpointError, match=r"does not fit the network"):
            load_checkpoint(path)


def test_a_views_elements_are_stored_in_their_order(tmp_path, checkpoint):
    name = "contracting.0.first.weight"
    view = np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3).T
    velocity = {**checkpoint.optimiser["velocity"], name: view}
    save_checkpoint(tmp_path / "view", replace(checkpoint, optimiser={"velocity": velocity}))
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "view").optimiser["velocity"][name], view)


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


def test_no_single_damaged_byte_goes_unseen(tmp_path):
    """In the data or in the header, such as one digit of the step."""
    path, options = tmp_path / "small", {"base_channels": 1, "depth": 0, "padding": "same"}
    arrays = UNet(**options).state_dict()
    state = {"velocity": arrays}
    save_checkpoint(path, Checkpoint(options, {"lr": 0.001}, 7, {"best_score": 0.5}, arrays, state))
    load_checkpoint(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value)


def test_a_damaged_shape(path):
    """The same bytes, read as another shape."""
    whole = path.read_bytes()
    assert whole.count(b'"shape":[3,3,1,2]') == 2
    path.write_bytes(whole.replace(b'"shape":[3,3,1,2]', b'"shape":[3,3,2,1]'))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)


# What a file with a right checksum may claim: part of the checkpoint, its value, text of the error.
CLAIMS = [
    *(
        ("network", {**NETWORK, **wrong}, next(iter(wrong)))
        for wrong in (
            {"model": "transformer"}, {"model": [1]}, {"depth": 1_000_000}, {"depth": 60}, {"depth": "1"},
            {"depth": True}, {"depth": 1.0}, {"depth": None}, {"depth": -1}, {"base_channels": 10**18},
            {"base_channels": 10**30}, {"base_channels": 3}, {"base_channels": 0}, {"padding": "full"},
            {"padding": ["same"]}, {"dropout": "none"}, {"dropout": 1}, {"num_classes": 1}, {"seed": -1},
            {"layers": 3}, {"in_channels": 3}, {"variant": "release"}, {"normalisation": "group"},
        )
    ),
    ("network", 3, "network"), ("network", [], "network"),
    ("config", None, "config"), ("progress", [], "progress"),
    ("step", -1, "step"), ("step", "7", "step"), ("step", None, "step"), ("step", 7.5, "step"),
    ("step", 10**400, "step"),
    ("config", {"tile": "16"}, "config.tile"), ("config", {"kind": 3}, "config.kind"),
    ("config", {"augmentation": 3}, "config.augmentation"),
    ("config", {"weights": {"w0": []}}, "config.weights.w0"),
    ("config", {"optimiser": "adagrad"}, "config.optimiser"),
    ("config", {"optimiser": None}, "config.optimiser"),
    ("config", {"optimiser": "adam"}, "velocity/"), ("config", {"warmup": "3"}, "config.warmup"),
    ("images", {"train": 3}, "images.train"), ("images", {"train": {"a": [1]}}, "images"),
    ("images", {"train": {"a": ["x", 2]}}, "images.train.a"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "value", "text"), CLAIMS)
def test_a_header_of_another_form(tmp_path, checkpoint, monkeypatch, part, value, text):
    """It is refused by name before any weight is drawn."""
    monkeypatch.setattr("tinyunet.nn.layers.he_normal", None)
    save_checkpoint(tmp_path / "x", replace(checkpoint, **{part: value}))
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path / "x")
    assert str(tmp_path / "x") in str(error.value)
    assert text in str(error.value)


def write_header(path, checkpoint, edit):
    """A checkpoint whose header is edited as text, with the right checksum."""
    save_checkpoint(path, checkpoint)
    arrays = load_file(path)
    with safe_open(path, "numpy") as file:
        header = edit(file.metadata()["header"])
    checksum = checkpoint_module._checksum(header, arrays)
    save_file(arrays, path, {"format": "tinyunet 1", "header": header, "checksum": checksum})


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "{",
        lambda text: "[]",
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"step": 7', '"step": ' + "7" * 5000),
        lambda text: text.replace('"step": 7, ', ""),
        lambda text: text.replace('"step": 7', '"step": 7, "pickle": 3'),
    ],
    ids=["cut off", "list", "null", "nested", "digits", "without step", "an entry more"],
)
def test_a_header_of_another_text(tmp_path, checkpoint, edit):
    write_header(tmp_path / "x", checkpoint, edit)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "x")
    assert str(tmp_path / "x") in str(error.value)


def test_a_header_without_what_old_versions_did_not_store(tmp_path, checkpoint):
    write_header(tmp_path / "x", checkpoint, lambda text: text.replace(', "images": {}', ""))
    assert load_checkpoint(tmp_path / "x").images == {}


@pytest.mark.parametrize("part", ["weight", "velocity", "mean", "square"])
@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda array: array.astype(np.int8), "I8"),
        (lambda array: array.astype(np.float64), "F64"),
        (lambda array: np.full_like(array, np.nan), "not finite"),
        (lambda array: np.full_like(array, -np.inf), "not finite"),
        (lambda array: array[:1], "(1,)"),
        (None, "nothing"),
    ],
)
def test_arrays_of_another_form(tmp_path, checkpoint, part, edit, text):
    if part in AdamW.STATE:
        checkpoint = of_adam(checkpoint)
    name, parts = "scores.bias", {"weight": checkpoint.weights, **checkpoint.optimiser}
    arrays = parts[part] = dict(parts[part])
    if edit:
        arrays[name] = edit(arrays[name])
    else:
        del arrays[name]
    edited = replace(checkpoint, weights=parts.pop("weight"), optimiser=parts)
    save_checkpoint(tmp_path / "x", edited)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "x")
    for expected in (tmp_path / "x", text):
        assert str(expected) in str(error.value)


def of_adam(checkpoint):
    """The same network, trained by the other optimiser."""
    velocity = checkpoint.optimiser["velocity"]
    optimiser = {"mean": velocity, "square": {name: array**2 for name, array in velocity.items()}}
    return replace(checkpoint, config={**checkpoint.config, "optimiser": "adam"}, optimiser=optimiser)


def test_the_state_of_adam(tmp_path, checkpoint):
    """All of it, or none: half of it is damage."""
    whole = of_adam(checkpoint)
    save_checkpoint(tmp_path / "x", whole)
    assert_same(load_checkpoint(tmp_path / "x"), whole)
    save_checkpoint(tmp_path / "x", replace(whole, optimiser={}))
    assert load_checkpoint(tmp_path / "x").optimiser == {}
    save_checkpoint(tmp_path / "x", replace(whole, optimiser={"mean": whole.optimiser["mean"]}))
    with pytest.raises(CheckpointError, match="square/"):
        load_checkpoint(tmp_path / "x")


def test_arrays_that_the_network_lacks(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "x", replace(checkpoint, weights={**checkpoint.weights, "more": np.zeros(2)}))
    with pytest.raises(CheckpointError, match="weight/more"):
        load_checkpoint(tmp_path / "x")


def test_too_little_memory_is_not_reported_as_damage(path, monkeypatch):
    def no_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(checkpoint_module, "safe_open", no_memory)
    with pytest.raises(MemoryError):
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


def test_the_same_state_makes_the_same_bytes(tmp_path, checkpoint):
    """Safetensors writes its metadata in an order that differs from call to call."""
    files = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for file in files:
        save_checkpoint(file, checkpoint)
    assert len({file.read_bytes() for file in files}) == 1


def no_space(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "fails", ["training.checkpoint.save", "data.atomic_write.os.fsync", "data.atomic_write.os.replace"]
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

    monkeypatch.setattr("tinyunet.data.atomic_write.os.replace", interrupted)
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
from tinyunet.errors import CheckpointError
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
