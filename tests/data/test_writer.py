"""Image sets and label images as files: other programs read them, and so does `read_images`."""

import numpy as np
import PIL.Image
import pytest
import tifffile

from tinyunet.data import ImageSet, read_images, save_image_set
from tinyunet.data.decode import decode
from tinyunet.data.writer import save_labels
from tinyunet.errors import DataError, DtypeError, ShapeError


def test_saved_labels_are_an_imagej_tiff_of_16_bits(tmp_path):
    labels = np.zeros((5, 7), np.int64)
    labels[1, 2], labels[4, 6] = 1, 65_535
    save_labels(tmp_path / "labels.tif", labels)
    with PIL.Image.open(tmp_path / "labels.tif") as image:  # a reader that is not the writer
        assert image.mode == "I;16"
        assert image.tag_v2[270].startswith("ImageJ=")
        np.testing.assert_array_equal(np.asarray(image), labels)


def test_more_than_65535_objects_take_32_bits(tmp_path):
    labels = np.arange(70_001).reshape(1, -1)
    for compression in (None, "lzw"):
        save_labels(tmp_path / "labels.tif", labels, compression=compression)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "labels.tif"), labels)
        np.testing.assert_array_equal(decode(tmp_path / "labels.tif", labels=True)[0][..., 0], labels)


def test_labels_beyond_4_gib_are_no_imagej_file(tmp_path, monkeypatch):
    """ImageJ's files cannot be BigTIFF, so tifffile refuses them; here the limit is that of 70 labels."""
    labels = np.arange(70).reshape(7, 10)
    for limit, by_imagej in ((140, True), (139, False)):
        monkeypatch.setattr("tinyunet.data.writer.CLASSIC_TIFF", limit)
        save_labels(tmp_path / "labels.tif", labels)
        with tifffile.TiffFile(tmp_path / "labels.tif") as file:
            assert file.is_imagej == by_imagej
            np.testing.assert_array_equal(file.asarray(), labels)


def test_labels_that_no_file_can_hold_are_refused(tmp_path):
    path = tmp_path / "labels.tif"
    for labels, error, text in [
        (np.array([[2**32]]), DataError, "4,294,967,296"),
        (np.array([[-1]]), DataError, "-1"),
        (np.ones((3, 3)), DtypeError, "float64"),
        (np.ones((2, 3, 3), int), ShapeError, r"\(2, 3, 3\)"),
    ]:
        with pytest.raises(error, match=text):
            save_labels(path, labels)
    assert not path.exists()


@pytest.mark.parametrize("values", [(0, 128, 255), (1, 2, 3), (0, 1000, 3), (0x000000, 0x0000FF, 0xFF0080)])
def test_classes_are_written_with_the_files_own_numbers(tmp_path, values):
    coloured = values[-1] > 65535
    label = np.arange(3)[np.indices((24, 24)).sum(axis=0) // 4 % 3]
    images = [np.zeros((24, 24, 1), np.uint8)] * 2
    saved = ImageSet(
        images, ["a", "b"], [label, label.T], "classes", 3, class_values=values, coloured=coloured
    )
    save_image_set(saved, tmp_path)
    (file,) = (tmp_path / "labels").glob("a.*")
    with PIL.Image.open(file) as image:
        pixels = np.asarray(image).astype(int)
    expected = np.array(values)[label]
    np.testing.assert_array_equal(pixels @ [65536, 256, 1] if coloured else pixels, expected)
    found = read_images(tmp_path, kind="classes", class_values=values)
    assert (found.class_values, found.coloured) == (values, coloured)
    np.testing.assert_array_equal(found.labels, [label, label.T])
