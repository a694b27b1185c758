"""A set that was changed since it was trained on: nothing goes on, or is judged, as if it were the same."""

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
    return "new images       1: 0a", "held out or not  1: 1"


def without_the_first(data):
    for part in ("images", "labels"):
        (data / part / "0.png").unlink()
    return "missing images   1: 0", "held out or not  2: 1, 2"


def swapped(data):
    for part in ("images", "labels"):
        (data / part / "0.png").rename(data / part / "x.png")
        (data / part / "1.png").rename(data / part / "0.png")
        (data / part / "x.png").rename(data / part / "1.png")
    return "other pixels  2: 0, 1", "other labels  2: 0, 1"


CONTAMINATED = (one_more, without_the_first, swapped)


@pytest.mark.parametrize("change", CONTAMINATED, ids=lambda f: f.__name__)
def test_nothing_goes_on(refused, data, run, unchanged, change):
    texts = change(data)
    with unchanged(run):
        message = refused("train", "--resume", run, "--steps", "6")
    assert f"resume: {data} is not what the run was started with" in message
    assert "start another run" in message
    for text in texts:
        assert text in message


@pytest.mark.parametrize("change", CONTAMINATED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["evaluate", "report"])
def test_what_was_trained_on_is_not_judged(refused, data, run, unchanged, name, change):
    change(data)
    with unchanged(run):
        message = refused(name, run)
    assert f"{data}: images that are held out now were trained on" in message
    assert "held out in training  1" in message


def test_better_labels_are_judged_but_not_trained_on(command, refused, data, run):
    """Of the held-out image, whose pixels are the same."""
    label = np.asarray(Image.open(data / "labels" / "1.png"))
    Image.fromarray(np.roll(label, 1, axis=0)).save(data / "labels" / "1.png")
    assert command("evaluate", run)[0] == 0
    assert "other labels  1: 1" in refused("train", "--resume", run, "--steps", "6")


@pytest.mark.parametrize("name", ["evaluate", "report"])
def test_other_channels(refused, data, run, name):
    for file in (data / "images").iterdir():
        Image.open(file).convert("RGB").save(file)
    message = refused(name, run)
    assert "network  1 channels" in message
    assert "images   3 channels" in message


def test_runs_of_before_there_were_checksums(command, data, run):
    for name in ("best", "last"):
        path = run / f"{name}.safetensors"
        save_checkpoint(path, replace(load_checkpoint(path), images={}))
    one_more(data)
    assert command("evaluate", run)[0] == 0
    assert command("train", "--resume", run, "--steps", "6")[0] == 0
