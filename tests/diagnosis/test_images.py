"""Checks of images: each finds its fault in a set that has it, and nothing in one that does not."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from findings import SIDE, TINY, cells, found, only, setup, textures
from PIL import Image

from tinyunet.data import read_images
from tinyunet.diagnosis.images import (
    SATURATED,
    check_bit_depth,
    check_constant,
    check_equal_channels,
    check_files,
    check_saturation,
    check_size,
)
from tinyunet.training.config import TrainConfig
from tinyunet.training.setup import Setup


def test_constant_images():
    images = textures(4)
    images[2][...] = 9
    severity, message = only(found(check_constant, images))
    assert severity == "problem"
    assert "1: i2" in message
    assert found(check_constant) == []


@pytest.mark.parametrize(("levels", "few"), [(2, True), (15, True), (16, False)])
def test_few_grey_values(levels, few):
    images = textures(4)
    images[0] = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE, 1) % levels).astype(np.uint8)
    findings = found(check_constant, images)
    assert [severity for severity, _ in findings] == ["warning"] * few
    assert all(f"fewest  {levels}" in message for _, message in findings)


def test_equal_channels():
    colour = [np.repeat(image, 3, axis=2) for image in textures(4)]
    severity, message = only(found(check_equal_channels, colour))
    assert severity == "note"
    assert "all 3 channels are equal" in message
    colour[3][0, 0, 2] ^= 1
    assert found(check_equal_channels, colour) == []
    assert found(check_equal_channels) == []


@pytest.mark.parametrize(
    ("dtype", "top", "saturated"),
    [
        (np.uint8, 255, True),
        (np.uint16, 65535, True),
        (np.uint16, 4095, True),  # a 12-bit camera
        (np.float32, 0.7, True),  # at its own highest value
        (np.uint8, 254, False),
        (np.uint16, 4000, False),
        (np.uint8, 127, False),  # a power of two less one, but of too few bits
    ],
)
@pytest.mark.parametrize("pixels", [round(SATURATED * SIDE**2) - 1, round(SATURATED * SIDE**2) + 1])
def test_saturation(dtype, top, saturated, pixels):
    images = [(image / 256 * top).astype(dtype) for image in textures(4)]
    images[1].reshape(-1)[:pixels] = top
    findings = found(check_saturation, images)
    assert [severity for severity, _ in findings] == ["warning"] * (
        saturated and pixels > SATURATED * SIDE**2
    )
    assert all("1: i1" in message for _, message in findings)


def test_a_constant_image_is_not_saturated():
    """Its single grey value is another finding."""
    assert found(check_saturation, [np.full((SIDE, SIDE, 1), 255, np.uint8), *textures(3)]) == []


@pytest.mark.parametrize(
    ("dtype", "highest", "severity", "text"),
    [
        (np.uint16, 250, "warning", "8 bits"),
        (np.uint16, 4000, "note", "12-bit camera"),
        (np.uint16, 60_000, None, ""),
        (np.uint8, 250, None, ""),
        (np.float32, 200, None, ""),
    ],
)
def test_bit_depth(dtype, highest, severity, text):
    findings = found(check_bit_depth, [(image / 256 * highest).astype(dtype) for image in textures(4)])
    assert [found_severity for found_severity, _ in findings] == ([severity] if severity else [])
    assert all(text in message for _, message in findings)


def test_mixed_types():
    images = textures(4)
    images[0] = images[0].astype(np.uint16) * 200
    severity, message = only(found(check_bit_depth, images))
    assert severity == "note"
    assert "uint16 and uint8" in message


def test_images_smaller_than_the_tile():
    """At depth 1 outputs are even, and the halo is 8."""
    severity, message = only(found(check_size, tile=100))
    assert severity == "warning"
    assert "4 images smaller than the tile of 100 pixels" in message
    assert f"up to {100 * (1 - SIDE**2 / 100**2):.0f} %" in message
    assert "--tile 48 fits" in message
    assert found(check_size, tile=48) == []
    assert found(check_size, tile=50) == []  # 8 % may be mirrored


def test_images_smaller_than_the_tile_along_one_side():
    """The other side is long."""
    images = [np.tile(image, (1, 4, 1)) for image in textures(4)]
    labels = [np.tile(cells(), (1, 4))] * 4
    severity, message = only(found(check_size, images, labels, tile=100))
    assert severity == "warning"
    assert f"up to {100 * (1 - SIDE / 100):.0f} %" in message


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_advised_tile_fits(padding):
    images = textures(4, side=45)
    labels = [cells(side=45)] * 4
    _, message = only(found(check_size, images, labels, depth=2, tile=100, padding=padding))
    advised = int(message.split("--tile ")[1].split()[0])
    setting = setup(images, labels, depth=2, tile=advised, padding=padding)
    assert setting.output_size == advised <= 45
    larger = setup(images, labels, depth=2, tile=advised + 1, padding=padding)
    assert larger.output_size > 45  # it is the largest


@pytest.mark.parametrize(("side", "small"), [(20, True), (21, False)])
def test_images_smaller_than_the_view_of_the_network(side, small):
    """At depth 2 the network sees 20 pixels to each side; a mirror of side n has n − 1 before it repeats."""
    labels = [np.eye(side, dtype=int)] * 4
    findings = found(check_size, textures(4, side), labels, depth=2, tile=4)
    assert [severity for severity, _ in findings] == ["warning"] * small
    assert all("not larger than the 20 pixels" in message for _, message in findings)


def test_unusual_files_by_kind(tmp_path):
    """Each is read right all the same; a file is named by its path below the set."""
    grey = [texture[..., 0] for texture in textures(6)]
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for number, pixels in enumerate(grey):
        label = (cells() > 0).astype(np.uint8)
        turned = Image.Exif()
        turned[0x112] = 3
        if number < 2:
            tifffile.imwrite(tmp_path / "images" / f"{number}.tif", 255 - pixels, photometric="miniswhite")
        elif number < 4:
            Image.fromarray(pixels[::-1, ::-1]).save(tmp_path / "images" / f"{number}.png", exif=turned)
        else:
            stored = Image.fromarray(255 - pixels)
            stored.putpalette([255 - index for index in range(256) for _ in "RGB"])
            stored.save(tmp_path / "images" / f"{number}.bmp")
        Image.fromarray(label * 255).save(tmp_path / "labels" / f"{number}.png")
    whole = read_images(tmp_path)
    parts = whole.subset(range(5)), whole.subset([5])
    findings = {finding.what: finding for finding in check_files(Setup(TrainConfig(**TINY), *parts))}
    assert {finding.severity for finding in findings.values()} == {"note"}
    white, turned_upright = (
        findings["2 files: white is zero"],
        findings["2 files: turned upright (orientation 3)"],
    )
    assert white.numbers["files"] == "images/0.tif, images/1.tif"
    assert turned_upright.numbers["files"] == "images/2.png, images/3.png"
    assert "turned by the same tag" in turned_upright.remedy
    assert findings["2 files: palette"].numbers["files"] == "images/4.bmp, images/5.bmp"
    for number in (0, 2, 5):
        np.testing.assert_array_equal(whole.images[number][..., 0], grey[number])


@pytest.mark.parametrize(
    ("pages", "note"),
    [
        ([np.full((SIDE, SIDE), 4095, np.uint16)], "12 bits in 16"),
        ([np.ones((SIDE, SIDE), np.uint8), np.ones((9, 9), np.uint8)], "pages of several sizes"),
    ],
)
def test_unusual_stacks(tmp_path, pages, note):
    """One file is named as such; several notes of one file are listed one by one."""
    with tifffile.TiffWriter(tmp_path / "stack.tif") as file:
        for page in pages:
            file.write(page, metadata=None, photometric="minisblack")
    images = read_images(tmp_path / "stack.tif", labels=False)
    images = replace(images, notes={path: f"{text}; white is zero" for path, text in images.notes.items()})
    findings = list(check_files(Setup(TrainConfig(**TINY), images, images)))
    assert [finding.what for finding in findings] == [f"1 file: {note}", "1 file: white is zero"]
    assert all(finding.numbers == {"files": "stack.tif"} for finding in findings)
