"""python -m tinyunet.export: write a trained network in a format that other programs read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import tyro
from numpy.typing import NDArray

from tinyunet import command_line
from tinyunet.data import GreyStatistics, ImageSet, split
from tinyunet.data.atomic_write import make_folder, replacing
from tinyunet.data.fingerprint import changes, fingerprints
from tinyunet.data.pixel_sizes import TABLE, PixelSizes
from tinyunet.data.planes import NO_CHOICE
from tinyunet.data.readers import image_readers
from tinyunet.data.scaling import at_pixel_size
from tinyunet.errors import DataError, OptionError, RunError, TinyUNetError
from tinyunet.exchange import bioimageio
from tinyunet.exchange.onnx import to_onnx
from tinyunet.exchange.record import Record
from tinyunet.exchange.torch_names import torch_file
from tinyunet.models import Network
from tinyunet.training.checkpoint import Checkpoint, load_model
from tinyunet.training.config import read_data
from tinyunet.training.folds import FoldsFolder
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.stored_run import (
    choice_after_training,
    require_channels,
    stored_classes,
    stored_config,
    stored_data,
)

Format = Literal["onnx", "bioimageio", "torch"]
SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".zip": "bioimageio", ".safetensors": "torch"}
NO_AUTHOR = "not stated"


@dataclass(frozen=True)
class Options:
    """Write a trained network for other programs.

    onnx: the network alone, without tiling, for images that are normalised: see docs/exchange.md. bioimageio:
    a package of the BioImage.IO model zoo, with ONNX weights, test tensors, a cover and a README. torch: the
    weights by PyTorch's names and in its layout; docs/torch_twins.py has the modules that load them. PyTorch
    itself is not needed.
    """

    run: tyro.conf.Positional[Path]
    """The run's folder, for its best checkpoint; or a checkpoint."""
    out: Path
    """The file to write."""
    format: Format | None = None
    """That of the file's suffix if omitted: .onnx, .zip (bioimageio) or .safetensors (torch)."""
    normalisation: Literal["per-image", "fixed"] = "per-image"
    """How the file says that images are normalised. per-image: each by its own mean and deviation, as in
    training. fixed: by those of the training images, on average, for programs that predict block by block and
    never see a whole image, such as QuPath."""
    example: Path | None = None
    """Only bioimageio: an image for test tensors and cover; the run's first held-out image if omitted."""
    name: str | None = None
    """Only bioimageio: the name of the package; that of the run if omitted."""
    author: tuple[str, ...] = ()
    """Only bioimageio: an author of the weights; repeat it for several."""
    license: str = "CC-BY-4.0"
    """Only bioimageio: the licence of the weights, an identifier of SPDX."""
    overwrite: bool = False
    """Replace an existing file."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    command_line.run(
        lambda: export(
            tyro.cli(
                Options,
                prog="python -m tinyunet.export",
                args=arguments,
                config=(tyro.conf.UseAppendAction,),
            )
        )
    )


def export(options: Options) -> None:
    """Load the run's best network and write the file."""
    format_ = options.format or _format_of(options.out)
    if options.out.is_dir():
        raise RunError(f"{options.out}: a folder, expected a file", remedy="such as model.onnx")
    command_line.require_no_file(options.out, overwrite=options.overwrite)
    if FoldsFolder(options.run).exists():
        raise OptionError(
            f"{options.run}: a cross-validation has several networks, and a file takes one",
            remedy=f"give the run of one fold, such as {options.run / 'fold-0'}",
        )
    model, checkpoint = load_model(options.run)
    fixed, parts = options.normalisation == "fixed", None
    if fixed or (format_ == "bioimageio" and options.example is None):
        parts = _parts(options, model, checkpoint)
    statistics = GreyStatistics.of(parts[0]) if fixed and parts else None
    record = Record.of(checkpoint, statistics).to_json()
    if format_ == "bioimageio":
        image = _example(options, model, checkpoint, parts)
        about = _about(options, model, checkpoint)
        _write(
            options.out,
            lambda file: bioimageio.write_package(file, model, image, about, record, statistics),
        )
        author = ", ".join(about.authors)
        print(f"author: {author}; licence: {about.licence} (--author and --license change them)")
    else:
        if format_ == "onnx":
            content = to_onnx(model, record, statistics=statistics)
        else:
            content = torch_file(model.state_dict(), record)
        _write(options.out, lambda file: file.write(content))
    if statistics:
        print(f"images are normalised by {statistics}, the averages over the training images")
    size = options.out.stat().st_size / 1e6
    print(f"wrote {options.out} ({size:.1f} MB), {format_}, network of step {checkpoint.step}")


def _format_of(path: Path) -> Format:
    if path.suffix not in SUFFIXES:
        raise OptionError(
            f"{path}: its suffix names no format",
            {"suffixes": ", ".join(f"{suffix} ({name})" for suffix, name in SUFFIXES.items())},
            "choose another name, or give --format",
        )
    return SUFFIXES[path.suffix]


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write the file whole or not at all."""
    with command_line.writing(path):
        make_folder(path.parent)
        with replacing(path) as file:
            write(file)


def _parts(options: Options, model: Network, checkpoint: Checkpoint) -> tuple[ImageSet, ImageSet]:
    """The images that the run was trained on, and those that it held out."""
    fixed, config = options.normalisation == "fixed", stored_config(checkpoint, options.run)
    try:
        train, held_out = split(read_data(config, stored_classes(checkpoint, options.run)), config.holdout)
    except (TinyUNetError, OSError) as error:
        need = "--normalisation fixed needs them" if fixed else "a package needs an example"
        remedy = "restore them, or leave it out" if fixed else "give an image with --example"
        raise DataError(
            f"{config.data}: the images of the run cannot be read, and {need}", {"reason": error}, remedy
        ) from error
    require_channels(model, train)
    if fixed:
        _require_trained_on(train, checkpoint)
    return train, held_out


def _require_trained_on(train: ImageSet, checkpoint: Checkpoint) -> None:
    """Raise a DataError unless the training images are those of the training; labels may have changed."""
    before = checkpoint.images.get("train")
    found = changes({"train": before}, {"train": fingerprints(train)}) if before else {}
    found.pop("other labels", None)
    if found:
        raise DataError(
            f"{train.source} has changed since the training, and --normalisation fixed needs its images",
            found,
            "restore the old images, or leave it out",
        )


def _example(
    options: Options, model: Network, checkpoint: Checkpoint, parts: tuple[ImageSet, ImageSet] | None
) -> NDArray[Any]:
    """The image for the test tensors and the cover, (H, W, C)."""
    if options.example is not None:
        choice = choice_after_training(NO_CHOICE, checkpoint, model)
        _, read = image_readers(options.example, choice)[0]
        images = read()
        if (pixel_size := stored_data(checkpoint).pixel_size) is not None:
            remedy = f"give a folder with {TABLE}, or a file that states the size"
            images = at_pixel_size(images, pixel_size, PixelSizes(options.example, remedy=remedy))
    else:
        assert parts is not None
        _, images = parts
    require_channels(model, images)
    return images.images[0]


def _about(options: Options, model: Network, checkpoint: Checkpoint) -> bioimageio.About:
    """The description of the run: its name, its scores, the values of its classes."""
    folder = RunFolder(options.run if options.run.is_dir() else options.run.parent)
    scores = next(
        (
            record
            for record in folder.read_log()
            if record["event"] == "validation" and record["step"] == checkpoint.step
        ),
        None,
    )
    config = stored_config(checkpoint, options.run)
    data = Path(config.data).name
    table = stored_classes(checkpoint, options.run)
    numbers = range(model.num_classes)
    return bioimageio.About(
        name=options.name or folder.path.resolve().name,
        authors=options.author or (NO_AUTHOR,),
        licence=options.license,
        validation=bioimageio.validation_text(scores, checkpoint.step, data, config.holdout),
        classes=tuple(f"class {table.name(number) if table else number}" for number in numbers),
    )


if __name__ == "__main__":
    main()
