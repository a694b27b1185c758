"""How large the pixels of images are: what is given, what a table says, and what files state.

Sizes are heights and widths in µm. They come from

- a number that is given for all images, or a table: a CSV file with the columns name and pixel_size;
- in an archive, its array ``pixel_sizes``, one number for each image;
- in a folder, its table ``pixel_sizes.csv``;
- for images that no table names, their files: OME-TIFF, ImageJ's TIFF, TIFF with a resolution per centimetre,
  OME-Zarr, ND2, CZI.
"""

from __future__ import annotations

import csv
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from tinyunet.data.cell_tracking import find_films, list_frames
from tinyunet.data.decode import DECODERS, OPENERS, opener_of
from tinyunet.data.layouts import find_files, name_of
from tinyunet.data.records import page_names
from tinyunet.data.windows_tiff import stated_size
from tinyunet.errors import DataError, describe, shorten

Size = tuple[float, float]  # height and width: µm, or factors by which they are multiplied
Sizes = Mapping[str, Size]
AS_IT_IS = (1.0, 1.0)  # the factors of an image that is not scaled
TABLE, COLUMNS, ARRAY = "pixel_sizes.csv", ("name", "pixel_size"), "pixel_sizes"
TIFF = (".tif", ".tiff")
MICROMETRES = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3}
MOST = 20.0  # a larger factor comes from a size in another unit
REMEDY = "give --pixel-sizes, in µm: a number for all images, or a table with the columns name,pixel_size"
AS_CSV = "save it as CSV in UTF-8, with commas between columns, points in numbers and name,pixel_size on top"


class PixelSizes:
    """The sizes of the pixels of a set's images, as far as they are known.

    Parameters
    ----------
    path : str or Path
        The images, as `read_images` takes them.
    given : str, optional
        A number in µm for all images, or a table.
    labels : bool
        Whether the set has labels.
    remedy : str
        What to do about an image whose size is not known.

    Raises
    ------
    DataError
        A table or an array is damaged, or a size in it is not a positive number.
    """

    def __init__(
        self, path: str | Path, given: str | None = None, *, labels: bool = False, remedy: str = REMEDY
    ):
        self._source, self._remedy = str(path), remedy
        self._find, self._looked_in = _lookup(Path(path), given, labels)

    def find(self, name: str) -> Size | None:
        """Return the height and width of the pixels of an image; None if they are not known.

        Raises
        ------
        DataError
            The file's metadata cannot be read.
        """
        return self._find(name)

    def factors(self, name: str, pixel_size: float) -> Size:
        """Return the factors that bring an image, of this name, to pixels of this size.

        Raises
        ------
        DataError
            The size of its pixels is not known, or is another by more than a factor of 20.
        """
        if (size := self.find(name)) is None:
            raise DataError(
                f"{self._source}: the size of the pixels of image {name} is not known",
                {"looked in": self._looked_in, "the network sees pixels of": f"{pixel_size:g} µm"},
                self._remedy,
            )
        return factors_of(size, pixel_size, f"{self._source}: image {name}")


def factors_of(size: Size, pixel_size: float, what: str) -> Size:
    """Return the factors that bring pixels of one size to another.

    Parameters
    ----------
    size : (float, float)
        Height and width, in µm.
    pixel_size : float
        Height and width after scaling, in µm.
    what : str
        What has these pixels, for the error.

    Raises
    ------
    DataError
        One of the factors is smaller than 1/20 or larger than 20.
    """
    height, width = (side / pixel_size for side in size)
    if not all(1 / MOST <= factor <= MOST for factor in (height, width)):
        raise DataError(
            f"{what} has pixels of a very different size from those that the network sees",
            {"its pixels": size_text(size), "those that the network sees": f"{pixel_size:g} µm"},
            f"check the unit, which is µm; factors from 1/{MOST:g} to {MOST:g} are allowed",
        )
    return height, width


def size_text(size: Size) -> str:
    """Return a size as text.

    >>> size_text((0.5, 0.5)), size_text((0.5, 0.25))
    ('0.5 µm', '0.5 × 0.25 µm')
    """
    height, width = size
    return f"{height:g} µm" if height == width else f"{height:g} × {width:g} µm"


def _lookup(path: Path, given: str | None, labels: bool) -> tuple[Callable[[str], Size | None], str]:
    """Make the function that finds the size of an image's pixels by its name, and say where it looks."""
    if given is not None and (number := _positive(given)) is not None:
        return lambda name: (number, number), "the number that is given"
    table, sources = _table(path, given)
    files = _files(path, labels) if path.exists() and path.suffix.lower() != ".npz" else {}

    @cache
    def find(name: str) -> Size | None:
        file = name
        if name not in files and name.rpartition("-")[0] in files and name.rpartition("-")[2].isdecimal():
            file = name.rpartition("-")[0]  # page 3 of a file is NAME-3
        size = table.get(_key(name), table.get(_key(file)))
        return stated_by_file(files[file]) if size is None and file in files else size

    return find, " and ".join(sources + ["the images' files"] * bool(files)) or "nothing that states sizes"


def _table(path: Path, given: str | None) -> tuple[Sizes, list[str]]:
    """Read the table or the array that there is, and say what it is."""
    if given is not None:
        return _read_table(Path(given)), [given]
    if path.suffix.lower() == ".npz" and path.is_file():
        return _read_archive(path), [f"the array {ARRAY} of {path.name}"]
    if (path / TABLE).is_file():
        return _read_table(path / TABLE), [str(path / TABLE)]
    return {}, []


def _files(path: Path, labels: bool) -> dict[str, Path]:
    if films := find_films(path):
        return {frame.name: frame.image for film in films for frame in list_frames(film)}
    return {name_of(pair.image): pair.image for pair in find_files(path, labels).pairs}


def stated_by_file(path: Path) -> Size | None:
    """Return the height and width of a file's pixels in µm; None if it does not state them.

    Raises
    ------
    DataError
        Its metadata cannot be read.
    OptionError
        The library that reads it is not installed.
    """
    if opener := opener_of(path):
        image = opener(path)
        unit = MICROMETRES.get(image.unit)
        return None if unit is None else (unit * image.pixel_size[0], unit * image.pixel_size[1])
    if path.suffix.lower() not in TIFF:
        return None
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            return stated_size(tiff, tiff.pages[0])
    except Exception as error:  # tifffile raises half a dozen types for a damaged file
        raise DataError(
            f"{path}: the size of its pixels cannot be read from its metadata",
            {"reason": f"{type(error).__name__}: {error}"},
            "give it with --pixel-sizes",
        ) from error


def _key(name: str) -> str:
    """A name as it is compared, without spaces around it; an umlaut is one character."""
    return unicodedata.normalize("NFC", name.strip())


def _read_table(path: Path) -> Sizes:
    """Read a table; a name in it may have the suffix of its file."""
    if not path.is_file():
        raise DataError(f"{shorten(str(path))}: neither a size in µm nor a table", remedy=REMEDY)
    sizes: dict[str, Size] = {}
    lines: dict[str, int] = {}
    with _reading(path), path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, restkey="more", skipinitialspace=True)
        rows.fieldnames = [_key(column) for column in rows.fieldnames or ()]
        if [rows.fieldnames.count(column) for column in COLUMNS] != [1, 1]:
            found = " | ".join(rows.fieldnames) or "none"
            raise DataError(f"{path}: expected the columns {' and '.join(COLUMNS)}", {"found": found}, AS_CSV)
        for row in rows:
            if not any(row.values()):
                continue
            where = f"{path}, line {rows.line_num}"
            name, number = _key(row["name"] or ""), _positive(row["pixel_size"] or "")
            if not name or number is None or "more" in row:
                cells = " | ".join(str(cell) for cell in row.values())
                raise DataError(f"{where}: expected a name and a size above 0", {"found": cells}, AS_CSV)
            file_name = Path(name)
            key = _key(name_of(file_name)) if file_name.suffix.lower() in (*DECODERS, *OPENERS) else name
            if sizes.get(key, (number, number)) != (number, number):
                raise DataError(
                    f"{where}: two sizes of the image {key}",
                    {f"line {lines[key]}": size_text(sizes[key]), "this line": f"{number:g} µm"},
                    "keep the right one",
                )
            sizes[key], lines[key] = (number, number), rows.line_num
    return sizes


def _read_archive(path: Path) -> Sizes:
    with _reading(path), np.load(path, allow_pickle=False) as archive:
        if ARRAY not in archive:
            return {}
        values, images = archive[ARRAY], len(archive["images"])
    if values.shape != (images,) or values.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: {ARRAY} is one number for each image",
            {"images": images, "found": describe(values)},
            "save them so, in µm",
        )
    if (wrong := values[~((values > 0) & np.isfinite(values))]).size:
        raise DataError(
            f"{path}: {ARRAY} has {wrong[0]}, expected a size in µm, above 0", remedy="correct it"
        )
    pairs = zip(page_names(path.stem, images), values.tolist(), strict=True)
    return {_key(name): (value, value) for name, value in pairs}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # csv, zip and NumPy raise half a dozen types for a damaged file
        remedy = AS_CSV if path.suffix != ".npz" else "save it again"
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: the sizes of pixels cannot be read", {"reason": reason}, remedy) from error


def _positive(text: str) -> float | None:
    """Return a number greater than 0, written with a decimal point; None if the text is none."""
    if re.fullmatch(r"\s*\+?[0-9.]+([eE][-+]?[0-9]+)?\s*", text) is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None
