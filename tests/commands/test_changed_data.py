"""A set that was changed after training: no command goes on as if it were the same."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def run(command, data, tiny, tmp_path):
    """Trained on 0 and 2, with 1 held out."""
    assert command("train", "--data", data, "--out", "run", *tiny)[0] == 0
    return tmp_path / "run"


def one_more(data):
    """A copy of 2 is now the second image, which is held out."""
    for part in ("images", "labels"):
        shutil.copy(data / part / "2.png", data / part / "0a.png")
    return "1: 0a", "1: 1"


def without_the_first(data):
    for part in ("images", "labels"):
        (data / part / "0.png").unlink()
    return "1: 0", "2: 1, 2"


def swapped(data):
    for part in ("images", "labels"):
        (data / part / "0.png").rename(data / part / "x.png")
        (data / part / "1.png").rename(data / part / "0.png")
        (data / part / "x.png").rename(data / part / "1.png")
    return ("2: 0, 1",)


CONTAMINATED = (one_more, without_the_first, swapped)


@pytest.mark.parametrize("change", CONTAMINATED, ids=lambda f: f.__name__)
def test_a_training_does_not_go_on(refused, data, run, unchanged, change):
    texts = change(data)
    with unchanged(run):
        message = refused("train", "--resume", run, "--steps", "6")
    for text in (f"resume: {data}", *texts):
        assert text in message


@pytest.mark.parametrize("change", CONTAMINATED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["evaluate", "report"])
def test_training_images_are_not_scored(refused, data, run, unchanged, name, change):
    change(data)
    with unchanged(run):
        message = refused(name, run)
    assert str(data) in message
    assert "held out in training  1" in message


def test_better_labels_are_used_for_scores_but_not_for_training(command, refused, data, run):
    """New labels of the held-out image, whose pixels are the same."""
    label = np.asarray(Image.open(data / "labels" / "1.png"))
    Image.fromarray(np.roll(label, 1, axis=0)).save(data / "labels" / "1.png")
    assert command("evaluate", run)[0] == 0
    assert "1: 1" in refused("train", "--resume", run, "--steps", "6")


@pytest.mark.parametrize("name", ["evaluate", "report"])
def test_other_channels(refused, data, run, name):
    for file in (data / "images").iterdir():
        Image.open(file).convert("RGB").save(file)
    message = refused(name, run)
    assert "1 channels" in message
    assert "3 channels" in message


def test_runs_that_stored_no_checksums(command, data, run):
    for name in ("best", "last"):
        path = run / f"{name}.safetensors"
        save_checkpoint(path, replace(load_checkpoint(path), images={}))
    one_more(data)
    assert command("evaluate", run)[0] == 0
    assert command("train", "--resume", run, "--steps", "6")[0] == 0
