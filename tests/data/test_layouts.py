"""Folders and names as people have them, and what is inferred about them."""

import numpy as np
import PIL.Image
import pytest
import tifffile

from tinyunet.data import read_images
from tinyunet.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 12)).astype(np.uint8)
MASKS = (RNG.random((3, 16, 12)) > 0.4).astype(np.uint8) * 255
NAMES = ("2", "10", "1")  # in the order of IMAGES; numbers are sorted by value


def png(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(file)


def write(folder, image="images/{}.png", mask="masks/{}.png", names=NAMES):
    for name, pixels, label in zip(names, IMAGES, MASKS, strict=True):
        png(folder / image.format(name), pixels)
        png(folder / mask.format(name), label)
    return folder


def assert_is_the_set(found, order=(2, 0, 1)):
    assert found.kind == "binary"
    np.testing.assert_array_equal(np.stack(found.images)[..., 0], IMAGES[list(order)])
    np.testing.assert_array_equal(found.labels, MASKS[list(order)] // 255)


@pytest.mark.parametrize("images", ["images", "image", "Imgs", "IMG", "imagesTr"])
@pytest.mark.parametrize("masks", ["labels", "Label", "masks", "MASK", "gt", "labelsTr"])
def test_names_of_folders(tmp_path, images, masks):
    write(tmp_path, images + "/{}.png", masks + "/{}.png")
    found = read_images(tmp_path)
    assert_is_the_set(found)
    assert (f"images from {images}/, labels from {masks}/" in found.summary()) == (
        images != "images" or masks not in ("labels", "masks")
    )
    assert len(read_images(tmp_path, labels=False)) == 3


ADDED = [
    "{}_mask",
    "{}_masks",
    "{}_cp_masks",
    "{}_Simple Segmentation",
    "{}-labels",
    "mask_{}",
    "gt-{}.manual",
]


@pytest.mark.parametrize("label_name", ADDED)
def test_a_text_that_all_labels_add(tmp_path, label_name):
    write(tmp_path, mask=f"masks/{label_name}.png")
    found = read_images(tmp_path)
    assert found.names == ["1", "2", "10"]
    assert_is_the_set(found)
    assert "names of labels have" in found.summary()
    assert label_name.partition("{}")[2] in found.summary()


@pytest.mark.parametrize("image_name", ["{}_0000", "case_{}", "{}.raw"])
def test_a_text_that_all_images_add(tmp_path, image_name):
    write(tmp_path, f"imagesTr/{image_name}.png", "labelsTr/{}.png")
    found = read_images(tmp_path)
    assert_is_the_set(found)
    assert "names of images have" in found.summary()


@pytest.mark.parametrize("label_name", ADDED)
def test_both_in_one_folder(tmp_path, label_name):
    write(tmp_path, "{}.png", f"{label_name}.png")
    assert_is_the_set(read_images(tmp_path))
    assert "in addition" in read_images(tmp_path).summary()
    found = read_images(tmp_path, labels=False)
    if label_name == "gt-{}.manual":  # which need not be a label
        assert len(found) == 6
    else:
        assert found.names == ["1", "2", "10"]


def test_names_that_contain_each_other(tmp_path):
    write(tmp_path, "{}.png", "{}_mask.png", names=("1", "11", "111"))
    assert_is_the_set(read_images(tmp_path), (0, 1, 2))


def test_texts_that_only_some_labels_add(tmp_path):
    write(tmp_path, mask="masks/{}_mask.png")
    (tmp_path / "masks" / "2_mask.png").rename(tmp_path / "masks" / "2_cells.png")
    with pytest.raises(DataError, match="do not match by name"):
        read_images(tmp_path)
    write(tmp_path / "b", "{}.png", "{}_mask.png")
    (tmp_path / "b" / "2_mask.png").unlink()
    with pytest.raises(DataError, match="expected images with labels"):
        read_images(tmp_path / "b")


def test_names_that_two_texts_explain(tmp_path):
    for name in ("a", "aa", "aaa", "aaaa"):
        png(tmp_path / f"{name}.png", IMAGES[0])
    with pytest.raises(DataError, match="expected images with labels"):
        read_images(tmp_path)
    assert len(read_images(tmp_path, labels=False)) == 4


def test_several_folders_of_images(tmp_path):
    write(tmp_path)
    write(tmp_path, "imgs/{}.png")
    with pytest.raises(DataError, match="images, imgs"):
        read_images(tmp_path)


def dsb(folder):
    """Two samples, with one mask per nucleus; gives the objects of each."""
    objects = np.zeros((2, 16, 12), np.uint8)
    objects[0, 1:5, 1:5], objects[0, 8:12, 2:9], objects[1, 3:9, 4:8] = 1, 2, 1
    for sample, image in zip(("b07", "c1"), IMAGES, strict=False):
        png(folder / sample / "images" / f"{sample}.png", image)
    for sample, label in zip(("b07", "c1"), objects, strict=True):
        for number in range(1, label.max() + 1):
            png(folder / sample / "masks" / f"{number}.png", (label == number).astype(np.uint8) * 255)
    return objects


def test_one_folder_per_image_with_one_mask_per_object(tmp_path):
    objects = dsb(tmp_path)
    found = read_images(tmp_path)
    assert (found.kind, found.names) == ("instances", ["b07", "c1"])
    np.testing.assert_array_equal(found.labels, objects)
    np.testing.assert_array_equal(np.stack(found.images)[..., 0], IMAGES[:2])
    assert "one mask per object" in found.summary()
    assert read_images(tmp_path, labels=False).names == ["b07", "c1"]
    png(tmp_path / "c1" / "masks" / "2.png", np.ones((5, 5), np.uint8))
    with pytest.raises(DataError, match="differ in size"):
        read_images(tmp_path)


def test_a_sample_without_objects_and_overlapping_masks(tmp_path):
    objects = dsb(tmp_path)
    (tmp_path / "c1" / "masks" / "1.png").unlink()
    png(tmp_path / "b07" / "masks" / "3.png", np.full((16, 12), 255, np.uint8))
    found = read_images(tmp_path)
    np.testing.assert_array_equal(found.labels[0], np.where(objects[0], objects[0], 3))
    assert not found.labels[1].any()


def test_unknown_pixels_of_one_mask_per_object(tmp_path):
    """A value is that of a mask's pixels, not the number of an object; objects win."""
    objects = dsb(tmp_path)
    mask = np.where(objects[0] == 1, 255, 0).astype(np.uint8)
    mask[12:], mask[objects[0] == 2] = 1, 1
    png(tmp_path / "b07" / "masks" / "1.png", mask)
    found = read_images(tmp_path, ignore=(1,))
    np.testing.assert_array_equal(found.labels[0] == -1, (mask == 1) & (objects[0] == 0))
    np.testing.assert_array_equal(found.labels[0].clip(0), objects[0])
    np.testing.assert_array_equal(found.labels[1], objects[1])


def test_colour_masks_that_show_only_greys(tmp_path):
    """Black and white are two of the colours of a set that was read before."""
    values = (0, 0xFF0000, 0xFFFFFF)
    for number, (image, mask) in enumerate(zip(IMAGES, MASKS, strict=True)):
        png(tmp_path / "images" / f"{number}.png", image)
        png(tmp_path / "masks" / f"{number}.png", np.stack(3 * [np.where(mask > 0, 255, 0)], 2).astype("u1"))
    found = read_images(tmp_path, kind="classes", class_values=values, coloured=True)
    np.testing.assert_array_equal(found.labels[0], np.where(MASKS[0] > 0, 2, 0))
    with pytest.raises(DataError, match="255"):
        read_images(tmp_path, kind="classes", class_values=values)


def test_one_folder_per_image_with_one_label_image(tmp_path):
    for name, image, mask in zip(NAMES, IMAGES, MASKS, strict=True):
        png(tmp_path / name / "image" / "x.png".replace("x", name), image)
        png(tmp_path / name / "label" / "whatever.png", mask)
    assert_is_the_set(read_images(tmp_path))


LITTER = [
    "._1.png",
    "Thumbs.db",
    "THUMBS.DB",
    "Desktop.ini",
    ".DS_Store",
    "metadata.txt",
    "notes.md",
    "a.csv",
]


@pytest.mark.parametrize("folder", ["separate", "together", "stack"])
def test_litter_is_left_alone(tmp_path, folder):
    if folder == "stack":
        tifffile.imwrite(tmp_path / "em-volume.tif", IMAGES, photometric="minisblack")
        tifffile.imwrite(tmp_path / "em-labels.tif", MASKS, photometric="minisblack")
    else:
        write(tmp_path, *(("{}.png", "{}_mask.png") if folder == "together" else ()))
    folders = [tmp_path, *(sub for sub in tmp_path.iterdir() if sub.is_dir())]
    for sub in folders:
        for name in (*LITTER, "._em-volume.tif", "._em-labels.tif"):
            (sub / name).write_bytes(bytes.fromhex("0005160700020000") + bytes(200))
    assert_is_the_set(read_images(tmp_path), (0, 1, 2) if folder == "stack" else (2, 0, 1))
    assert len(read_images(tmp_path, labels=False)) == 3


@pytest.mark.parametrize("stack", ["images.tif", "em-volume.tif"])
def test_a_folder_with_a_file_called_like_a_stack_is_a_folder(tmp_path, stack):
    for i, image in enumerate(IMAGES):
        png(tmp_path / f"{i}.png", image)
    tifffile.imwrite(tmp_path / stack, IMAGES[0])
    assert len(read_images(tmp_path, labels=False)) == 4
    label_stack = tmp_path / stack.replace("images", "labels").replace("volume", "labels")
    tifffile.imwrite(label_stack, MASKS[0])
    assert len(read_images(tmp_path, labels=False)) == 4  # its labels are no image
    assert len(read_images(tmp_path)) == 1


# What files say of themselves, in a set.


def test_notes_on_unusual_files(tmp_path):
    write(tmp_path)
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    PIL.Image.fromarray(IMAGES[0][::-1, ::-1]).save(tmp_path / "images" / "2.png", exif=exif)
    tifffile.imwrite(tmp_path / "masks" / "10.tif", 255 - MASKS[1], photometric="miniswhite")
    (tmp_path / "masks" / "10.png").unlink()
    found = read_images(tmp_path)
    np.testing.assert_array_equal(np.stack(found.images)[..., 0], IMAGES[[2, 0, 1]])
    np.testing.assert_array_equal(found.labels, MASKS[[2, 0, 1]] // 255)
    assert found.notes == {
        str(tmp_path / "images" / "2.png"): "turned upright (orientation 3)",
        str(tmp_path / "masks" / "10.tif"): "white is zero",
    }
    assert found.subset([0]).notes == found.notes


def test_colour_masks(tmp_path):
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
    for i, image in enumerate(IMAGES):
        png(tmp_path / "images" / f"{i}.png", image)
        png(tmp_path / "masks" / f"{i}.png", colours[image % (3 if i else 1)])  # the first one is all black
    found = read_images(tmp_path)
    assert (found.kind, found.num_classes, found.coloured) == ("classes", 3, True)
    assert found.class_values == (0, 0x00FF00, 0xFF0000)
    np.testing.assert_array_equal(found.labels[1], np.array([0, 2, 1])[IMAGES[1] % 3])
    assert "#000000, #00ff00, #ff0000" in found.summary()
    assert [found.class_name(number) for number in range(3)] == ["#000000", "#00ff00", "#ff0000"]
    png(tmp_path / "masks" / "0.png", MASKS[0])
    with pytest.raises(DataError, match="grey label image among colour masks"):
        read_images(tmp_path)


@pytest.mark.parametrize("kind", ["binary", "classes", "instances"])
def test_values_to_ignore(tmp_path, kind):
    label = np.zeros((3, 16, 12), np.int16)
    label[:, 2:5, 2:5], label[:, 8:11, 2:5], label[:, :, 9:] = 1, 1 if kind == "binary" else 2, -1
    label[:, 12:] = 255
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=label)
    found = read_images(tmp_path / "set.npz", kind=kind, ignore=(255,))
    for found_label in found.labels:
        np.testing.assert_array_equal(found_label, np.where(label[0] == 255, -1, label[0]))
    assert "of the pixels unknown" in found.summary()
    assert found.num_classes == (3 if kind == "classes" else 2)


def test_ignored_background_means_not_annotated(tmp_path):
    label = np.zeros((3, 16, 12), np.uint8)
    label[:, :8, :6], label[:, :8, 6:] = 1, 2
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=label)
    found = read_images(tmp_path / "set.npz", ignore=(0,))
    assert found.kind == "binary"
    np.testing.assert_array_equal(found.labels[0], label[0].astype(int) - 1)


def test_one_image_in_colours_is_not_many_images(tmp_path):
    np.savez(tmp_path / "a.npz", images=RNG.random((96, 96, 3)))
    with pytest.raises(DataError, match=r"\(96, 96, 3\)"):
        read_images(tmp_path / "a.npz", labels=False)


@pytest.mark.parametrize(
    "option", [{"kind": "binary"}, {"truth": "gold"}, {"ignore": (255,)}, {"class_values": (0, 255)}]
)
def test_options_about_labels_are_refused_for_synthetic_sets(option):
    with pytest.raises(DataError, match=next(iter(option)).replace("_", "-")):
        read_images("synthetic-cells", **option)
