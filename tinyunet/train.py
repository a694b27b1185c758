"""python -m tinyunet.train: train a network on a set of labelled images."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from tinyunet import command_line, diagnosis
from tinyunet.backend import active_backend, active_precision, use_backend
from tinyunet.data import class_labels, split
from tinyunet.errors import OptionError, RunError
from tinyunet.reporting import environment
from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint
from tinyunet.training.config import TrainConfig, read_data
from tinyunet.training.events import Collapsed, Event, Stepped, Validated
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.stored_run import stored_config
from tinyunet.training.trainer import Trainer

MAY_CHANGE = {"steps", "validate_every", "patience"}  # by --resume: the rest decides the steps made before


@dataclass(frozen=True)
class Options:
    """Train a network on labelled images, or on synthetic ones that need no download.

    Writes into the run's folder: config.json, log.jsonl, best and last checkpoint, curves.png, examples.png.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    out: Path | None = None
    """The run's folder; runs/NAME-OF-THE-DATA when left out. One that holds files is refused."""
    resume: Path | None = None
    """Go on with the run in this folder, with the options it was started with."""
    overwrite: bool = False
    """Replace a run's folder that exists."""
    backend: Literal["numba", "numpy", "cuda", "cuda-emulated"] | None = None
    """Which kernels run; numba when left out."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Of convolutions on "cuda": what their factors are rounded to; weights and sums stay float32."""
    cuda_graph: bool = True
    """On "cuda": launch each step as one graph, which keeps the memory of a step for itself. Same results."""


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    given = sys.argv[1:] if arguments is None else arguments
    command_line.run(lambda: train(_parse(arguments), shlex.join(["python", "-m", "tinyunet.train", *given])))


def _parse(arguments: list[str] | None) -> Options:
    """The options; those of a resumed run are the defaults that it was started with."""
    options = tyro.cli(Options, prog="python -m tinyunet.train", args=arguments)
    if options.resume is None:
        return options
    if options.out or options.overwrite:
        raise OptionError(
            f"--resume {options.resume} goes on in that folder and overwrites nothing",
            remedy="leave out --out and --overwrite",
        )
    stored = stored_config(load_checkpoint(RunFolder(options.resume).last), options.resume)
    options = tyro.cli(
        Options, prog="python -m tinyunet.train", args=arguments, default=Options(config=stored)
    )
    for name in (f.name for f in fields(TrainConfig)):
        before, now = getattr(stored, name), getattr(options.config, name)
        if before != now and name not in MAY_CHANGE:
            raise RunError(
                f"resume: {name} cannot change during a run",
                {"started with": before, "given": now},
                "leave the option out, or start another run",
            )
    return options


def train(options: Options, command: str) -> None:
    """Train as the options say, with a progress bar; `command` is what was typed, for the log."""
    # Now, before anything is read or written.
    use_backend(options.backend or active_backend(), options.precision)
    config = options.config
    folder = RunFolder(options.resume or options.out or Path("runs") / _name_of(config.data))
    if not options.resume:
        folder.require_free(overwrite=options.overwrite)
    images = read_data(config)
    print(f"{config.data}: {images.summary()}")
    trainer = Trainer(config, *split(images, config.holdout), cuda_graph=options.cuda_graph)
    for finding in diagnosis.warnings(trainer.setup):
        print(finding, file=sys.stderr)
    if options.resume:
        trainer.restore(load_checkpoint(folder.last))
        if config.steps < trainer.step:
            raise RunError(
                f"resume: {folder.path} has made more steps than it is to make",
                {"made": trainer.step, "--steps": config.steps},
                "give more --steps, or leave them out",
            )
        with command_line.writing(folder.path):
            folder.forget_after(trainer.step)
            folder.write_config(asdict(config))
    else:
        with command_line.writing(folder.path):
            folder.create(asdict(config))
    run(trainer, folder, command)


def _name_of(data: str) -> str:
    """Of a set, for its run's folder; "." is called as the folder that it stands for."""
    return Path(data).resolve().stem.replace(":", "-")


def run(trainer: Trainer, folder: RunFolder, command: str) -> None:
    """Make the remaining steps, shown on the screen and recorded in the folder; Ctrl-C ends the command.

    Parameters
    ----------
    trainer : Trainer
    folder : RunFolder
        With the trainer's configuration: just created, or the one that it goes on in.
    command : str
        What was typed, for the log.
    """
    with command_line.writing(folder.log):
        folder.append(_started(trainer.step, command))
    _introduce(trainer)
    with _stop_after_step() as interrupted:
        _follow(trainer, folder, interrupted)


def _started(step: int, command: str) -> dict[str, Any]:
    """The log's record of who starts, or goes on, when, where and how."""
    return {
        "event": "started",
        "step": step,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "backend": active_backend(),
        "precision": active_precision(),
        "machine": environment.machine(),
        "versions": environment.versions(),
    }


def _introduce(trainer: Trainer) -> None:
    parameters = sum(parameter.data.size for parameter in trainer.model.parameters())
    weights = ", ".join(f"{weight:.2f}" for weight in trainer.sampler.class_weights)
    print(
        f"{len(trainer.training_set)} images to train on, {len(trainer.validation_set)} held out; "
        f"tiles {trainer.input_size} -> {trainer.output_size}; {parameters:,} parameters; "
        f"class weights {weights}",
        flush=True,
    )


def _follow(trainer: Trainer, folder: RunFolder, interrupted: list[bool]) -> None:
    """Listen to the trainer: bar, log, checkpoints, pictures."""
    bar = tqdm(
        total=trainer.config.steps, initial=trainer.step, unit="step", dynamic_ncols=True, disable=None
    )
    with bar:
        for event in trainer.run():
            with command_line.writing(folder.log):
                _log(event, folder)
            if isinstance(event, Stepped):
                bar.set_postfix(loss=f"{event.loss:.3f}", refresh=False)
                bar.update()
                if interrupted[0]:
                    save_checkpoint(folder.last, trainer.checkpoint())
                    bar.close()
                    print(f"stopped after step {trainer.step}; go on with --resume {folder.path}")
                    sys.exit(130)
            elif isinstance(event, Validated):
                bar.write(_told(event, trainer))
                _keep(event, trainer, folder)
            elif isinstance(event, Collapsed):
                bar.write(str(event), file=sys.stderr)
            else:
                bar.write(f"finished at step {event.step}: {event.reason}")
    if folder.best.exists():
        progress = trainer.progress
        print(f"best mean IoU {progress.best_score:.4f} at step {progress.best_step}; see")
        for path in (folder.curves, folder.examples, folder.best):
            print(f"  {path}")


def _told(event: Validated, trainer: Trainer) -> str:
    scores = event.scores
    classes = " ".join(f"{iou:.4f}" for iou in scores.iou)
    return (
        f"step {event.step:>5}: pixel error {scores.pixel_error:.4f}, IoU by class {classes}, "
        f"mean {scores.mean_iou:.4f}{' (best)' if event.is_best else ''}; "
        f"{len(trainer.validation_set)} held-out images in {event.seconds:.1f} s"
    )


def _keep(event: Validated, trainer: Trainer, folder: RunFolder) -> None:
    """Checkpoints first: a picture that fails must not cost a training.

    Of them the best first: once `last` says that the best was seen, a resumed run does not make it again.
    """
    checkpoint = trainer.checkpoint()
    if event.is_best:
        save_checkpoint(folder.best, replace(checkpoint, velocity={}))
    save_checkpoint(folder.last, checkpoint)

    from tinyunet.reporting import plots  # here, because matplotlib takes long to import

    held_out = trainer.validation_set
    assert held_out.labels is not None
    assert held_out.kind is not None
    with command_line.writing(folder.curves):
        plots.plot_curves(folder.read_log(), folder.curves)
    with command_line.writing(folder.examples):
        plots.plot_examples(
            held_out.images,
            [class_labels(labels, held_out.kind) for labels in held_out.labels],
            event.examples,
            folder.examples,
            title=f"held-out images at step {event.step}",
        )


def _log(event: Event, folder: RunFolder) -> None:
    record: dict[str, Any]
    if isinstance(event, Stepped):
        record = {"event": "step", **asdict(event)}
    elif isinstance(event, Validated):
        scores = asdict(event.scores)
        record = {"event": "validation", "step": event.step, **scores, "seconds": event.seconds}
    elif isinstance(event, Collapsed):
        record = {"event": "collapsed", **asdict(event)}
    else:
        record = {"event": "finished", **asdict(event)}
    folder.append(record)


@contextmanager
def _stop_after_step() -> Iterator[list[bool]]:
    """Ctrl-C sets a flag that is checked between steps, so no step is left half done. Twice: stop at once."""
    interrupted, twice = [False], False

    def on_interrupt(number: int, frame: Any) -> None:
        nonlocal twice
        if interrupted[0]:
            twice = True
            raise KeyboardInterrupt
        interrupted[0] = True
        print("\nstopping after this step (Ctrl-C again: at once, without saving)", file=sys.stderr)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    except Exception as error:
        if twice:  # in code that is not Python's an interrupt can become any error
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    main()
