"""python -m tinyunet.train: train a network on a set of labelled images."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tinyunet import command_line, diagnosis
from tinyunet.backend import active_backend, use_backend
from tinyunet.data import split
from tinyunet.errors import OptionError, RunError
from tinyunet.reporting.recorder import record_training
from tinyunet.training.config import TrainConfig, read_data
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.stored_run import load_last
from tinyunet.training.trainer import Trainer

CHANGEABLE = {"steps", "validate_every", "patience"}  # by --resume; the rest decided the steps made so far


@dataclass(frozen=True)
class Options:
    """Train a network on labelled images, or on synthetic ones that need no download.

    Writes config.json, log.jsonl, the best and the last checkpoint, curves.png and examples.png.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    out: Path | None = None
    """Folder of the run, new or empty; runs/NAME-OF-THE-DATA if omitted."""
    resume: Path | None = None
    """Continue the run in this folder, with the options it was started with. More --steps are possible with
    --schedule constant."""
    overwrite: bool = False
    """Replace an existing run folder."""
    backend: command_line.BackendName | None = None
    """Kernels to use; numba if omitted."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """On "cuda": what the factors of convolutions are rounded to; weights and sums stay float32."""
    cuda_graph: bool = True
    """On "cuda": launch each step as one graph, which reserves the memory of a step. Same results."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    given = sys.argv[1:] if arguments is None else arguments
    command_line.run(lambda: train(_parse(arguments), shlex.join(["python", "-m", "tinyunet.train", *given])))


def _parse(arguments: list[str] | None) -> Options:
    """The options; those of a resumed run default to the ones it was started with."""
    parse = partial(
        tyro.cli,
        Options,
        prog="python -m tinyunet.train",
        args=arguments,
        config=(tyro.conf.UseAppendAction,),
    )
    options: Options = parse()
    if options.resume is None:
        return options
    if options.out or options.overwrite:
        raise OptionError(
            f"--resume {options.resume} continues in that folder and overwrites nothing",
            remedy="leave out --out and --overwrite",
        )
    _, stored = load_last(RunFolder(options.resume))
    options = parse(default=Options(config=stored))
    for name in (f.name for f in fields(TrainConfig)):
        before, now = getattr(stored, name), getattr(options.config, name)
        if before != now and name not in CHANGEABLE:
            raise RunError(
                f"resume: {name} cannot change during a run",
                {"started with": before, "given": now},
                "leave the option out, or start another run",
            )
    if stored.schedule != "constant" and stored.steps != options.config.steps:
        raise RunError(
            f"resume: the schedule {stored.schedule!r} ends with the last step: other --steps change all "
            "learning rates",
            {"started with": f"--steps {stored.steps}", "given": f"--steps {options.config.steps}"},
            "leave the option out, or start another run; one with --schedule constant can be prolonged",
        )
    return options


def train(options: Options, command: str) -> None:
    """Train with a progress bar; `command` is what was typed, for the log."""
    # First: a backend that is missing is an error before anything is read or written.
    use_backend(options.backend or active_backend(), options.precision)
    config = options.config
    folder = RunFolder(options.resume or options.out or Path("runs") / _name_of(config.data))
    if not options.resume:
        folder.require_free(overwrite=options.overwrite)  # before anything is read
    images = read_data(config)
    print(f"{config.data}: {images.summary()}")
    trainer = Trainer(config, *split(images, config.holdout), cuda_graph=options.cuda_graph)
    for finding in diagnosis.warnings(trainer.setup):
        print(finding, file=sys.stderr)
    with ExitStack() as held:
        with command_line.writing(folder.path):
            held.enter_context(folder.locked())
        if options.resume:
            _continue(trainer, folder)
        else:
            folder.require_free(overwrite=options.overwrite)  # again: another process may have been faster
            with command_line.writing(folder.path):
                folder.create(asdict(config))
        record_training(trainer, folder, command)


def _continue(trainer: Trainer, folder: RunFolder) -> None:
    """Bring a trainer and the files of its run to the last checkpoint."""
    checkpoint, _ = load_last(folder)
    trainer.restore(checkpoint)
    steps = trainer.config.steps
    if steps < trainer.step:
        raise RunError(
            f"resume: {folder.path} has made more steps than --steps",
            {"made": trainer.step, "--steps": steps},
            "give more --steps, or leave the option out",
        )
    with command_line.writing(folder.path):
        if not folder.log.exists():
            missing = f"warning: {folder.log} is missing; the curves start at step {trainer.step}"
            print(missing, file=sys.stderr)
            folder.start_log()
        folder.forget_after(trainer.step)
        folder.write_config(asdict(trainer.config))


def _name_of(data: str) -> str:
    """The name of a set, for its run folder; "." gets the name of the folder that it stands for."""
    return Path(data).resolve().stem.replace(":", "-")


if __name__ == "__main__":
    main()
