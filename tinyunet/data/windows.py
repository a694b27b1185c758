"""Images that are read window by window, because they may be larger than memory.

    windows_zarr    OME-Zarr and plain Zarr arrays
    windows_tiff    TIFF, BigTIFF and the pyramids of slide scanners
    windows_nd2     Nikon's ND2
    windows_czi     Zeiss's CZI
    windowed        what they share

Other files are decoded whole: they are no larger than memory.
"""

from __future__ import annotations

from pathlib import Path

from tinyunet.data.decode import opener_of
from tinyunet.data.planes import NO_CHOICE, PlaneChoice
from tinyunet.data.readers import read_images
from tinyunet.data.windowed import WindowedImage
from tinyunet.data.windows_tiff import open_tiff
from tinyunet.errors import DataError

TIFF = (".tif", ".tiff")


def open_windows(path: Path, choice: PlaneChoice = NO_CHOICE) -> WindowedImage:
    """Open an image to be read in windows.

    Parameters
    ----------
    path : Path
    choice : PlaneChoice
        Of several channels or planes.

    Raises
    ------
    DataError
        It is missing, damaged, or not one image of two dimensions; nothing says which of several channels or
        planes.
    OptionError
        The library that reads it is not installed.
    """
    if opener := opener_of(path):
        return opener(path).chosen(choice)
    if path.suffix.lower() in TIFF and path.is_file():
        return open_tiff(path).chosen(choice)
    images = read_images(path, labels=False, choice=choice)
    if len(images) != 1:
        raise DataError(
            f"{path}: {len(images)} images, expected one to be written as one OME-Zarr",
            remedy="give one image, or a folder as --out",
        )
    return WindowedImage(path, images.images[0], "yxc", colours=True)
