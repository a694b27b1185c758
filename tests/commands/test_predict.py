"""python -m tinyunet.predict, as a user runs it."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image

from tinyunet import predict as predict_command
from tinyunet.autograd import Tensor
from tinyunet.data import normalise, records
from tinyunet.models import UNet, make_network
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.training.checkpoint import load_checkpoint, load_model, save_checkpoint

SUFFIXES = ("probabilities.tif", "classes.png", "instances.tif", "overlay.png")


def results(folder, name):
    probabilities, instances = (
        tifffile.imread(folder / f"{name}_{kind}.tif") for kind in ("probabilities", "instances")
    )
    classes, overlay = (Image.open(folder / f"{name}_{kind}.png") for kind in ("classes", "overlay"))
    return probabilities, classes, instances, overlay


def test_writes_four_files_of_the_images_size(command, trained, image, tmp_path):
    status, out, _ = command("predict", trained, image, "--out", "results")
    assert status == 0
    assert {file.name for file in (tmp_path / "results").iterdir()} == {
        f"slide_{suffix}" for suffix in SUFFIXES
    }
    assert "wrote 4 files to results" in out
    probabilities, classes, instances, overlay = results(tmp_path / "results", "slide")
    assert (probabilities.shape, probabilities.dtype) == ((2, 33, 50), np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=0, atol=1e-6)
    values = np.array([0, 255])  # those of the labels
    np.testing.assert_array_equal(np.asarray(classes), values[probabilities.argmax(axis=0)])
    assert (instances.shape, instances.dtype) == ((33, 50), np.uint16)
    assert (overlay.size, overlay.mode) == ((50, 33), "RGB")


def test_probabilities_beyond_4_gib_are_a_big_tiff(command, trained, image, monkeypatch):
    assert command("predict", trained, image, "--out", "classic")[0] == 0
    monkeypatch.setattr("tinyunet.prediction.files.CLASSIC_TIFF", 100)
    assert command("predict", trained, image, "--out", "big")[0] == 0
    found = {}
    for out in ("classic", "big"):
        with tifffile.TiffFile(f"{out}/slide_probabilities.tif") as file:
            found[out] = file.is_bigtiff, file.asarray()
    assert (found["classic"][0], found["big"][0]) == (False, True)
    np.testing.assert_array_equal(found["classic"][1], found["big"][1])


def test_two_frames_of_one_number(command, trained, tmp_path):
    """Images of which only some are called as frames get numbers in their order: none is overwritten."""
    (tmp_path / "in").mkdir()
    for name in ("01_t001", "a", "b"):
        Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "in" / f"{name}.png")
    assert command("predict", trained, "in", "--out", "results", "--layout", "film")[0] == 0
    masks = sorted(file.name for file in (tmp_path / "results" / "01_RES").glob("*.tif"))
    assert masks == ["mask000.tif", "mask001.tif", "mask002.tif"]


def test_a_mask_is_not_written_twice(command, trained, tmp_path):
    """The pages of a stack are numbered in their order, which may be the number of a frame."""
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "in" / "01_t001.png")
    pages = np.zeros((2, 20, 20), np.uint8)
    tifffile.imwrite(tmp_path / "in" / "01_t002.tif", pages, photometric="minisblack")
    status, _, message = command("predict", trained, "in", "--out", "results", "--layout", "film")
    assert status == 1
    assert "01_t002-0" in message
    assert "01_t002-1" not in message
    masks = sorted(file.name for file in (tmp_path / "results" / "01_RES").glob("*.tif"))
    assert masks == ["mask001.tif", "mask002.tif"]


@pytest.mark.parametrize("shape", [(1, 1), (40, 1), (1, 40), (3, 3)])
def test_a_page_for_each_class_however_small_the_image(command, trained, make_data, shape):
    """Even a line or a pixel; and evaluate reads it back."""
    small = make_data("small", n=1, shape=shape)
    assert command("predict", trained, small, "--out", "results")[0] == 0
    with tifffile.TiffFile("results/0_probabilities.tif") as file:
        assert [page.shape for page in file.pages] == [shape, shape]
    assert command("evaluate", "results", small, "--kind", "binary")[0] == 0


@pytest.mark.parametrize("options", [(), ("--tile", "8"), ("--backend", "numpy")])
def test_the_probabilities_are_those_of_the_best_checkpoint(command, trained, image, tmp_path, options):
    """For every tile and backend: to 1e-4, because float32 sums of order 1 are taken in another order."""
    best = load_checkpoint(trained / "best.safetensors")
    assert command("predict", trained, image, "--out", "results", *options)[0] == 0
    model = make_network(**best.network)
    model.load_state_dict(best.weights)
    expected = predict_tiled(model, normalise(tifffile.imread(image)[..., None]), tile=40)
    found = np.moveaxis(results(tmp_path / "results", "slide")[0], 0, 2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_a_run_or_one_of_its_files(command, trained, image, tmp_path):
    """A run stands for its best checkpoint; another can be named."""
    last = load_checkpoint(trained / "last.safetensors")
    other = {name: array + np.float32(0.5) for name, array in last.weights.items()}
    save_checkpoint(trained / "last.safetensors", replace(last, weights=other))
    found = {}
    for name in ("", "best.safetensors", "last.safetensors"):
        assert command("predict", trained / name, image, "--out", f"results{name}")[0] == 0
        found[name] = (tmp_path / f"results{name}" / "slide_probabilities.tif").read_bytes()
    assert found[""] == found["best.safetensors"]
    assert found[""] != found["last.safetensors"]


def test_eight_symmetries(command, trained, tmp_path):
    """The prediction of a rotated image is the rotated prediction."""
    pixels = np.random.default_rng(0).integers(0, 255, (21, 30)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "upright.png")
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "in" / "rotated.png")
    assert command("predict", trained, tmp_path / "in", "--out", "results", "--symmetries", "8")[0] == 0
    upright, rotated = (results(tmp_path / "results", name)[0] for name in ("upright", "rotated"))
    np.testing.assert_allclose(np.rot90(upright, axes=(1, 2)), rotated, rtol=0, atol=1e-5)
    model, _ = load_model(trained)
    once = predict_tiled(model, normalise(pixels[..., None]))
    assert abs(np.moveaxis(upright, 0, 2) - once).max() > 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (5, 64), (61, 17)])
def test_any_size(command, trained, tmp_path, shape):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)).save(
        tmp_path / "x.png"
    )
    status, _, message = command("predict", trained, tmp_path / "x.png", "--out", "results", "--tile", "16")
    assert status == 0, message
    probabilities, classes, instances, overlay = results(tmp_path / "results", "x")
    assert probabilities.shape == (2, *shape)
    assert np.asarray(classes).shape == instances.shape == np.asarray(overlay).shape[:2] == shape


def test_a_folder_of_images_of_different_sizes(command, trained, tmp_path):
    (tmp_path / "in").mkdir()
    shapes = {"a": (20, 31), "b": (44, 12)}
    for name, shape in shapes.items():
        Image.fromarray(np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)).save(
            tmp_path / "in" / f"{name}.png"
        )
    assert command("predict", trained, tmp_path / "in", "--out", "results")[0] == 0
    assert len(list((tmp_path / "results").iterdir())) == 8
    for name, shape in shapes.items():
        assert results(tmp_path / "results", name)[2].shape == shape


def test_files_are_read_one_by_one(command, trained, make_data, monkeypatch):
    """Each is read after the one before has been predicted: a folder may be larger than the memory."""

    def read(file, **options):
        order.append(f"read {file.name}")
        return decode_with_notes(file, **options)

    def predict(models, image, **options):
        order.append("predicted")
        return segment(models, image, **options)

    order, decode_with_notes, segment = [], records.decode_with_notes, predict_command.segment
    monkeypatch.setattr(records, "decode_with_notes", read)
    monkeypatch.setattr(predict_command, "segment", predict)
    assert command("predict", trained, make_data("folder"), "--out", "results")[0] == 0
    assert order == [line for i in range(3) for line in (f"read {i}.png", "predicted")]


def test_an_archive_and_a_data_set_with_labels(command, trained, data, tmp_path):
    np.savez(tmp_path / "set.npz", images=np.random.default_rng(0).random((2, 20, 22)))
    assert command("predict", trained, tmp_path / "set.npz", "--out", "one")[0] == 0
    names = {file.name.removesuffix("_classes.png") for file in (tmp_path / "one").glob("*_classes.png")}
    assert names == {"set-0", "set-1"}
    assert command("predict", trained, data, "--out", "two")[0] == 0
    assert len(list((tmp_path / "two").iterdir())) == 12


def test_objects_are_numbered_and_outlined(command, trained, data, tmp_path):
    """Every option for objects changes them; outlines are red where the objects are."""
    sizes = {}
    for options in ((), ("--threshold", "0"), ("--threshold", "1"), ("--min-size", "100000")):
        out = "results" + "".join(options)
        assert command("predict", trained, data, "--out", out, *options)[0] == 0
        _, _, instances, overlay = results(tmp_path / out, "0")
        sizes[options] = (instances > 0).sum()
        assert sorted(np.unique(instances)) == list(range(instances.max() + 1)) or instances.min() > 0
        red = (np.asarray(overlay) == (230, 57, 70)).all(axis=2)
        assert not (red & (instances == 0)).any()
        assert red.any() == (len(np.unique(instances)) > 1)
    assert sizes[("--threshold", "1")] == sizes[("--min-size", "100000")] == 0
    assert sizes[("--threshold", "0")] == 40 * 36


def test_many_classes_keep_their_numbers(command, tmp_path):
    """In each pixel the network finds the one of twenty classes that the grey value names."""
    network = {"in_channels": 1, "num_classes": 20, "base_channels": 1, "depth": 0, "padding": "same"}
    model = UNet(**network)
    for parameter in model.parameters():
        parameter.data[...] = 0
    for block in ("first", "second"):  # the grey value, raised above 0 so that no ReLU cuts it
        layer = getattr(model.contracting[0], block)
        layer.weight.data[1, 1, 0, 0] = 1
        layer.bias.data[0] = 2 if block == "first" else 0
    pixels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    grey = normalise(pixels[..., None]).ravel() + 2
    model.scores.weight.data[0, 0, 0] = 2 * grey
    model.scores.bias.data[...] = -(grey**2)  # 2 x g - g²: largest for the g that is nearest to x
    assert (model.eval()(Tensor(normalise(pixels[..., None])[None])).data.argmax(axis=3)[0] == pixels).all()
    save_model = replace(load_checkpoint_like(network, model), step=1)
    save_checkpoint(tmp_path / "net.safetensors", save_model)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert command("predict", tmp_path / "net.safetensors", tmp_path / "x.png", "--out", "results")[0] == 0
    classes = Image.open(tmp_path / "results" / "x_classes.png")
    np.testing.assert_array_equal(np.asarray(classes), pixels)
    colours = np.asarray(classes.convert("RGB"))
    assert not colours[pixels == 0].any()
    assert colours[pixels > 0].any(axis=-1).all()


def load_checkpoint_like(network, model):
    from tinyunet.training.checkpoint import Checkpoint

    return Checkpoint(network, {}, 0, {}, model.state_dict(), {})


def test_an_image_with_nothing_in_it(command, trained, tmp_path):
    """An image of one grey value gives all files, without NaN."""
    Image.fromarray(np.full((30, 40), 7, np.uint8)).save(tmp_path / "x.png")
    assert command("predict", trained, tmp_path / "x.png", "--out", "results", "--threshold", "1")[0] == 0
    probabilities, _, instances, _ = results(tmp_path / "results", "x")
    assert np.isfinite(probabilities).all()
    assert not instances.any()


def test_more_objects_than_16_bits_number(refused, trained, tmp_path, monkeypatch):
    """The files of a film hold no more; other label images take 32 bits, see save_labels."""
    many = np.arange(1, 65_537).reshape(256, 256)
    monkeypatch.setattr("tinyunet.prediction.segmentation.label_instances", lambda *_, **options: many)
    Image.fromarray(np.zeros((256, 256), np.uint8)).save(tmp_path / "slide.png")
    message = refused("predict", trained, tmp_path / "slide.png", "--out", "results", "--layout", "film")
    for text in ("65,535", "65,536", "mask000.tif"):
        assert text in message


def test_films_of_more_than_a_thousand_frames_have_four_digits(command, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tinyunet.prediction.segmentation.predict_tiled", lambda *_, **options: np.ones((4, 4, 2)) / 2
    )
    np.savez(tmp_path / "long.npz", images=np.zeros((1001, 4, 4), np.uint8))
    assert command("predict", trained, "long.npz", "--out", "results", "--layout", "film")[0] == 0
    names = sorted(file.name for file in (tmp_path / "results" / "01_RES").glob("*.tif"))
    assert (names[0], names[-1], len(names)) == ("mask0000.tif", "mask1000.tif", 1001)


def test_nothing_is_overwritten(command, refused, trained, image, tmp_path, unchanged):
    (tmp_path / "results").mkdir()
    assert command("predict", trained, image, "--out", "results")[0] == 0
    (tmp_path / "results" / "slide_classes.png").write_text("corrected by hand")
    with unchanged(tmp_path / "results"):
        message = refused("predict", trained, image, "--out", "results")
    assert "--overwrite" in message
    (tmp_path / "results" / "notes.txt").write_text("mine")
    assert command("predict", trained, image, "--out", "results", "--overwrite")[0] == 0
    assert results(tmp_path / "results", "slide")[1].size == (50, 33)
    assert (tmp_path / "results" / "notes.txt").read_text() == "mine"


def test_the_input_and_the_run_stay_as_they_are(command, trained, image, unchanged):
    with unchanged(trained), unchanged(image.parent):
        assert command("predict", trained, image, "--out", "results")[0] == 0


def test_help(command):
    status, out, _ = command("predict", "--help")
    assert status == 0
    for text in ("usage: python -m tinyunet.predict", "--tile", "--symmetries", "best checkpoint", "16-bit"):
        assert text in out


def test_objects_for_other_programs(command, trained, data, tmp_path):
    """Objects have the numbers that they have in the label image; without any, no such file stays."""
    from zipfile import ZipFile

    formats = [word for form in ("geojson", "roi", "csv") for word in ("--objects", form)]
    options = ("--out", "results", "--threshold", "0.4", "--min-size", "1")
    status, output, message = command("predict", trained, data, *options, *formats)
    assert status == 0, message
    assert "wrote 21 files" in output
    for name in "012":
        instances = tifffile.imread(tmp_path / "results" / f"{name}_instances.tif")
        numbers = np.setdiff1d(instances, [0]).tolist()
        rows = (tmp_path / "results" / f"{name}_objects.csv").read_text().splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == numbers
        assert {row.split(",")[1] for row in rows} <= {"255"}  # the value of the labels
        features = json.loads((tmp_path / "results" / f"{name}_objects.geojson").read_text())["features"]
        assert [int(feature["properties"]["name"]) for feature in features] == numbers
        with ZipFile(tmp_path / "results" / f"{name}_rois.zip") as archive:
            assert len(archive.namelist()) == len(numbers) > 0
    assert command("evaluate", "results", data)[0] == 0
    assert command("predict", trained, data, *options, "--overwrite")[0] == 0
    assert len(list((tmp_path / "results").iterdir())) == 12


def test_objects_of_frames_have_the_numbers_of_their_tracks(command, trained, tmp_path):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(1)
    for frame in range(2):
        pixels = rng.integers(0, 255, (24, 24)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"01_t00{frame}.png")
    options = ("--threshold", "0.4", "--min-size", "1", "--objects", "csv")
    status, output, _ = command("predict", trained, "in", "--out", "results", *options)
    assert status == 0
    assert "2 files of objects" in output
    for frame in range(2):
        mask = tifffile.imread(tmp_path / "results" / "01_RES" / f"mask00{frame}.tif")
        rows = (tmp_path / "results" / f"01_t00{frame}_objects.csv").read_text().splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == np.setdiff1d(mask, [0]).tolist() != []


def test_objects_that_cannot_be_written_are_refused_before_the_prediction(
    refused, trained, image, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "shapely", None)
    assert "pip install shapely" in refused("predict", trained, image, "--out", "out", "--objects", "geojson")
    assert not (tmp_path / "out").exists()
