"""Files written by Pillow, tifffile and imagecodecs, or byte by byte, are read back exactly."""

import logging
import struct
import zlib
from contextlib import nullcontext
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile

from tinyunet.data.decode import decode
from tinyunet.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (16, 12)).astype(np.uint8)
GREY16 = RNG.integers(0, 65536, (16, 12)).astype(np.uint16)
RGB = RNG.integers(0, 256, (16, 12, 3)).astype(np.uint8)
RGB16 = RNG.integers(0, 65536, (16, 12, 3)).astype(np.uint16)
STACK = RNG.integers(1, 256, (5, 16, 12)).astype(np.uint8)


def only(path: Path, **options: bool) -> np.ndarray:
    (page,) = decode(path, **options)
    assert page.flags.c_contiguous
    return page


def small_grey_png(values: np.ndarray, bits: int) -> bytes:
    """Assemble a PNG of 1, 2 or 4 bits per pixel by hand: no library here writes one."""
    rows = b""
    for row in values:
        packed = np.packbits(np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].ravel())
        rows += b"\0" + packed.tobytes()

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("pixels", [GREY, GREY16, RGB, RGB16], ids=["grey", "grey16", "rgb", "rgb16"])
def test_png(tmp_path: Path, pixels: np.ndarray) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(imagecodecs.png_encode(pixels))
    image = only(file)
    assert image.dtype == pixels.dtype
    np.testing.assert_array_equal(image, pixels.reshape(16, 12, -1))


def test_a_png_that_states_more_pixels_than_it_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before memory for them is taken; the most that a file can hold is read."""
    pixels = np.zeros((2000, 3000), np.uint8)
    content = bytearray(imagecodecs.png_encode(pixels, level=9))
    (tmp_path / "full.png").write_bytes(content)
    assert len(content) < pixels.size / 500
    np.testing.assert_array_equal(only(tmp_path / "full.png")[..., 0], pixels)
    content[16:24] = struct.pack(">II", 30_000, 10_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    monkeypatch.setattr(PIL.Image.Image, "load", None)
    with pytest.raises(DataError, match="30000 × 10000"):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_is_not_stretched(tmp_path: Path, bits: int) -> None:
    values = RNG.integers(0, 2**bits, (8, 16))
    (tmp_path / "a.png").write_bytes(small_grey_png(values, bits))
    np.testing.assert_array_equal(only(tmp_path / "a.png")[..., 0], values)


def test_palette_png_with_a_transparent_colour(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(GREY % 4).convert("P")
    picture.putdata((GREY % 4).ravel().tolist())
    picture.save(tmp_path / "a.png", transparency=2)
    with pytest.raises(DataError, match="transparent"):
        decode(tmp_path / "a.png")
    np.testing.assert_array_equal(only(tmp_path / "a.png", labels=True)[..., 0], GREY % 4)


@pytest.mark.parametrize("pixels", [GREY[..., None], RGB, RGB16], ids=["grey", "rgb", "rgb16"])
def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    full = np.iinfo(pixels.dtype).max
    with_alpha = np.concatenate([pixels, np.full_like(pixels[..., :1], full)], axis=2)
    file = tmp_path / "a.png"
    file.write_bytes(imagecodecs.png_encode(with_alpha))
    np.testing.assert_array_equal(only(file), pixels)
    with_alpha[3, 4, -1] = full - 1
    file.write_bytes(imagecodecs.png_encode(with_alpha))
    with pytest.raises(DataError, match="transparent"):
        decode(file)


def test_rgba_tiff_and_four_channels_that_are_no_alpha(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full((16, 12), 255, np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(only(tmp_path / "a.tif"), RGB)
    tifffile.imwrite(tmp_path / "b.tif", rgba, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(only(tmp_path / "b.tif"), rgba)


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8)
    PIL.Image.fromarray(smooth).save(tmp_path / "a.JPG", quality=95)
    image = only(tmp_path / "a.JPG")
    assert image.shape == (32, 40, 1)
    assert np.abs(image[..., 0].astype(int) - smooth).max() <= 3  # lossy, but at quality 95 not by much


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_jpeg_labels_are_refused_under_any_name(tmp_path: Path, name: str) -> None:
    PIL.Image.fromarray(GREY).save(tmp_path / name, format="JPEG")
    with pytest.raises(DataError, match="labels as JPEG"):
        decode(tmp_path / name, labels=True)


def test_unusual_colour_mode(tmp_path: Path) -> None:
    PIL.Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="CMYK"):
        decode(tmp_path / "a.jpg")


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
@pytest.mark.parametrize("pixels", [GREY, GREY16, GREY.astype(np.float32) / 7, RGB16], ids=str)
def test_tiff(tmp_path: Path, pixels: np.ndarray, compression: str | None) -> None:
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression, photometric=photometric)
    image = only(tmp_path / "a.tif")
    assert image.dtype == pixels.dtype
    np.testing.assert_array_equal(image, pixels.reshape(16, 12, -1))


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}], ids=str)
@pytest.mark.parametrize("kind", ["i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
def test_tiff_of_any_type_and_byte_order(tmp_path: Path, kind: str, options: dict) -> None:
    """The type is kept, in the byte order of this machine."""
    file, values = tmp_path / "a.tif", GREY * 200.0 if kind[0] == "u" else GREY / 2 - 60
    tifffile.imwrite(file, values.astype(kind), **options)
    image = only(file)
    assert image.dtype == np.dtype(kind).newbyteorder("=")
    np.testing.assert_array_equal(image[..., 0], tifffile.imread(file))


@pytest.mark.parametrize("axes", ["TZCYX", "CZYX", "ZCTYX", "TCYXS"])
def test_axes_of_ome_and_imagej(tmp_path: Path, axes: str) -> None:
    """In any order: channels go last, all axes besides rows and columns are pages."""
    lengths = {"T": 2, "Z": 5, "C": 2, "Y": 16, "X": 12, "S": 3}
    pixels = RNG.integers(0, 256, [lengths[axis] for axis in axes]).astype(np.uint8)
    file, photometric = tmp_path / "a.ome.tif", "rgb" if "S" in axes else "minisblack"
    tifffile.imwrite(file, pixels, metadata={"axes": axes}, photometric=photometric)
    pages, channel = decode(file), "S" if "S" in axes else "C"
    order = [axis for axis in axes if axis not in f"YX{channel}"]
    order += ["Y", "X", *([channel] if channel in axes else [])]
    expected = pixels.transpose([axes.index(axis) for axis in order])
    np.testing.assert_array_equal(np.stack(pages).reshape(expected.shape), expected)


def test_tiff_of_one_bit(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY > 99)
    image = only(tmp_path / "a.tif")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[..., 0], GREY > 99)


@pytest.mark.parametrize(
    ("pixels", "options", "expected"),
    [
        (STACK, {}, STACK[..., None]),
        (STACK, {"metadata": None}, STACK[..., None]),
        (STACK, {"imagej": True, "metadata": {"axes": "ZYX"}}, STACK[..., None]),
        (STACK[:1], {}, STACK[:1, ..., None]),
        # Two samples per pixel, and colour planes one after the other, belong to one page.
        (STACK[:2], {"metadata": {"axes": "CYX"}, "imagej": True}, STACK[None, :2].transpose(0, 2, 3, 1)),
        (
            RGB.transpose(2, 0, 1),
            {"photometric": "rgb", "planarconfig": "separate", "metadata": {"axes": "SYX"}},
            RGB[None],
        ),
        (np.stack([RGB, 255 - RGB]), {"photometric": "rgb"}, np.stack([RGB, 255 - RGB])),
        # With samples and channels, the samples are the colours.
        (
            np.stack([RGB, 255 - RGB]),
            {"photometric": "rgb", "metadata": {"axes": "CYXS"}},
            np.stack([RGB, 255 - RGB]),
        ),
        # Channels between the pages and the rows, as hyperstacks have them.
        (
            np.stack([STACK, 255 - STACK], axis=1),
            {"imagej": True, "metadata": {"axes": "ZCYX"}},
            np.stack([STACK, 255 - STACK], axis=-1),
        ),
    ],
    ids=["stack", "plain", "imagej", "one page", "channels", "planes", "rgb pages", "both", "hyperstack"],
)
def test_tiff_pages_and_channels(
    tmp_path: Path, pixels: np.ndarray, options: dict, expected: np.ndarray
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, **({"photometric": "minisblack"} | options))
    pages = decode(tmp_path / "a.tif")
    assert len(pages) == len(expected)
    for page, right in zip(pages, expected, strict=True):
        np.testing.assert_array_equal(page, right)


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"metadata": None}, {"imagej": True}], ids=str
)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.9])
def test_cut_off_stack_is_an_error_and_not_a_shorter_stack(
    tmp_path: Path, options: dict, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, RNG.integers(0, 256, (5, 64, 64)).astype(np.uint8), **options)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"a\.tif: cannot be decoded"):
        decode(file)
    assert not caplog.records  # the error says it; nothing is logged besides


@pytest.mark.parametrize("share", [1, 0.9])
def test_the_log_of_tifffile_is_left_as_it_was(tmp_path: Path, share: float) -> None:
    """Log later files as before, even after an error."""
    file, logger = tmp_path / "a.tif", logging.getLogger("tifffile")
    tifffile.imwrite(file, STACK, photometric="minisblack")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    before = logger.propagate, list(logger.handlers)
    with nullcontext() if share == 1 else pytest.raises(DataError):
        decode(file)
    assert (logger.propagate, list(logger.handlers)) == before


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0, 0.1, 0.9])
def test_cut_off_file(tmp_path: Path, suffix: str, share: float) -> None:
    file = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(RNG.integers(0, 256, (64, 64)).astype(np.uint8)).save(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=rf"a\{suffix}: cannot be decoded"):
        decode(file)


def test_unknown_type(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.txt"):
        decode(tmp_path / "a.txt")


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(("pages", "back_to"), [(1, 0), (3, 1), (150, 120)])
def test_pages_that_lead_back_to_themselves(tmp_path: Path, pages: int, back_to: int, bigtiff: bool) -> None:
    """The last page names an earlier one as the next, which a reader could follow for ever."""
    path = tmp_path / "loop.tif"
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        for _ in range(pages):
            writer.write(GREY, metadata=None, contiguous=False)
    with tifffile.TiffFile(path) as tiff:
        form, offsets = tiff.tiff, [page.offset for page in tiff.pages]
    content = bytearray(path.read_bytes())
    (tags,) = struct.unpack_from(form.tagnoformat, content, offsets[-1])
    following = offsets[-1] + form.tagnosize + tags * form.tagsize
    struct.pack_into(form.offsetformat, content, following, offsets[back_to])
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"back to the page at byte {offsets[back_to]}"):
        decode(path)


def test_a_tiff_without_a_page(tmp_path: Path) -> None:
    path = tmp_path / "empty.tif"
    path.write_bytes(b"II*\0\0\0\0\0")
    with pytest.raises(DataError, match=r"empty\.tif"):
        decode(path)
