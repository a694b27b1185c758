"""The layout of the Cell Tracking Challenge: the frames that are read, and their unlabelled pixels."""

import numpy as np
import pytest
import tifffile
from films import RADIUS, SHAPE, cells_of, markers_of, picture_of, write, write_film
from scipy.spatial.distance import cdist

from tinyunet.data import UNKNOWN, read_images
from tinyunet.data.cell_tracking import frame_of
from tinyunet.data.partly_annotated import ignore_around_lone_markers, ignore_far_background
from tinyunet.errors import DataError


@pytest.mark.parametrize("digits", [3, 4])
def test_a_film_that_is_outlined_completely(tmp_path, digits):
    write_film(tmp_path, digits=digits)
    for path in (tmp_path, tmp_path / "01"):
        found = read_images(path)
        assert found.names == [f"01_t{frame:0{digits}d}" for frame in range(4)]
        assert found.kind == "instances"
        for frame, (image, label) in enumerate(zip(found.images, found.labels, strict=True)):
            assert image.dtype == np.uint16
            np.testing.assert_array_equal(image[..., 0], picture_of(cells_of(frame), frame))
            np.testing.assert_array_equal(label, cells_of(frame))
        assert "gold truth of all 4 frames; every marker has its outline" in found.summary()


def test_notes_on_unusual_files_of_a_film(tmp_path):
    """A palette of labels is left out, as in other layouts; white is zero in one frame."""
    write_film(tmp_path)
    frame, outlines = tmp_path / "01" / "t001.tif", tmp_path / "01_GT" / "SEG" / "man_seg002.tif"
    stored = 65_535 - picture_of(cells_of(1), 1)
    tifffile.imwrite(frame, stored, photometric="miniswhite")
    palette = np.arange(3 * 256, dtype=np.uint16).reshape(3, 256)
    tifffile.imwrite(outlines, cells_of(2).astype(np.uint8), photometric="palette", colormap=palette)
    found = read_images(tmp_path)
    assert "white is zero" in found.notes[str(frame)]
    assert "white is zero" not in found.notes.get(str(tmp_path / "01" / "t000.tif"), "")
    np.testing.assert_array_equal(found.images[1][..., 0], picture_of(cells_of(1), 1))
    np.testing.assert_array_equal(found.labels[2], cells_of(2))


def test_the_folder_itself_however_it_is_named(tmp_path, monkeypatch):
    write_film(tmp_path)
    monkeypatch.chdir(tmp_path / "01")
    assert read_images(".").names == read_images("../01").names == read_images("..").names


def test_frames_without_outlines_are_left_out_and_counted(tmp_path):
    write_film(tmp_path, frames=12, outlined={3: range(1, 6), 10: range(1, 6)})
    found = read_images(tmp_path)
    assert found.names == ["01_t003", "01_t010"]
    assert "2 of 12 frames have gold truth, the others are left out" in found.summary()
    predicted = read_images(tmp_path, labels=False)
    assert (len(predicted), predicted.labels) == (12, None)


def test_two_films(tmp_path):
    write_film(tmp_path, "01", frames=3, outlined={2: range(1, 6)})
    write_film(tmp_path, "02", frames=2)
    assert read_images(tmp_path).names == ["01_t002", "02_t000", "02_t001"]
    assert read_images(tmp_path / "02").names == ["02_t000", "02_t001"]
    assert len(read_images(tmp_path, labels=False)) == 5


def test_silver_truth_without_gold_or_on_request(tmp_path):
    write_film(tmp_path, outlined={0: range(1, 6), 1: range(1, 6)}, truth="ST")
    found = read_images(tmp_path)
    assert found.names == ["01_t000", "01_t001"]
    assert "2 of 4 frames have silver truth" in found.summary()
    write_film(tmp_path, outlined={3: range(1, 6)})
    assert read_images(tmp_path).names == read_images(tmp_path, truth="gold").names == ["01_t003"]
    silver = read_images(tmp_path, truth="silver")
    assert silver.names == ["01_t000", "01_t001"]
    assert "silver" in silver.summary()


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    """Those with more digits come last, as in a film of more than a thousand frames."""
    for name in ("t1000", "t999", "t1001"):
        write(tmp_path / "01" / f"{name}.tif", picture_of(cells_of(0)))
    assert read_images(tmp_path, labels=False).names == ["01_t999", "01_t1000", "01_t1001"]


def test_frames_with_names_in_capitals(tmp_path):
    write(tmp_path / "01" / "T007.TIF", picture_of(cells_of(0)))
    assert read_images(tmp_path, labels=False).names == ["01_T007"]


def distance_to(mask, shape=SHAPE):
    """Measure the distance of each pixel to the mask by comparing with all its pixels."""
    pixels = np.argwhere(np.ones(shape, bool))
    return cdist(pixels, np.argwhere(mask)).min(axis=1).reshape(shape)


def test_around_markers_without_outline_nothing_is_known(tmp_path):
    """Unknown pixels reach as far as outlined cells do: from the square in a disc to its rim."""
    write_film(tmp_path, frames=2, outlined={0: range(1, 6), 1: [1, 4]})
    whole, partly = read_images(tmp_path).labels
    np.testing.assert_array_equal(whole, cells_of(0))
    reach = max(
        distance_to(markers_of(cells_of(0)) == n)[cells_of(0) == n].max() for n in range(1, 6)
    )  # the same for all frames
    assert RADIUS - 2 < reach < RADIUS
    lone = np.isin(markers_of(cells_of(1)), [2, 3, 5])
    expected = np.where(np.isin(cells_of(1), [1, 4]), np.minimum(cells_of(1), 2), 0).astype(
        int
    )  # 4 becomes 2
    expected[(distance_to(lone) <= reach) & (expected == 0)] = UNKNOWN
    np.testing.assert_array_equal(partly, expected)
    assert (partly[np.isin(cells_of(1), [2, 3, 5])] == UNKNOWN).all()  # no cell is taken for background
    assert (partly == UNKNOWN).sum() < 2 * np.isin(cells_of(1), [2, 3, 5]).sum()  # and not much else
    assert f"3 markers have no outline, {reach:.0f} px around them" in read_images(tmp_path).summary()


def test_the_cell_that_reaches_furthest_counts():
    """Bars of three lengths, each with its marker in the middle, and a marker without an outline.

    The end of the longest is as near to that marker, and stays what it is.
    """
    cells, markers = np.zeros((2, *SHAPE), int)
    for number, reach in enumerate((3, 8, 5), 1):
        cells[10 * number, 10 - reach : 11 + reach], markers[10 * number, 10] = number, number
    markers[20, 24] = 4
    (label,), found = ignore_around_lone_markers([cells], [markers], ["a"])
    near = distance_to(markers == 4) <= 8
    np.testing.assert_array_equal(label, np.where(near & (cells == 0), UNKNOWN, cells))
    assert (near & (cells == 2)).any()
    assert "1 markers have no outline, 8 px around them" in found


def test_a_marker_belongs_to_the_cell_that_most_of_it_is_on():
    """Its last pixel is on the long neighbour, from whose end it is far."""
    cells, markers = np.zeros((2, *SHAPE), int)
    cells[5, 8:13], cells[5, 13:40] = 1, 2
    markers[5, 10:14], markers[40, 50] = 1, 2
    _, found = ignore_around_lone_markers([cells], [markers], ["a"])
    assert "1 markers have no outline, 2 px around them" in found


def test_a_marker_half_on_an_outline_has_none(tmp_path):
    write_film(tmp_path, frames=1)
    cells, markers = cells_of(0), markers_of(cells_of(0))
    markers[0, 55:59] = 6
    for covered in (2, 3):
        cells[0, 55:59] = [5] * covered + [0] * (4 - covered)
        write(tmp_path / "01_GT" / "SEG" / "man_seg000.tif", cells)
        write(tmp_path / "01_GT" / "TRA" / "man_track000.tif", markers)
        assert (read_images(tmp_path).labels[0] == UNKNOWN).any() == (covered == 2)


def test_without_markers_outlines_are_taken_for_complete(tmp_path):
    write_film(tmp_path, frames=2, outlined={1: [2]}, markers=False)
    found = read_images(tmp_path)
    np.testing.assert_array_equal(found.labels[0], cells_of(1) == 2)
    assert "no markers, so outlines are taken for complete (--partly-annotated" in found.summary()


def test_background_far_from_what_is_labelled(tmp_path):
    """The option works in any layout."""
    write_film(tmp_path, frames=1, outlined={0: [3]}, markers=False)
    cell = cells_of(0) == 3
    np.savez(tmp_path / "set.npz", images=picture_of(cell)[None], labels=cell[None].astype(np.uint8))
    for path in (tmp_path, tmp_path / "set.npz"):
        found = read_images(path, partly_annotated=4)
        np.testing.assert_array_equal(found.labels[0], np.where(distance_to(cell) <= 4, cell, UNKNOWN))
        assert "background over 4 px from labels is unknown" in found.summary()
    assert read_images(tmp_path, labels=False, partly_annotated=4).labels is None
    with pytest.raises(DataError, match="partly_annotated is 0"):
        read_images(tmp_path, partly_annotated=0)


def test_unknown_pixels_are_no_labels_to_be_near_to():
    labels = np.array([[1, 0, 0, 0, UNKNOWN, 0]])
    assert ignore_far_background(labels, 2).tolist() == [[1, 0, 0, UNKNOWN, UNKNOWN, UNKNOWN]]


def test_the_rest_of_the_path_may_look_like_a_film(tmp_path):
    """A folder called 05 is a film only if it has frames."""
    folder = tmp_path / "05" / "12"
    write(folder / "images" / "t.tif", picture_of(cells_of(0)))
    write(folder / "labels" / "t.tif", cells_of(0))
    assert read_images(folder, kind="instances").names == ["t"]


def extra_outline(folder):
    write(folder / "01_GT" / "SEG" / "man_seg009.tif", cells_of(0))
    return "man_seg009.tif: no frame belongs to this annotation", "t009.tif"


def no_markers_of_one(folder):
    (folder / "01_GT" / "TRA" / "man_track002.tif").unlink()
    return "man_seg002.tif: no markers for this frame", "man_track002.tif"


def nothing_outlined(folder):
    for file in (folder / "01_GT" / "SEG").iterdir():
        file.unlink()
    return "no frame is annotated", "01_GT/SEG/man_seg000.tif, 01_ST/SEG/man_seg000.tif"


def markers_of_another_size(folder):
    write(folder / "01_GT" / "TRA" / "man_track001.tif", np.ones((9, 9), np.uint16))
    return "01_t001: outlines and markers differ in size", "(48, 60)", "(9, 9)"


def outlines_of_another_size(folder):
    for part in ("SEG/man_seg", "TRA/man_track"):
        write(folder / "01_GT" / f"{part}001.tif", np.ones((9, 9), np.uint16))
    return "image 01_t001 and its label differ in size", "(48, 60, 1)", "(9, 9)"


def markers_of_another_film(folder):
    for file in (folder / "01_GT" / "TRA").glob("*.tif"):
        markers = np.zeros(SHAPE, np.uint16)
        markers[-2:, -2:] = 1
        write(file, markers)
    return "no marker lies on an outlined cell", "markers  4", "belong to the same film"


def three_dimensions(folder):
    tifffile.imwrite(folder / "01" / "t001.tif", np.ones((4, *SHAPE), np.uint16), photometric="minisblack")
    return "t001.tif: expected a 2-D frame", "4 pages"


def one_slice(folder):
    write(folder / "01_GT" / "SEG" / "man_seg_002_007.tif", cells_of(0))
    return "man_seg_002_007.tif: one slice of a 3-D film", "only films of 2-D frames"


def cut_off(folder):
    file = folder / "01_GT" / "SEG" / "man_seg001.tif"
    file.write_bytes(file.read_bytes()[:-50])
    return "man_seg001.tif: cannot be decoded", "damaged"


@pytest.mark.parametrize(
    "spoil",
    [
        extra_outline, no_markers_of_one, nothing_outlined, markers_of_another_size, outlines_of_another_size,
        markers_of_another_film, three_dimensions, one_slice, cut_off,
    ],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_films_that_are_spoiled(tmp_path, spoil):
    texts = spoil(write_film(tmp_path))
    with pytest.raises(DataError) as error:
        read_images(tmp_path)
    for text in texts:
        assert text in str(error.value)


def test_missing_truth(tmp_path):
    write_film(tmp_path)
    with pytest.raises(DataError, match="01_ST/SEG"):
        read_images(tmp_path, truth="silver")
    np.savez(tmp_path / "set.npz", images=np.ones((1, 9, 9)), labels=np.eye(9, dtype=int)[None])
    with pytest.raises(DataError, match="silver"):
        read_images(tmp_path / "set.npz", truth="silver")


@pytest.mark.parametrize(
    ("name", "frame"),
    [("01_t007", ("01", "007")), ("12_t0007", ("12", "0007")), ("t007", None), ("01_t7", None)],
)
def test_names_of_frames(name, frame):
    assert frame_of(name) == frame
