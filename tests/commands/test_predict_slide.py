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
        (("--out", "folder", "--workers", "2"), "--workers"),
        (("--out", "folder", "--scheduler", "tcp://127.0.0.1:1"), "--scheduler"),
        (("--out", "x.zarr", "--workers", "0"), "workers is 0"),
        (("--out", "x.zarr", "--workers", "2", "--scheduler", "tcp://127.0.0.1:1"), "one of them"),
    ],
)
def test_options_that_do_not_fit(refused, trained, image, options, named):
    assert named in refused("predict", trained, image, *options)


@pytest.mark.parametrize(("name", "options"), [("zarr", ()), ("distributed", ("--workers", "2"))])
def test_extras_are_named(refused, trained, image, monkeypatch, name, options):
    original = builtins.__import__

    def without(imported, *arguments, **named):
        if imported == name:
            raise ModuleNotFoundError(imported, name=imported)
        return original(imported, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    message = refused("predict", trained, image, "--out", "x.zarr", *options)
    assert f"pip install -e '.[{name}]'" in message


def test_the_workers_of_a_scheduler(command, refused, trained, image, tmp_path, monkeypatch):
    """Here two threads of this process. Images that each would have to decode whole are refused."""
    pytest.importorskip("zarr")
    distributed = pytest.importorskip("distributed")
    options = ("--min-size", "2", "--tile", "12")
    assert command("predict", trained, image, "--out", "one.ome.zarr", *options)[0] == 0
    Image.fromarray(np.zeros((40, 40), np.uint8)).save("slide.png")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:  # fmt: skip
        at = ("--scheduler", cluster.scheduler_address)
        status, out, _ = command("predict", trained, image, "--out", "two.ome.zarr", *options, *at)
        assert "decoded whole" in refused("predict", trained, "slide.png", "--out", "x.zarr", *at)
    assert status == 0
    assert "wrote classes" in out
    one, two = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "one.ome.zarr", tmp_path / "two.ome.zarr")
    )
    assert len(one) > 10
    assert one == two
    monkeypatch.setattr("tinyunet.prediction.cluster.CONNECT", 0.5)
    assert "dask scheduler" in refused("predict", trained, image, "--out", "x.zarr", *at)
    assert "such as tcp://" in refused("predict", trained, image, "--out", "x.zarr", "--scheduler", "ftp://x")
