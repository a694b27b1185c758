"""Synthetic films in the layout of the Cell Tracking Challenge: moving discs with outlines and markers."""

import numpy as np
import tifffile

SHAPE = (48, 60)
RADIUS = 6


def cells_of(frame, cells=5, shape=SHAPE):
    """Numbered discs, apart from each other, that move one pixel per frame."""
    y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint16)
    for number in range(1, cells + 1):
        centre = 10 + 24 * ((number - 1) % 2) + frame % 4, 8 + 20 * ((number - 1) // 2) + frame % 3
        labels[np.hypot(y - centre[0], x - centre[1]) <= RADIUS] = number
    return labels


def markers_of(labels):
    """A square in the middle of each cell."""
    markers = np.zeros_like(labels)
    for number in np.setdiff1d(labels, [0]):
        y, x = np.argwhere(labels == number).mean(axis=0).round().astype(int)
        markers[y - 1 : y + 2, x - 1 : x + 2] = number
    return markers


def picture_of(labels, seed=0):
    """Bright cells in noise, as a microscope shows them."""
    noise = np.random.default_rng(seed).normal(0, 20, labels.shape)
    return (500 + 800 * (labels > 0) + noise).astype(np.uint16)


def write(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, pixels, compression="lzw")


def write_film(folder, film="01", frames=4, outlined=None, truth="GT", markers=True, digits=3, cells=5):
    """Write frames, outlines as {frame: numbers of cells}, and markers; return the folder."""
    outlined = {frame: range(1, cells + 1) for frame in range(frames)} if outlined is None else outlined
    for frame in range(frames):
        labels = cells_of(frame, cells)
        write(folder / film / f"t{frame:0{digits}d}.tif", picture_of(labels, frame))
        if markers:
            write(folder / f"{film}_GT" / "TRA" / f"man_track{frame:0{digits}d}.tif", markers_of(labels))
        if frame in outlined:
            kept = np.where(np.isin(labels, list(outlined[frame])), labels, 0).astype(np.uint16)
            write(folder / f"{film}_{truth}" / "SEG" / f"man_seg{frame:0{digits}d}.tif", kept)
    if markers:
        tracks = "".join(f"{number} 0 {frames - 1} 0\n" for number in range(1, cells + 1))
        (folder / f"{film}_GT" / "TRA" / "man_track.txt").write_text(tracks)
    return folder
