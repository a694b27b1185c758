"""Films in the layout of the Cell Tracking Challenge, of which some frames are annotated.

SET/01/t000.tif                 the frames of a film, with three or four digits; SET/02 is another film
SET/01_GT/SEG/man_seg000.tif    gold truth: outlines drawn by people, for some frames and some of their cells
SET/01_ST/SEG/man_seg000.tif    silver truth: voted from earlier results, in most frames
SET/01_GT/TRA/man_track000.tif  a marker in every cell of every frame, without its outline
SET/01_RES/mask000.tif          results: numbered cells; res_track.txt lists the frames of each number

Frames without outlines are left out of a labelled set. Markers show which pixels of the others are
unknown: see `tinyunet.data.partly_annotated`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tinyunet.data.decode import decode_with_notes
from tinyunet.data.image_set import Image, Labels
from tinyunet.data.label_kind import label_image
from tinyunet.data.partly_annotated import ignore_around_lone_markers
from tinyunet.errors import DataError, describe

Truth = Literal["gold", "silver"]

LAYOUT = "01/t000.tif with 01_GT/SEG/man_seg000.tif or 01_ST/SEG (Cell Tracking Challenge); 01 alone as well"
FILM = re.compile(r"\d\d")
FRAME = re.compile(r"t(\d{3,4})\.tiff?", re.IGNORECASE)
FRAME_NAME = re.compile(r"(\d\d)_t(\d{3,4})")
FOLDERS: dict[Truth, str] = {"gold": "GT", "silver": "ST"}


class Frame(NamedTuple):
    """One image of a film, with the files of its annotation."""

    name: str
    image: Path
    cells: Path | None = None
    markers: Path | None = None


def find_films(path: Path) -> list[Path]:
    """Return the folders of frames that `path` is or contains; none if it has another layout."""
    path = path.resolve()
    if not path.is_dir():
        return []
    folders = [path] if FILM.fullmatch(path.name) else sorted(path.iterdir())
    return [folder for folder in folders if FILM.fullmatch(folder.name) and _numbered(folder, FRAME)]


def frame_of(name: str) -> tuple[str, str] | None:
    """Split the name of a frame, "01_t007", into film and frame, ("01", "007"); None for other names."""
    match = FRAME_NAME.fullmatch(name)
    return (match[1], match[2]) if match else None


def read_frames(films: Sequence[Path]) -> list[tuple[str, Image]]:
    """Read the names, such as "01_t000", and pixels of all frames."""
    return [(frame.name, read_frame(frame)) for film in films for frame in list_frames(film)]


def read_frame(frame: Frame) -> Image:
    """Read the pixels of a frame."""
    return _one_page(frame.image)


def read_annotated(
    films: Sequence[Path], truth: Truth | None = None, notes: dict[str, str] | None = None
) -> tuple[list[tuple[str, Image, Labels]], str]:
    """Read names, pixels and labels of the annotated frames, and describe what was left out.

    Parameters
    ----------
    films : sequence of Path
        The folders that `find_films` returns.
    truth : "gold" or "silver", optional
        Gold where available when left out, otherwise silver.
    notes : dict, optional
        Receives what was unusual about a file, by its path.

    Raises
    ------
    DataError
        No frame is annotated, an annotation lacks its frame or its markers, or a file cannot be read.
    """
    truths = {film: truth or _best_truth(film) for film in films}
    frames = [frame for film, kind in truths.items() for frame in list_frames(film, kind)]
    annotated = [(frame, frame.cells) for frame in frames if frame.cells]
    if not annotated:
        looked_for = [FOLDERS[truth]] if truth else FOLDERS.values()
        raise DataError(
            f"{films[0].parent}: no frame is annotated",
            {
                "looked for": ", ".join(
                    f"{films[0].name}_{ending}/SEG/man_seg000.tif" for ending in looked_for
                )
            },
            "put the annotation beside the frames; prediction needs none",
        )
    cells = [_label(outlines, notes) for _, outlines in annotated]
    # Without markers a film counts as completely outlined: each outline serves as the marker of its cell.
    markers = [
        _label(frame.markers, notes) if frame.markers else cell
        for (frame, _), cell in zip(annotated, cells, strict=True)
    ]
    names = [frame.name for frame, _ in annotated]
    labels, found = ignore_around_lone_markers(cells, markers, names)
    if not any(frame.markers for frame, _ in annotated):
        found = "no markers, so outlines are taken for complete (--partly-annotated if they are not)"
    images = [_one_page(frame.image, notes) for frame, _ in annotated]
    kinds = " and ".join(f"{kind} truth" for kind in sorted({*truths.values()}))
    summary = f"{len(annotated)} of {len(frames)} frames have {kinds}, the others are left out"
    if len(annotated) == len(frames):
        summary = f"{kinds} of all {len(frames)} frames"
    return list(zip(names, images, labels, strict=True)), f"Cell Tracking Challenge; {summary}; {found}"


def _best_truth(film: Path) -> Truth:
    return "silver" if not _outlines(film, "gold") and _outlines(film, "silver") else "gold"


def _outlines(film: Path, truth: Truth) -> dict[int, Path]:
    return _numbered(film.with_name(f"{film.name}_{FOLDERS[truth]}") / "SEG", _annotation("man_seg"))


def list_frames(film: Path, truth: Truth | None = None) -> list[Frame]:
    """List the frames of a film in order, with the files of their annotation if `truth` is given."""
    images = _numbered(film, FRAME)
    outlines = _outlines(film, truth) if truth else {}
    markers = _numbered(film.with_name(f"{film.name}_GT") / "TRA", _annotation("man_track"))
    for number, file in outlines.items():
        if number not in images:
            raise DataError(
                f"{file}: no frame belongs to this annotation",
                {"expected": film / f"t{number:03d}.tif"},
                "restore the frame, or move the annotation out of the folder",
            )
        if markers and number not in markers:
            raise DataError(
                f"{file}: no markers for this frame, although other frames have them",
                {"expected": film.with_name(f"{film.name}_GT") / "TRA" / f"man_track{number:03d}.tif"},
                "restore the markers, or rename TRA to read the film without them",
            )
    return [
        Frame(f"{film.name}_{file.stem}", file, outlines.get(number), markers.get(number))
        for number, file in sorted(images.items())
    ]


def _annotation(name: str) -> re.Pattern[str]:
    return re.compile(name + r"_?(\d{3,4})(_\d+)?\.tiff?", re.IGNORECASE)


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """Return the files of a folder whose names match, by their number."""
    if not folder.is_dir():
        return {}
    found: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        match = pattern.fullmatch(file.name)
        if match and match.lastindex == 2:
            raise DataError(f"{file}: one slice of a 3-D film", remedy="only films of 2-D frames are read")
        if match:
            found[int(match[1])] = file
    return found


def _one_page(file: Path, notes: dict[str, str] | None = None, *, labels: bool = False) -> Image:
    pages, found = decode_with_notes(file, labels=labels)
    if found and notes is not None:
        notes[str(file)] = "; ".join(found)
    if len(pages) != 1:
        raise DataError(
            f"{file}: expected a 2-D frame",
            {"found": f"{len(pages)} pages of {describe(pages[0], 'H W C')}"},
            "only films of 2-D frames are read",
        )
    return pages[0]


def _label(file: Path, notes: dict[str, str] | None) -> Labels:
    return label_image(_one_page(file, notes, labels=True), str(file))
