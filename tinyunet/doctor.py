"""python -m tinyunet.doctor: look at a data set before training on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from tinyunet import command_line
from tinyunet.data import split
from tinyunet.diagnosis import diagnose, example_samples
from tinyunet.errors import RunError
from tinyunet.models import ModelName
from tinyunet.sampling import WeightMap
from tinyunet.training.config import DataOptions, TrainConfig, config_from, read_data
from tinyunet.training.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Say what would go wrong in training on these images, and why; nothing is trained.

    Prints what was found, problems first, each with the images concerned and the remedy, and writes
    doctor.png: a tile as it is in the file and as training sees it, with its labels and weights. Training
    makes the same checks and prints all but the notes. The exit status is 0 whatever was found, and 2 if the
    images cannot be read or images and labels do not match.
    """

    data: tyro.conf.Positional[str] = field()  # required, unlike --data of the other commands
    """A folder with images/ and labels/, a TIFF stack, an .npz, films of the Cell Tracking Challenge, or
    synthetic-cells | synthetic-membranes."""
    tile: int = TrainConfig.tile
    """Side of the output tile, in pixels."""
    model: ModelName = TrainConfig.model
    """As in training."""
    depth: int | None = TrainConfig.depth
    """Number of poolings of the network."""
    padding: Literal["valid", "same"] | None = TrainConfig.padding
    """As in training."""
    weights: WeightMap = field(default_factory=WeightMap)
    out: Path = Path()
    """Folder for doctor.png."""
    overwrite: bool = False
    """Replace a doctor.png that exists."""


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    command_line.run(lambda: doctor(tyro.cli(Options, prog="python -m tinyunet.doctor", args=arguments)))


def doctor(options: Options) -> None:
    """Read, check, tell, draw."""
    picture = options.out / "doctor.png"
    if picture.exists() and not options.overwrite:
        raise RunError(
            f"{picture}: exists, nothing was overwritten", remedy="choose another --out, or give --overwrite"
        )
    config = config_from(options)
    images = read_data(config)
    print(f"{config.data}: {images.summary()}")
    train, held_out = split(images, config.holdout)
    setup = Setup(config, train, held_out)
    print(f"{len(train)} images to train on, {len(held_out)} held out\n")
    for finding in diagnose(setup):
        print(f"{finding}\n")
    from tinyunet.reporting import plots  # here, because matplotlib takes long to import

    with command_line.writing(picture):
        picture.parent.mkdir(parents=True, exist_ok=True)
        plots.plot_samples(example_samples(setup), picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
