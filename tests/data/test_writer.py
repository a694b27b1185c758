"""Image sets and label images as files: other programs read them, and so does `read_images`."""

import numpy as np
import PIL.Image
import pytest

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


def test_labels_that_16_bits_cannot_hold_are_refused(tmp_path):
    path = tmp_path / "labels.tif"
    with pytest.raises(DataError, match="70,000"):
        save_labels(path, np.arange(70_001).reshape(1, -1))
    with pytest.raises(DataError, match="-1"):
        save_labels(path, np.array([[-1]]))
    with pytest.raises(DtypeError, match="float64"):
        save_labels(path, np.ones((3, 3)))
    with pytest.raises(ShapeError, match=r"\(2, 3, 3\)"):
        save_labels(path, np.ones((2, 3, 3), int))
    assert not path.exists()
