"""python -m tinyunet.predict into an OME-Zarr, as a user runs it."""

import builtins

import numpy as np
import pytest
import tifffile
from PIL import Image


def test_a_slide_has_the_classes_and_objects_of_the_image(command, refused, trained, image, unchanged):
    """Those of the files that a folder gets; nothing is overwritten unasked."""
    zarr = pytest.importorskip("zarr")
    options = ("--min-size", "2", "--tile", "700")
    assert command("predict", trained, image, "--out", "files", *options)[0] == 0
    status, out, _ = command("predict", trained, image, "--out", "slide.ome.zarr", *options)
    assert status == 0
    slide, objects = zarr.open_group("slide.ome.zarr", mode="r"), tifffile.imread("files/slide_instances.tif")
    np.testing.assert_array_equal(slide["0"][...], np.asarray(Image.open("files/slide_classes.png")))
    np.testing.assert_array_equal(slide["labels/objects/0"][...], objects)
    assert f"{objects.max()} objects" in out
    assert "--overwrite" in refused("predict", trained, image, "--out", "slide.ome.zarr")
    with unchanged(image.parent):
        again = command("predict", trained, "slide.ome.zarr", "--out", "slide.ome.zarr", "--overwrite")
    assert again[0] == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--out", "folder", "--memory", "2GB"), "--memory"),
        (("--out", "folder", "--resume"), "--resume"),
        (("--out", "x.zarr", "--memory", "2"), "such as 2GB"),
        (("--out", "x.zarr", "--memory", "100MB"), "at least"),
        (("--out", "x.zarr", "--tile", "0"), "tile is 0"),
    ],
)
def test_options_that_do_not_fit(refused, trained, image, options, named):
    assert named in refused("predict", trained, image, *options)


def test_zarr_is_an_extra(refused, trained, image, monkeypatch):
    original = builtins.__import__

    def without(name, *arguments, **named):
        if name == "zarr":
            raise ModuleNotFoundError(name)
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install -e '.[zarr]'" in refused("predict", trained, image, "--out", "x.zarr")
