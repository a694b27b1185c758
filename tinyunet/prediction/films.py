"""Write results in the Cell Tracking Challenge's layout: numbered cells in each frame.

01_RES/mask000.tif    16 bits, 0 is background
01_RES/res_track.txt  one line per cell: its number, first frame, last frame, and 0 (its parent, unknown)

A cell keeps the number of a cell in the frame before if the two share more pixels with each other than either
shares with any other cell. That suffices for slow cells, and makes the numbers useful when the film is
played. Divisions are not recognised: this is no tracking to compete with.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyunet.data.atomic_write import make_folder, replacing, write_text
from tinyunet.data.writer import save_labels
from tinyunet.metrics.contingency import contingency

RESULT_FOLDER = re.compile(r"(\d\d)_RES")
MASK_FILE = re.compile(r"mask(\d{3,4})\.tif")


class FilmWriter:
    """Write the results of one film, frame by frame.

    Parameters
    ----------
    folder : Path
        Such as ``OUT/01_RES``; made if missing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.tracks: dict[int, list[int]] = {}  # first and last frame of each number
        self._last: NDArray[np.integer] | None = None
        self._last_frame = -1
        make_folder(folder)

    def add(self, frame: str, objects: NDArray[np.integer]) -> NDArray[np.integer]:
        """Write the next frame, and the tracks so far: the results are valid after each frame.

        Parameters
        ----------
        frame : str
            The frame's number as in the name of its file, such as "007".
        objects : integer array, shape (H, W)
            Numbered 1 … n, 0 is background.

        Returns
        -------
        integer array, shape (H, W)
            The objects with the numbers of their tracks, as they are written.

        Raises
        ------
        DataError
            There are more numbers than 16 bits hold.
        """
        number = int(frame)
        follows = self._last is not None and self._last_frame + 1 == number
        linked = link(self._last if follows else None, objects, first_new=len(self.tracks) + 1)
        with replacing(self.folder / f"mask{frame}.tif") as file:
            save_labels(file, linked, compression="lzw", bits=16)
        for value in np.setdiff1d(linked, [0]).tolist():
            self.tracks.setdefault(value, [number, number])[1] = number
        lines = [f"{value} {first} {last} 0\n" for value, (first, last) in sorted(self.tracks.items())]
        write_text(self.folder / "res_track.txt", "".join(lines))
        self._last, self._last_frame = linked, number
        return linked


def link(
    before: NDArray[np.integer] | None, objects: NDArray[np.integer], *, first_new: int
) -> NDArray[np.int64]:
    """Give objects the numbers that they had in the frame before, and new ones to the others.

    Parameters
    ----------
    before : integer array, shape (H, W), or None
        The frame before, with its numbers; ignored if it has another size.
    objects : integer array, shape (H, W)
        0 is background.
    first_new : int
        The first of the new numbers.

    Examples
    --------
    >>> link(np.array([[7, 7, 0, 3, 0]]), np.array([[1, 1, 1, 0, 2]]), first_new=8)
    array([[7, 7, 7, 0, 8]])
    """
    values, index = np.unique(np.append(objects, 0), return_inverse=True)
    number = np.zeros(len(values), np.int64)
    if before is not None and before.shape == objects.shape:
        old_values = np.unique(np.append(before, 0))
        shared = contingency("link", objects, before)[1:, 1:].toarray()
        if shared.size:
            most_of_new, most_of_old = shared.argmax(axis=1), shared.argmax(axis=0)
            new = np.arange(len(shared))
            mutual = (most_of_old[most_of_new] == new) & (shared.max(axis=1) > 0)
            number[1:][mutual] = old_values[1:][most_of_new[mutual]]
    fresh = np.flatnonzero(number[1:] == 0) + 1
    number[fresh] = first_new + np.arange(len(fresh))
    return number[index[:-1]].reshape(objects.shape)


def find_results(folder: Path) -> dict[str, Path]:
    """The result files of a folder ``01_RES``, or of all in `folder`, by image name, such as "01_t007"."""
    folder = folder.resolve()
    if not folder.is_dir():
        return {}
    films = [folder] if RESULT_FOLDER.fullmatch(folder.name) else sorted(folder.iterdir())
    return {
        f"{film[1]}_t{mask[1]}": file
        for results in films
        if results.is_dir() and (film := RESULT_FOLDER.fullmatch(results.name))
        for file in sorted(results.iterdir())
        if (mask := MASK_FILE.fullmatch(file.name))
    }
