"""Pixels are those that viewers show, and a file gives its own pages: against Pillow and tifffile."""

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.ImageSequence
import pytest
import tifffile

from tinyunet.data import read_images
from tinyunet.data.decode import decode, decode_with_notes
from tinyunet.errors import DataError, OutOfMemoryError

RNG = np.random.default_rng(0)
Y, X = np.mgrid[:48, :40]
GREY = RNG.integers(0, 256, (48, 40)).astype(np.uint8)
SMOOTH = (Y * 3 + X).astype(np.uint8)
RGB = np.stack([SMOOTH, 255 - SMOOTH, X * 5], axis=2).astype(np.uint8)
STACK = RNG.integers(0, 256, (5, 48, 40)).astype(np.uint8)


def only(path, **options):
    (page,) = decode(path, **options)
    assert page.flags.c_contiguous
    return page


def pillow(path, mode=None):
    """Read the pixels that Pillow shows, upright, (H, W, C)."""
    with PIL.Image.open(path) as image:
        image.load()  # which turns a TIFF upright
        image = PIL.ImageOps.exif_transpose(image)
        pixels = np.asarray(image if mode is None else image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)


def png(path, pixels, bits, colour_type, *chunks):
    """Write a PNG by hand, with chunks that Pillow does not write."""

    def chunk(name, content):
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, colour_type, 0, 0, 0)
    stored = pixels.astype(f">u{bits // 8}")
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    parts = [chunk(b"IHDR", header), *(chunk(*c) for c in chunks), chunk(b"IDAT", zlib.compress(rows))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))


# White is zero.


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_white_is_zero_as_pillow_shows_it(tmp_path, bits):
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, GREY >> (8 - bits), photometric="miniswhite", bitspersample=bits)
    stretch = 255 // (2**bits - 1)  # Pillow's; stored values are kept here
    np.testing.assert_array_equal(only(file) * stretch, pillow(file, "L"))
    assert "white is zero" in decode_with_notes(file).notes


def test_white_is_zero_of_one_bit(tmp_path):
    for file, group4 in ((tmp_path / "a.tif", None), (tmp_path / "b.tif", "group4")):
        PIL.Image.fromarray(GREY > 99).save(file, tiffinfo={262: 0}, compression=group4)
        for labels in (False, True):  # masks are inverted as images are
            np.testing.assert_array_equal(only(file, labels=labels), pillow(file))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_white_is_zero_of_many_bits(tmp_path, dtype):
    """TIFF 6.0, tag 262: the highest value is black. Pillow does not invert 16 bits."""
    stored = GREY.astype(dtype) * 200
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    np.testing.assert_array_equal(only(tmp_path / "a.tif")[..., 0], np.iinfo(dtype).max - stored)


def test_boolean_arrays_that_tifffile_wrote_are_what_they_were(tmp_path):
    """It declares white as zero for them, and stores True as 1 all the same."""
    tifffile.imwrite(tmp_path / "a.tif", GREY > 99)
    np.testing.assert_array_equal(only(tmp_path / "a.tif", labels=True)[..., 0], GREY > 99)
    assert decode_with_notes(tmp_path / "a.tif").notes


def test_white_is_zero_of_values_without_a_highest_one_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY.astype(np.float32), photometric="miniswhite")
    with pytest.raises(DataError, match="float32"):
        decode(tmp_path / "a.tif")


def test_imagej_keeps_raw_values(tmp_path):
    """Its look-up tables are a choice of display."""
    colormap = RNG.integers(0, 65536, (3, 256)).astype(np.uint16)
    for options in ({"photometric": "miniswhite"}, {"photometric": "palette", "colormap": colormap}):
        tifffile.imwrite(tmp_path / "a.tif", GREY, description="ImageJ=1.54f\n", metadata=None, **options)
        np.testing.assert_array_equal(only(tmp_path / "a.tif")[..., 0], GREY)
        assert decode_with_notes(tmp_path / "a.tif").notes


# Palettes and colours.


@pytest.mark.parametrize("suffix", ["tif", "png", "bmp", "gif"])
def test_palettes_are_colours_in_images_and_indices_in_labels(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    PIL.Image.fromarray(RGB).quantize(32).save(file)
    np.testing.assert_array_equal(only(file), pillow(file, "RGB"))
    np.testing.assert_array_equal(only(file, labels=True), pillow(file))
    assert "palette" in decode_with_notes(file).notes


@pytest.mark.parametrize("suffix", ["tif", "bmp", "gif"])
@pytest.mark.parametrize("ramp", [np.arange(256), 255 - np.arange(256)], ids=["grey", "inverted"])
def test_a_palette_of_grey_stays_grey(tmp_path, suffix, ramp):
    picture = PIL.Image.fromarray(GREY).convert("P")
    picture.putdata(GREY.ravel().tolist())
    picture.putpalette(ramp.repeat(3).tolist())
    picture.save(tmp_path / f"a.{suffix}")
    image = only(tmp_path / f"a.{suffix}")
    assert image.shape == (48, 40, 1)
    np.testing.assert_array_equal(image, pillow(tmp_path / f"a.{suffix}", "L"))


def test_jpeg_in_tiff_is_rgb(tmp_path):
    for name, mode in (("a.tif", "RGB"), ("b.tif", "YCbCr")):
        PIL.Image.fromarray(RGB).convert(mode).save(tmp_path / name, compression="jpeg")
        np.testing.assert_array_equal(only(tmp_path / name), pillow(tmp_path / name, "RGB"))


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "SEPARATED"), ("LAB", "CIELAB"), ("YCbCr", "YCBCR")])
def test_colours_that_programs_show_differently_are_refused(tmp_path, mode, name):
    PIL.Image.fromarray(RGB).convert(mode).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=name):
        decode(tmp_path / "a.tif")


# Extra samples and transparency.


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("suffix", ["tif", "png", "webp", "jp2"])
def test_alpha(tmp_path, mode, suffix):
    if mode == "LA" and suffix == "webp":
        pytest.skip("WebP has no grey")
    file = tmp_path / f"a.{suffix}"
    opaque = PIL.Image.fromarray(RGB).convert(mode)
    options = {"lossless": True} if suffix == "webp" else {}
    opaque.save(file, **options)
    np.testing.assert_array_equal(only(file), pillow(file, mode[:-1]))
    opaque.putpixel((3, 4), (1,) * len(mode))
    opaque.save(file, **options)
    with pytest.raises(DataError, match="transparent"):
        decode(file)


def test_an_unspecified_fourth_sample_is_no_alpha(tmp_path):
    rgbx = np.dstack([RGB, GREY])
    tifffile.imwrite(tmp_path / "a.tif", rgbx, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(only(tmp_path / "a.tif"), pillow(tmp_path / "a.tif", "RGB"))
    assert decode_with_notes(tmp_path / "a.tif").notes
    grey = rgbx[..., [0, 3]]  # two channels, which nobody calls transparent
    tifffile.imwrite(tmp_path / "b.tif", grey, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(only(tmp_path / "b.tif"), grey)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize(
    ("bits", "colour_type", "pixels"), [(8, 0, GREY), (16, 0, GREY.astype(np.uint16)), (8, 2, RGB)]
)
def test_transparent_colour_keys(tmp_path, bits, colour_type, pixels, labels):
    used, unused = pixels[3, 4], (1, 2, 3) if colour_type == 2 else (0,)
    pixels = (
        np.where((pixels == unused).all(axis=-1, keepdims=True), 9, pixels)
        if colour_type == 2
        else (np.where(pixels == 0, 9, pixels))
    )
    key = np.atleast_1d(pixels[3, 4] if used is not None else used)
    png(tmp_path / "a.png", pixels, bits, colour_type, (b"tRNS", np.array(unused, ">u2").tobytes()))
    np.testing.assert_array_equal(only(tmp_path / "a.png", labels=labels), pixels.reshape(48, 40, -1))
    png(tmp_path / "a.png", pixels, bits, colour_type, (b"tRNS", key.astype(">u2").tobytes()))
    with pytest.raises(DataError, match="transparent"):
        decode(tmp_path / "a.png", labels=labels)


# Bits.


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_bits(tmp_path, bits):
    stored = GREY.astype(np.uint16) * 5 % 2**bits
    tifffile.imwrite(tmp_path / "a.tif", stored, bitspersample=bits, photometric="minisblack")
    np.testing.assert_array_equal(only(tmp_path / "a.tif")[..., 0], stored)
    assert f"{bits} bits per value" in decode_with_notes(tmp_path / "a.tif").notes
    tifffile.imwrite(tmp_path / "a.tif", stored, bitspersample=bits, photometric="miniswhite")
    np.testing.assert_array_equal(only(tmp_path / "a.tif")[..., 0], 2**bits - 1 - stored)


def test_twelve_bits_in_sixteen_are_noted(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY.astype(np.uint16) * 16)
    assert decode_with_notes(tmp_path / "a.tif").notes == ["12 bits in 16"]
    assert not decode_with_notes(tmp_path / "a.tif", labels=True).notes  # numbers of objects


# Orientation.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_upright(tmp_path, suffix, orientation):
    file, exif = tmp_path / f"a.{suffix}", PIL.Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {274: orientation}} if suffix == "tif" else {"exif": exif}
    PIL.Image.fromarray(RGB).save(file, **options)
    np.testing.assert_array_equal(only(file), pillow(file, "RGB"))
    assert bool(decode_with_notes(file).notes) == (orientation > 1)


def test_labels_and_16_bit_images_are_upright(tmp_path):
    PIL.Image.fromarray(GREY).save(tmp_path / "a.tif", tiffinfo={274: 6}, compression="tiff_lzw")
    np.testing.assert_array_equal(only(tmp_path / "a.tif", labels=True), pillow(tmp_path / "a.tif"))
    exif = PIL.Image.Exif()
    exif[0x0112] = 5
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    png(tmp_path / "a.png", GREY.astype(np.uint16), 16, 0, (b"eXIf", content))
    np.testing.assert_array_equal(only(tmp_path / "a.png"), pillow(tmp_path / "a.png"))


# Pages.

OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{own}>'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="40" SizeY="48" '
    'SizeZ="{z}" SizeC="{c}" SizeT="1"><Channel ID="Channel:0" SamplesPerPixel="1"/>{data}</Pixels>'
    "</Image></OME>"
)
PLANE = (
    '<TiffData FirstZ="{z}" FirstC="{c}" IFD="{ifd}" PlaneCount="1">'
    '<UUID FileName="{name}">urn:uuid:{uuid}</UUID></TiffData>'
)


def ome(*planes, z=3, c=1, own="0"):
    """OME metadata with planes (z, c, ifd, file name, uuid) in several files."""
    data = "".join(PLANE.format(z=p[0], c=p[1], ifd=p[2], name=p[3], uuid=p[4]) for p in planes)
    return OME.format(own=f' UUID="urn:uuid:{own}"' if own else "", z=z, c=c, data=data)


def write_pages(file, pages, **options):
    with tifffile.TiffWriter(file) as tiff:
        for i, page in enumerate(pages):
            tiff.write(page, metadata=None, contiguous=False, **(options if i == 0 else {}))


def own_pages(file):
    with tifffile.TiffFile(file, is_ome=False) as tiff:
        return [page.asarray() for page in tiff.pages]


def assert_own_pages(file):
    pages, expected = decode(file), own_pages(file)
    assert len(pages) == len(expected)
    for page, right in zip(pages, expected, strict=True):
        np.testing.assert_array_equal(page[..., 0], right)


@pytest.mark.parametrize("own", ["0", ""])
@pytest.mark.parametrize("siblings", ["there", "missing", "absolute"])
def test_one_file_of_an_ome_image_gives_its_own_pages(tmp_path, siblings, own):
    folder = tmp_path / "elsewhere" if siblings == "absolute" else tmp_path
    folder.mkdir(exist_ok=True)
    names = ["z0.ome.tif", *(str(folder / f"z{i}.ome.tif") for i in (1, 2))]
    if siblings == "there":
        names = [Path(name).name for name in names]
    planes = [(i, 0, 0, name, i) for i, name in enumerate(names)]
    write_pages(tmp_path / "z0.ome.tif", STACK[:1], description=ome(*planes, own=own))
    if siblings != "missing":
        for i in (1, 2):
            write_pages(folder / f"z{i}.ome.tif", STACK[i : i + 1], description=ome(*planes, own=str(i)))
    assert_own_pages(tmp_path / "z0.ome.tif")


def test_ome_planes_that_the_file_lacks_are_no_black_images(tmp_path):
    planes = [(i, 0, i, "a.ome.tif", 0) for i in range(5)]
    write_pages(tmp_path / "a.ome.tif", STACK[:3], description=ome(*planes, z=5))
    assert_own_pages(tmp_path / "a.ome.tif")


@pytest.mark.parametrize("files", ["several", "one that is cut short", "pages out of range"])
def test_ome_files_with_some_of_several_channels_are_refused(tmp_path, files):
    part = 2 if files == "several" else 9
    first = 90 if files == "pages out of range" else 0
    planes = [
        (z, c, first + 2 * z + c, f"{z // part}.ome.tif", z // part)
        for z in range(2 if first else 4)
        for c in range(2)
    ]
    write_pages(tmp_path / "0.ome.tif", STACK[:4], description=ome(*planes, z=2 if first else 4, c=2))
    with pytest.raises(DataError, match="several channels"):
        decode(tmp_path / "0.ome.tif")


def test_one_ome_file_per_channel_gives_its_own_pages(tmp_path):
    planes = [(z, c, z, f"{c}.ome.tif", c) for c in range(2) for z in range(3)]
    write_pages(tmp_path / "0.ome.tif", STACK[:3], description=ome(*planes, c=2))
    assert_own_pages(tmp_path / "0.ome.tif")


def test_ome_channels_of_a_whole_file_are_channels(tmp_path):
    hyperstack = np.stack([STACK, 255 - STACK], axis=1)
    tifffile.imwrite(tmp_path / "a.ome.tif", hyperstack, metadata={"axes": "ZCYX"}, photometric="minisblack")
    for page, right in zip(decode(tmp_path / "a.ome.tif"), hyperstack, strict=True):
        np.testing.assert_array_equal(page, np.moveaxis(right, 0, -1))


@pytest.mark.parametrize("second", [(24, 20), (48, 40), (17, 33), (96, 80)], ids=str)
def test_pages_of_any_sizes_are_images(tmp_path, second):
    write_pages(tmp_path / "a.tif", [GREY, np.resize(GREY, second)])
    assert_own_pages(tmp_path / "a.tif")
    noted = "pages of several sizes" in decode_with_notes(tmp_path / "a.tif").notes
    assert noted == (second != GREY.shape)


MASK = {"subfiletype": 4, "photometric": "mask"}
OLD_REDUCED = {"extratags": [(255, 3, 1, 2, True)]}


@pytest.mark.parametrize("flag", [{"subfiletype": 1}, MASK, OLD_REDUCED], ids=["reduced", "mask", "old"])
@pytest.mark.parametrize("metadata", [None, {}], ids=["plain", "shaped"])
def test_pages_flagged_as_reduced_or_mask_are_no_images(tmp_path, flag, metadata):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(GREY, metadata=metadata)
        second = GREY[:24, :20] > 9 if flag == MASK else GREY[:24, :20].copy()
        tiff.write(second, metadata=metadata, **flag)
    np.testing.assert_array_equal(only(tmp_path / "a.tif")[..., 0], GREY)


def test_pyramids_in_sub_ifds(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(GREY, subifds=1, metadata=None)
        tiff.write(GREY[::2, ::2].copy(), metadata=None)
    np.testing.assert_array_equal(only(tmp_path / "a.tif")[..., 0], GREY)


@pytest.mark.parametrize("shape", [(3, 48, 40), (4, 48, 40), (2, 48, 40), (2, 3, 48, 40), (2, 5, 48, 40)])
def test_stacks_as_tifffile_writes_them_by_default(tmp_path, shape):
    """It stores three or four slices as colour planes of one page, and four axes as QQYX."""
    stack = RNG.integers(0, 256, shape).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack)
    pages = decode(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.stack(pages)[..., 0], stack.reshape(-1, 48, 40))


def test_colour_planes_that_no_stack_explains_are_colours(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.moveaxis(RGB, 2, 0), photometric="rgb", planarconfig="separate", metadata=None
    )
    np.testing.assert_array_equal(only(tmp_path / "a.tif"), pillow(tmp_path / "a.tif"))


# Limits.


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "jp2"])
def test_files_beyond_pillows_limit_are_read(tmp_path, suffix, monkeypatch):
    """Pillow warns of 89 million pixels, and refuses twice as many."""
    file = tmp_path / f"a.{suffix}"
    PIL.Image.fromarray(RGB).save(file)
    expected = pillow(file, "RGB")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PIL.Image.DecompressionBombError):
        pillow(file)
    np.testing.assert_array_equal(only(file), expected)
    assert PIL.Image.MAX_IMAGE_PIXELS == 100


def bomb(file):
    """Write a file of a few bytes that unpacks to gigabytes."""
    if file.suffix == ".png":
        png(file, np.zeros((1, 1), np.uint8), 8, 0)
        content = bytearray(file.read_bytes())
        content[16:24] = struct.pack(">II", 60_000, 60_000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        file.write_bytes(content)
    elif file.suffix == ".bmp":
        PIL.Image.fromarray(GREY).save(file)
        content = bytearray(file.read_bytes())
        content[18:26] = struct.pack("<ii", 60_000, 60_000)
        file.write_bytes(content)
    else:
        tifffile.imwrite(file, GREY, compression="zlib", metadata=None)
        with tifffile.TiffFile(file, mode="r+b") as tiff:
            for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                tiff.pages[0].tags[name].overwrite(40_000)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_decompression_bombs_are_refused_and_the_limit_can_be_raised(tmp_path, suffix, monkeypatch):
    file = tmp_path / f"a.{suffix}"
    bomb(file)
    assert file.stat().st_size < 10_000
    with pytest.raises(DataError, match="TINYUNET_MAX_GIB"):
        decode(file)
    small = tmp_path / "small.png"
    PIL.Image.fromarray(np.zeros((900, 900), np.uint8)).save(small)
    monkeypatch.setattr("tinyunet.data.decoded.USUAL_RATIO", 1)
    monkeypatch.setenv("TINYUNET_MAX_GIB", "1e-4")
    with pytest.raises(DataError, match="TINYUNET_MAX_GIB"):
        decode(small)
    monkeypatch.setenv("TINYUNET_MAX_GIB", "1e-3")
    assert only(small).shape == (900, 900, 1)


@pytest.mark.parametrize("suffix", ["png", "tif", "npy", "npz"])
def test_too_little_memory_is_no_damaged_file(tmp_path, suffix, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("Unable to allocate 9 GiB")

    tifffile.imwrite(tmp_path / "a.tif", GREY)
    PIL.Image.fromarray(GREY).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", GREY)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", fail)
    monkeypatch.setattr(PIL.Image.Image, "load", fail)
    monkeypatch.setattr(np, "load", fail)
    np.savez(tmp_path / "a.npz", images=STACK)
    with pytest.raises(OutOfMemoryError, match="9 GiB"):
        (read_images if suffix == "npz" else decode)(tmp_path / f"a.{suffix}")


# Lossy labels.


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "webp", "jpegxr", "jpegxl"])
def test_tiff_labels_with_compression_that_can_be_lossy_are_refused(tmp_path, compression):
    pixels = RGB if compression == "webp" else SMOOTH
    photometric = "rgb" if compression == "webp" else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression, photometric=photometric)
    assert only(tmp_path / "a.tif").shape[:2] == (48, 40)
    with pytest.raises(DataError, match="lossy"):
        decode(tmp_path / "a.tif", labels=True)


def test_webp_and_jpeg_2000_labels(tmp_path):
    mask = np.dstack([GREY] * 3)
    PIL.Image.fromarray(mask).save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_array_equal(only(tmp_path / "a.webp", labels=True), mask)
    PIL.Image.fromarray(mask).save(tmp_path / "a.webp", quality=90)
    PIL.Image.fromarray(GREY).save(tmp_path / "a.jp2")
    for name in ("a.webp", "a.jp2"):
        with pytest.raises(DataError, match="lossy"):
            decode(tmp_path / name, labels=True)


# Other formats.


@pytest.mark.parametrize("suffix", ["bmp", "gif", "ppm", "jp2", "webp", "pgm"])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_other_formats(tmp_path, suffix, pixels):
    if (suffix == "pgm") == (pixels is RGB) and suffix in ("pgm", "ppm"):
        pytest.skip("PGM is grey, PPM in colour")
    file = tmp_path / f"a.{suffix}"
    PIL.Image.fromarray(pixels).save(file)
    image = only(file)
    np.testing.assert_array_equal(image, pillow(file, "L" if image.shape[2] == 1 else "RGB"))


def test_bmp_of_one_bit(tmp_path):
    PIL.Image.fromarray(GREY > 99).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(only(tmp_path / "a.bmp"), pillow(tmp_path / "a.bmp"))


def test_frames_of_an_animation_are_pages(tmp_path):
    frames = [PIL.Image.fromarray(page) for page in STACK]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    pages = decode(tmp_path / "a.gif")
    with PIL.Image.open(tmp_path / "a.gif") as image:
        for page, frame in zip(pages, PIL.ImageSequence.Iterator(image), strict=True):
            np.testing.assert_array_equal(page[..., 0], np.asarray(frame.convert("L")))


def test_jpeg_2000_of_16_bits(tmp_path):
    deep = np.dstack([GREY.astype(np.uint16) * 201] * 3)
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(deep, level=0))
    np.testing.assert_array_equal(only(tmp_path / "a.jp2"), deep)


def test_pgm_keeps_its_values(tmp_path):
    """Pillow stretches a highest value of 3 to 255, and so changes class numbers."""
    (tmp_path / "a.pgm").write_bytes(b"P5\n# drawn by hand\n3 2\n3\n" + bytes([0, 1, 2, 3, 2, 1]))
    assert only(tmp_path / "a.pgm")[..., 0].tolist() == [[0, 1, 2], [3, 2, 1]]
    (tmp_path / "a.pgm").write_bytes(b"P2 3 2 4095\n0 1 2\n4095 2 1 # end")
    image = only(tmp_path / "a.pgm")
    assert image.dtype == np.uint16
    assert image[..., 0].tolist() == [[0, 1, 2], [4095, 2, 1]]
    PIL.Image.fromarray(GREY.astype(np.uint16) * 250).save(tmp_path / "a.pgm")
    np.testing.assert_array_equal(only(tmp_path / "a.pgm"), pillow(tmp_path / "a.pgm"))
    for damaged in (b"P5 3 2 3 \0", b"P5 3 2 3\n\0\1\2\3\4\1", b"P7 3 2 3\n", b"P5 3 2 70000\n"):
        (tmp_path / "a.pgm").write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be decoded"):
            decode(tmp_path / "a.pgm")


def test_npy(tmp_path):
    for pixels in (GREY, GREY.astype(np.float32), RGB, GREY > 9):
        np.save(tmp_path / "a.npy", pixels)
        np.testing.assert_array_equal(only(tmp_path / "a.npy"), np.atleast_3d(pixels))
    for refused in (STACK, STACK[0, 0]):
        np.save(tmp_path / "a.npy", refused)
        with pytest.raises(DataError, match=r"\(H, W\)"):
            decode(tmp_path / "a.npy")
