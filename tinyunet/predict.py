"""python -m tinyunet.predict: segment images of any size with a trained network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from tinyunet import command_line
from tinyunet.backend import active_backend, use_backend
from tinyunet.data import read_images
from tinyunet.data.cell_tracking import frame_of
from tinyunet.errors import OptionError
from tinyunet.metrics.mistakes import SMALLEST_OBJECT
from tinyunet.metrics.scores import Prediction
from tinyunet.models import Network
from tinyunet.prediction.files import write_prediction
from tinyunet.prediction.films import FilmWriter
from tinyunet.prediction.segmentation import segment
from tinyunet.prediction.tiling import TILE
from tinyunet.reporting.pictures import overlay
from tinyunet.training.checkpoint import load_model
from tinyunet.training.stored_run import require_channels, stored_classes


@dataclass(frozen=True)
class Options:
    """Segment images with a trained network, tile by tile, as if each were predicted whole.

    For each image NAME it writes four files of the image's size: NAME_probabilities.tif (float32, one page
    per class), NAME_classes.png (the numbers or colours of the labels that were trained on; a .tif if they
    exceed 255), NAME_instances.tif (16-bit object numbers, 32-bit above 65,535) and NAME_overlay.png. Films
    of the Cell Tracking Challenge get its result layout instead: 01_RES/mask000.tif, in which a cell keeps
    its number from frame to frame, and 01_RES/res_track.txt.
    """

    run: tyro.conf.Positional[Path]
    """A run's folder, for its best checkpoint, or a checkpoint."""
    images: tyro.conf.Positional[Path]
    """An image, a folder of images, a TIFF stack, an .npz, or films of the Cell Tracking Challenge."""
    out: Path
    """Folder for the results, new or empty."""
    layout: Literal["files", "film"] | None = None
    """files: four for each image. film: the Cell Tracking Challenge's. That of the images if omitted."""
    tile: int = TILE
    """Largest side of the output tile, in pixels; it affects only speed and memory."""
    symmetries: Literal[1, 8] = 1
    """8: average over rotations and mirror images, which takes eight times as long."""
    threshold: float = 0.5
    """Objects are where the probability of foreground is above this."""
    min_size: int = SMALLEST_OBJECT
    """Size of the smallest object, in pixels."""
    split: bool = True
    """Cut objects at narrow necks; switch it off for cells that are not round."""
    overwrite: bool = False
    """Write into a folder that holds files."""
    backend: command_line.BackendName | None = None
    """Kernels to use; numba if omitted."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """On "cuda": what the factors of convolutions are rounded to; weights and sums stay float32."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"threshold is {self.threshold}, expected a probability from 0 to 1")
        if self.min_size < 0:
            raise OptionError(f"min_size is {self.min_size}, expected at least 0")


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    command_line.run(lambda: predict(tyro.cli(Options, prog="python -m tinyunet.predict", args=arguments)))


def predict(options: Options) -> None:
    """Predict every image, with a progress bar over tiles."""
    # First: a backend that is missing is an error before anything is read or written.
    use_backend(options.backend or active_backend(), options.precision)
    model, checkpoint = load_model(options.run)
    classes = stored_classes(checkpoint, options.run)
    images = read_images(options.images, labels=False)
    require_channels(model, images)
    command_line.require_empty(options.out, overwrite=options.overwrite)
    with command_line.writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    described = f"; classes {classes}" if classes else ""
    print(f"{options.images}: {images.summary()}; network of step {checkpoint.step}{described}")
    are_frames = all(frame_of(name) for name in images.names)
    as_film = are_frames if options.layout is None else options.layout == "film"
    films: dict[str, FilmWriter] = {}
    digits = 3 if len(images) <= 1000 else 4
    bar = tqdm(images.names, unit="image", disable=None)
    for number, (name, image) in enumerate(zip(bar, images.images, strict=True)):
        prediction = _segment(model, image, name, options)
        assert prediction.objects is not None
        if as_film:
            film, frame = frame_of(name) or ("01", f"{number:0{digits}d}")
            folder = options.out / f"{film}_RES"
            with command_line.writing(folder):
                films[film] = films.get(film) or FilmWriter(folder)
                films[film].add(frame, prediction.objects)
        else:
            with command_line.writing(options.out / f"{name}_…"):
                picture = overlay(image, prediction.objects)
                write_prediction(options.out, name, prediction, picture, classes)
    if as_film:
        print(f"wrote {len(images)} frames to {', '.join(str(film.folder) for film in films.values())}")
    else:
        print(f"wrote {4 * len(images)} files to {options.out}")


def _segment(model: Network, image: NDArray[Any], name: str, options: Options) -> Prediction:
    """Segment an image, with a progress bar over tiles."""
    with tqdm(unit="tile", leave=False, disable=None, desc=name) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return segment(
            model,
            image,
            tile=options.tile,
            symmetries=options.symmetries,
            threshold=options.threshold,
            min_size=options.min_size,
            split=options.split,
            on_tile=show,
        )


if __name__ == "__main__":
    main()
