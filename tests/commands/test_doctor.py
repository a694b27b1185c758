"""python -m tinyunet.doctor: exit status, picture, and the same warnings before a training."""

import shlex

import numpy as np
import pytest
from PIL import Image

from tinyunet import train
from tinyunet.training.recipes import recipe

SMALL = ("--tile", "16", "--depth", "1", "--holdout", "1")


def test_findings_are_no_failure(command, data, tmp_path):
    status, out, _ = command("doctor", data, *SMALL)
    assert status == 0
    assert "2 images to train on, 1 held out" in out
    assert "(binary)" in out
    assert "wrote doctor.png" in out
    picture = np.asarray(Image.open(tmp_path / "doctor.png").convert("RGB"))
    assert picture.std() > 20


def test_options_are_those_of_the_training(command, data):
    _, out, _ = command("doctor", data, "--tile", "60", "--depth", "1", "--holdout", "0,1", "--overwrite")
    assert "1 images to train on, 2 held out" in out
    assert "3 images smaller than the tile of 60 pixels" in out
    _, out, _ = command("doctor", data, *SMALL, "--overwrite")
    assert "smaller than the tile" not in out


@pytest.mark.parametrize(("model", "halo"), [("unet", 92), ("fcn", 64), ("sliding-window", 47)])
def test_how_far_the_network_sees(command, data, model, halo):
    """At depth 4; the images have 40 × 36 pixels."""
    _, out, _ = command("doctor", data, "--tile", "16", "--holdout", "1", "--model", model, "--depth", "4")
    assert f"3 images not larger than the {halo} pixels that the network sees" in out


@pytest.mark.parametrize("options", [("--depth", "-1"), ("--model", "fcn", "--depth", "2")])
def test_a_depth_that_no_network_has(refused, data, options):
    """Found without making the network."""
    assert f"depth is {options[-1]}" in refused("doctor", data, *options)


def test_what_it_proposes_is_a_command(command, data, tiny):
    """As it can be typed for these images, 40 × 36 pixels; the tile given to look at is not in it."""
    _, out, _ = command("doctor", data, *SMALL)
    (line,) = [line for line in out.splitlines() if "python -m tinyunet.train" in line]
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "tinyunet.train"]
    assert words[words.index("--holdout") :][:2] == ["--holdout", "1"]
    assert words[words.index("--depth") :][:4] == ["--depth", "2", "--tile", "36"]


@pytest.mark.parametrize("model", ["unet", "fcn", "sliding-window"])
def test_what_it_proposes_has_the_weights_of_the_recipe(command, data, model):
    """Those with which --recipe auto trains this network, none of which was given."""
    _, out, _ = command("doctor", data, *SMALL[:2], "--holdout", "1", "--model", model)
    (line,) = [line for line in out.splitlines() if "python -m tinyunet.train" in line]
    assert "--weights" not in line
    assert train.parse(shlex.split(line)[3:]).config.weights == recipe(model=model).weights


def test_its_loss_has_the_weights_that_a_training_takes(command, tmp_path):
    """The borders have one where walls part the objects, unless a weight was given."""
    inside = np.arange(120) % 40 >= 4
    mask = (inside[:, None] & inside).astype(np.uint8)
    np.savez(tmp_path / "walls.npz", images=np.stack([255 * mask] * 3), labels=np.stack([mask] * 3))

    def loss(*options):
        _, out, _ = command("doctor", tmp_path / "walls.npz", *SMALL, "--overwrite", *options)
        (line,) = [line for line in out.splitlines() if "training loss then" in line]
        return line

    assert loss() == loss("--weights.w0", "10") != loss("--weights.w0", "0")
    assert loss("--weights.class-balance") == loss("--weights.class-balance", "--weights.w0", "0")


def test_problems_come_first(command, data):
    duplicate(data)
    _, out, _ = command("doctor", data, *SMALL)
    assert out.index("problem: ") < out.index("note: ")
    assert "1 = 0" in out


def duplicate(data):
    """The held-out image is one of those to train on."""
    for part in ("images", "labels"):
        (data / part / "1.png").write_bytes((data / part / "0.png").read_bytes())


def test_the_picture_is_overwritten_only_when_asked(command, refused, data, tmp_path):
    (tmp_path / "out").mkdir()
    picture = tmp_path / "out" / "doctor.png"
    picture.write_bytes(b"mine")
    assert "nothing was overwritten" in refused("doctor", data, *SMALL, "--out", tmp_path / "out")
    assert picture.read_bytes() == b"mine"
    assert command("doctor", data, *SMALL, "--out", tmp_path / "out", "--overwrite")[0] == 0
    assert picture.read_bytes() != b"mine"


def test_the_data_are_left_alone(command, data, unchanged):
    with unchanged(data):
        assert command("doctor", data, *SMALL)[0] == 0


def other_size(data):
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(data / "labels" / "1.png")


UNREADABLE = {
    "no such folder": (lambda data: data.rename(data.with_name("elsewhere")), ["data"]),
    "no labels": (lambda data: (data / "labels").rename(data / "lables"), ["labels/"]),
    "stems": (
        lambda data: (data / "labels" / "1.png").rename(data / "labels" / "one.png"),
        ["1: 1", "1: one"],
    ),
    "sizes": (other_size, ["(40, 36, 1)", "(9, 9)"]),
    "damaged": (lambda data: (data / "images" / "2.png").write_bytes(b"\x89PNG"), ["2.png"]),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_data(name, data, refused, tmp_path):
    change, expected = UNREADABLE[name]
    change(data)
    message = refused("doctor", data, *SMALL)
    for text in expected:
        assert text in message
    assert not (tmp_path / "doctor.png").exists()


def test_training_prints_the_same_warnings_but_no_notes(command, data, tiny):
    duplicate(data)
    status, out, warned = command("train", "--data", data, "--out", "run", *tiny)
    assert status == 0
    assert "problem: 1 pair" in warned
    assert "note: " not in out + warned


def test_training_on_sound_data_warns_of_nothing(command, data, tiny):
    _, _, warned = command("train", "--data", data, "--out", "run", *tiny)
    assert "warning: " not in warned
    assert "problem: " not in warned


def test_a_name_that_looks_like_a_formula(command, data, tiny, tmp_path):
    """Matplotlib reads text between two dollar signs as a formula, and this one is invalid."""
    for file in [*data.glob("*/*.png")]:
        file.rename(file.with_stem(f"{file.stem}$^_$"))
    assert command("doctor", data, *SMALL)[0] == 0
    assert command("train", "--data", data, "--out", "run", *tiny)[0] == 0
    assert command("evaluate", "run", "--out", "scores")[0] == 0
    assert (tmp_path / "scores" / "1$^_$_errors.png").is_file()
