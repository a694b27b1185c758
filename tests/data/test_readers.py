"""Sets on disk: folders, stacks and archives. Errors name what is missing or does not match."""

import os
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from films import write_film

from tinyunet.data import (
    ImageSet,
    read_images,
    save_image_set,
    synthetic_cells,
    synthetic_dic,
    synthetic_membranes,
)
from tinyunet.data.readers import image_readers
from tinyunet.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 12)).astype(np.uint8)
LABELS = (RNG.random((3, 16, 12)) > 0.4).astype(np.uint8) * 255


def png(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(file)


def folder_set(folder: Path, labels: str = "labels", names: tuple[str, ...] = ("2", "10", "1")) -> Path:
    for name, image, label in zip(names, IMAGES, LABELS, strict=True):
        png(folder / "images" / f"{name}.png", image)
        png(folder / labels / f"{name}.png", label)
    return folder


def assert_is_the_set(found: ImageSet, order: list[int], *, labelled: bool = True) -> None:
    assert len(found) == len(order)
    for image, i in zip(found.images, order, strict=True):
        np.testing.assert_array_equal(image[..., 0], IMAGES[i])
    if not labelled:
        assert found.labels is None
        assert found.kind is None
        return
    assert found.kind == "binary"
    assert found.num_classes == 2
    assert found.labels is not None
    for label, i in zip(found.labels, order, strict=True):
        np.testing.assert_array_equal(label, LABELS[i] // 255)


@pytest.mark.parametrize("labels", ["labels", "masks"])
def test_folder_in_the_order_of_numbers(tmp_path: Path, labels: str) -> None:
    found = read_images(folder_set(tmp_path, labels))
    assert found.names == ["1", "2", "10"]
    assert_is_the_set(found, [2, 0, 1])
    assert "two values, 255 is foreground" in found.summary()


def test_folder_matches_across_types_and_ignores_hidden_files(tmp_path: Path) -> None:
    folder_set(tmp_path)
    (tmp_path / "labels" / "10.png").unlink()
    tifffile.imwrite(tmp_path / "labels" / "10.TIF", LABELS[1])
    (tmp_path / "images" / ".DS_Store").write_bytes(b"0")
    (tmp_path / "labels" / "Thumbs.db").write_bytes(b"0")
    (tmp_path / "images" / "desktop.ini").write_bytes(b"0")
    assert_is_the_set(read_images(str(tmp_path)), [2, 0, 1])


def test_folder_whose_images_come_from_a_mac(tmp_path: Path) -> None:
    """Its ä is an a with a combining diaeresis: the names look the same and differ."""
    folder_set(tmp_path, names=("\u00e42", "\u00e410", "\u00e41"))
    for file in [*(tmp_path / "images").iterdir()]:
        file.rename(file.with_name(file.name.replace("\u00e4", "a\u0308")))
    found = read_images(tmp_path)
    assert_is_the_set(found, [2, 0, 1])
    assert found.names == ["\u00e41", "\u00e42", "\u00e410"]


def test_folder_without_labels(tmp_path: Path) -> None:
    folder_set(tmp_path)
    for path in (tmp_path, tmp_path / "images"):
        assert_is_the_set(read_images(path, labels=False), [2, 0, 1], labelled=False)
    assert_is_the_set(read_images(tmp_path / "images" / "10.png", labels=False), [1], labelled=False)


def test_images_and_labels_that_do_not_match(tmp_path: Path) -> None:
    folder_set(tmp_path)
    (tmp_path / "labels" / "2.png").rename(tmp_path / "labels" / "3.png")
    with pytest.raises(DataError, match=r"without a label +1: 2\n  labels without an image +1: 3"):
        read_images(tmp_path)
    (tmp_path / "images" / "2.png").rename(tmp_path / "images" / "unused")
    with pytest.raises(DataError, match=r"without a label +1: unused\n  labels without an image +1: 3"):
        read_images(tmp_path)
    (tmp_path / "images" / "unused").unlink()
    with pytest.raises(DataError, match=r"without a label +0: nothing\n  labels without an image +1: 3"):
        read_images(tmp_path)
    png(tmp_path / "images" / "2.png", IMAGES[0])
    (tmp_path / "labels" / "3.png").unlink()
    with pytest.raises(DataError, match=r"without a label +1: 2\n  labels without an image +0: nothing"):
        read_images(tmp_path)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    folder_set(tmp_path)
    tifffile.imwrite(tmp_path / "images" / "1.tif", IMAGES[0])
    with pytest.raises(DataError, match=r"1\.png, 1\.tif"):
        read_images(tmp_path)


def test_folders_that_are_no_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="found 0 stacks"):
        read_images(tmp_path)
    with pytest.raises(DataError, match="no files"):
        read_images(tmp_path, labels=False)
    png(tmp_path / "images" / "a.png", IMAGES[0])
    with pytest.raises(DataError, match="found 0"):
        read_images(tmp_path)
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="labels: no files"):
        read_images(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="found 2"):
        read_images(tmp_path)
    with pytest.raises(DataError, match=r"a\.png"):
        read_images(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "raw.czi").write_bytes(b"of a microscope")
    with pytest.raises(DataError, match=r"raw\.czi"):
        read_images(tmp_path, labels=False)


def test_label_of_another_size(tmp_path: Path) -> None:
    folder_set(tmp_path)
    png(tmp_path / "labels" / "10.png", LABELS[1][:-1])
    with pytest.raises(DataError, match=r"10(.|\n)*\(16, 12, 1\)(.|\n)*\(15, 12\)"):
        read_images(tmp_path)


def test_colour_and_grey_mixed(tmp_path: Path) -> None:
    folder_set(tmp_path)
    png(tmp_path / "images" / "10.png", np.dstack([IMAGES[1]] * 3))
    with pytest.raises(DataError, match=r"channels\n.*1\)(.|\n)*3\)"):
        read_images(tmp_path)


def test_nan_names_its_file(tmp_path: Path) -> None:
    pixels = IMAGES[0].astype(np.float32)
    pixels[5, 6] = np.nan
    tifffile.imwrite(tmp_path / "dark.tif", pixels)
    with pytest.raises(DataError, match=r"dark: 1 pixels(.|\n)*row 5, column 6"):
        read_images(tmp_path, labels=False)


@pytest.mark.parametrize(("images", "labels"), [("train-volume", "train-labels"), ("images", "labels")])
def test_stack_by_folder_and_by_file(tmp_path: Path, images: str, labels: str) -> None:
    tifffile.imwrite(tmp_path / f"{images}.tif", IMAGES, photometric="minisblack")
    tifffile.imwrite(tmp_path / f"{labels}.tiff", LABELS, photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "test-volume.tif", 255 - IMAGES, photometric="minisblack"
    )  # without labels, as in ISBI 2012
    for path in (tmp_path, tmp_path / f"{images}.tif"):
        found = read_images(path)
        assert_is_the_set(found, [0, 1, 2])
        assert found.names == [f"{images}-{i}" for i in range(3)]
    assert_is_the_set(read_images(tmp_path / f"{images}.tif", labels=False), [0, 1, 2], labelled=False)
    assert len(read_images(tmp_path, labels=False)) == 6  # both volumes, and not the labels


def test_stack_with_names_in_capitals(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "train-volume.TIF", IMAGES, photometric="minisblack")
    tifffile.imwrite(tmp_path / "train-labels.TIFF", LABELS, photometric="minisblack")
    for path in (tmp_path, tmp_path / "train-volume.TIF"):
        assert_is_the_set(read_images(path), [0, 1, 2])


def test_stacks_that_do_not_fit(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "train-volume.tif", IMAGES, photometric="minisblack")
    tifffile.imwrite(tmp_path / "train-labels.tif", LABELS[:2], photometric="minisblack")
    with pytest.raises(DataError, match=r"3 pages(.|\n)*2 pages"):
        read_images(tmp_path)
    tifffile.imwrite(tmp_path / "more-volume.tif", IMAGES, photometric="minisblack")
    with pytest.raises(DataError, match=r"more-volume\.tif"):
        read_images(tmp_path / "more-volume.tif")
    tifffile.imwrite(tmp_path / "more-labels.tif", LABELS, photometric="minisblack")
    with pytest.raises(DataError, match="found 2 stacks"):
        read_images(tmp_path)


@pytest.mark.parametrize("channels", [False, True])
def test_npz(tmp_path: Path, channels: bool) -> None:
    last = np.s_[..., None] if channels else np.s_[...]
    np.savez(tmp_path / "set.npz", images=IMAGES[last], labels=LABELS[last])
    assert_is_the_set(read_images(tmp_path / "set.npz"), [0, 1, 2])
    assert_is_the_set(read_images(tmp_path / "set.npz", labels=False), [0, 1, 2], labelled=False)


def test_npz_with_a_name_in_capitals(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "set.npz").rename(tmp_path / "SET.NPZ")
    assert_is_the_set(read_images(tmp_path / "SET.NPZ"), [0, 1, 2])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES}, "pictures"),
        ({"images": IMAGES}, "labels"),
        ({"images": IMAGES[0], "labels": LABELS[0]}, r"images must be \(N, H, W\)"),
        ({"images": IMAGES, "labels": LABELS[:2]}, "labels do not fit the images"),
        ({"images": IMAGES, "labels": np.stack([LABELS] * 3, axis=3)}, "labels do not fit the images"),
        ({"images": IMAGES, "labels": LABELS / 2}, "set-0: labels must be whole numbers"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "no images"),
        ({"images": IMAGES[:, :0], "labels": LABELS[:, :0]}, "image set-0 is empty"),
        ({"images": np.array([None, 1]), "labels": LABELS}, "images cannot be read.*Python objects"),
    ],
)
def test_npz_refuses(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_images(tmp_path / "set.npz")


@pytest.mark.parametrize("member", ["images", "labels", "labels.npy"])
def test_npz_member_that_is_no_array(tmp_path: Path, member: str) -> None:
    arrays = {"images": IMAGES, "labels": LABELS}
    del arrays[member.removesuffix(".npy")]
    np.savez(tmp_path / "set.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr(member, b"no array")
    with pytest.raises(DataError, match=f"no array called {member.removesuffix('.npy')}"):
        read_images(tmp_path / "set.npz")


@pytest.mark.parametrize("share", [0, 0.5, 0.97])
def test_cut_off_npz(tmp_path: Path, share: float) -> None:
    file = tmp_path / "set.npz"
    np.savez_compressed(file, images=IMAGES, labels=LABELS)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(DataError, match=r"set\.npz: images cannot be read"):
        read_images(file)


def test_a_given_kind_overrules(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS // 255)
    found = read_images(tmp_path / "set.npz", kind="instances")
    assert found.kind == "instances"
    assert "as given" in found.summary()


@pytest.mark.parametrize(
    ("path", "seed", "made"),
    [
        ("synthetic-cells", 0, synthetic_cells),
        ("synthetic-dic:3", 3, synthetic_dic),
        ("synthetic-membranes:7", 7, synthetic_membranes),
    ],
)
def test_synthetic_by_name(path: str, seed: int, made, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    calls = {}

    def small(seed: int) -> ImageSet:
        calls["seed"] = seed
        return made(1, 64, seed)

    monkeypatch.setitem(read_images.__globals__["SYNTHETIC"], path.partition(":")[0], small)
    assert read_images(path).labels is not None
    assert calls["seed"] == seed
    assert read_images(path, labels=False).labels is None


@pytest.mark.parametrize("seed", ["x", "-1", "9" * 5000])
def test_synthetic_seed_that_is_no_number(seed: str) -> None:
    with pytest.raises(DataError, match=f"found  {seed[:10]}"):
        read_images(f"synthetic-cells:{seed}")


def image_set(images: np.ndarray, labels: np.ndarray | None, kind: str | None, k: int) -> ImageSet:
    rows = None if labels is None else list(labels.astype(np.int32))
    return ImageSet(list(images), ["a.b", "c", "d"], rows, kind, k)  # type: ignore[arg-type]


MANY = np.arange(3 * 16 * 12).reshape(3, 16, 12) % 7
OBJECTS = np.zeros((3, 16, 12), int)
OBJECTS[0, 1:4, 1:4], OBJECTS[0, 6:9, 1:4] = 1, 2
OBJECTS[1, 6:9, 1:4], OBJECTS[1, 6:9, 6:9], OBJECTS[1, 1:4, 1:4] = 1, 2, 3
OBJECTS[2, 12:15, 1:4], OBJECTS[2, 12:15, 8:11] = 1, 2


@pytest.mark.parametrize(
    ("kind", "k", "labels"), [("binary", 2, LABELS // 255), ("classes", 7, MANY), ("instances", 2, OBJECTS)]
)
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [(np.uint8, 1), (np.uint8, 2), (np.uint8, 3), (np.uint16, 1), (np.uint16, 2), (np.float32, 3)],
)
def test_saved_set_reads_back_the_same(
    tmp_path: Path, kind: str, k: int, labels: np.ndarray, dtype: type, channels: int
) -> None:
    images = RNG.integers(0, 256, (3, 16, 12, channels)).astype(dtype)
    saved = image_set(images, labels, kind, k)
    save_image_set(saved, tmp_path / "new" / "set")
    found = read_images(tmp_path / "new" / "set")
    assert (found.names, found.kind, found.num_classes) == (saved.names, kind, k)
    for a, b in zip(saved.images, found.images, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    for a, b in zip(saved.labels or [], found.labels or [], strict=True):
        np.testing.assert_array_equal(a, b)


def test_saved_objects_beyond_16_bits(tmp_path: Path) -> None:
    labels = np.arange(300 * 300).reshape(1, 300, 300).astype(np.int32)
    saved = ImageSet([np.zeros((300, 300, 1), np.uint8)], ["a"], list(labels), "instances", 2)
    save_image_set(saved, tmp_path)
    np.testing.assert_array_equal((read_images(tmp_path).labels or [])[0], labels[0])


def test_saved_colours_open_as_colours_elsewhere(tmp_path: Path) -> None:
    save_image_set(ImageSet([np.zeros((8, 8, 3), np.uint16)], ["a"]), tmp_path)
    with tifffile.TiffFile(tmp_path / "images" / "a.tif") as tiff:
        assert tiff.pages[0].photometric == tifffile.PHOTOMETRIC.RGB


def test_saved_masks_are_black_and_white(tmp_path: Path) -> None:
    save_image_set(image_set(IMAGES[..., None], LABELS // 255, "binary", 2), tmp_path)
    with PIL.Image.open(tmp_path / "labels" / "c.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), LABELS[1])


def test_saved_without_labels_and_never_over_another(tmp_path: Path) -> None:
    unlabelled = image_set(IMAGES[..., None], None, None, 0)
    save_image_set(unlabelled, tmp_path)
    assert len(read_images(tmp_path, labels=False)) == 3
    assert not (tmp_path / "labels").exists()
    with pytest.raises(DataError, match="images: exists"):
        save_image_set(unlabelled, tmp_path)
    (tmp_path / "other" / "labels").mkdir(parents=True)
    with pytest.raises(DataError, match="labels: exists"):
        save_image_set(unlabelled, tmp_path / "other")
    assert not (tmp_path / "other" / "images").exists()


REAL = Path(os.environ.get("TINYUNET_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL} (TINYUNET_DATA names their folder)")
@pytest.mark.parametrize(
    ("file", "n", "kind"),
    [("isbi2012_em_train", 30, "binary"), ("dsb2018_fluo_360x360", 90, "instances")],
)
def test_real_sets(file: str, n: int, kind: str) -> None:
    found = read_images(REAL / f"{file}.npz")
    assert (len(found), found.kind) == (n, kind)


@pytest.mark.parametrize("layout", ["folder", "stack", "archive", "films", "one file"])
def test_files_one_by_one(tmp_path: Path, layout: str) -> None:
    path = tmp_path
    if layout == "films":
        write_film(tmp_path, "01", frames=3)
        write_film(tmp_path, "02", frames=2)
    elif layout == "stack":
        tifffile.imwrite(tmp_path / "em-volume.tif", IMAGES, photometric="minisblack")
        tifffile.imwrite(tmp_path / "em-labels.tif", LABELS, photometric="minisblack")
    elif layout == "archive":
        path = tmp_path / "a.npz"
        np.savez(path, images=IMAGES)
    else:
        folder_set(tmp_path)
        path = tmp_path / "images" / "10.png" if layout == "one file" else tmp_path
    together = read_images(path, labels=False)
    readers = image_readers(path)
    parts = [read() for _, read in readers]
    assert len(parts) == {"folder": 3, "films": 5}.get(layout, 1)
    assert [name for part in parts for name in part.names] == together.names
    images = [image for part in parts for image in part.images]
    for image, expected in zip(images, together.images, strict=True):
        np.testing.assert_array_equal(image, expected)
    assert all(Path(source).exists() for source, _ in readers)


def test_one_damaged_file_does_not_cost_the_others(tmp_path: Path) -> None:
    folder_set(tmp_path)
    (tmp_path / "images" / "2.png").write_bytes(b"no picture")
    first, second, third = (read for _, read in image_readers(tmp_path))
    assert (first().names, third().names) == (["1"], ["10"])
    with pytest.raises(DataError, match=r"2\.png"):
        second()
