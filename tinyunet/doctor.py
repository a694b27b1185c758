"""python -m tinyunet.doctor: look at a data set before training on it."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from tinyunet import command_line
from tinyunet.data import split
from tinyunet.data.atomic_write import make_folder
from tinyunet.diagnosis import decide, diagnose, example_samples, propose
from tinyunet.diagnosis.decisions import gives_weights
from tinyunet.diagnosis.proposal import DECIDED
from tinyunet.diagnosis.walls import BORDER_WEIGHT
from tinyunet.models import ModelName
from tinyunet.sampling import WeightMap
from tinyunet.training.config import DataOptions, TrainConfig, config_from, read_data
from tinyunet.training.recipes import recipe
from tinyunet.training.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Find what would go wrong in training on these images, and why; nothing is trained.

    Prints the findings, problems first, each with the images concerned and the remedy, and writes doctor.png:
    a tile as it is in the file and as training sees it, with its labels and weights. Training makes the same
    checks and prints all but the notes. At the end it proposes depth, tile, steps and border weight for these
    images, as tinyunet.train --recipe auto takes them, whatever --tile and --depth are given here. The exit
    status is 0 whatever was found, and 2 if the images cannot be read or do not match their labels.
    """

    data: tyro.conf.Positional[str] = field()  # required, unlike --data of the other commands
    tile: int = TrainConfig.tile
    """Side of the output tile, in pixels."""
    model: ModelName = TrainConfig.model
    """Network."""
    depth: int | None = TrainConfig.depth
    """Number of poolings of the network; as in its paper if omitted."""
    padding: Literal["valid", "same"] | None = TrainConfig.padding
    """Padding of the U-Net; valid if omitted, as in the paper."""
    weights: WeightMap = field(default_factory=lambda: recipe().weights)
    out: Path = Path()
    """Folder for doctor.png."""
    overwrite: bool = False
    """Replace an existing doctor.png."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    given = command_line.options_of(sys.argv[1:] if arguments is None else arguments)
    command_line.run(lambda: doctor(parse(arguments), given))


def parse(arguments: list[str] | None) -> Options:
    """The options of a command line; the weights default to those that the network is trained with."""
    parse = partial(
        tyro.cli,
        Options,
        prog="python -m tinyunet.doctor",
        args=arguments,
        config=(tyro.conf.UseAppendAction,),
    )
    options: Options = parse()
    return parse(default=replace(options, weights=recipe(model=options.model).weights))


def doctor(options: Options, given: Collection[str]) -> None:
    """Check the images, print the findings and draw a sample.

    Parameters
    ----------
    options : Options
    given : collection of str
        The options that were typed, as `decide` takes them.
    """
    picture = options.out / "doctor.png"
    command_line.require_no_file(picture, overwrite=options.overwrite)
    config = config_from(options)
    sizes = None if config.pixel_size is None else config.pixel_sizes  # without, they are compared only
    images = read_data(replace(config, pixel_sizes=sizes))
    print(f"{config.data}: {images.summary()}")
    training_set, held_out = split(images, config.holdout)
    config, _ = decide(training_set, config, given)  # for the tile and the loss that training will have
    setup = Setup(config, training_set, held_out)
    few = setup.looked_at()
    looked_at = "" if few is setup else f"; looked at: {len(few.training_set)} and {len(few.validation_set)}"
    print(f"{len(setup.training_set)} images to train on, {len(setup.validation_set)} held out{looked_at}\n")
    for finding in diagnose(setup):
        print(f"{finding}\n")
    basis = _of_the_default_recipe(options)
    undecided = DECIDED if gives_weights(given) else (*DECIDED, BORDER_WEIGHT)
    proposal = propose(training_set, basis, undecided)
    print(f"{proposal}\n  {proposal.command(basis)}\n")
    from tinyunet.reporting import plots  # here, because Matplotlib takes long to import

    with command_line.writing(picture):
        make_folder(picture.parent)
        plots.plot_samples(example_samples(setup), picture)
    print(f"wrote {picture}")


def _of_the_default_recipe(options: Options) -> TrainConfig:
    """The default recipe with the options that were given, but for those that a proposal decides."""
    left_out = {*DECIDED}
    if options.pixel_size is None:
        left_out.add("pixel_sizes")  # a training that scales nothing does not take them
    shared = ({f.name for f in fields(Options)} & {f.name for f in fields(TrainConfig)}) - left_out
    return recipe(**{name: getattr(options, name) for name in shared})


if __name__ == "__main__":
    main()
