"""python -m tinyunet.export: files that other programs read, with the run's network in them."""

import shutil
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from oracle import randomised
from PIL import Image
from safetensors.numpy import load_file

from tinyunet.data import normalise, read_images, split
from tinyunet.data.class_table import ClassTable
from tinyunet.data.fingerprint import fingerprints
from tinyunet.exchange.exported import read_exported
from tinyunet.models import make_network
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.training.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint
from tinyunet.training.config import TrainConfig, network_options
from tinyunet.training.folds import CrossValidation, FoldsFolder
from tinyunet.training.run_folder import RunFolder

TOLERANCE = 2e-6  # of probabilities, in float32: see tests/exchange/test_onnx.py


def onnx_output(content, image):
    """Probabilities (H, W, K) of a normalised image (H, W, C)."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image.transpose(2, 0, 1)[np.newaxis]})[0][0].transpose(1, 2, 0)


def test_onnx_holds_the_best_network(command, run, tmp_path):
    status, output, message = command("export", run, "--out", tmp_path / "new" / "model.onnx")
    assert status == 0, message
    assert "model.onnx" in output
    model, _ = load_model(run)
    image = np.random.default_rng(0).standard_normal((18 + 2 * 30, 18, 1), dtype=np.float32)
    probabilities = onnx_output((tmp_path / "new" / "model.onnx").read_bytes(), image)
    assert probabilities.shape == (78 - 16, 2, 2)
    # No pixel of the output sees beyond the image, where overlap-tile would put its mirror.
    expected = predict_tiled(model, image)[8:-8, 8:-8]
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=TOLERANCE)


def test_torch_holds_all_weights(command, run, tmp_path):
    assert command("export", run, "--out", tmp_path / "model.safetensors")[0] == 0
    stored, (model, _) = load_file(tmp_path / "model.safetensors"), load_model(run)
    weights = model.state_dict()
    assert stored.keys() == weights.keys()
    np.testing.assert_array_equal(stored["up.0.weight"], np.moveaxis(weights["up.0.weight"], (2, 3), (0, 1)))


@pytest.fixture(scope="session")
def run_once(tmp_path_factory):
    """The folder of a run with random weights, which were not trained: its configuration, log and network."""
    folder = tmp_path_factory.mktemp("exported")
    rng = np.random.default_rng(0)
    for part, highest in (("images", 256), ("labels", 2)):
        (folder / "data" / part).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, highest, (40, 36), np.uint8) * np.uint8(255 if highest == 2 else 1)
            Image.fromarray(pixels).save(folder / "data" / part / f"{number}.png")
    config = TrainConfig(str(folder / "data"), holdout="1", base_channels=2, depth=1)
    options = {**network_options(config), "in_channels": 1, "num_classes": 2, "seed": 5}
    run = RunFolder(folder / "run")
    run.create(asdict(config))
    for step, mean_iou in ((1, 0.25), (2, 0.625), (3, 0.5)):
        scores = {"mean_iou": mean_iou, "pixel_error": 0.25, "seconds": 0.1}
        run.append({"event": "validation", "step": step, **scores})
    weights = randomised(make_network(**options)).state_dict()
    classes = ClassTable((0, 255), mask=True).to_json()
    save_checkpoint(run.best, Checkpoint(options, asdict(config), 2, {}, weights, {}, classes=classes))
    return run.path


@pytest.fixture
def run(run_once, tmp_path):
    return Path(shutil.copytree(run_once, tmp_path / "run"))


@pytest.fixture(scope="module")
def package(run_once, tmp_path_factory):
    """A package of a run, and its files by name."""
    from tinyunet import export

    path = tmp_path_factory.mktemp("package") / "model.zip"
    export.main([str(run_once), "--out", str(path), "--author", "A. Student", "--author", "B. Teacher"])
    with zipfile.ZipFile(path) as file:
        return path, {name: file.read(name) for name in file.namelist()}


def test_the_package_passes_the_model_zoos_own_test(package):
    """It loads the description, checks every file, runs the network and compares the test tensors."""
    from bioimageio.core import test_description

    summary = test_description(package[0], weight_format="onnx")
    problems = [error for detail in summary.details for error in (*detail.errors, *detail.warnings)]
    assert summary.status == "passed", problems
    # Pictures in place of test tensors are recommended; that the outputs agree is reported, too.
    graver = [error for error in problems if getattr(error, "severity", 50) >= 30]
    assert {error.loc[-1] for error in graver} <= {"sample_tensor"}


@pytest.fixture(scope="module")
def fixed(run_once, tmp_path_factory):
    from tinyunet import export

    path = tmp_path_factory.mktemp("fixed") / "model.zip"
    export.main([str(run_once), "--out", str(path), "--normalisation", "fixed"])
    return path


def training_statistics(run_once):
    """The mean and the deviation of the one image that is not held out."""
    pixels = np.asarray(Image.open(run_once.parent / "data" / "images" / "0.png"), np.float64)
    return pixels.mean(), pixels.std()


def test_a_package_with_fixed_statistics(fixed, run_once):
    """It passes the model zoo's own test, and blocks give what the whole image gives."""
    from bioimageio.core import create_prediction_pipeline, test_description
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_model_description

    summary = test_description(fixed, weight_format="onnx")
    assert summary.status == "passed", summary.details
    description = load_model_description(fixed)
    _, step, *_ = description.inputs[0].preprocessing  # the first one, which the reader adds, casts
    mean, deviation = training_statistics(run_once)
    assert step.id == "fixed_zero_mean_unit_variance"
    assert (step.kwargs.axis, *step.kwargs.mean) == ("channel", pytest.approx(mean, rel=1e-12))
    assert step.kwargs.std == pytest.approx([deviation], rel=1e-12)
    # Bright above and dim below: each by its own mean would be something else.
    image = np.random.default_rng(1).normal(100, 20, (60, 84, 1)).astype(np.float32)
    image[:30] += 100
    expected = predict_tiled(load_model(run_once)[0], ((image - mean) / deviation).astype(np.float32))
    with create_prediction_pipeline(description, weight_format="onnx") as pipeline:
        sample = create_sample_for_model(description, inputs={"image": image.transpose(2, 0, 1)[np.newaxis]})
        blocks = pipeline.predict_sample_with_fixed_blocking(
            sample, {"image": {"batch": 1, "channel": 1, "y": 30, "x": 34}}
        )
    found = np.asarray(blocks.members["probabilities"].data)[0].transpose(1, 2, 0)
    inner = slice(8, -8)
    np.testing.assert_allclose(found[inner, inner], expected[inner, inner], rtol=0, atol=1e-5)


def test_every_file_says_that_statistics_are_fixed(command, run, run_once, fixed, tmp_path):
    mean, deviation = training_statistics(run_once)
    expected = {"mean": [pytest.approx(mean)], "deviation": [pytest.approx(deviation)]}
    for suffix in ("onnx", "safetensors"):
        status, _, message = command(
            "export", run, "--out", tmp_path / f"m.{suffix}", "--normalisation", "fixed"
        )
        assert status == 0, message
        record = read_exported(tmp_path / f"m.{suffix}").record.to_json()
        assert record["statistics"] == {name: tuple(values) for name, values in expected.items()}
    file = onnx.load(tmp_path / "m.onnx")
    with zipfile.ZipFile(fixed) as package:
        readme = package.read("README.md").decode()
    for text in (file.doc_string, readme):
        assert f"{mean:.6g}" in text
        assert f"{deviation:.6g}" in text


def test_fixed_statistics_need_the_images_of_the_training(refused, command, run, run_once, tmp_path):
    """Not others of the same names; and none that has no deviation."""
    out = ("--out", tmp_path / "model.onnx", "--normalisation", "fixed")
    data = tmp_path / "changed"
    shutil.copytree(run_once.parent / "data", data)
    checkpoint = load_checkpoint(run / "best.safetensors")
    config = {**checkpoint.config, "data": str(data)}
    images = {"train": fingerprints(split(read_images(str(data)), "1")[0])}
    save_checkpoint(run / "best.safetensors", replace(checkpoint, config=config, images=images))
    assert command("export", run, *out)[0] == 0
    (tmp_path / "model.onnx").unlink()
    flat = Image.new("L", (36, 40), 7)
    flat.save(data / "images" / "0.png")
    assert "other pixels" in refused("export", run, *out)
    save_checkpoint(run / "best.safetensors", replace(checkpoint, config=config))
    assert "constant" in refused("export", run, *out)
    shutil.rmtree(data)
    assert "--normalisation" in refused("export", run, *out)
    assert not (tmp_path / "model.onnx").exists()


def test_the_description_says_what_the_run_says(package):
    description = yaml.safe_load(package[1]["rdf.yaml"])
    assert [author["name"] for author in description["authors"]] == ["A. Student", "B. Teacher"]
    assert description["config"]["tinyunet"]["network"]["depth"] == 1
    assert description["config"]["tinyunet"]["step"] == 2
    assert "mean IoU 0.6250" in package[1]["README.md"].decode()
    names = description["outputs"][0]["axes"][1]["channel_names"]
    assert names == ["class 0", "class 255"]  # the values of the labels


def test_a_consumer_that_predicts_block_by_block(package, run_once, tmp_path):
    """Further than the halo from the border, blocks give what the whole image gives; so does the whole."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_model_description

    description = load_model_description(package[0])
    model, _ = load_model(run_once)
    image = np.random.default_rng(1).normal(100, 20, (60, 84, 1)).astype(np.float32)
    expected = predict_tiled(model, normalise(image))
    axes_first = image.transpose(2, 0, 1)[np.newaxis]
    with create_prediction_pipeline(description, weight_format="onnx") as pipeline:
        # Otherwise it normalises what it has padded, by another mean: nothing that the network needs.
        sample = create_sample_for_model(description, inputs={"image": axes_first})
        whole = pipeline.predict_sample_without_blocking(
            sample, skip_input_padding=True, skip_output_cropping=True
        )
        sample = create_sample_for_model(description, inputs={"image": axes_first})  # it is changed
        blocks = pipeline.predict_sample_with_fixed_blocking(
            sample, {"image": {"batch": 1, "channel": 1, "y": 30, "x": 34}}
        )
    whole, blocks = (
        np.asarray(result.members["probabilities"].data)[0].transpose(1, 2, 0) for result in (whole, blocks)
    )
    halo = 8
    inner = slice(halo, -halo)
    # The mean and deviation are taken in float32 there, and 1e-6 is added to the deviation.
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(blocks[inner, inner], expected[inner, inner], rtol=0, atol=1e-5)


def test_an_example_of_ones_own(command, run, tmp_path):
    """Smaller than a block, in 16 bits."""
    image = np.random.default_rng(3).integers(0, 4000, (9, 30)).astype(np.uint16)
    Image.fromarray(image).save(tmp_path / "one.png")
    status, _, message = command(
        "export", run, "--out", tmp_path / "model.zip", "--example", tmp_path / "one.png"
    )
    assert status == 0, message
    with zipfile.ZipFile(tmp_path / "model.zip") as file, file.open("test_input.npy") as tensor:
        example = np.load(tensor)
    assert example.shape == (1, 1, 18, 30)
    np.testing.assert_array_equal(example[0, 0, 5:14], image)  # its mirror image above and below


def test_the_same_run_makes_the_same_bytes(command, run, tmp_path):
    for suffix in ("onnx", "zip", "safetensors"):
        for name in "ab":
            assert command("export", run, "--out", tmp_path / f"{name}.{suffix}")[0] == 0
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_what_cannot_be_exported_is_refused(refused, run, unchanged, tmp_path, monkeypatch):
    folds = FoldsFolder(tmp_path / "folds")
    folds.create(CrossValidation(TrainConfig(), ["0", "1"]))
    (tmp_path / "old.onnx").write_bytes(b"old")
    with unchanged(tmp_path):
        assert "model.pth" in refused("export", run, "--out", tmp_path / "model.pth")
        assert "--overwrite" in refused("export", run, "--out", tmp_path / "old.onnx")
        assert "fold-0" in refused("export", folds.path, "--out", tmp_path / "model.onnx")
        assert "no such checkpoint" in refused("export", tmp_path / "no", "--out", tmp_path / "model.onnx")
        missing = tmp_path / "no.png"
        assert "no.png" in refused("export", run, "--out", tmp_path / "m.zip", "--example", missing)
        for module, out in (("onnx", "m.onnx"), ("onnx", "m.zip"), ("yaml", "m.zip")):
            with monkeypatch.context() as patch:
                patch.setitem(sys.modules, module, None)
                assert "pip install" in refused("export", run, "--out", tmp_path / out)


def test_a_run_whose_images_are_gone_says_so(refused, run, monkeypatch, tmp_path):
    from tinyunet import export
    from tinyunet.errors import DataError

    def gone(*_):
        raise DataError("my-set: no such file or folder")

    monkeypatch.setattr(export, "read_data", gone)
    assert "--example" in refused("export", run, "--out", tmp_path / "model.zip")
