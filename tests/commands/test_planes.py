"""Commands on OME-Zarr, ND2 and CZI, with --channel and --z."""

import builtins
import json
import shutil

import numpy as np
import pytest
import tifffile
from microscopes import write_czi, write_nd2, write_ome_zarr
from PIL import Image

from tinyunet.prediction.tiling import predict_tiled
from tinyunet.training.checkpoint import load_model

zarr = pytest.importorskip("zarr")
WRITERS = {".nd2": ("nd2", write_nd2), ".czi": ("pylibCZIrw", write_czi), ".zarr": ("zarr", write_ome_zarr)}
NAMES = ["DAPI", "GFP"]


@pytest.fixture(params=WRITERS)
def suffix(request):
    pytest.importorskip(WRITERS[request.param][0])
    return request.param


def two_channels(image):
    """Two planes of two channels; the image is GFP in the second plane, all others are noise."""
    noise = np.random.default_rng(1).integers(0, 255, (2, 2, *image.shape), image.dtype)
    noise[1, 1] = image
    return noise


def test_from_training_to_evaluation(command, refused, trained, data, tiny, tmp_path):
    """The run stores the choice, so that the others need none, and learns what it learns of plain files."""
    for library, _ in WRITERS.values():
        pytest.importorskip(library)
    (tmp_path / "set/images").mkdir(parents=True)
    shutil.copytree(data / "labels", tmp_path / "set/masks")
    for number, (suffix, (_, write)) in enumerate(WRITERS.items()):
        pixels = two_channels(np.asarray(Image.open(data / f"images/{number}.png")))
        write(tmp_path / f"set/images/{number}{suffix}", pixels, NAMES, "z")
    chosen = ("--channel", "GFP", "--z", "1")
    message = refused("train", "--data", "set", *tiny, "--out", "run")
    assert "0 DAPI, 1 GFP" in message
    assert command("doctor", "set", *chosen, "--tile", "16", "--depth", "1")[0] == 0
    assert command("train", "--data", "set", *tiny, *chosen, "--out", "run")[0] == 0
    assert (json.loads((tmp_path / "run/config.json").read_text())["channel"]) == "GFP"
    weights = [load_model(tmp_path / run / "last.safetensors")[0] for run in ("run", trained)]
    for a, b in zip(*(model.state_dict().values() for model in weights), strict=True):
        np.testing.assert_array_equal(a, b)
    for run, data, out in (("run", "set", "p"), (trained, "data", "q")):
        assert command("predict", run, f"{data}/images", "--out", out)[0] == 0
    for number in range(3):
        name = f"{number}_probabilities.tif"
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "p" / name), tifffile.imread(f"q/{name}"))
    scores = [command("evaluate", run)[1].splitlines()[2:] for run in ("run", trained)]
    assert scores[0] == scores[1]
    other = command("predict", "run", "set/images/0.nd2", "--z", "0", "--out", "other")
    assert other[0] == 0
    assert (tifffile.imread("other/0_probabilities.tif") != tifffile.imread("p/0_probabilities.tif")).any()


def test_windows_equal_the_whole_plane(command, refused, trained, image, suffix):
    """Probabilities to the bit, and the size of a pixel, into an OME-Zarr and into files."""
    writer = WRITERS[suffix][1]
    grey = np.asarray(Image.open(image))
    path = writer(image.parent / f"film{suffix}", two_channels(grey), NAMES, "z", pixel_size=0.25)
    options = ("--channel", "1", "--z", "1", "--tile", "16", "--min-size", "2")
    message = refused("predict", trained, path, "--out", "p.ome.zarr")
    assert "0 DAPI, 1 GFP" in message
    assert "0 to 1" in message
    assert command("predict", trained, path, "--out", "p.ome.zarr", "--probabilities", *options)[0] == 0
    found = zarr.open_group("p.ome.zarr", mode="r")
    model = load_model(trained)[0]
    from tinyunet.data import normalise

    expected = predict_tiled(model, normalise(grey[..., None]), tile=16)
    np.testing.assert_array_equal(np.moveaxis(found["probabilities/0"][...], 0, 2), expected)
    level = found.attrs["ome"]["multiscales"][0]["datasets"][0]
    assert level["coordinateTransformations"][0]["scale"][-2:] == [0.25, 0.25]
    assert command("predict", trained, path, "--out", "files", *options)[0] == 0
    np.testing.assert_array_equal(
        np.moveaxis(tifffile.imread("files/film_probabilities.tif"), 0, 2), expected
    )


def test_an_image_that_only_windows_can_read(command, refused, trained, image, monkeypatch):
    write_ome_zarr("film.zarr", np.asarray(Image.open(image))[None], NAMES[:1])
    monkeypatch.setattr("tinyunet.predict.memory_bytes", lambda text: 3000)  # it has 3300 bytes
    assert ".ome.zarr" in refused("predict", trained, "film.zarr", "--out", "files")
    monkeypatch.setattr("tinyunet.predict.memory_bytes", lambda text: 10**9)
    assert command("predict", trained, "film.zarr", "--out", "p.ome.zarr", "--tile", "16")[0] == 0


def test_another_plane_is_no_continuation(command, refused, trained, image, monkeypatch):
    grey = np.asarray(Image.open(image))
    write_ome_zarr("film.zarr", two_channels(grey), NAMES, "z")
    options = ("film.zarr", "--out", "p.ome.zarr", "--channel", "1", "--tile", "16")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("tinyunet.prediction.slides.SlideWriter.write_region", full)
        assert command("predict", trained, *options, "--z", "0")[0] == 2
    assert "planes" in refused("predict", trained, *options, "--z", "1", "--resume")
    assert command("predict", trained, *options, "--z", "0", "--resume")[0] == 0


@pytest.mark.parametrize(("library", "extra"), [("nd2", "nd2"), ("pylibCZIrw", "czi")])
def test_extras_are_named(refused, trained, tmp_path, monkeypatch, library, extra):
    original = builtins.__import__

    def without(imported, *arguments, **named):
        if imported == library:
            raise ModuleNotFoundError(imported, name=imported)
        return original(imported, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / f"x.{extra}").write_bytes(b"x")
    for out in ("p.ome.zarr", "folder"):
        message = refused("predict", trained, f"x.{extra}", "--out", out)
        assert f"pip install -e '.[{extra}]'" in message
