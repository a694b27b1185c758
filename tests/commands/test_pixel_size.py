"""Images of several magnifications: trained, predicted, scored and exported at one size of pixels."""

import json
import shlex
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.transform import resize

from tinyunet import train
from tinyunet.data import normalise
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.training.checkpoint import load_model
from tinyunet.training.config import read_data

SIZES = {"0": 0.25, "1": 0.5, "2": 0.25}  # µm; image 1 is held out


@pytest.fixture
def magnified(make_data):
    """Three images; the pixels of one of them are twice as wide."""
    folder = make_data("magnified", n=3)
    lines = [f"{name}.png,{size}" for name, size in SIZES.items()]
    (folder / "pixel_sizes.csv").write_text("\n".join(["name,pixel_size", *lines]) + "\n")
    return folder


@pytest.fixture
def run(command, magnified, tiny, tmp_path):
    """A run that sees pixels of half a micrometre."""
    options = ("--data", magnified, *tiny, "--pixel-size", "0.5")
    status, out, message = command("train", *options, "--out", tmp_path / "run")
    assert status == 0, message
    assert "scaled from pixels of 0.25 µm to 0.5 µm, to 0.5 µm" in out
    return tmp_path / "run"


def probabilities(folder, name):
    return np.moveaxis(tifffile.imread(folder / f"{name}_probabilities.tif"), 0, -1)


def test_prediction_is_scaled_back_to_the_image(command, run, magnified, tmp_path):
    """By scikit-image and the network alone, and with the sizes given in three ways."""
    assert command("predict", run, magnified, "--out", "out")[0] == 0
    model, _ = load_model(run)
    for name, size in SIZES.items():
        image = np.asarray(Image.open(magnified / "images" / f"{name}.png"))[..., None]
        seen = image
        if size != 0.5:
            seen = resize(
                image.astype(np.float32), (20, 18), order=1, preserve_range=True, anti_aliasing=True
            )
        expected = predict_tiled(model, normalise(seen))
        if size != 0.5:
            expected = resize(expected, image.shape[:2], order=1, preserve_range=True, anti_aliasing=True)
        found = probabilities(tmp_path / "out", name)
        assert found.shape == (40, 36, 2)
        np.testing.assert_array_equal(found, expected)
    image = magnified / "images" / "0.png"
    tifffile.imwrite(
        "0.tif", np.asarray(Image.open(image)), resolution=(4e4, 4e4), resolutionunit="CENTIMETER"
    )
    for number, given in enumerate(((image, "--pixel-sizes", "0.25"), ("0.tif",))):
        assert command("predict", run, *given, "--out", f"given-{number}")[0] == 0
        same = probabilities(tmp_path / f"given-{number}", "0")
        np.testing.assert_array_equal(same, probabilities(tmp_path / "out", "0"))


def test_an_image_of_unknown_size_is_named(command, refused, run, magnified, tmp_path):
    assert "--pixel-sizes" in refused("predict", run, magnified / "images" / "0.png", "--out", "one")
    table = magnified / "pixel_sizes.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    status, _, message = command("predict", run, magnified, "--out", "out")
    assert status == 1
    assert "size of the pixels of image 2 is not known" in message
    assert (tmp_path / "out" / "1_classes.png").exists()


def test_scores_are_those_of_the_scaled_images(command, refused, run, magnified, make_data, tmp_path):
    """The run remembers the table; other images need sizes of their own."""
    status, out, _ = command("evaluate", run, "--out", "scores")
    assert status == 0
    (image,) = json.loads((tmp_path / "scores" / "scores.json").read_text())["images"]
    assert image["name"] == "1"
    others = make_data("others", n=2, seed=9)
    assert "size of the pixels" in refused("evaluate", run / "best.safetensors", others)
    status, out, message = command("evaluate", run / "best.safetensors", others, "--pixel-sizes", "0.25")
    assert status == 0, message
    assert "20x18" in out


@pytest.mark.parametrize("suffix", ["onnx", "zip", "safetensors"])
def test_exported_files_keep_the_size(command, refused, run, magnified, tmp_path, suffix):
    model = tmp_path / f"model.{suffix}"
    assert command("export", run, "--out", model)[0] == 0
    image = magnified / "images" / "0.png"
    assert "sees pixels of  0.5 µm" in refused("predict", model, image, "--out", "none")
    for number, network in enumerate((model, run)):
        assert command("predict", network, image, "--pixel-sizes", "0.25", "--out", f"{number}")[0] == 0
    np.testing.assert_array_equal(probabilities(tmp_path / "0", "0"), probabilities(tmp_path / "1", "0"))


def test_a_package_says_how_large_pixels_are(command, run, tmp_path):
    """In the description that other programs read, whose test still passes."""
    from bioimageio.core import test_description
    from bioimageio.spec import load_model_description

    assert command("export", run, "--out", "model.zip")[0] == 0
    description = load_model_description(tmp_path / "model.zip")
    for tensor in (*description.inputs, *description.outputs):
        space = [axis for axis in tensor.axes if axis.type == "space"]
        assert [(axis.scale, axis.unit) for axis in space] == [(0.5, "micrometer")] * 2
    assert test_description(tmp_path / "model.zip", weight_format="onnx").status == "passed"


def size_of(slide):
    """The height and width of the pixels, in µm, as a viewer reads them."""
    (written,) = json.loads((slide / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    assert {axis["unit"] for axis in written["axes"] if axis["type"] == "space"} == {"micrometer"}
    return written["datasets"][0]["coordinateTransformations"][0]["scale"][-2:]


@pytest.fixture
def slide(tmp_path):
    """A TIFF that is read in windows, of 61 × 47 pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (61, 47), np.uint8)
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(16, 16))
    return tmp_path / "slide.tif"


@pytest.mark.parametrize(("size", "shape"), [(0.2, (24, 19)), (0.8, (98, 75)), (0.5, (61, 47))])
def test_a_slide_is_scaled_as_it_is_read(command, run, slide, tmp_path, size, shape):
    """Its results are those of the image that scikit-image scales, and lie over the image."""
    zarr = pytest.importorskip("zarr")
    options = ("--pixel-sizes", str(size), "--probabilities", "--tile", "12")
    status, out, message = command("predict", run, slide, *options, "--out", "seen.ome.zarr")
    assert status == 0, message
    assert ("in pixels of 0.5 µm" in out) == (size != 0.5)
    pixels = tifffile.imread(slide).astype(np.float32)
    scaled = pixels
    if size != 0.5:
        scaled = resize(pixels, shape, order=1, preserve_range=True, anti_aliasing=True)
    model, _ = load_model(run)
    expected = predict_tiled(model, normalise(scaled[..., None]), tile=12)
    group = zarr.open_group("seen.ome.zarr", mode="r")
    np.testing.assert_allclose(np.moveaxis(group["probabilities/0"][...], 0, -1), expected, atol=1e-5)
    np.testing.assert_array_equal(group["0"][...], 255 * expected.argmax(axis=-1))  # as the labels
    extent = np.multiply(size_of(tmp_path / "seen.ome.zarr"), shape)
    np.testing.assert_allclose(extent, np.multiply(pixels.shape, size))


@pytest.mark.parametrize(("given", "count"), [(2000, 1), (3200, 0)])
def test_a_given_object_rule_counts_pixels_of_the_slide(command, run, slide, given, count):
    """Here one object is the whole slide: 2,867 of its pixels of 0.25 µm, 720 of the network's."""
    pytest.importorskip("zarr")
    options = ("--pixel-sizes", "0.25", "--threshold", "0.0001", "--min-size", str(given))
    status, out, message = command("predict", run, slide, *options, "--out", "out.ome.zarr")
    assert status == 0, message
    assert f"objects from {given // 4} pixels" in out
    assert f"{count} objects" in out


def test_workers_scale_a_slide_alike(command, run, slide, tmp_path):
    pytest.importorskip("zarr")
    distributed = pytest.importorskip("distributed")
    options = ("--pixel-sizes", "0.2", "--tile", "12")
    assert command("predict", run, slide, *options, "--out", "one.ome.zarr")[0] == 0
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:  # fmt: skip
        at = ("--scheduler", cluster.scheduler_address)
        status, _, message = command("predict", run, slide, *options, *at, "--out", "two.ome.zarr")
    assert status == 0, message
    one, two = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "one.ome.zarr", tmp_path / "two.ome.zarr")
    )
    assert len(one) > 5
    assert one == two


def test_folds_see_the_same_pixels(command, magnified, tiny_fold, tmp_path):
    options = ("--data", magnified, *tiny_fold, "--pixel-size", "0.5", "--folds", "3", "--out", "folds")
    assert command("train", *options)[0] == 0
    assert command("predict", "folds", magnified, "--out", "out")[0] == 0
    assert probabilities(tmp_path / "out", "2").shape == (40, 36, 2)
    assert command("evaluate", "folds")[0] == 0


def test_a_training_from_a_network_sees_its_pixels(command, refused, run, magnified, data, tiny, tmp_path):
    """Unless another size is given; and images of unknown size are refused, not seen as they are."""
    assert command("export", run, "--out", "model.safetensors")[0] == 0
    length = ("--steps", "1", "--validate-every", "1", "--tile", "16", "--holdout", "1")
    for number, start in enumerate((run, "model.safetensors")):
        given = ("--start-from", start, "--out", f"{number}", *length)
        status, out, message = command("train", "--data", magnified, *given)
        assert status == 0, message
        assert "to 0.5 µm" in out
        assert "size of the pixels" in refused("train", "--data", data, *given, "--overwrite")
    options = ("--start-from", run, "--pixel-size", "0.25", "--out", "other", *length)
    assert "to 0.25 µm" in command("train", "--data", magnified, *options)[1]


def test_sizes_that_nothing_needs(command, refused, trained, data, tiny):
    """They would be ignored."""
    sizes = ("--pixel-sizes", "0.5")
    assert command("predict", trained, data, "--out", "predicted")[0] == 0
    for arguments in (
        ("predict", trained, data, "--out", "out"),
        ("train", "--data", data, *tiny, "--out", "run"),
        ("evaluate", trained),
        ("evaluate", trained / "best.safetensors", data),
        ("evaluate", "predicted", data),
    ):
        assert "--pixel-size" in refused(*arguments, *sizes)


def test_images_that_were_trained_on_are_known_at_another_size(refused, run, magnified):
    message = refused("evaluate", run / "best.safetensors", magnified, "--pixel-sizes", "0.4")
    assert "were trained on" in message


def test_a_size_that_a_file_states_wrongly(command, magnified, tiny):
    """A resolution of 1/0 is none, and a training that does not need it goes on."""
    for number in range(3):
        pixels = np.asarray(Image.open(magnified / "images" / f"{number}.png"))
        (magnified / "images" / f"{number}.png").unlink()
        path = magnified / "images" / f"{number}.tif"
        tifffile.imwrite(path, pixels, resolution=(1, 1), resolutionunit="CENTIMETER")
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tiff.pages[0].tags["XResolution"].overwrite((1, number))
    (magnified / "pixel_sizes.csv").unlink()
    status, _, message = command("train", "--data", magnified, *tiny, "--out", "run")
    assert status == 0, message


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf"])
def test_a_size_that_is_none(refused, magnified, tiny, size):
    message = refused("train", "--data", magnified, *tiny, f"--pixel-size={size}", "--out", "run")
    assert "pixel_size is" in message


@pytest.mark.parametrize(
    "given", [("--pixel-sizes", "0.5"), ("--pixel-sizes", "0.5", "--pixel-size", "0.25")]
)
def test_the_command_that_the_doctor_prints_reads_the_images(command, magnified, given):
    _, out, _ = command("doctor", magnified, *given)
    (line,) = [line for line in out.splitlines() if "tinyunet.train" in line]
    config = train.parse(shlex.split(line)[3:]).config
    assert (config.pixel_size is None) == (len(given) == 2)
    assert len(read_data(config)) == len(list((magnified / "images").iterdir()))


def test_the_doctor_finds_several_magnifications(command, magnified, tmp_path):
    options = ("--tile", "16", "--depth", "1", "--holdout", "1", "--overwrite")
    _, out, _ = command("doctor", magnified, *options)
    assert "2 times as wide" in out
    assert "--pixel-size 0.25" in out
    assert "as wide" not in command("doctor", magnified, *options, "--pixel-size", "0.5")[1]
    assert "as wide" not in command("doctor", magnified, *options, "--pixel-sizes", "0.5")[1]
    shutil.copytree(magnified / "images", tmp_path / "plain/images")
    shutil.copytree(magnified / "labels", tmp_path / "plain/labels")
    assert "as wide" not in command("doctor", tmp_path / "plain", *options)[1]
    (magnified / "pixel_sizes.csv").write_text("a table\n")
    assert "cannot be read" in command("doctor", magnified, *options)[1]
