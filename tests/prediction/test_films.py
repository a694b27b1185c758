"""Results of a film: numbers that follow the cells, in files that others read."""

import numpy as np
import pytest
import tifffile

from tinyunet.errors import DataError
from tinyunet.prediction.films import FilmWriter, find_results, link


def row(*values):
    return np.array([values])


@pytest.mark.parametrize(
    ("before", "objects", "linked"),
    [
        (row(0, 0), row(1, 2), row(5, 6)),  # nothing to follow
        (row(3, 3, 0, 4, 4), row(0, 2, 2, 1, 1), row(0, 3, 3, 4, 4)),  # both moved or stayed
        (row(3, 3, 3, 4), row(1, 1, 1, 1), row(3, 3, 3, 3)),  # two became one: the larger part goes on
        (row(3, 3, 3, 3), row(1, 2, 2, 2), row(5, 3, 3, 3)),  # one became two: the same
        (row(3, 3, 0, 0), row(0, 0, 1, 1), row(0, 0, 5, 5)),  # too far
        (row(3, 3), row(0, 0), row(0, 0)),  # gone
        (row(3, 3, 3), row(1, 1), row(5, 5)),  # another size
        (None, row(2, 0, 7), row(5, 0, 6)),
    ],
)
def test_link(before, objects, linked):
    found = link(before, objects, first_new=5)
    np.testing.assert_array_equal(found, linked)


def test_tracks_say_where_each_number_is(tmp_path):
    """No number comes back after it was gone, and none goes on over a frame that is missing."""
    writer = FilmWriter(tmp_path / "01_RES")
    frames = {"000": row(1, 0, 2), "001": row(1, 0, 0), "002": row(1, 0, 2), "004": row(1, 0, 0)}
    for frame, objects in frames.items():
        writer.add(frame, objects)
    tracks = np.loadtxt(tmp_path / "01_RES" / "res_track.txt", dtype=int)
    assert tracks.tolist() == [[1, 0, 2, 0], [2, 0, 0, 0], [3, 2, 2, 0], [4, 4, 4, 0]]
    for label, first, last, _ in tracks:
        present = {
            int(frame)
            for frame in frames
            if label in tifffile.imread(tmp_path / "01_RES" / f"mask{frame}.tif")
        }
        assert present == set(range(first, last + 1))


def test_a_film_without_any_cell(tmp_path):
    FilmWriter(tmp_path / "01_RES").add("000", np.zeros((4, 5), int))
    assert (tmp_path / "01_RES" / "res_track.txt").read_text() == ""
    assert not tifffile.imread(tmp_path / "01_RES" / "mask000.tif").any()


def test_more_cells_than_16_bits_number(tmp_path):
    writer = FilmWriter(tmp_path / "01_RES")
    writer.add("000", np.arange(1, 40_001).reshape(200, 200))
    with pytest.raises(DataError, match=r"0 to 65,535, found 40,001 to 80,000(?s:.*)mask002\.tif"):
        writer.add("002", np.arange(1, 40_001).reshape(200, 200))
    assert len((tmp_path / "01_RES" / "res_track.txt").read_text().splitlines()) == 40_000


def test_results_are_found_by_the_names_of_their_frames(tmp_path):
    for film, frame in (("01", "000"), ("02", "0013")):
        FilmWriter(tmp_path / f"{film}_RES").add(frame, np.ones((2, 2), int))
    assert set(find_results(tmp_path)) == {"01_t000", "02_t0013"}
    assert set(find_results(tmp_path / "02_RES")) == {"02_t0013"}
    assert find_results(tmp_path / "nowhere") == {}
