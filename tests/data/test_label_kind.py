"""The rule that tells masks, classes and objects apart, on made-up sets and on the real ones."""

import numpy as np
import pytest

from tinyunet.data import ImageSet, class_labels
from tinyunet.data.label_kind import apply_kind, infer_kind, label_image
from tinyunet.errors import DataError


def blobs(*values: int) -> np.ndarray:
    """One 3x3 square for each value, apart from each other, on background 0."""
    label = np.zeros((5, 5 * len(values)), np.int32)
    for i, value in enumerate(values):
        label[1:4, 5 * i + 1 : 5 * i + 4] = value
    return label


def stripes(*values: int) -> np.ndarray:
    """Columns of these values, three times over: every value is in several pieces."""
    return np.repeat(np.tile(np.array(values, np.int32), 3)[None], 6, axis=0)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([stripes(0, 1), stripes(0, 1)], "binary"),
        ([stripes(0, 255), np.zeros((4, 4), np.int32)], "binary"),
        ([stripes(3, 7)], "binary"),
        ([stripes(0, 1, 2), stripes(0, 1)], "classes"),
        ([stripes(0, 1, 2, 3), stripes(0, 1, 3)], "classes"),
        ([blobs(1, 2, 3), blobs(1, 2)], "instances"),
        ([blobs(4, 9, 17), blobs(4, 17)], "instances"),  # track numbers have gaps
        ([blobs(*range(1, 18))], "instances"),  # a single image
        ([blobs(*range(1, 17))], "classes"),  # not more than 16
        ([blobs(300, 7), blobs(2, 4)], "instances"),  # no class is numbered 300
        # One nucleus in most of the images looks binary; the last image says that it is not.
        ([blobs(1), blobs(1), blobs(1, 2)], "instances"),
        # The same three pieces in every image, as organs are.
        ([blobs(1, 2, 3), blobs(3, 1, 2)], "classes"),
        # Background, and one object cut in two by a hair: annotators do that.
        ([blobs(*range(1, 12), 1), blobs(1, 2, 3)], "instances"),
        ([blobs(1, 2, 3, 1), blobs(1, 2)], "classes"),  # here one of five is in two pieces
    ],
)
def test_rule(labels: list[np.ndarray], kind: str) -> None:
    assert infer_kind(labels, "set")[0] == kind


def test_rule_counts_pieces_by_corners_too() -> None:
    diagonal = np.eye(6, dtype=np.int32)
    assert infer_kind([diagonal, diagonal + 2 * np.eye(6, k=3, dtype=np.int32)], "set")[0] == "instances"


def test_rule_refuses_what_it_cannot_tell() -> None:
    with pytest.raises(DataError, match=r"cannot tell(.|\n)*values 0, 128, 255(.|\n)*--kind classes"):
        infer_kind([stripes(0, 128, 255)], "set")
    with pytest.raises(DataError, match="cannot tell"):
        infer_kind([stripes(0, 1, 3)], "set")  # one class is missing
    assert infer_kind([stripes(*range(32))], "set")[0] == "classes"
    with pytest.raises(DataError, match=r"cannot tell(.|\n)*up to 32 classes(.|\n)*smoothed edges"):
        infer_kind([stripes(*range(256))], "set")
    with pytest.raises(DataError, match="every label pixel is 0"):
        infer_kind([np.zeros((4, 4), np.int32)], "set")


def test_binary_foreground_is_the_larger_value_of_the_whole_set() -> None:
    labels, num_classes = apply_kind([stripes(3, 7), stripes(3, 3), stripes(7, 7)], "binary", "set")
    assert [label.mean() for label in labels] == [0.5, 0, 1]
    assert num_classes == 2


def test_binary_of_one_value() -> None:
    assert apply_kind([np.zeros((2, 2), np.int32)], "binary", "set")[0][0].max() == 0
    assert apply_kind([np.full((2, 2), 255, np.int32)], "binary", "set")[0][0].min() == 1


def test_instances_are_renumbered_in_each_image() -> None:
    (first, second), num_classes = apply_kind([blobs(40, 7, 900), stripes(5, 6)], "instances", "set")
    np.testing.assert_array_equal(first, blobs(2, 1, 3))
    np.testing.assert_array_equal(second, stripes(1, 2))  # no background at all
    assert num_classes == 2


def test_classes_keep_their_numbers() -> None:
    (label,), num_classes = apply_kind([stripes(0, 4)], "classes", "set")
    np.testing.assert_array_equal(label, stripes(0, 4))
    assert num_classes == 5


def test_told_kinds_that_the_values_contradict() -> None:
    with pytest.raises(DataError, match="binary labels have two values, found 3: 0, 1, 2"):
        apply_kind([stripes(0, 1, 2)], "binary", "set")
    with pytest.raises(DataError, match="classes go up to 255, found 256"):
        apply_kind([stripes(0, 256)], "classes", "set")
    with pytest.raises(DataError, match="unknown kind of labels: 'masks'"):
        apply_kind([stripes(0, 1)], "masks", "set")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int64, np.uint32, np.float32])
def test_label_image_takes_whole_numbers_of_any_type(dtype: type) -> None:
    expected = np.array([[0, 1], [1, 0]])
    label = label_image(expected[..., None].astype(dtype).repeat(3, axis=2), "file")
    assert label.dtype == np.int32
    np.testing.assert_array_equal(label, expected)


@pytest.mark.parametrize("bad", [0.5, -1.0, np.nan, np.inf, 2.0**31])
def test_label_image_refuses_what_is_no_label(bad: float) -> None:
    with pytest.raises(DataError, match=r"file: labels must be whole numbers .* found"):
        label_image(np.array([[[0.0], [bad]]]), "file")


def test_label_image_refuses_colours_and_text() -> None:
    with pytest.raises(DataError, match="file: a label image has one value a pixel, found colours"):
        label_image(np.zeros((2, 2, 3), np.uint8) + np.array([0, 0, 1], np.uint8), "file")
    with pytest.raises(DataError, match="labels must be numbers, found <U1"):
        label_image(np.full((2, 2, 1), "a"), "file")


def test_class_labels() -> None:
    np.testing.assert_array_equal(class_labels(blobs(3, 1), "instances"), blobs(1, 1))
    np.testing.assert_array_equal(class_labels(stripes(0, 2), "classes"), stripes(0, 2))


@pytest.mark.parametrize(
    ("labels", "kind", "num_classes", "text"),
    [
        (None, None, 0, "1 image 4x6x1 uint8; no labels"),
        (stripes(0, 1), "binary", 2, "1 image 6x6x1 uint8; labels: binary, 50 % foreground (because)"),
        (
            blobs(2, 1),
            "instances",
            2,
            "1 image 5x10x1 uint8; labels: instances, 2 to 2 objects an image (because)",
        ),
        (stripes(0, 1, 2), "classes", 4, "1 image 6x9x1 uint8; labels: 4 classes, 33, 33, 33, 0 % (because)"),
    ],
)
def test_summary(labels, kind, num_classes, text) -> None:  # type: ignore[no-untyped-def]
    shape = (4, 6) if labels is None else labels.shape
    image = np.zeros((*shape, 1), np.uint8)
    made = ImageSet([image], ["a"], None if labels is None else [labels], kind, num_classes, reason="because")
    assert made.summary() == text


@pytest.mark.parametrize(
    ("kind", "label", "expected"),
    [
        ("instances", [-1, 0, 7, 3], [-1, 0, 2, 1]),
        ("instances", [-1, 7, 3, 3], [-1, 2, 1, 1]),  # no background: 3 is an object all the same
        ("binary", [-1, 0, 9, 9], [-1, 0, 1, 1]),
        ("classes", [-1, 0, 2, 1], [-1, 0, 2, 1]),
    ],
)
def test_what_is_unknown_stays_so(kind, label, expected):
    applied, _ = apply_kind([np.array([label], np.int32)], kind, "here")
    assert applied[0].tolist() == [expected]
