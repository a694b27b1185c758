"""Checks of an ImageSet, holding images out, normalising."""

import statistics
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyunet.data import (
    UNKNOWN,
    GreyStatistics,
    ImageSet,
    class_labels,
    normalise,
    save_image_set,
    split,
)
from tinyunet.data.intensity import PIECE, Moments
from tinyunet.errors import DataError, OptionError, ShapeError


def numbered(n: int) -> ImageSet:
    """Images whose pixels and labels are their index."""
    images = [np.full((2, 3, 1), i, np.uint8) for i in range(n)]
    return ImageSet(images, list(map(str, range(n))), [i[..., 0] for i in images], "classes", n)


def make(**changes: object) -> ImageSet:
    image = np.zeros((4, 5, 1), np.float32)
    fields = {"images": [image, image], "names": ["a", "b"], "source": "here"}
    return ImageSet(**(fields | changes))  # type: ignore[arg-type]


ZEROS = np.zeros((4, 5), np.int32)
MIXED = np.arange(20, dtype=np.int32).reshape(4, 5) - 1
NOT_FINITE = np.zeros((4, 5, 1))
NOT_FINITE[2, 3] = np.nan
NOT_FINITE[3, 0] = np.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [], "names": []}, "no images"),
        ({"names": ["a", "a"]}, "found 1"),
        ({"names": ["a"]}, "2 images"),
        ({"images": [np.zeros((4, 5, 1)), np.zeros((0, 5, 1))]}, "image b"),
        ({"images": [np.zeros((4, 5)), np.zeros((4, 5))]}, "image a"),
        ({"images": [np.zeros((4, 5, 1)), np.zeros((4, 5, 3))]}, "channels"),
        ({"images": [np.zeros((4, 5, 1)), NOT_FINITE]}, "b: 2 pixels(.|\n)*row 2, column 3"),
        ({"images": [np.zeros((4, 5, 1)), np.full((4, 5, 1), np.inf)]}, "b: 20 pixels"),
        ({"images": [np.zeros((4, 5, 1), complex)] * 2}, "complex128"),
        ({"labels": [ZEROS, ZEROS], "kind": "classes", "num_classes": 2, "class_values": (0, 1, 9)}, "9"),
        ({"labels": [ZEROS], "kind": "binary", "num_classes": 2}, "labels"),
        ({"labels": [ZEROS, ZEROS[:3]], "kind": "binary", "num_classes": 2}, "image b"),
        ({"labels": [ZEROS, ZEROS + 2], "kind": "binary", "num_classes": 2}, "label b"),
        ({"labels": [ZEROS, MIXED - 2], "kind": "instances", "num_classes": 2}, "label b"),
        (
            {"labels": [ZEROS, ZEROS - 1], "kind": "instances", "num_classes": 2},
            "label b",
        ),
    ],
)
def test_refuses(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**changes)


@pytest.mark.parametrize(("kind", "classes"), [("instances", [-1, 0, 1, 1]), ("classes", [-1, 0, 1, 2])])
def test_unknown_pixels_are_no_class(kind: str, classes: list[int], tmp_path: Path) -> None:
    labels = np.full((4, 5), 2, np.int32)
    labels[0, :3] = UNKNOWN, 0, 1
    partly = make(labels=[ZEROS, labels], kind=kind, num_classes=3)
    assert class_labels(labels, partly.kind)[0, :4].tolist() == classes
    assert "2 % of the pixels unknown" in partly.summary()  # 1 of 40
    if kind == "classes":
        assert "3 classes, 54, 3, 44 %" in partly.summary()  # 21, 1 and 17 of the 39 others
    assert "unknown" not in partly.subset([0]).summary()
    with pytest.raises(DataError, match="unknown"):
        save_image_set(partly, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_subset_keeps_order_and_meaning() -> None:
    chosen = numbered(5).subset([3, 0])
    assert len(chosen) == 2
    assert chosen.names == ["3", "0"]
    assert [image.max() for image in chosen.images] == [3, 0]
    assert [label.max() for label in chosen.labels or []] == [3, 0]
    assert chosen.num_classes == 5  # the whole set's, not the part's


@pytest.mark.parametrize(
    ("holdout", "held"),
    [
        ("24-29", range(24, 30)),
        (" 0, 3 ,5 - 7 ", [0, 3, 5, 6, 7]),
        ("7,0", [0, 7]),
        ("0" * 5000 + "7", [7]),
        ("9,1", [1, 9]),  # of which Python's set gives 9 first
        ("20%", range(24, 30)),
        ("1%", [29]),
        ("12.5 %", range(26, 30)),
    ],
)
def test_split(holdout: str, held: object) -> None:
    train, validation = split(numbered(30), holdout)
    expected = list(held)  # type: ignore[call-overload]
    assert validation.names == [str(i) for i in expected]
    assert train.names == [str(i) for i in range(30) if i not in expected]


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        ("30", r"indices 0\.\.29"),
        ("5-3", "5-3"),
        ("0-29", "nothing to train on"),
        ("99.9%", "nothing to train on"),
        ("", "at ''"),
        ("1,,2", "at ''"),
        ("-3", "'-3'"),
        ("last", "'last'"),
        ("0%", "is not understood"),
        ("100%", "is not understood"),
        ("5%,3", "is not understood"),
        ("9" * 5000, r"indices 0\.\.29"),
        ("1-" + "9" * 5000, r"indices 0\.\.29"),
        ("9" * 5000 + "%", "is not understood"),
    ],
)
def test_split_refuses(holdout: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(numbered(30), holdout)


@given(st.sets(st.integers(0, 11), min_size=1, max_size=11))
def test_split_loses_and_doubles_nothing(held: set[int]) -> None:
    train, validation = split(numbered(12), ",".join(map(str, held)))
    assert sorted(int(name) for name in train.names + validation.names) == list(range(12))
    assert {int(name) for name in validation.names} == held


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_mean_and_deviation_of_whole_numbers_are_the_exact_ones_rounded(dtype: type) -> None:
    """Those of Python's fractions: the deviation to two roundings, of the variance and of its root."""
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (70, 31, 2)).astype(dtype)
    moments = Moments(2)
    moments.add(image)
    mean, deviation = moments.scale()
    for channel in range(2):
        values = image[..., channel].ravel().tolist()
        assert mean[channel] == float(Fraction(sum(values), len(values)))
        assert deviation[channel] == pytest.approx(statistics.pstdev(values), rel=2**-52, abs=0)


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (129, 257, 1), (60, 31, 3)])
def test_mean_and_deviation_of_other_numbers_are_numpys(dtype: type, shape: tuple[int, ...]) -> None:
    """To 1e-12: NumPy adds up to 33,153 numbers, in pairs of pairs, each with an error of 2^-53."""
    image = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    moments = Moments(shape[2])
    moments.add(image)
    pixels = image.astype(np.float64)
    np.testing.assert_allclose(moments.scale().mean, pixels.mean(axis=(0, 1)), rtol=1e-12)
    expected = np.inf if shape == (1, 1, 1) else pixels.std(axis=(0, 1))
    np.testing.assert_allclose(moments.scale().deviation, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32, np.float64])
def test_windows_of_an_image_give_the_bits_of_the_whole(dtype: type) -> None:
    """In any order; and whatever the memory layout."""
    image = (np.random.default_rng(0).random((67, 2 * PIECE + 5, 2)) * 255).astype(dtype)
    whole, parts = Moments(2), Moments(2)
    whole.add(image)
    for window in (image[30:, PIECE:], image[:30], image[30:, :PIECE]):
        parts.add(np.asfortranarray(window))
    for one, other in zip(whole.scale(), parts.scale(), strict=True):
        assert one.tobytes() == other.tobytes()
    assert parts.scale().apply(image[3:9, 4:7]).tobytes() == normalise(image)[3:9, 4:7].tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_values_that_have_no_square(value: float) -> None:
    image = np.ones((3, 4, 1))
    image[1, 2] = value
    with pytest.raises(DataError, match="too large"):
        normalise(image)


def test_normalise_needs_little_memory() -> None:
    """At most 16 bytes per pixel; one float64 image and its mask take 9."""
    image = np.random.default_rng(0).integers(0, 255, (1024, 1024, 1)).astype(np.uint8)
    tracemalloc.start()
    try:
        normalise(image)
        assert tracemalloc.get_traced_memory()[1] < 16 * image.size
    finally:
        tracemalloc.stop()


def test_normalise_makes_zero_mean_and_unit_variance_of_each_channel() -> None:
    rng = np.random.default_rng(0)
    image = (rng.random((50, 60, 3)) * [10, 1000, 60000]).astype(np.uint16)
    result = normalise(image)
    assert result.dtype == np.float32
    # Rounding a result of about 1 to float32 changes it by 6e-8 at most; the mean of such by less.
    np.testing.assert_allclose(result.mean(axis=(0, 1), dtype=np.float64), 0, atol=1e-7)
    np.testing.assert_allclose(result.std(axis=(0, 1), dtype=np.float64), 1, rtol=1e-6)
    np.testing.assert_allclose(np.corrcoef(result[..., 2].ravel(), image[..., 2].ravel())[0, 1], 1, rtol=1e-6)


def test_normalise_ignores_gain_and_offset() -> None:
    image = np.random.default_rng(1).integers(0, 200, (40, 40, 1)).astype(np.uint8)
    brighter = image.astype(np.float32) * 300 + 40000
    # Both are exact in float32 and differ only by how float64 rounds them.
    np.testing.assert_allclose(normalise(brighter), normalise(image), atol=1e-6)


def test_normalise_of_a_large_16_bit_image_is_exact() -> None:
    """Summed in float32, the mean of this image is wrong by more than its deviation."""
    image = np.full((2048, 2048, 1), 60000, np.uint16)
    image[::2] += 1
    np.testing.assert_allclose(normalise(image)[:2, 0, 0], [1, -1], rtol=1e-6)


@pytest.mark.parametrize("value", [0, 0.1, 1 / 3, 65535])
def test_normalise_of_a_constant_image_is_zero(value: float) -> None:
    """The mean of many 0.1 is not 0.1: dividing by the deviation that this leaves would give -1 or 1."""
    assert not normalise(np.full((37, 41, 1), value)).any()


def test_normalise_needs_channels() -> None:
    with pytest.raises(ShapeError, match=r"\(H, W, C\)"):
        normalise(np.zeros((4, 4)))


def test_statistics_of_a_set_are_the_means_of_those_of_its_images() -> None:
    """In float64, by NumPy; where a channel of an image is constant, that image does not count."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (9 + n, 7, 2)).astype(np.uint8) // (n + 1) for n in range(3)]
    images[1][..., 1] = 40
    typical = GreyStatistics.of(ImageSet(images, ["a", "b", "c"]))
    for channel, counted in enumerate(([0, 1, 2], [0, 2])):
        pixels = [images[n][..., channel].astype(np.float64) for n in counted]
        assert typical.mean[channel] == pytest.approx(np.mean([grey.mean() for grey in pixels]), rel=1e-14)
        assert typical.deviation[channel] == pytest.approx(np.mean([g.std() for g in pixels]), rel=1e-14)
    expected = (images[0] - np.array(typical.mean)) / np.array(typical.deviation)
    np.testing.assert_array_equal(normalise(images[0], typical), expected.astype(np.float32))


def test_statistics_that_fit_no_image() -> None:
    images = [np.full((4, 5, 1), value, np.uint8) for value in (3, 9)]
    with pytest.raises(DataError, match="constant in every image"):
        GreyStatistics.of(ImageSet(images, ["a", "b"]))
    with pytest.raises(ShapeError, match="channels"):
        normalise(images[0], GreyStatistics((1.0, 2.0), (1.0, 2.0)))
    for mean, deviation in (((1.0,), (0.0,)), ((1.0,), (1.0, 2.0)), ((np.nan,), (1.0,))):
        with pytest.raises(OptionError):
            GreyStatistics(mean, deviation)
