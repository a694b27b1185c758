"""Sizes of pixels: where they are found, and images that are scaled to one of them."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from films import write_film
from microscopes import write_nd2, write_ome_zarr
from PIL import Image
from scipy import ndimage
from skimage.transform import rescale, resize

from tinyunet.data import large_sets, normalise, read_images, save_image_set, synthetic_cells
from tinyunet.data import scaled_windows as scaled_windows_module
from tinyunet.data.fingerprint import changes, fingerprints, seen
from tinyunet.data.pixel_sizes import PixelSizes
from tinyunet.data.scaled_windows import scaled_windows
from tinyunet.data.scaling import scaled, scaled_back, scaled_labels
from tinyunet.data.windowed import WindowedImage
from tinyunet.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 255, (30, 24), np.uint8)
CM = {"resolution": (1e4 / 0.5, 1e4 / 0.25), "resolutionunit": "CENTIMETER"}  # columns, rows
OME = {"axes": "YX", "PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 250.0}
TIFFS = {
    "centimetre": CM,
    "ome": {"ome": True, "metadata": OME | {"PhysicalSizeYUnit": "nm"}},
    "ome without Y": {
        "ome": True,
        "metadata": {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "um"},
    },
    "imagej": {"imagej": True, "resolution": (2, 4), "metadata": {"unit": "um"}},
    "imagej, escaped": {"imagej": True, "resolution": (2, 4), "metadata": {"unit": "\\u00B5m"}},
}


@pytest.mark.parametrize("kind", TIFFS)
def test_what_a_tiff_states(tmp_path, kind):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, **TIFFS[kind])
    expected = (0.5, 0.5) if kind == "ome without Y" else (0.25, 0.5)
    for path in (tmp_path, tmp_path / "a.tif"):
        assert PixelSizes(path).find("a") == pytest.approx(expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resolution": (72, 72), "resolutionunit": "INCH"},
        {"resolution": ((0, 1), (1, 1)), "resolutionunit": "CENTIMETER"},
        {"imagej": True, "resolution": (2, 2)},
    ],
)
def test_a_tiff_that_does_not_say(tmp_path, options):
    """Dots per inch say how large the picture is on paper."""
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, **options)
    assert PixelSizes(tmp_path).find("a") is None
    with pytest.raises(DataError, match="size of the pixels of image a is not known"):
        PixelSizes(tmp_path).factors("a", 0.1)


def test_a_resolution_of_one_by_zero(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, **CM)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages[0].tags["XResolution"].overwrite((1, 0))
    assert PixelSizes(tmp_path).find("a") is None


def test_what_microscopes_files_state(tmp_path):
    pytest.importorskip("nd2")
    pytest.importorskip("zarr")
    write_nd2(tmp_path / "a.nd2", PIXELS[None].astype(np.uint16), ["GFP"], pixel_size=0.65)
    write_ome_zarr(tmp_path / "b.zarr", PIXELS[None], ["GFP"], pixel_size=0.325)
    sizes = PixelSizes(tmp_path)
    assert [sizes.find(name) for name in "ab"] == [pytest.approx((size, size)) for size in (0.65, 0.325)]


def test_pages_have_the_size_of_their_file(tmp_path):
    stack = np.stack([PIXELS, PIXELS + 1, PIXELS + 2])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", **CM)
    images = read_images(tmp_path, labels=False, pixel_size=0.5)
    assert images.names == ["a-0", "a-1", "a-2"]
    assert [image.shape for image in images.images] == [(15, 24, 1)] * 3


def test_the_frames_of_a_film(tmp_path):
    write_film(tmp_path)
    films = [read_images(tmp_path, pixel_size=0.5, pixel_sizes=given) for given in ("0.5", "0.25")]
    for image, half, labels in zip(films[0].images, films[1].images, films[1].labels, strict=True):
        assert half.shape[:2] == labels.shape == tuple(side // 2 for side in image.shape[:2])


def write_table(path, text):
    path.write_text(text, encoding="utf-8-sig")  # as Excel saves it
    return path


def test_a_table_names_images_or_files(tmp_path):
    for name in "abc":
        Image.fromarray(PIXELS).save(tmp_path / f"{name}.png")
    table = write_table(tmp_path / "pixel_sizes.csv", "name,note,pixel_size\na,x,0.2\nb.png,,0.4\n")
    for sizes in (PixelSizes(tmp_path), PixelSizes("elsewhere", str(table))):
        assert [sizes.find(name) for name in "abc"] == [(0.2, 0.2), (0.4, 0.4), None]
    assert PixelSizes(tmp_path, "0.3").find("c") == (0.3, 0.3)  # what is given comes first
    table.unlink()
    assert PixelSizes(tmp_path).find("a") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,0.2\n", r"expected the columns name and pixel_size"),
        ("", r"expected the columns"),
        ("name;pixel_size\na;0,2\n", r"expected the columns.*\n.*name;pixel_size\n.*commas"),
        ("name,pixel_size,pixel_size\na,1,2\n", r"expected the columns"),
        ("name,pixel_size\na,0.2\nb,-1\n", r"line 3: expected a name and a size above 0"),
        ("name,pixel_size\na,wide\n", r"line 2.*above 0"),
        ("name,pixel_size\na,0_2\n", r"line 2.*above 0"),
        ("name,pixel_size\na\n", r"line 2.*above 0"),
        ("name,pixel_size\n,0.2\n", r"line 2.*a name"),
        ("name,pixel_size\na,1,25\n", r"line 2.*\n.*1.*25.*\n.*points in numbers"),
        ("name,pixel_size\na,0.2\na.png,0.4\n", r"line 3: two sizes of the image a.*\n.*line 2 .*0.2 µm"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path, text, message):
    table = write_table(tmp_path / "table.csv", text)
    with pytest.raises(DataError, match=message):
        PixelSizes(tmp_path, str(table))


def test_a_table_in_another_encoding(tmp_path):
    (tmp_path / "table.csv").write_bytes("name,pixel_size\nzüge,0.2\n".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-8"):
        PixelSizes(tmp_path, str(tmp_path / "table.csv"))


def test_names_that_look_like_others(tmp_path):
    """A dash and a number that are no page, a dot that begins no suffix, spaces, an umlaut from a Mac."""
    names = ["cell", "cell-7", "plate", "plate.1", "zu\u0308ge"]
    for name in names:
        Image.fromarray(PIXELS).save(tmp_path / f"{name}.png")
    rows = ["cell.png, 0.2", "plate,0.3", " plate.1 ,0.5", ",", "z\u00fcge,0.4", "", "cell,0.2"]
    write_table(tmp_path / "pixel_sizes.csv", "\r\n".join(["name, pixel_size", *rows]))
    sizes = PixelSizes(tmp_path)
    found = {name: sizes.find(name) for name in read_images(tmp_path, labels=False).names}
    expected = {"cell": 0.2, "cell-7": None, "plate": 0.3, "plate.1": 0.5, "z\u00fcge": 0.4}
    assert found == {name: size and (size, size) for name, size in expected.items()}


def test_files_say_what_a_table_does_not(tmp_path):
    for name in "ab":
        tifffile.imwrite(tmp_path / f"{name}.tif", PIXELS, **CM)
    Image.fromarray(PIXELS).save(tmp_path / "c.png")
    write_table(tmp_path / "pixel_sizes.csv", "name,pixel_size\na,0.2\n")
    sizes = PixelSizes(tmp_path)
    assert [sizes.find(name) for name in "abc"] == [(0.2, 0.2), pytest.approx((0.25, 0.5)), None]
    with pytest.raises(DataError, match=r"looked in.*pixel_sizes.csv and the images' files"):
        sizes.factors("c", 0.1)


def test_neither_a_number_nor_a_table(tmp_path):
    for given in ("-1", "nan", "missing.csv"):
        with pytest.raises(DataError, match="neither a size in µm nor a table"):
            PixelSizes(tmp_path, given)


def test_an_archive_has_an_array(tmp_path):
    images = np.stack([PIXELS] * 2)
    np.savez(tmp_path / "a.npz", images=images, pixel_sizes=[0.5, 0.25])
    found = read_images(tmp_path / "a.npz", labels=False, pixel_size=0.5)
    assert [image.shape for image in found.images] == [(30, 24, 1), (15, 12, 1)]
    np.testing.assert_array_equal(found.images[0][..., 0], PIXELS)  # as it is, in its own type
    for wrong in ([0.5], [0.5, 0.0], [0.5, np.inf], [[0.5, 0.5]], ["a", "b"]):
        np.savez(tmp_path / "a.npz", images=images, pixel_sizes=wrong)
        with pytest.raises(DataError, match=r"one number for each image|above 0"):
            PixelSizes(tmp_path / "a.npz")


def test_another_unit_is_noticed(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"very different size.*\n.*100 µm"):
        PixelSizes(tmp_path, "100").factors("a", 0.1)


def test_images_and_labels_are_those_of_scikit_image(tmp_path):
    """Two of three images have other pixels; the unknown stay unknown, and objects keep their numbers."""
    cells = synthetic_cells(n=3, size=96, seed=1)
    cells.labels[1][:20] = 99
    save_image_set(cells, tmp_path)
    table = {name: size for name, size in zip(cells.names, (0.3, 0.6, 0.2), strict=True)}
    lines = [f"{name},{size}" for name, size in table.items()]
    write_table(tmp_path / "pixel_sizes.csv", "\n".join(["name,pixel_size", *lines]))
    original, found = (read_images(tmp_path, ignore=(99,), pixel_size=size) for size in (None, 0.3))
    assert [image.shape[:2] for image in found.images] == [(96, 96), (192, 192), (64, 64)]
    np.testing.assert_array_equal(found.images[0], original.images[0])
    assert "from pixels of 0.2 µm to 0.6 µm, to 0.3 µm" in found.summary()
    for number, factor in ((1, 2.0), (2, 2 / 3)):
        image = original.images[number].astype(np.float32)
        expected = rescale(image, factor, order=1, anti_aliasing=factor < 1, channel_axis=2)
        np.testing.assert_allclose(found.images[number], expected, rtol=0, atol=1e-3)  # of 255: float32
        labels = original.labels[number]
        nearest = ndimage.zoom(labels, factor, order=0, grid_mode=True, mode="nearest")
        np.testing.assert_array_equal(found.labels[number], nearest)
        assert set(np.unique(found.labels[number])) <= set(np.unique(labels))
    assert (found.labels[1][:40] == -1).all()


def test_a_prediction_is_scaled_back():
    """Probabilities stay probabilities, and an edge stays where it is, within a pixel of the coarser grid."""
    for factor in (0.5, 0.7, 1.9):
        shape = (61, 47)
        scores = np.zeros((*shape, 1), np.float32)
        scores[:, 20:] = 1
        small = scaled(scores, (factor, factor))
        back = scaled_back(np.concatenate([small, 1 - small], axis=2), shape)
        assert back.shape == (61, 47, 2)
        assert back.dtype == np.float32
        np.testing.assert_allclose(back.sum(axis=2), 1, rtol=0, atol=1e-6)
        edges = (back[..., 0] > 0.5).argmax(axis=1)
        assert np.abs(edges - 20).max() <= 1 / min(factor, 1)


@pytest.mark.parametrize("factors", [(0.5, 0.5), (0.13, 0.7), (1.6, 0.4), (2.3, 3.1), (0.05, 1.0)])
@pytest.mark.parametrize("shape", [(61, 47, 1), (20, 130, 3), (1, 9, 2)])
def test_windows_are_those_of_the_whole_image(monkeypatch, shape, factors):
    """Up to rounding: float32 holds grey values up to 255 to 8e-6, and two steps round."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, shape, np.uint8)
    image = scaled_windows(WindowedImage(Path("slide"), pixels, "yxc"), factors)
    whole = scaled(pixels, factors)
    assert image.shape == whole.shape
    for piece in (scaled_windows_module.PIECE, 7):
        monkeypatch.setattr(scaled_windows_module, "PIECE", piece)
        np.testing.assert_allclose(image.read(slice(None), slice(None)), whole, atol=2e-5, rtol=0)
        for _ in range(10):
            down, across = (slice(*sorted(rng.integers(0, side + 1, 2))) for side in whole.shape[:2])
            np.testing.assert_allclose(image.read(down, across), whole[down, across], atol=2e-5, rtol=0)
    np.testing.assert_allclose(image.scale().apply(whole), normalise(whole), atol=1e-5, rtol=0)


def test_a_window_is_read_in_small_pieces():
    """A window of 100 pixels that covers 2,000 of the file is not read as 2,000 × 2,000 pixels."""

    class Counted:
        shape, dtype, largest = (40_000, 40_000), np.dtype(np.uint8), 0

        def __getitem__(self, where):
            window = np.zeros([part.stop - part.start for part in where], np.uint8)
            self.largest = max(self.largest, window.size)
            return window

    array = Counted()
    image = scaled_windows(WindowedImage(Path("slide"), array, "yx"), (0.05, 0.05))
    assert image.shape == (2000, 2000, 1)
    assert image.read(slice(900, 1000), slice(1900, 2000)).shape == (100, 100, 1)
    assert array.largest * scaled_windows_module.BYTES <= image.held < 30e6


def test_labels_keep_their_type():
    labels = np.array([[0, 70000], [-1, 3]], np.int32)
    found = scaled_labels(labels, (2, 2))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, np.repeat(np.repeat(labels, 2, 0), 2, 1))
    assert scaled_labels(labels, (0.1, 1)).shape == (1, 2)


def test_checksums_are_those_of_what_was_scaled(tmp_path, monkeypatch):
    """So a run knows its images at any size; and a change of the sizes is a change."""
    save_image_set(synthetic_cells(n=4, size=64, seed=3), tmp_path)

    def sums(**options):
        return fingerprints(read_images(tmp_path, kind="instances", **options))

    before = sums()
    for large in (large_sets.LARGE, 0):
        monkeypatch.setattr(large_sets, "LARGE", large)
        plain = sums()
        scaled, other = (sums(pixel_size=0.3, pixel_sizes=size) for size in ("0.2", "0.3"))
        assert [pair[0] for pair in scaled.values()] == [pair[0] for pair in plain.values()]
        assert "other labels" in changes({"train": scaled}, {"train": other})
        assert "other pixels" not in changes({"train": scaled}, {"train": other})
        assert scaled == sums(pixel_size=0.3, pixel_sizes="0.2")
        assert seen(read_images(tmp_path, kind="instances"), {"train": scaled}) == list(scaled)
    assert before != plain  # of files, not of pixels


def test_an_image_of_unknown_size_is_found_before_any_is_read(tmp_path, monkeypatch):
    cells = synthetic_cells(n=6, size=64, seed=3)
    save_image_set(cells, tmp_path)
    rows = "".join(f"{name},0.2\n" for name in cells.names[:-1])
    write_table(tmp_path / "pixel_sizes.csv", f"name,pixel_size\n{rows}")
    monkeypatch.setattr(large_sets, "LARGE", 0)
    with pytest.raises(DataError, match=f"size of the pixels of image {cells.names[-1]} is not known"):
        read_images(tmp_path, kind="instances", pixel_size=0.3)


def test_a_set_is_large_if_it_is_when_it_is_scaled(tmp_path, monkeypatch):
    """Four images of 64 × 64 pixels, 17 bytes for each: 279 kB, and four times as much at half the size."""
    save_image_set(synthetic_cells(n=4, size=64, seed=3), tmp_path)
    monkeypatch.setattr(large_sets, "LARGE", 1e6)
    for size, large in (("0.2", False), ("0.3", False), ("0.4", True)):
        images = read_images(tmp_path, kind="instances", pixel_size=0.2, pixel_sizes=size)
        assert images.is_read_as_needed == large


def test_far_from_labels_is_in_the_pixels_that_the_network_sees(tmp_path):
    """One object at two magnifications."""
    unknown = []
    for side in (80, 160):
        images, labels = np.zeros((2, side, side), np.uint8), np.zeros((2, side, side), np.uint8)
        labels[:, side // 4 : side // 2, side // 4 : side // 2] = 1
        images[:, ::2] = 9
        np.savez(tmp_path / "a.npz", images=images, labels=labels, pixel_sizes=[40 / side] * 2)
        options = {"kind": "binary", "partly_annotated": 10, "pixel_size": 0.5}
        unknown.append(np.count_nonzero(read_images(tmp_path / "a.npz", **options).labels[0] == -1))
    assert unknown[0] == unknown[1] > 0


def test_a_set_that_is_read_as_needed_is_the_same(tmp_path, monkeypatch):
    save_image_set(synthetic_cells(n=6, size=64, seed=3), tmp_path)
    in_memory = read_images(tmp_path, kind="instances", pixel_size=0.3, pixel_sizes="0.2")
    monkeypatch.setattr(large_sets, "LARGE", 0)
    as_needed = read_images(tmp_path, kind="instances", pixel_size=0.3, pixel_sizes="0.2")
    assert as_needed.is_read_as_needed
    chosen = as_needed.subset([4, 1])
    for number, original in enumerate((4, 1)):
        np.testing.assert_array_equal(chosen.images[number], in_memory.images[original])
        np.testing.assert_array_equal(chosen.labels[number], in_memory.labels[original])
    assert in_memory.images[0].shape == resize(in_memory.images[0], (43, 43)).shape
