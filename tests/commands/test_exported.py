"""Exported files in place of a run: predict and evaluate give what the run gives."""

import json

import numpy as np
import onnx
import pytest
import tifffile
from PIL import Image

from tinyunet.exchange.exported import read_exported
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.training.checkpoint import load_model

SUFFIXES = ("zip", "onnx", "safetensors")


@pytest.fixture
def exported(command, trained, tmp_path):
    """The run's network in each format, with batch normalisation or without."""
    for suffix in SUFFIXES:
        status, _, message = command("export", trained, "--out", tmp_path / f"model.{suffix}")
        assert status == 0, message
    return tmp_path


@pytest.fixture
def normalised(command, data, tiny, tmp_path):
    """A run with batch normalisation."""
    options = [option for option in tiny if option not in ("--recipe", "paper", "--momentum", "0.9")]
    status, _, message = command("train", "--data", data, "--out", tmp_path / "normalised", *options)
    assert status == 0, message
    return tmp_path / "normalised"


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_every_format_predicts_the_files_of_the_run(command, trained, normalised, image, tmp_path):
    for run in (trained, normalised):
        assert command("predict", run, image, "--out", f"{run.name}-out")[0] == 0
        for suffix in SUFFIXES:
            model = tmp_path / f"{run.name}.{suffix}"
            assert command("export", run, "--out", model)[0] == 0
            status, output, message = command("predict", model, image, "--out", f"{run.name}-{suffix}")
            assert status == 0, message
            assert "network of step" in output
            assert files(tmp_path / f"{run.name}-{suffix}") == files(tmp_path / f"{run.name}-out")


def test_evaluate_predicts_labelled_images(command, refused, trained, exported, data, make_data, tmp_path):
    """With the scores of predictions in files; a checkpoint refuses the images that it was trained on."""
    new = make_data("others", n=2, seed=9)
    assert command("predict", trained, new, "--out", "predicted", "--tile", "16")[0] == 0
    assert command("evaluate", "predicted", new, "--out", "expected")[0] == 0
    expected = json.loads((tmp_path / "expected" / "scores.json").read_text())
    for suffix in SUFFIXES:
        model = exported / f"model.{suffix}"
        status, output, message = command("evaluate", model, new, "--out", f"scores-{suffix}")
        assert status == 0, message
        assert "does not say on which images" in output
        found = json.loads((tmp_path / f"scores-{suffix}" / "scores.json").read_text())
        # From other tiles, whose float32 sums have another order: no pixel changes its class here.
        for one, other in zip(found["images"], expected["images"], strict=True):
            assert one["scores"] == pytest.approx(other["scores"], rel=0, abs=1e-5, nan_ok=True)
    assert "second argument" in refused("evaluate", exported / "model.zip")
    checkpoint = trained / "best.safetensors"
    assert command("evaluate", checkpoint, new)[0] == 0
    assert "trained on" in refused("evaluate", checkpoint, data)


def test_fixed_statistics_are_used_by_predict_and_evaluate(command, trained, make_data, tmp_path):
    """An image of another exposure is predicted as the run predicts the image that its own is mapped to."""
    new = make_data("dim", n=1, seed=9)
    grey = np.asarray(Image.open(new / "images" / "0.png"))
    Image.fromarray(grey // 4).save(new / "images" / "0.png")
    model, _ = load_model(trained)
    for suffix in SUFFIXES:
        file = tmp_path / f"fixed.{suffix}"
        assert command("export", trained, "--out", file, "--normalisation", "fixed")[0] == 0
        statistics = read_exported(file).record.statistics
        normalised = ((grey // 4)[..., None] - statistics.mean[0]) / statistics.deviation[0]
        expected = predict_tiled(model, normalised.astype(np.float32))
        status, output, message = command("predict", file, new / "images", "--out", f"out-{suffix}")
        assert status == 0, message
        assert f"{statistics}" in output
        found = tifffile.imread(tmp_path / f"out-{suffix}" / "0_probabilities.tif")
        np.testing.assert_array_equal(found.transpose(1, 2, 0), expected)
        assert command("evaluate", file, new, "--out", f"scores-{suffix}")[0] == 0
        assert command("evaluate", f"out-{suffix}", new, "--out", f"expected-{suffix}")[0] == 0
        scores, expected = (
            json.loads((tmp_path / f"{name}-{suffix}" / "scores.json").read_text())["images"][0]["scores"]
            for name in ("scores", "expected")
        )
        assert scores == pytest.approx(expected, rel=0, abs=1e-5, nan_ok=True)


def test_what_cannot_be_predicted_with_changes_nothing(
    refused, command, exported, image, make_data, unchanged, tmp_path
):
    content = (exported / "model.onnx").read_bytes()
    foreign = onnx.load_from_string(content)
    foreign.producer_name = "keras2onnx"
    (tmp_path / "foreign.onnx").write_bytes(foreign.SerializeToString())
    (tmp_path / "short.zip").write_bytes((exported / "model.zip").read_bytes()[:500])
    assert command("predict", exported / "model.onnx", image, "--out", "old")[0] == 0
    colour = make_data("colour", channels=(3,))
    with unchanged(tmp_path):
        for command_ in ("predict", "evaluate"):
            for model, words in {
                "foreign.onnx": "keras2onnx",
                "short.zip": "short.zip",
                "missing.onnx": "missing.onnx",
            }.items():
                out = ("--out", "old", "--overwrite")
                source = image if command_ == "predict" else colour
                assert words in refused(command_, tmp_path / model, source, *out)
        assert "channels" in refused("predict", exported / "model.onnx", colour / "images", "--out", "none")
        assert "channels" in refused("evaluate", exported / "model.onnx", colour)


def test_the_classes_are_written_in_the_numbers_of_the_labels(command, exported, image, tmp_path):
    for suffix in SUFFIXES:
        assert command("predict", exported / f"model.{suffix}", image, "--out", suffix)[0] == 0
        assert set(np.unique(Image.open(tmp_path / suffix / "slide_classes.png"))) <= {0, 255}
