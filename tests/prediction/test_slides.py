"""An image predicted in windows, into an OME-Zarr, against the same image in memory."""

import numpy as np
import pytest
import tifffile
from oracle import randomised

import tinyunet as tu
from tinyunet.data.windowed import WindowedImage
from tinyunet.data.windows import open_windows
from tinyunet.errors import DataError, OutOfMemoryError, RunError
from tinyunet.prediction.budget import largest_tile
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.segmentation import segment
from tinyunet.prediction.slides import SlideOptions, SlideWriter

zarr = pytest.importorskip("zarr")

MEMORY = 10**9
RULE, UNCUT = ObjectRule(5, 1.5), ObjectRule(5, None)


def network(padding="valid", classes=2, channels=1, seed=1):
    return randomised(tu.UNet(channels, classes, base_channels=2, depth=2, padding=padding, seed=seed), seed)


def speckled(shape, dtype=np.uint16, channels=None, seed=0):
    """Blobs of all sizes, so that there are objects, holes and necks."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(
        np.random.default_rng(seed).normal(size=(*shape, channels or 1)), (3, 3, 0)
    )
    image = (noise / np.abs(noise).max() * 900 + 1000).astype(dtype)
    return image if channels else image[..., 0]


def write_zarr(path, image, *, chunks=(64, 64), scale=(0.5, 0.25)):
    """An OME-Zarr 0.5 of one level."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    array = group.create_array("full", shape=image.shape, chunks=chunks, dtype=image.dtype)
    array[...] = image
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    transforms = [{"type": "scale", "scale": list(scale)}]
    multiscales = {"axes": axes, "datasets": [{"path": "full", "coordinateTransformations": transforms}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscales]}
    return path


def predict(networks, path, out, *, rule=RULE, memory=MEMORY, resume=False, **options):
    writer = SlideWriter(networks, open_windows(path), out, SlideOptions(**options), None, memory)
    writer.require_free(resume=resume, overwrite=False)
    writer.predict()
    writer.number(rule)
    writer.finish()
    return zarr.open_group(out, mode="r")


@pytest.mark.parametrize(
    ("padding", "symmetries", "tile"),
    [
        ("valid", 1, 96),
        ("same", 1, 96),
        ("valid", 8, 250),
        ("same", 8, 130),
        ("same", 1, 250),
        ("valid", 1, 2000),
    ],
)
def test_everything_equals_the_prediction_in_memory(tmp_path, padding, symmetries, tile):
    """Probabilities, classes and objects, bit for bit; the sides are no multiples of anything."""
    model, image = network(padding), speckled((401, 307))
    source = write_zarr(tmp_path / "slide.ome.zarr", image)
    found = predict(
        [model], source, tmp_path / "out.zarr", tile=tile, symmetries=symmetries, probabilities=True
    )
    expected = segment([model], image[..., None], tile=tile, symmetries=symmetries, rule=RULE)
    probabilities = np.moveaxis(found["probabilities/0"][...], 0, 2)
    assert 0.05 < (probabilities[..., 1] > 0.5).mean() < 0.95
    assert probabilities.tobytes() == expected.probabilities.tobytes()
    np.testing.assert_array_equal(found["0"][...], expected.probabilities.argmax(axis=2))
    assert expected.objects.max() > 5
    assert found["labels/objects/0"].dtype == np.uint32
    np.testing.assert_array_equal(found["labels/objects/0"][...], expected.objects)


def test_several_networks_classes_and_channels(tmp_path):
    models = [network(classes=3, channels=3, seed=seed) for seed in (1, 2)]
    image = speckled((150, 170), np.float32, channels=3)
    tifffile.imwrite(tmp_path / "slide.tif", image, photometric="rgb", tile=(64, 64))
    found = predict(models, tmp_path / "slide.tif", tmp_path / "out.zarr", tile=100, rule=UNCUT)
    expected = segment(models, image, tile=100, rule=UNCUT)
    np.testing.assert_array_equal(found["0"][...], expected.probabilities.argmax(axis=2))
    np.testing.assert_array_equal(found["labels/objects/0"][...], expected.objects)
    assert "probabilities" not in found


@pytest.mark.parametrize("kind", ["zarr 0.4", "zarr array", "TIFF", "BigTIFF pyramid", "png"])
def test_the_pixels_of_every_kind_of_file(tmp_path, kind):
    """A pyramid's are those of its largest level; pixel sizes are read where the format has them."""
    image, size = speckled((130, 97), np.uint8), (1.0, 1.0)
    path = tmp_path / "slide.ome.tif"
    if kind == "zarr 0.4":
        path, size = tmp_path / "slide.zarr", (0.5, 0.25)
        group = zarr.open_group(path, mode="w", zarr_format=2)
        chunks = (1, 1, 1, 50, 50)
        array = group.create_array("0", shape=(1, 1, 1, 130, 97), chunks=chunks, dtype=np.uint8)
        array[...] = image[None, None, None]
        axes = [{"name": name} for name in "tczyx"]
        transforms = [{"type": "scale", "scale": [1, 1, 1, *size]}]
        dataset = {"path": "0", "coordinateTransformations": transforms}
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [dataset]}]
    elif kind == "zarr array":
        path = tmp_path / "slide.zarr"
        zarr.create_array(path, shape=image.shape, chunks=(50, 50), dtype=np.uint8)[...] = image
    elif kind == "png":
        from PIL import Image

        path = tmp_path / "slide.png"
        Image.fromarray(image).save(path)
    else:
        big, size = kind == "BigTIFF pyramid", (0.5, 0.25)
        metadata = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
        with tifffile.TiffWriter(path, bigtiff=big) as tiff:
            tiff.write(image, tile=(32, 32), subifds=int(big), metadata=metadata)
            if big:
                tiff.write(image[::2, ::2], tile=(32, 32), subfiletype=1)
    opened = open_windows(path)
    assert opened.shape == (130, 97, 1)
    assert opened.pixel_size == size
    np.testing.assert_array_equal(opened.read(slice(3, 120), slice(50, 97))[..., 0], image[3:120, 50:97])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_others_read_what_is_written(tmp_path, version):
    """ome-zarr-models accepts it; pixels keep their size, and each level has every second pixel."""
    models = pytest.importorskip("ome_zarr_models")
    source = write_zarr(tmp_path / "slide.ome.zarr", speckled((601, 1100)))
    out = tmp_path / "out.zarr"
    found = predict([network()], source, out, version=version, probabilities=True, tile=300)
    for name in ("", "labels/objects", "probabilities"):
        image = models.open_ome_zarr(found if not name else found[name], version=version)
        multiscales = getattr(image.attributes, "ome", image.attributes).multiscales[0]
        assert [axis.unit for axis in multiscales.axes][-2:] == ["micrometer"] * 2
        scales = [dataset.coordinateTransformations[0].scale[-2:] for dataset in multiscales.datasets]
        assert [tuple(scale) for scale in scales] == [(0.5, 0.25), (1.0, 0.5), (2.0, 1.0)]
    for name in ("", "labels/objects/", "probabilities/"):
        full = found[f"{name}0"][...]
        np.testing.assert_array_equal(found[f"{name}1"][...], full[..., ::2, ::2])
        np.testing.assert_array_equal(found[f"{name}2"][...], full[..., ::4, ::4])


class Killed(Exception):
    pass


@pytest.mark.parametrize("when", ["a tile", "a region's files", "numbering", "levels"])
def test_a_killed_prediction_goes_on_with_the_same_bytes(tmp_path, monkeypatch, when):
    source, options = write_zarr(tmp_path / "s.zarr", speckled((300, 260))), {"tile": 100}
    predict([network()], source, tmp_path / "whole.zarr", **options)
    left = [4]

    def killed(original):
        def call(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return original(*arguments, **named)

        return call

    place = {
        "a tile": "tinyunet.prediction.slides.predict_region",
        "a region's files": "tinyunet.prediction.slides.above",
        "numbering": "tinyunet.prediction.blocks.objects_of_block",
        "levels": "tinyunet.prediction.ome_zarr.OmeZarr.describe",
    }[when]
    left[0] = 1 if when == "levels" else 4
    module, _, name = place.rpartition(".")
    import importlib

    owner = (
        importlib.import_module(module)
        if not module.endswith("OmeZarr")
        else importlib.import_module("tinyunet.prediction.ome_zarr").OmeZarr
    )
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed(getattr(owner, name)))
        with pytest.raises(Killed):
            predict([network()], source, tmp_path / "out.zarr", **options)
    assert not (tmp_path / "out.zarr").exists()
    with pytest.raises(RunError, match="--resume"):
        predict([network()], source, tmp_path / "out.zarr", **options)
    with pytest.raises(RunError, match="8 now"):
        predict([network()], source, tmp_path / "out.zarr", resume=True, symmetries=8, **options)
    predicted = []
    with monkeypatch.context() as patch:
        original = SlideWriter.write_region
        patch.setattr(
            SlideWriter, "write_region", lambda self, *args: predicted.append(1) or original(self, *args)
        )
        predict([network()], source, tmp_path / "out.zarr", resume=True)
    assert len(predicted) == (9 if when in ("a tile", "a region's files") else 0) - (3 if predicted else 0)
    files = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
             for root in (tmp_path / "whole.zarr", tmp_path / "out.zarr")]  # fmt: skip
    assert files[0] == files[1]
    assert not (tmp_path / "out.zarr.part").exists()


def test_less_memory_gives_smaller_tiles():
    models = [tu.UNet(base_channels=16, depth=3)]
    segment(models, speckled((300, 300), channels=1), tile=300)  # whose memory is kept
    tiles = [largest_tile(models, memory) for memory in (600_000_000, 1_000_000_000, 4_000_000_000)]
    assert tiles[0] < tiles[1] < tiles[2] <= 2048
    with pytest.raises(OutOfMemoryError, match="--memory"):
        largest_tile(models, 401_000_000)


def test_an_image_that_is_decoded_whole_counts(tmp_path):
    """The program itself takes 400 MB and this image 200, which leaves nothing of 600."""
    image = WindowedImage(tmp_path / "whole.png", np.zeros((10_000, 20_000), np.uint8), "yx")
    options = SlideOptions(tile=64)
    with pytest.raises(OutOfMemoryError, match=r"whole.png(?s:.*)0.20 GB(?s:.*)--memory"):
        SlideWriter([network()], image, tmp_path / "out.zarr", options, None, 600_000_000)
    SlideWriter([network()], image, tmp_path / "out.zarr", options, None, 700_000_000)


def test_a_pixel_that_is_no_number_is_named(tmp_path):
    image = speckled((300, 80), np.float32)
    image[270, 7] = np.nan
    source = write_zarr(tmp_path / "s.zarr", image)
    with pytest.raises(DataError, match="rows 256 to"):
        predict([network()], source, tmp_path / "out.zarr", tile=100)


def test_stacks_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 40, 40), np.uint8), photometric="minisblack")
    with pytest.raises(DataError, match="axes y, x"):
        open_windows(tmp_path / "stack.tif")
