"""Films of the Cell Tracking Challenge through all the commands."""

import json

import pytest
from films import write_film


@pytest.fixture
def film(tmp_path):
    """Six frames, of which three are outlined, one of them in part."""
    every = range(1, 6)
    return write_film(tmp_path / "SET", frames=6, outlined={1: every, 2: [1, 2], 5: every})


def test_training_on_a_film(command, film, tiny, tmp_path):
    status, out, message = command("train", "--data", film, "--out", "run", *tiny)
    assert status == 0, message
    assert "3 of 6 frames have gold truth, the others are left out" in out
    assert "3 cells have no outline" in out
    assert "2 images to train on, 1 held out" in out
    status, out, message = command("evaluate", "run")
    assert status == 0, message
    assert "3 cells have no outline" in out


@pytest.mark.parametrize("name", ["train", "doctor", "evaluate"])
def test_the_annotation_that_is_asked_for(command, film, tiny, tmp_path, name):
    """Silver truth, and background only near to it, reach the reader from each command."""
    write_film(film, frames=6, outlined={frame: [1, 2] for frame in range(4)}, truth="ST", markers=False)
    asked = ("--truth", "silver", "--partly-annotated", "5")
    if name == "train":
        status, out, message = command("train", "--data", film, "--out", "run", *tiny, *asked)
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        assert (config["truth"], config["partly_annotated"]) == ("silver", 5)
    elif name == "doctor":
        status, out, message = command("doctor", film, "--tile", "16", "--depth", "1", *asked)
        assert "of the pixels are unknown" in out
    else:
        assert command("train", "--data", film, "--out", "run", *tiny)[0] == 0
        status, out, message = command("evaluate", "run", *asked)
    assert status == 0, message
    assert "4 of 6 frames have silver truth" in out
    assert "background over 5 px from labels is unknown" in out
