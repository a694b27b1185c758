"""A training on images that are read as needed: stopped by a broken file, and going on once it is right."""

import pytest

from tinyunet.data import large_sets
from tinyunet.training.checkpoint import load_checkpoint


@pytest.fixture
def data(make_data, monkeypatch):
    monkeypatch.setattr(large_sets, "LARGE", 0)
    return make_data("large", n=6)


def test_a_broken_file_stops_a_training_that_can_go_on(command, refused, data, tiny, tmp_path, monkeypatch):
    path = data / "images" / "2.png"
    content = path.read_bytes()
    options = ("--data", data, *tiny, "--steps", "8", "--validate-every", "8")
    monkeypatch.setattr("tinyunet.data.image_set.LOOKED_AT", 2)
    monkeypatch.setattr("tinyunet.data.image_set.FEWEST_LOOKED_AT", 2)
    assert command("train", "--out", "whole", *options)[0] == 0
    path.write_bytes(content[:60])
    message = refused("train", "--out", "run", *options)
    assert "2.png" in message
    assert "stopped after step" in message
    assert "--resume run" in message
    path.write_bytes(content)
    status, out, err = command("train", "--resume", "run")
    assert status == 0, err
    assert "read as needed; 2 of them were looked at" in out
    whole, resumed = (load_checkpoint(tmp_path / name / "last.safetensors") for name in ("whole", "run"))
    for name, weight in whole.weights.items():
        assert (resumed.weights[name] == weight).all()
    assert whole.images == resumed.images
