"""python -m tinyunet.predict: segment images of any size with a trained network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
import tyro
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from tinyunet import command_line
from tinyunet.backend import active_backend, use_backend
from tinyunet.data import normalise, read_images
from tinyunet.data.cell_tracking import frame_of
from tinyunet.errors import OptionError
from tinyunet.metrics.mistakes import SMALLEST_OBJECT
from tinyunet.models import Network
from tinyunet.prediction.films import FilmWriter
from tinyunet.prediction.instances import label_instances, save_labels
from tinyunet.prediction.tiling import TILE, predict_tiled
from tinyunet.reporting.plots import overlay
from tinyunet.training.checkpoint import load_model
from tinyunet.training.stored_run import require_channels

# Colours of the classes in NAME_classes.png; the pixels themselves are the class numbers.
BACKGROUND = (0, 0, 0)
COLOURS = ((255, 255, 255), (230, 57, 70), (69, 123, 157), (244, 162, 97), (42, 157, 143))  # then again


@dataclass(frozen=True)
class Options:
    """Segment images with a trained network, tile by tile, as if each were predicted whole.

    For each image NAME writes, all of the image's size: NAME_probabilities.tif (float32, a page for each
    class), NAME_classes.png (class numbers, coloured), NAME_instances.tif (16-bit object numbers) and
    NAME_overlay.png. For films of the Cell Tracking Challenge writes its result layout instead:
    01_RES/mask000.tif, in which a cell keeps its number from frame to frame, and 01_RES/res_track.txt.
    """

    run: tyro.conf.Positional[Path]
    """A run's folder (its best checkpoint is taken) or a checkpoint."""
    images: tyro.conf.Positional[Path]
    """An image, a folder of images, a TIFF stack, an .npz, or films of the Cell Tracking Challenge."""
    out: Path
    """Folder for the results; one that holds files is refused."""
    layout: Literal["files", "film"] | None = None
    """files: four for each image. film: the Cell Tracking Challenge's. When left out, that of the images."""
    tile: int = TILE
    """Largest side of the output tile, in pixels; only speed and memory depend on it."""
    symmetries: Literal[1, 8] = 1
    """8: average over rotations and mirror images, which takes eight times as long."""
    threshold: float = 0.5
    """Objects are where the probability of not being background is larger."""
    min_size: int = SMALLEST_OBJECT
    """Smallest object, in pixels."""
    split: bool = True
    """Cut objects at narrow necks; not for cells that are not round."""
    overwrite: bool = False
    """Write into a folder that holds files."""
    backend: Literal["numba", "numpy", "cuda", "cuda-emulated"] | None = None
    """Which kernels run; numba when left out."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Of convolutions on "cuda": what their factors are rounded to; weights and sums stay float32."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"threshold is {self.threshold}, expected a probability from 0 to 1")
        if self.min_size < 0:
            raise OptionError(f"min_size is {self.min_size}, expected at least 0")


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    command_line.run(lambda: predict(tyro.cli(Options, prog="python -m tinyunet.predict", args=arguments)))


def predict(options: Options) -> None:
    """Predict every image, with a progress bar over tiles."""
    # Now, before anything is read or written.
    use_backend(options.backend or active_backend(), options.precision)
    model, checkpoint = load_model(options.run)
    images = read_images(options.images, labels=False)
    require_channels(model, images)
    command_line.require_empty(options.out, overwrite=options.overwrite)
    with command_line.writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    print(f"{options.images}: {images.summary()}; network of step {checkpoint.step}")
    is_film = all(frame_of(name) for name in images.names)
    as_film = is_film if options.layout is None else options.layout == "film"
    films: dict[str, FilmWriter] = {}
    digits = 3 if len(images) <= 1000 else 4
    bar = tqdm(images.names, unit="image", disable=None)
    for number, (name, image) in enumerate(zip(bar, images.images, strict=True)):
        probabilities, objects = _segment(model, image, name, options)
        if as_film:
            film, frame = frame_of(name) or ("01", f"{number:0{digits}d}")
            folder = options.out / f"{film}_RES"
            with command_line.writing(folder):
                films[film] = films.get(film) or FilmWriter(folder)
                films[film].add(frame, objects)
        else:
            with command_line.writing(options.out / f"{name}_…"):
                _write(options.out, name, image, probabilities, objects)
    if as_film:
        print(f"wrote {len(images)} frames to {', '.join(str(film.folder) for film in films.values())}")
    else:
        print(f"wrote {4 * len(images)} files to {options.out}")


def _segment(
    model: Network, image: NDArray[np.generic], name: str, options: Options
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Probabilities and objects of an image, with a progress bar over tiles."""
    with tqdm(unit="tile", leave=False, disable=None, desc=name) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        probabilities = predict_tiled(
            model, normalise(image), tile=options.tile, symmetries=options.symmetries, on_tile=show
        )
    objects = label_instances(
        probabilities,
        threshold=options.threshold,
        min_size=options.min_size,
        split_depth=1.0 if options.split else None,
    )
    return probabilities, objects


def _write(
    folder: Path,
    name: str,
    image: NDArray[np.generic],
    probabilities: NDArray[np.float32],
    objects: NDArray[np.int32],
) -> None:
    with tifffile.TiffWriter(folder / f"{name}_probabilities.tif") as file:
        for page in np.moveaxis(probabilities, 2, 0):  # each by itself: of one column all would be one page
            file.write(page, photometric="minisblack", contiguous=True)
    classes = Image.fromarray(probabilities.argmax(axis=2).astype(np.uint8))
    palette = [BACKGROUND, *islice(cycle(COLOURS), 255)]  # all 256: Pillow stores no more bits than colours
    classes.putpalette([value for colour in palette for value in colour])
    classes.save(folder / f"{name}_classes.png")
    save_labels(folder / f"{name}_instances.tif", objects)
    Image.fromarray(overlay(image, objects)).save(folder / f"{name}_overlay.png")


if __name__ == "__main__":
    main()
