"""OME-Zarr, ND2 and CZI: their pixels against those written, and the choice of a channel and a plane."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from microscopes import write_czi, write_nd2, write_ome_zarr

from tinyunet.data import PlaneChoice, large_sets, read_images
from tinyunet.data.decode import decode
from tinyunet.data.fingerprint import checksum_of_files
from tinyunet.data.windowed import WindowedImage
from tinyunet.data.windows import open_windows
from tinyunet.errors import DataError, OptionError

WRITERS = {".nd2": ("nd2", write_nd2), ".czi": ("pylibCZIrw", write_czi), ".zarr": ("zarr", write_ome_zarr)}
NAMES = ["DAPI", "GFP"]
SHAPE = (41, 30)


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Write frames (…, C, H, W) in one of the formats."""
    library, writer = WRITERS[request.param]
    pytest.importorskip(library)

    def to_file(frames, loops="", name="x", **options):
        return writer(
            tmp_path / f"{name}{request.param}", frames, NAMES[: frames.shape[-3]], loops, **options
        )

    return to_file


def frames(*shape, dtype=np.uint16):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (*shape, *SHAPE), dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channel", [1, "GFP", "gfp"])
def test_windows_of_a_plane_are_those_written(write, dtype, channel):
    pixels = frames(3, 2, dtype=dtype)
    image = open_windows(write(pixels, "z", pixel_size=0.25), PlaneChoice(channel, 2))
    assert (image.shape, image.pixel_size, image.unit) == ((*SHAPE, 1), (0.25, 0.25), "micrometer")
    window = image.read(slice(3, 20), slice(11, 30))
    assert window.dtype == dtype
    np.testing.assert_array_equal(window[..., 0], pixels[2, 1, 3:20, 11:30])


def test_points_in_time_are_pages(write):
    pixels = frames(4, 3, 2)
    path = write(pixels, "tz")
    pages = decode(path, choice=PlaneChoice("DAPI", 1))
    np.testing.assert_array_equal(np.stack(pages)[..., 0], pixels[:, 1, 0])
    assert read_images(path, labels=False, choice=PlaneChoice(0, 1)).names == ["x-0", "x-1", "x-2", "x-3"]
    with pytest.raises(DataError, match=r"time \(t\)"):
        open_windows(path, PlaneChoice("DAPI", 1))


def test_all_channels(write):
    pixels = frames(2)
    for choice in (PlaneChoice("all"), PlaneChoice(in_channels=2), PlaneChoice(trained=PlaneChoice("all"))):
        np.testing.assert_array_equal(
            open_windows(write(pixels), choice).read(slice(None), slice(None)), pixels.transpose(1, 2, 0)
        )


def test_one_channel_and_one_plane_need_no_choice(write):
    """Nor does what the network was trained on matter then; what is given has to be there."""
    pixels = frames(1)
    path = write(pixels)
    trained = PlaneChoice(trained=PlaneChoice(1, 3))
    for choice in (PlaneChoice(), trained, PlaneChoice(0, 0)):
        np.testing.assert_array_equal(decode(path, choice=choice)[0][..., 0], pixels[0])
    for choice in (PlaneChoice(1), PlaneChoice("GFP"), PlaneChoice(z=1)):
        with pytest.raises(DataError, match=r"(?s)there is no|no channel.*0 DAPI"):
            decode(path, choice=choice)


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        (PlaneChoice(), ["0 DAPI, 1 GFP", "0 to 2", "--channel", "--z"]),
        (PlaneChoice(in_channels=3), ["0 DAPI, 1 GFP"]),
        (PlaneChoice(z=1), ["0 DAPI, 1 GFP", "--channel"]),
        (PlaneChoice(1), ["0 to 2", "--z"]),
        (PlaneChoice(2, 0), ["channel 2", "0 DAPI, 1 GFP"]),
        (PlaneChoice("RFP", 0), ["RFP", "0 DAPI, 1 GFP"]),
        (PlaneChoice(0, 3), ["plane 3", "0 to 2"]),
        (PlaneChoice(z=0, trained=PlaneChoice("RFP")), ["RFP", "0 DAPI, 1 GFP"]),
    ],
)
def test_what_is_not_chosen_or_not_there_is_named(write, choice, named):
    path = write(frames(3, 2), "z")
    for read in (open_windows, lambda path, choice: decode(path, choice=choice)):
        with pytest.raises(DataError) as caught:
            read(path, choice)
        assert all(part in str(caught.value) for part in named)


def test_a_choice_of_the_training_counts_where_nothing_is_chosen():
    trained = PlaneChoice(trained=PlaneChoice("GFP", 4))
    assert (trained.channel_for("x", 2, NAMES), trained.z_for("x", 9)) == (1, 4)
    given = PlaneChoice(0, 2, trained=PlaneChoice("GFP", 4))
    assert (given.channel_for("x", 2, NAMES), given.z_for("x", 9)) == (0, 2)


def test_names_that_are_numbers_or_occur_twice():
    """A number counts, unless there are fewer channels and one has it as its name: wavelengths do."""
    assert PlaneChoice(488).channel_for("x", 2, ["405", "488"]) == 1
    assert PlaneChoice(1).channel_for("x", 2, ["1", "0"]) == 1
    with pytest.raises(DataError, match="several channels are called"):
        PlaneChoice("a").channel_for("x", 2, ["a", "a"])
    for wrong in ({"channel": -1}, {"z": -1}):
        with pytest.raises(OptionError, match="at least 0"):
            PlaneChoice(**wrong)


def test_what_reading_itself_takes_is_counted(tmp_path):
    """A compressed frame has both channels; its size is that of a file without compression."""
    pytest.importorskip("nd2")
    pixels = frames(3, 2)
    packed = write_nd2(tmp_path / "packed.nd2", pixels, NAMES, "z", compressed=True)
    mapped = write_nd2(tmp_path / "mapped.nd2", pixels, NAMES, "z")
    choice = PlaneChoice("GFP", 1)
    assert open_windows(packed, choice).held == 3 * pixels[0].nbytes
    assert open_windows(mapped, choice).held == 0
    decoded = WindowedImage(tmp_path / "whole.tif", pixels[0, 0], "yx")
    assert decoded.held == pixels[0, 0].nbytes


@pytest.mark.parametrize("compressed", [False, True])
def test_nd2_as_its_library_reads_it(tmp_path, compressed):
    nd2 = pytest.importorskip("nd2")
    path = write_nd2(tmp_path / "x.nd2", frames(2, 3, 2), NAMES, "tz", compressed=compressed)
    expected = nd2.imread(path)
    for z, channel in ((0, 1), (2, 0)):
        pages = decode(path, choice=PlaneChoice(channel, z))
        np.testing.assert_array_equal(np.stack(pages)[..., 0], expected[:, z, channel])


def test_what_nd2_would_fill_with_zeros_is_refused(tmp_path):
    """A recording that was stopped; and a frame whose compression is damaged."""
    pytest.importorskip("nd2")
    path = write_nd2(tmp_path / "x.nd2", frames(5, 1), NAMES[:1], "z", recorded=3)
    assert decode(path, choice=PlaneChoice(z=2))[0].any()
    with pytest.raises(DataError, match="not recorded"):
        decode(path, choice=PlaneChoice(z=3))
    write_nd2(path, frames(1), NAMES[:1], compressed=True)
    content = path.read_bytes()
    at = content.rindex(b"ImageDataSeq|0!", 0, content.rindex(b"ND2 FILEMAP")) + 4072 + 8 + 40
    path.write_bytes(content[:at] + bytes(40) + content[at + 40 :])
    with pytest.raises(DataError, match="cannot be read"):
        open_windows(path).scale()


@pytest.mark.parametrize("suffix", [".nd2", ".czi"])
def test_colours_are_read_together(tmp_path, suffix):
    """CZI stores blue before red."""
    library, writer = WRITERS[suffix]
    pytest.importorskip(library)
    pixels = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8)
    stored = pixels[..., ::-1] if suffix == ".czi" else pixels
    path = writer(tmp_path / f"x{suffix}", stored, ["RGB"], colours=True)
    np.testing.assert_array_equal(decode(path)[0], pixels)
    np.testing.assert_array_equal(decode(path, choice=PlaneChoice(2))[0], pixels[..., 2:])
    np.testing.assert_array_equal(open_windows(path).read(slice(5, 9), slice(2, 30)), pixels[5:9, 2:30])


def test_the_tiles_of_a_czi_as_its_library_puts_them_together(tmp_path):
    """They may begin anywhere; where none lies, pixels are 0."""
    czi = pytest.importorskip("pylibCZIrw.czi")
    path, pixels = tmp_path / "x.czi", frames(2)
    with czi.create_czi(str(path)) as file:
        file.write(pixels[0][..., None], location=(-50, 7))
        file.write(pixels[1][..., None], location=(-30, 60))
        file.write_metadata("x")
    with czi.open_czi(str(path)) as file:
        expected = file.read()[..., 0]
    assert (expected == 0).mean() > 0.3
    np.testing.assert_array_equal(decode(path)[0][..., 0], expected)
    window = open_windows(path).read(slice(20, 70), slice(5, 40))
    np.testing.assert_array_equal(window[..., 0], expected[20:70, 5:40])


def test_scenes_and_positions_are_refused_by_name(tmp_path):
    czi = pytest.importorskip("pylibCZIrw.czi")
    pytest.importorskip("nd2")
    with czi.create_czi(str(tmp_path / "x.czi")) as file:
        for scene in (0, 1):
            file.write(frames(1)[0][..., None], location=(100 * scene, 0), scene=scene)
        file.write_metadata("x")
    write_nd2(tmp_path / "x.nd2", frames(2, 1), NAMES[:1], "p")
    for suffix, axis in ((".czi", "scene"), (".nd2", "position")):
        with pytest.raises(DataError, match=axis):
            decode(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("suffix", WRITERS)
def test_damaged_files(tmp_path, suffix):
    library, writer = WRITERS[suffix]
    pytest.importorskip(library)
    path = writer(tmp_path / f"x{suffix}", frames(1), NAMES[:1])
    cut = path / "zarr.json" if path.is_dir() else path
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    for read in (open_windows, decode):
        with pytest.raises(DataError, match=str(path)):
            read(path)


@pytest.mark.parametrize("shape", [(0, 5), (-3, 5)])
def test_sizes_that_a_damaged_file_states(shape):
    array = SimpleNamespace(shape=shape, dtype=np.dtype(np.uint8))
    with pytest.raises(DataError, match="pixels that are numbers"):
        WindowedImage(Path("x"), array, "yx").chosen(PlaneChoice())


def test_other_files_have_channels_by_number_and_pages_of_their_own(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", colours, photometric="rgb")
    np.testing.assert_array_equal(decode(tmp_path / "x.tif", choice=PlaneChoice(1))[0], colours[..., 1:2])
    with pytest.raises(DataError, match="0 to 2"):
        decode(tmp_path / "x.tif", choice=PlaneChoice(3))
    with pytest.raises(DataError, match="--z"):
        decode(tmp_path / "x.tif", choice=PlaneChoice(z=0))
    with pytest.raises(DataError, match="--channel"):
        read_images("synthetic-cells", choice=PlaneChoice(0))


def labelled_set(folder, pixels, label):
    """Three images of two channels, one in each format, with masks."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number, suffix in enumerate(WRITERS):
        name = f"{number}.ome{suffix}" if suffix == ".zarr" else f"{number}{suffix}"
        WRITERS[suffix][1](folder / "images" / name, pixels[number], NAMES)
        tifffile.imwrite(folder / "masks" / f"{number}.tif", label)
    return folder


def test_a_set_of_them(tmp_path, monkeypatch):
    """In memory and as needed; a folder that is an OME-Zarr is an image, also as a label."""
    for library, _ in WRITERS.values():
        pytest.importorskip(library)
    pixels, label = frames(3, 2), np.zeros(SHAPE, np.uint8)
    label[5:20, 5:20] = 1
    folder = labelled_set(tmp_path / "set", pixels, label)
    images = read_images(folder, choice=PlaneChoice("GFP"))
    assert images.names == ["0", "1", "2"]
    np.testing.assert_array_equal(np.stack(images.images)[..., 0], pixels[:, 1])
    with pytest.raises(DataError, match="0 DAPI, 1 GFP"):
        read_images(folder)
    write_ome_zarr(folder / "masks" / "2.zarr", label[None], [""])
    (folder / "masks" / "2.tif").unlink()
    monkeypatch.setattr(large_sets, "LARGE", 0)
    monkeypatch.setattr(large_sets, "FEWEST_FILES", 1)
    needed = read_images(folder, choice=PlaneChoice("GFP"))
    assert needed.is_read_as_needed
    for a, b in zip((*images.images, *images.labels), (*needed.images, *needed.labels), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({sums for pair in needed.checksums for sums in pair}) == 5  # two masks are the same
    chunk = max((folder / "images" / "2.ome.zarr").rglob("*"), key=lambda f: f.is_file() and f.stat().st_size)
    before = checksum_of_files([folder / "images" / "2.ome.zarr"])
    chunk.write_bytes(chunk.read_bytes() + b"x")
    assert checksum_of_files([folder / "images" / "2.ome.zarr"]) != before


@pytest.mark.parametrize("suffix", WRITERS)
def test_labels_have_one_channel_and_are_no_recordings(tmp_path, suffix):
    library, writer = WRITERS[suffix]
    pytest.importorskip(library)
    path = writer(tmp_path / f"x{suffix}", frames(2), NAMES)
    with pytest.raises(DataError, match=r"labels are not|a label image"):
        decode(path, labels=True)
