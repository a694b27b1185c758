"""The rule that distinguishes masks, classes and objects, on synthetic sets and on real ones."""

import os
from pathlib import Path

import numpy as np
import pytest

from tinyunet.data import ImageSet, class_labels, read_images
from tinyunet.data.label_kind import apply_kind, colour_numbers, infer_kind, is_coloured, label_image
from tinyunet.errors import DataError

REAL = Path(os.environ.get("TINYUNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
Y, X = np.mgrid[:96, :96]


def disc(y, x, radius):
    return np.hypot(Y - y, X - x) < radius


def blobs(*values, shift=0):
    """One 3x3 square for each value, apart from each other, on background 0."""
    label = np.zeros((5, 5 * len(values)), np.int32)
    for i, value in enumerate(values):
        label[1:4, 5 * i + 1 : 5 * i + 4] = value
    return np.roll(label, shift, axis=1)


def stripes(*values):
    """Columns of these values, three times over: every value is in several pieces."""
    return np.repeat(np.tile(np.array(values, np.int32), 3)[None], 6, axis=0)


def scattered(*counts):
    """Images with so many discs, numbered from the top, elsewhere in each image."""
    rng, labels = np.random.default_rng(0), []
    for count in counts:
        centres = []
        while len(centres) < count:
            centre = rng.uniform(6, 90, 2)
            if all(np.hypot(*(centre - other)) > 13 for other in centres):
                centres.append(centre)
        label = np.zeros((96, 96), np.int32)
        for number, centre in enumerate(sorted(centres, key=tuple), 1):
            label[disc(*centre, 6)] = number
        labels.append(label)
    return labels


def layered(n, *, absent=()):
    """Class maps of three nested or neighbouring regions, as in a stack; class 1 is absent in some."""
    labels = []
    for i in range(n):
        label = np.zeros((96, 96), np.int32)
        label[disc(50, 55 + i, 20)], label[disc(50, 55 + i, 12)] = 2, 3
        if i not in absent:
            label[disc(50, 20, 12)] = 1
        labels.append(label)
    return labels


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([stripes(0, 1), stripes(0, 1)], "binary"),
        ([stripes(0, 255), np.zeros((4, 4), np.int32)], "binary"),
        ([stripes(3, 7)], "binary"),
        ([stripes(0, 1, 2), stripes(0, 1)], "classes"),
        ([stripes(0, 1, 2, 3), stripes(0, 1, 3)], "classes"),
        ([blobs(1, 2, 3, 1), blobs(1, 2)], "classes"),  # one of five values is in two pieces
        ([blobs(*range(1, 18))], "instances"),  # a single image
        ([blobs(300, 7), blobs(2, 4)], "instances"),  # no class is numbered 300
        # Background, and one of many objects cut in two: annotators do that.
        ([blobs(*range(1, 20), 1), blobs(1, 2, 3)], "instances"),
        (scattered(3, 5, 4), "instances"),
        (scattered(16, 15, 3), "instances"),
        ([label * 4 for label in scattered(3, 5, 4)], "instances"),  # track numbers have gaps
        (layered(5), "classes"),
        ([label * 50 for label in layered(5)], "classes"),
    ],
)
def test_rule(labels, kind):
    assert infer_kind(labels, "set")[0] == kind


@pytest.mark.parametrize(
    "labels",
    [
        layered(5, absent=(4,)),  # organs of which one is absent, or cells of which one comes late
        layered(5, absent=(0, 1)),
        scattered(3, 3, 3),  # three objects in every image, or three classes that move
        scattered(7, 7),
        [blobs(*range(1, 17))],  # a single image
        layered(1),
    ],
)
def test_both_readings_are_named_where_both_fit(labels):
    with pytest.raises(DataError, match=r"objects(.|\n)*classes(.|\n)*--kind instances(.|\n)*--kind classes"):
        infer_kind(labels, "set")


def test_pieces_may_connect_at_corners():
    lines = sum(i * np.eye(40, k=2 * i - 20, dtype=np.int32) for i in range(1, 19))
    assert infer_kind([lines], "set")[0] == "instances"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL} (TINYUNET_DATA names their folder)")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("usiigaci_t98g_phase_512x512", "instances"),  # every eighth cell is in several pieces
        ("dsb2018_stained_256x320", "instances"),
        ("dsb2018_smear_1024x1024", "instances"),
        ("axondeepseg_sem_736x736", "classes"),
        ("isbi2012_em_train", "binary"),
    ],
)
def test_real_sets(name, kind):
    assert read_images(REAL / f"{name}.npz").kind == kind


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL} (TINYUNET_DATA names their folder)")
def test_real_objects_in_several_pieces_few_at_a_time():
    """Some images have fewer than 32 cells, so that their numbers could be classes."""
    with np.load(REAL / "usiigaci_t98g_phase_512x512.npz") as archive:
        labels = [label.astype(np.int32) for label in archive["labels"]]
    few = [label for label in labels if label.max() < 31]
    assert len(few) >= 5
    assert infer_kind(few, "set")[0] == "instances"


@pytest.mark.parametrize("values", [(0, 128, 255), (1, 2, 3), (200, 210, 220), (0, 1, 3), (0, 32768, 65535)])
def test_class_numbers_with_gaps(values):
    labels = [np.kron(stripes(*values), np.ones((4, 4), np.int32)), stripes(values[1])]
    kind, reason = infer_kind(labels, "set")
    assert kind == "classes"
    assert str(values[-1]) in reason
    applied = apply_kind(labels, kind, "set")
    assert (applied.num_classes, applied.class_values) == (len(values), values)
    np.testing.assert_array_equal(np.array(values)[applied.labels[0]], labels[0])
    assert (applied.labels[1] == 1).all()


@pytest.mark.parametrize("values", [(1, 255), (255, 128), (7, 9, 200)])
def test_masks_with_different_foreground_numbers_are_no_classes(values):
    with pytest.raises(DataError, match=r"masks(.|\n)*classes"):
        infer_kind([stripes(0, value) for value in values], "set")
    with pytest.raises(DataError, match=r"masks(.|\n)*classes"):
        infer_kind([blobs(value) for value in values], "set")


@pytest.mark.parametrize(
    ("value", "coloured", "shown"), [(0, False, "0"), (7, False, "7"), (0xFF8000, True, "#ff8000")]
)
def test_a_single_class_is_refused(value, coloured, shown):
    """As those of a mask of 0 and 255 are whose 255 is unknown; which is no error for a mask."""
    labels = [np.array([[value, -1], [value, value]])]
    with pytest.raises(DataError, match=f"one class everywhere.*\n.*{shown}\n"):
        apply_kind(labels, "classes", "set", coloured=coloured)
    assert apply_kind(labels, "binary", "set").num_classes == 2


def test_classes_of_another_set():
    """A second set may lack a class; it must not change the numbers of the others."""
    (label,), num_classes, values = apply_kind([stripes(0, 255)], "classes", "set", (0, 128, 255))
    np.testing.assert_array_equal(label, stripes(0, 2))
    assert (num_classes, values) == (3, (0, 128, 255))
    with pytest.raises(DataError, match="7"):
        apply_kind([stripes(0, 7)], "classes", "set", (0, 128, 255))


def test_rule_refuses_smoothed_edges():
    smooth = np.clip((30 - np.hypot(Y - 50, X - 50)) * 190, 0, 255).astype(np.int32)
    for label in (smooth, smooth // 51 * 51, np.where((smooth > 0) & (smooth < 255), 128, smooth)):
        with pytest.raises(DataError, match="smoothed edges"):
            infer_kind([label, np.roll(label, 30, axis=0)], "set")
    assert infer_kind([stripes(*range(32))], "set")[0] == "classes"
    with pytest.raises(DataError, match="up to 32 classes"):
        infer_kind([stripes(*range(256))], "set")


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (-1, "unknown")])
def test_rule_refuses_labels_of_one_value(value, shown):
    with pytest.raises(DataError, match=f"every label pixel is {shown}"):
        infer_kind([np.full((4, 4), value, np.int32)], "set")


def test_binary_foreground_is_the_larger_value_of_the_whole_set():
    labels, num_classes, _ = apply_kind([stripes(3, 7), stripes(3, 3), stripes(7, 7)], "binary", "set")
    assert [label.mean() for label in labels] == [0.5, 0, 1]
    assert num_classes == 2


def test_binary_of_one_value():
    assert apply_kind([np.zeros((2, 2), np.int32)], "binary", "set").labels[0].max() == 0
    assert apply_kind([np.full((2, 2), 255, np.int32)], "binary", "set").labels[0].min() == 1


def test_instances_are_renumbered_in_each_image():
    (first, second), num_classes, _ = apply_kind([blobs(40, 7, 900), stripes(5, 6)], "instances", "set")
    np.testing.assert_array_equal(first, blobs(2, 1, 3))
    np.testing.assert_array_equal(second, stripes(1, 2))  # no background at all
    assert num_classes == 2


def test_given_kinds_that_the_values_contradict():
    with pytest.raises(DataError, match="found 3"):
        apply_kind([stripes(0, 1, 2)], "binary", "set")
    with pytest.raises(DataError, match="found 257"):
        apply_kind([stripes(*range(257))], "classes", "set")
    with pytest.raises(DataError, match="'masks'"):
        apply_kind([stripes(0, 1)], "masks", "set")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int64, np.uint32, np.float32])
def test_label_image_takes_whole_numbers_of_any_type(dtype):
    expected = np.array([[0, 1], [1, 0]])
    label = label_image(expected[..., None].astype(dtype).repeat(3, axis=2), "file")
    assert label.dtype == np.int32
    np.testing.assert_array_equal(label, expected)


@pytest.mark.parametrize("bad", [0.5, -2.0, np.nan, np.inf, 2.0**31])
def test_label_image_refuses_what_is_no_label(bad):
    with pytest.raises(DataError, match="file: labels must be whole numbers"):
        label_image(np.array([[[0.0], [bad]]]), "file")


@pytest.mark.parametrize(
    ("dtype", "ignore", "expected"),
    [
        (np.int16, (), [-1, 0, 1, 255]),
        (np.float32, (255,), [-1, 0, 1, -1]),
        (np.int32, (255, 0), [-1, -1, 1, -1]),
    ],
)
def test_values_to_ignore_are_unknown(dtype, ignore, expected):
    pixels = np.array([[-1, 0, 1, 255]], dtype)[..., None]
    assert label_image(pixels, "file", ignore).tolist() == [expected]
    assert label_image(np.array([[[255]]], np.uint8), "file", (255,)).tolist() == [[-1]]


def test_label_image_refuses_colours_and_text():
    with pytest.raises(DataError, match="found colours"):
        label_image(np.zeros((2, 2, 3), np.uint8) + np.array([0, 0, 1], np.uint8), "file")
    with pytest.raises(DataError, match="<U1"):
        label_image(np.full((2, 2, 1), "a"), "file")


def painted(label, *colours):
    return np.array(colours, np.uint8)[label]


BLACK, RED, BLUE = (0, 0, 0), (255, 0, 0), (0, 0, 255)


def test_colours_become_classes():
    masks = [painted(stripes(0, 1, 2), BLACK, RED, BLUE), painted(stripes(0, 0), BLACK)]
    assert [is_coloured(mask) for mask in masks] == [True, False]
    labels = [colour_numbers(mask, "file") for mask in masks]
    kind, reason = infer_kind(labels, "set", coloured=True)
    assert kind == "classes"
    assert "#000000, #0000ff, #ff0000" in reason
    applied = apply_kind(labels, kind, "set")
    np.testing.assert_array_equal(applied.labels[0], stripes(0, 2, 1))
    assert applied.class_values == (0, 0x0000FF, 0xFF0000)


def test_two_colours():
    labels = [colour_numbers(painted(stripes(0, 1), BLACK, RED), "file")]
    assert infer_kind(labels, "set", coloured=True)[0] == "binary"
    labels = [colour_numbers(painted(stripes(0, 1), (255, 255, 255), RED), "file")]  # which is background?
    assert infer_kind(labels, "set", coloured=True)[0] == "classes"


def test_colours_that_are_no_classes():
    many = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    with pytest.raises(DataError, match="up to 32 colours"):
        infer_kind([colour_numbers(many, "file")], "set", coloured=True)
    with pytest.raises(DataError, match="grey label image among colour masks"):
        colour_numbers(many[..., :1], "file")


def test_class_labels():
    np.testing.assert_array_equal(class_labels(blobs(3, 1), "instances"), blobs(1, 1))
    np.testing.assert_array_equal(class_labels(stripes(0, 2), "classes"), stripes(0, 2))


@pytest.mark.parametrize(
    ("labels", "kind", "num_classes", "more", "text"),
    [
        (None, None, 0, {}, "1 image 4x6x1 uint8; no labels"),
        (stripes(0, 1), "binary", 2, {}, "1 image 6x6x1 uint8; labels: binary, 50 % foreground (because)"),
        (
            blobs(2, 1),
            "instances",
            2,
            {},
            "1 image 5x10x1 uint8; labels: instances, 2 to 2 objects per image (because)",
        ),
        (
            stripes(0, 1, 2),
            "classes",
            4,
            {"class_values": (0, 1, 2, 3)},
            "1 image 6x9x1 uint8; labels: 4 classes, 33, 33, 33, 0 % (because)",
        ),
        (
            stripes(0, 1),
            "classes",
            2,
            {"class_values": (0, 255), "layout": "one folder per image"},
            "1 image 6x6x1 uint8; labels: 2 classes, 50, 50 %, which the files call 0, 255 (because); "
            "one folder per image",
        ),
        (
            stripes(0, 1),
            "classes",
            2,
            {"class_values": (0, 0xFF), "coloured": True},
            "1 image 6x6x1 uint8; labels: 2 classes, 50, 50 %, which the files call #000000, #0000ff "
            "(because)",
        ),
    ],
)
def test_summary(labels, kind, num_classes, more, text):
    shape = (4, 6) if labels is None else labels.shape
    image = np.zeros((*shape, 1), np.uint8)
    label_list = None if labels is None else [labels]
    made = ImageSet([image], ["a"], label_list, kind, num_classes, reason="because", **more)
    assert made.summary() == text


@pytest.mark.parametrize(
    ("kind", "label", "expected"),
    [
        ("instances", [-1, 0, 7, 3], [-1, 0, 2, 1]),
        ("instances", [-1, 7, 3, 3], [-1, 2, 1, 1]),  # no background: 3 is an object all the same
        ("binary", [-1, 0, 9, 9], [-1, 0, 1, 1]),
        ("classes", [-1, 0, 2, 1], [-1, 0, 2, 1]),
        ("classes", [-1, 0, 255, 128], [-1, 0, 2, 1]),
    ],
)
def test_unknown_pixels_stay_unknown(kind, label, expected):
    assert apply_kind([np.array([label], np.int32)], kind, "here").labels[0].tolist() == [expected]
