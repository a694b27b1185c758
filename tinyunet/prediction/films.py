"""Results in the Cell Tracking Challenge's layout: numbered cells in each frame, and which frames each is in.

01_RES/mask000.tif    16 bits, 0 is background
01_RES/res_track.txt  a line for each number: itself, its first frame, its last frame, 0 (its parent, unknown)

A cell keeps its number from frame to frame as long as it and the cell of the frame before have more pixels in
common with each other than either has with any other cell. That is enough for slow cells, and for the numbers
to mean something when the film is played; it knows no divisions, and is no tracking to compete with.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyunet.metrics.contingency import contingency
from tinyunet.prediction.instances import save_labels

RESULTS = re.compile(r"(\d\d)_RES")
MASK = re.compile(r"mask(\d{3,4})\.tif")


class FilmWriter:
    """Writes the results of one film, frame by frame.

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
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, frame: str, objects: NDArray[np.integer]) -> None:
        """Write the next frame, and the tracks so far: what is there is valid after each frame.

        Parameters
        ----------
        frame : str
            The frame's number as its file has it, such as "007".
        objects : integer array, shape (H, W)
            Numbered 1 … n, 0 is background.

        Raises
        ------
        DataError
            More numbers than 16 bits hold.
        """
        number = int(frame)
        follows = self._last is not None and self._last_frame + 1 == number
        linked = link(self._last if follows else None, objects, first_new=len(self.tracks) + 1)
        save_labels(self.folder / f"mask{frame}.tif", linked, compression="lzw")
        for value in np.setdiff1d(linked, [0]).tolist():
            self.tracks.setdefault(value, [number, number])[1] = number
        lines = [f"{value} {first} {last} 0\n" for value, (first, last) in sorted(self.tracks.items())]
        (self.folder / "res_track.txt").write_text("".join(lines))
        self._last, self._last_frame = linked, number


def link(
    before: NDArray[np.integer] | None, objects: NDArray[np.integer], *, first_new: int
) -> NDArray[np.int64]:
    """The objects of a frame with the numbers that they had in the frame before, others with new ones.

    Parameters
    ----------
    before : integer array, shape (H, W), or None
        Of another size it is as if there were no frame before.
    objects : integer array, shape (H, W)
        0 is background.
    first_new : int
        New numbers count from here.

    Examples
    --------
    >>> link(np.array([[7, 7, 0, 3, 0]]), np.array([[1, 1, 1, 0, 2]]), first_new=8)
    array([[7, 7, 7, 0, 8]])
    """
    values, index = np.unique(np.append(objects, 0), return_inverse=True)
    number = np.zeros(len(values), np.int64)
    if before is not None and before.shape == objects.shape:
        olds = np.unique(np.append(before, 0))
        shared = contingency("link", objects, before)[1:, 1:].toarray()
        if shared.size:
            most_of_new, most_of_old = shared.argmax(axis=1), shared.argmax(axis=0)
            new = np.arange(len(shared))
            mutual = (most_of_old[most_of_new] == new) & (shared.max(axis=1) > 0)
            number[1:][mutual] = olds[1:][most_of_new[mutual]]
    fresh = np.flatnonzero(number[1:] == 0) + 1
    number[fresh] = first_new + np.arange(len(fresh))
    return number[index[:-1]].reshape(objects.shape)


def find_results(folder: Path) -> dict[str, Path]:
    """Result files by the name of their image, such as "01_t007": of a folder ``01_RES``, or of all in it."""
    folder = folder.resolve()
    if not folder.is_dir():
        return {}
    films = [folder] if RESULTS.fullmatch(folder.name) else sorted(folder.iterdir())
    return {
        f"{film[1]}_t{mask[1]}": file
        for results in films
        if results.is_dir() and (film := RESULTS.fullmatch(results.name))
        for file in sorted(results.iterdir())
        if (mask := MASK.fullmatch(file.name))
    }
