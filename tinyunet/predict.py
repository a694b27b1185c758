"""python -m tinyunet.predict: segment images of any size with a trained network."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from tinyunet import command_line
from tinyunet.backend import active_backend, use_backend
from tinyunet.data.atomic_write import make_folder
from tinyunet.data.cell_tracking import find_films, frame_of
from tinyunet.data.class_table import ClassTable
from tinyunet.data.decode import opener_of
from tinyunet.data.image_set import Image, ImageSet
from tinyunet.data.layouts import name_of
from tinyunet.data.pixel_sizes import AS_IT_IS, PixelSizes, Size
from tinyunet.data.planes import PlaneChoice
from tinyunet.data.readers import image_readers, inferred_layout
from tinyunet.data.scaled_windows import scaled_windows
from tinyunet.data.windowed import WindowedImage
from tinyunet.data.windows import open_windows
from tinyunet.errors import DataError, OptionError, OutOfMemoryError, RunError, TinyUNetError, first_names
from tinyunet.exchange.exported import load_models, load_networks
from tinyunet.exchange.objects import ObjectFormat, Objects, require_packages, write_objects
from tinyunet.metrics.scores import Prediction
from tinyunet.prediction.budget import memory_bytes
from tinyunet.prediction.cluster import connected
from tinyunet.prediction.files import write_prediction
from tinyunet.prediction.films import FilmWriter
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.segmentation import segment
from tinyunet.prediction.slides import Share, SlideOptions, SlideWriter
from tinyunet.prediction.tiling import TILE
from tinyunet.prediction.workers import Job
from tinyunet.reporting.pictures import overlay
from tinyunet.reporting.progress import over_files, over_tiles
from tinyunet.training.folds import Loaded
from tinyunet.training.stored_run import choice_after_training, require_channels, stored_classes

FactorsOf = Callable[[str], Size]
ALIKE = 0.02  # of a factor, the difference from 1 that does not matter: microscopes are not calibrated better
FAILURES = (TinyUNetError, OSError, MemoryError)  # of one image: the others are predicted all the same


@dataclass(frozen=True)
class Options:
    """Segment images with a trained network, tile by tile, as if each were predicted whole.

    For the folder of a cross-validation, the probabilities of its networks are averaged.

    For each image NAME it writes four files of the image's size: NAME_probabilities.tif (float32, one page
    per class), NAME_classes.png (the numbers or colours of the labels that were trained on; a .tif if they
    exceed 255), NAME_instances.tif (16-bit object numbers, 32-bit above 65,535) and NAME_overlay.png. Films
    of the Cell Tracking Challenge get its result layout instead: 01_RES/mask000.tif, in which a cell keeps
    its number from frame to frame, and 01_RES/res_track.txt. An image that fails is named at the end, after
    the others have been predicted; the exit status is then 1. A full disk ends it at once.

    One image that may be larger than memory is read in windows if the results go into an OME-Zarr (--out
    NAME.ome.zarr): a TIFF, BigTIFF or slide scanner's pyramid, an OME-Zarr, an ND2 or a CZI file. Its classes
    are the image of the OME-Zarr, its numbered objects are the label image "objects", both with smaller
    levels; of a network that was trained with --pixel-size, both have the network's pixels.
    """

    run: tyro.conf.Positional[Path]
    """A run's folder, for its best checkpoint; a checkpoint; the folder of a cross-validation (--folds), for
    the best one of each fold; or a file that tinyunet.export wrote: .zip, .onnx or .safetensors."""
    images: tyro.conf.Positional[Path]
    """An image, a folder of images, a TIFF stack, an .npz, films of the Cell Tracking Challenge, or an
    OME-Zarr, ND2 or CZI file."""
    out: Path
    """Folder for the results, new or empty; or NAME.ome.zarr."""
    channel: int | str | None = None
    """Channel to predict of images that have several: its number, from 0, or its name; all: every channel is
    one of the image. That of the training if omitted."""
    z: int | None = None
    """Plane to predict of OME-Zarr, ND2 and CZI files that have several: its number, from 0. That of the
    training if omitted."""
    pixel_sizes: str | None = None
    """Only for a network that was trained with --pixel-size: how large the images' pixels are, in µm, as in
    training: a number, or a table. If omitted, the folder's table or the files themselves say it."""
    layout: Literal["files", "film"] | None = None
    """files: four for each image. film: the Cell Tracking Challenge's. That of the images if omitted."""
    objects: tuple[ObjectFormat, ...] = ()
    """Write the objects of each image for another program, too; repeat it for several. geojson: polygons with
    classes, NAME_objects.geojson, for QuPath. roi: outlines, NAME_rois.zip, for ImageJ and Fiji. csv: a table
    of place, size, class and mean grey values, NAME_objects.csv."""
    tile: int | None = None
    """Largest side of the output tile, in pixels; it affects only speed and memory. 700 if omitted; for an
    OME-Zarr what fits into --memory, at most 2048."""
    symmetries: Literal[1, 8] = 1
    """8: average over rotations and mirror images, which takes eight times as long."""
    threshold: float = 0.5
    """Objects are where the probability of foreground is above this. For binary labels, tinyunet.evaluate
    names the best one."""
    min_size: int | None = None
    """Size of the smallest object, in pixels; by the sizes of the objects that were trained on if omitted."""
    split_depth: float | None = None
    """How deep a neck must be to be cut, in pixels; a sixth of the typical radius in training if omitted."""
    split: bool = True
    """Cut objects at narrow necks; switch it off for cells that are not round."""
    overwrite: bool = False
    """Write into a folder that holds files, or replace an OME-Zarr."""
    resume: bool = False
    """Go on with an OME-Zarr that was not finished; it ends with the same bytes."""
    memory: str | None = None
    """Memory for the prediction of an OME-Zarr, such as 2GB, for each worker if there are several; if omitted
    half of what is free, shared by the workers of a machine."""
    workers: int | None = None
    """Processes on this machine that predict an OME-Zarr together, with the same bytes."""
    scheduler: str | None = None
    """Address of a dask scheduler, tcp://host:8786, whose workers predict an OME-Zarr together. They must see
    all files at the same paths."""
    probabilities: bool = False
    """Write the probabilities into the OME-Zarr too, 4 bytes per pixel and class."""
    ome_zarr_version: Literal["0.4", "0.5"] = "0.5"
    """0.4 is read by older programs, and has a file per chunk."""
    backend: command_line.BackendName | None = None
    """Kernels to use; numba if omitted."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """On "cuda": what the factors of convolutions are rounded to; weights and sums stay float32."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"threshold is {self.threshold}, expected a probability from 0 to 1")
        self.choice()
        self.rule(ObjectRule())
        if self.tile is not None and self.tile < 1:
            raise OptionError(f"tile is {self.tile}, expected at least 1")
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"workers is {self.workers}, expected at least 1")
        if self.workers is not None and self.scheduler is not None:
            raise OptionError(
                "--workers starts processes on this machine, --scheduler uses those of another command",
                remedy="give one of them",
            )
        for_zarr = {
            "resume": self.resume,
            "memory": self.memory,
            "probabilities": self.probabilities,
            "workers": self.workers is not None,
            "scheduler": self.scheduler is not None,
        }
        if not self.as_zarr and any(for_zarr.values()):
            given = ", ".join(f"--{name}" for name, value in for_zarr.items() if value)
            raise OptionError(f"{given} is for results in an OME-Zarr", remedy="give --out NAME.ome.zarr")
        if self.as_zarr and (self.layout or self.objects):
            given = "--layout" if self.layout else "--objects"
            raise OptionError(f"{given} is for results in a folder", remedy="leave it out, or give a folder")

    def rule(self, stored: ObjectRule) -> ObjectRule:
        """Apply the given options to the rule for objects that the networks were stored with."""
        min_size = stored.min_size if self.min_size is None else self.min_size
        split_depth = stored.split_depth if self.split_depth is None else self.split_depth
        return ObjectRule(min_size, split_depth if self.split else None)

    def choice(self) -> PlaneChoice:
        """Return the channel and the plane that are given."""
        return PlaneChoice(self.channel, self.z)

    @property
    def as_zarr(self) -> bool:
        """Whether the results are to be an OME-Zarr."""
        return self.out.suffix == ".zarr"


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    command_line.run(
        lambda: predict(
            tyro.cli(
                Options,
                prog="python -m tinyunet.predict",
                args=arguments,
                config=(tyro.conf.UseAppendAction,),
            )
        )
    )


def predict(options: Options) -> None:
    """Predict every image, with progress bars over images and tiles.

    Files are read one by one. One that fails does not cost the others: it is named at the end.
    """
    # First: a backend that is missing is an error before anything is read or written.
    use_backend(options.backend or active_backend(), options.precision)
    require_packages(options.objects)
    networks = load_networks(options.run)
    classes = stored_classes(networks[0].checkpoint, networks[0].path)
    stored = ObjectRule.mean([network.checkpoint.objects for network in networks])
    choice = choice_after_training(options.choice(), networks[0].checkpoint, networks[0].model)
    if options.as_zarr:
        _predict_slide(networks, classes, stored, choice, options)
        return
    _require_memory(options.images, choice)
    readers = image_readers(options.images, choice)
    is_film = bool(find_films(options.images))
    if not is_film:
        _require_different_names(options.images, [path for path, _ in readers])
    command_line.require_empty(options.out, overwrite=options.overwrite)
    are_frames = is_film or all(frame_of(name_of(Path(path))) for path, _ in readers)
    results = Results(options, are_frames, classes)
    factors_of = _factors_of_images(networks[0], options)
    failures, number = _predict_files(networks, readers, results, stored, factors_of, options)
    if failures and not results.names:
        raise RunError(failures[0] if number == 1 else f"no image was predicted; the first: {failures[0]}")
    described = [_networks_text(networks), f"classes {classes}" if classes else ""]
    if statistics := networks[0].statistics:
        described += [f"images normalised by {statistics}"]
    described += [inferred_layout(options.images), _rule_text(options.rule(stored), networks[0], options)]
    described += [results.summary()]
    print("; ".join(filter(None, described)))
    if failures:
        for failure in failures:
            print(f"error: {failure}", file=sys.stderr)
        print(f"{len(failures)} of {number} images were not predicted, see above", file=sys.stderr)
        sys.exit(1)


def _factors_of_images(network: Loaded, options: Options) -> FactorsOf:
    """Make the function that says how images, by their names, are scaled to the network's pixels."""
    if network.pixel_size is not None:
        return partial(PixelSizes(options.images, options.pixel_sizes).factors, pixel_size=network.pixel_size)
    if options.pixel_sizes is not None:
        raise OptionError(
            f"{network.path}: the network sees images as they are, whatever the size of their pixels",
            {"pixel_sizes": options.pixel_sizes},
            "leave --pixel-sizes out, or train with --pixel-size",
        )
    return lambda name: AS_IT_IS


def _require_memory(path: Path, choice: PlaneChoice) -> None:
    """Raise an OutOfMemoryError if an image that could be read in windows is too large to be read whole."""
    if (opener := opener_of(path)) is None:
        return
    image = opener(path).chosen(choice, but="t")
    height, width, channels = image.shape
    needed = image.sizes.get("t", 1) * height * width * channels * image.array.dtype.itemsize
    if needed > (most := memory_bytes(None)):
        raise OutOfMemoryError(
            f"{path}: too large to be predicted into files, for which it is read whole",
            {"image": f"{needed / 1e9:.1f} GB", "half of the free memory": f"{most / 1e9:.1f} GB"},
            "give --out NAME.ome.zarr, for which it is read in windows",
        )


def _predict_slide(
    networks: Sequence[Loaded],
    classes: ClassTable | None,
    stored: ObjectRule,
    choice: PlaneChoice,
    options: Options,
) -> None:
    """Predict one image, which may be larger than memory, into an OME-Zarr."""
    chosen = SlideOptions(
        tile=options.tile,
        symmetries=options.symmetries,
        threshold=options.threshold,
        probabilities=options.probabilities,
        version=options.ome_zarr_version,
        statistics=networks[0].statistics,
    )
    image, factors = _in_seen_pixels(open_windows(options.images, choice), networks[0], options)
    rule = _rule_in_seen_pixels(stored, factors, options)
    models = [network.model for network in networks]
    with _sharing(image, factors, choice, chosen, classes, options) as (memory, share):
        writer = SlideWriter(models, image, options.out, chosen, classes, memory, share)
        writer.require_free(resume=options.resume, overwrite=options.overwrite)
        with command_line.writing(writer.part):
            with over_tiles(options.images.name) as show:
                writer.predict(show)
            with over_tiles("objects", "block") as show:
                count = writer.number(rule, on_block=show)
            writer.finish()
    described = [_networks_text(networks), f"classes {classes}" if classes else ""]
    scaled = "" if factors == AS_IT_IS else f", in pixels of {networks[0].pixel_size:g} µm"
    described += [f"{rule}{scaled}", f"wrote classes and {count:,} objects to {options.out}{scaled}"]
    print("; ".join(filter(None, described)))


def _in_seen_pixels(image: WindowedImage, network: Loaded, options: Options) -> tuple[WindowedImage, Size]:
    """Scale an image that is read in windows to the network's pixels; returns the factors as well.

    It says how large its pixels are then, so that a viewer lays the results over the image.
    """
    factors = _factors_of_images(network, options)(name_of(image.path))
    if network.pixel_size is None:
        return image, AS_IT_IS
    if max(abs(factor - 1) for factor in factors) <= ALIKE:
        seen, scaled_by = image, AS_IT_IS
    else:
        seen, scaled_by = scaled_windows(image, factors), factors
    height, width = (
        factor * network.pixel_size * before / after
        for factor, before, after in zip(factors, image.shape[:2], seen.shape[:2], strict=True)
    )
    return replace(seen, pixel_size=(height, width), unit="micrometer"), scaled_by


def _rule_in_seen_pixels(stored: ObjectRule, factors: Size, options: Options) -> ObjectRule:
    """Return the rule for objects in the network's pixels: what is given counts those of the image."""
    rule = options.rule(stored)
    scaled = rule.scaled(factors)
    return ObjectRule(
        rule.min_size if options.min_size is None else scaled.min_size,
        rule.split_depth if options.split_depth is None else scaled.split_depth,
    )


@contextmanager
def _sharing(
    image: WindowedImage,
    factors: Size,
    choice: PlaneChoice,
    chosen: SlideOptions,
    classes: ClassTable | None,
    options: Options,
) -> Iterator[tuple[int, Share | None]]:
    """Start or find the workers, if there are to be any; yields the memory of each, and what shares out."""
    if options.workers is None and options.scheduler is None:
        memory = memory_bytes(options.memory)
        if options.memory is None and image.in_memory:
            memory += image.array.nbytes  # which are no longer free
        yield memory, None
        return
    if image.in_memory:
        raise OptionError(
            f"{image.path}: a file that is decoded whole, which every worker would do again",
            remedy="leave out --workers and --scheduler, or save it as TIFF or OME-Zarr",
        )
    job = Job(
        partial(load_models, options.run.resolve()),
        options.images.resolve(),
        options.out.resolve(),
        chosen,
        classes,
        active_backend(),
        options.precision,
        memory_bytes(options.memory) if options.memory else 0,
        choice,
        factors,
    )
    with connected(options.workers, options.scheduler) as cluster:
        job = cluster.check(job)
        yield job.memory, cluster.share(job)


def _predict_files(
    networks: Sequence[Loaded],
    readers: Sequence[tuple[str, Callable[[], ImageSet]]],
    results: Results,
    stored: ObjectRule,
    factors_of: FactorsOf,
    options: Options,
) -> tuple[list[str], int]:
    """Predict and write image by image; returns what failed, and how many images were tried.

    A full disk ends it: there is no room for the others either.
    """
    failures, number = list[str](), 0
    for place, (path, read) in enumerate(over_files(readers), 1):
        try:
            images = read()
            require_channels(networks[0].model, images)
        except FAILURES as error:
            failures.append(_failure(path, error))
            number += 1
            continue
        results.make_folder()
        digits = 3 if max(len(readers), len(images)) <= 1000 else 4
        for name, image in zip(images.names, images.images, strict=True):
            number += 1
            try:
                prediction = _segment(networks, image, name, stored, factors_of(name), options)
                results.write(name, f"{number - 1:0{digits}d}", image, prediction)
            except FAILURES as error:
                failures.append(_failure(f"{path}: {name}", error))
                if command_line.is_disk_full(error):
                    failures[-1] += f"\n  stopped at file {place} of {len(readers)}, the disk is full"
                    return failures, number
    return failures, number


def _networks_text(networks: Sequence[Loaded]) -> str:
    steps = ", ".join(str(network.checkpoint.step) for network in networks)
    several = f"average of {len(networks)} networks, of steps {steps}"
    return several if len(networks) > 1 else f"network of step {steps}"


def _rule_text(rule: ObjectRule, network: Loaded, options: Options) -> str:
    """Describe the rule for objects; what is stored is in the network's pixels, what is given is not."""
    given = options.min_size is not None or options.split_depth is not None
    if network.pixel_size is None or given:
        return str(rule)
    return f"{rule}, in pixels of {network.pixel_size:g} µm"


def _failure(where: str, error: TinyUNetError | OSError | MemoryError) -> str:
    """Explain why an image was not predicted, with its name."""
    message = command_line.explain(error)
    return message if where in message else f"{where}: {message}"


def _require_different_names(source: Path, paths: Sequence[str]) -> None:
    names = Counter(name_of(Path(path)) for path in paths)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise DataError(
            f"{source}: several images of one name: {first_names(repeated)}",
            remedy="give every image another name; suffixes do not count",
        )


class Results:
    """The files of the predictions, in one of the layouts.

    Parameters
    ----------
    options : Options
    are_frames : bool
        Whether the images have the names of films' frames, such as "01_t007".
    classes : ClassTable, optional
        The numbers or colours to write for the classes; 0..K-1 by default.
    """

    def __init__(self, options: Options, are_frames: bool, classes: ClassTable | None):
        self.out, self.names, self._classes = options.out, set[str](), classes
        self._objects = options.objects
        self._films: dict[str, FilmWriter] = {}
        self._masks: set[tuple[str, str]] = set()
        self._as_film = are_frames if options.layout is None else options.layout == "film"
        self._are_frames = are_frames

    def make_folder(self) -> None:
        """Make the folder before the first prediction, whose time would be lost if that failed."""
        with command_line.writing(self.out):
            make_folder(self.out)

    def write(self, name: str, number: str, image: Image, prediction: Prediction) -> None:
        """Write the files of an image.

        Parameters
        ----------
        name : str
        number : str
            That of its frame, if it is to be one and its name does not say which.
        image : array, shape (H, W, C)
        prediction : Prediction, with objects

        Raises
        ------
        RunError
            They cannot be written, or are those of an image written before.
        """
        assert prediction.objects is not None
        labels = prediction.objects
        mask = (self._are_frames and frame_of(name)) or ("01", number)
        if name in self.names or mask in self._masks:
            raise RunError(
                f"{name}: another image of this name was predicted, nothing was overwritten",
                remedy="give every image another name; suffixes do not count",
            )
        if self._as_film:
            film, frame = mask
            folder = self.out / f"{film}_RES"
            with command_line.writing(folder):
                self._films[film] = self._films.get(film) or FilmWriter(folder)
                labels = self._films[film].add(frame, labels)
            self._masks.add(mask)
        else:
            with command_line.writing(self.out / f"{name}_…"):
                picture = overlay(image, prediction.objects)
                write_prediction(self.out, name, prediction, picture, self._classes)
        objects = Objects(labels, image, prediction.probabilities, self._classes)
        with command_line.writing(self.out / f"{name}_objects"):
            write_objects(self.out, name, objects, self._objects)
        self.names.add(name)

    def summary(self) -> str:
        """State in one line what was written."""
        if self._as_film:
            folders = ", ".join(str(film.folder) for film in self._films.values())
            return f"wrote {len(self.names)} frames to {folders}" + self._objects_text()
        return f"wrote {(4 + len(set(self._objects))) * len(self.names)} files to {self.out}"

    def _objects_text(self) -> str:
        number = len(set(self._objects)) * len(self.names)
        return f", and {number} files of objects to {self.out}" if number else ""


def _segment(
    networks: Sequence[Loaded],
    image: Image,
    name: str,
    stored: ObjectRule,
    factors: Size,
    options: Options,
) -> Prediction:
    """Segment an image, with a progress bar over tiles; the stored rule is in the network's pixels."""
    with over_tiles(name) as show:
        return segment(
            [network.model for network in networks],
            image,
            tile=options.tile or TILE,
            symmetries=options.symmetries,
            threshold=options.threshold,
            rule=options.rule(stored.scaled((1 / factors[0], 1 / factors[1]))),
            on_tile=show,
            statistics=networks[0].statistics,
            factors=factors,
        )


if __name__ == "__main__":
    main()
