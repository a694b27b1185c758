"""Record a training: listen to a trainer, show its progress, and write its run folder."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet import command_line
from tinyunet.backend import active_backend, active_precision
from tinyunet.data import class_labels, normalise
from tinyunet.errors import DataError
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.reporting import environment
from tinyunet.reporting.progress import step_bar
from tinyunet.training.checkpoint import save_checkpoint
from tinyunet.training.events import Collapsed, Event, Finished, Plateau, PlateauLeft, Stepped, Validated
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.trainer import EXAMPLES, Trainer

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C; a batch system or docker stop; a terminal that is gone


def record_training(trainer: Trainer, folder: RunFolder, command: str) -> None:
    """Make the remaining steps of a run, shown on the screen and recorded in its folder.

    Parameters
    ----------
    trainer : Trainer
    folder : RunFolder
        Holds the trainer's configuration: it was just created, or the run goes on in it.
    command : str
        The command that repeats the run, for the log.

    Raises
    ------
    KeyboardInterrupt
        The run was stopped with Ctrl-C, SIGTERM or SIGHUP, whose number is the argument; the step was
        finished and its checkpoint is stored. The second time it stops at once and stores nothing.
    DataError
        An image of a set that is read as needed cannot be read; the checkpoint is stored.
    """
    print(_introduction(trainer), flush=True)
    with _stop_after_step() as stopping:
        try:
            if trainer.ranks.is_first:
                _follow(trainer, folder, command, stopping)
            else:
                _accompany(trainer, stopping)
        except DataError as error:  # by a file that was read when it was needed
            if trainer.ranks.is_first:
                store(trainer, folder)
            raise DataError(
                f"{error}\n  stopped after step {trainer.step}; once the file is put right, go on with "
                f"--resume {folder.path}"
            ) from error


def recorded(trainer: Trainer, folder: RunFolder, command: str) -> Iterator[Event]:
    """Make the remaining steps of a run, and yield each event once it is recorded in the run's folder.

    Nothing is shown, and no signal is caught, so it runs in any thread. To stop a run, leave the loop and
    call `store`: it can then go on from there.

    Parameters
    ----------
    trainer, folder, command
        As in `record_training`.
    """
    _log(folder, _started(trainer, command), trainer.step)
    for event in trainer.run():
        record(event, trainer, folder)
        if isinstance(event, Finished):
            _draw_missing_pictures(trainer, folder)
        yield event


def store(trainer: Trainer, folder: RunFolder) -> None:
    """Write the checkpoint from which a run that stops between two validations can go on."""
    with command_line.writing(folder.log):
        folder.sync_log()
    save_checkpoint(folder.last, trainer.checkpoint())


def _started(trainer: Trainer, command: str) -> dict[str, Any]:
    """The log's record of a start: when, where, by which command and with which versions."""
    return {
        "event": "started",
        "step": trainer.step,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "backend": active_backend(),
        "precision": active_precision(),
        "processes": trainer.ranks.size,
        "machine": environment.machine(),
        "versions": environment.versions(),
    }


def _introduction(trainer: Trainer) -> str:
    parameters = sum(parameter.data.size for parameter in trainer.model.parameters())
    weights = ", ".join(f"{weight:.2f}" for weight in trainer.sampler.class_weights)
    return (
        f"{len(trainer.training_set)} images to train on, {len(trainer.validation_set)} held out; "
        f"tiles {trainer.input_size} -> {trainer.output_size}; {parameters:,} parameters; "
        f"class weights {weights}"
    )


def _follow(trainer: Trainer, folder: RunFolder, command: str, stopping: Callable[[], int]) -> None:
    """Show the events of a run, each after it was recorded, because the terminal may be gone."""
    with step_bar(trainer.config.steps, trainer.step) as bar:
        for event in recorded(trainer, folder, command):
            if isinstance(event, Stepped):
                if number := max(trainer.ranks.from_all(stopping())):
                    store(trainer, folder)
                    with _showing():
                        bar.close()
                        print(f"stopped after step {trainer.step}; go on with --resume {folder.path}")
                    raise trainer.ranks.agreed(KeyboardInterrupt(number))
                with _showing():
                    bar.set_postfix(loss=f"{event.loss:.3f}", refresh=False)
                    bar.update()
            elif isinstance(event, Validated):
                with _showing():
                    bar.write(_validation_line(event, len(trainer.validation_set)))
            elif isinstance(event, Collapsed | Plateau | PlateauLeft):
                with _showing():
                    bar.write(str(event), file=sys.stderr)
            else:
                with _showing():
                    bar.write(f"finished at step {event.step}: {event.reason}")
    if folder.best.exists():
        progress = trainer.progress
        print(f"best mean IoU {progress.best_score:.4f} at step {progress.best_step}; see")
        for path in (folder.curves, folder.examples, folder.best):
            print(f"  {path}")


def _accompany(trainer: Trainer, stopping: Callable[[], int]) -> None:
    """Make the steps that the first rank shows and records, and stop where it stops."""
    for event in trainer.run():
        if isinstance(event, Stepped) and (number := max(trainer.ranks.from_all(stopping()))):
            raise trainer.ranks.agreed(KeyboardInterrupt(number))


def record(event: Event, trainer: Trainer, folder: RunFolder) -> None:
    """Write an event into the run's folder: a line of the log; for a validation checkpoints and pictures."""
    _log(folder, _log_record(event), event.step)
    if isinstance(event, Validated):
        _save_checkpoints(event, trainer, folder)
        _draw_pictures(event.step, event.examples, trainer, folder)


def _showing() -> AbstractContextManager[None]:
    """Go on without a terminal that is gone, or a pipe that no one reads: the training is worth more."""
    return suppress(OSError)


def _log(folder: RunFolder, record: dict[str, Any], step: int) -> None:
    """Add a line to the log; if someone has removed it, say so and start another."""
    with command_line.writing(folder.log):
        try:
            folder.append(record)
        except FileNotFoundError:
            folder.start_log()
            folder.append(record)
            with _showing():
                print(f"warning: {folder.log} was removed; another starts at step {step}", file=sys.stderr)


def _log_record(event: Event) -> dict[str, Any]:
    if isinstance(event, Stepped):
        return {"event": "step", **asdict(event)}
    if isinstance(event, Validated):
        scores = asdict(event.scores)
        return {"event": "validation", "step": event.step, **scores, "seconds": event.seconds}
    if isinstance(event, Collapsed):
        return {"event": "collapsed", **asdict(event)}
    if isinstance(event, Plateau):
        return {"event": "plateau", **asdict(event)}
    if isinstance(event, PlateauLeft):
        return {"event": "plateau left", **asdict(event)}
    return {"event": "finished", **asdict(event)}


def _validation_line(event: Validated, images: int) -> str:
    scores = event.scores
    classes = " ".join("none" if iou is None else f"{iou:.4f}" for iou in scores.iou)
    return (
        f"step {event.step:>5}: pixel error {scores.pixel_error:.4f}, IoU by class {classes}, "
        f"mean {scores.mean_iou:.4f}{' (best)' if event.is_best else ''}; "
        f"{images} held-out images in {event.seconds:.1f} s"
    )


def _save_checkpoints(event: Validated, trainer: Trainer, folder: RunFolder) -> None:
    """Save the best one first: once `last` knows of it, a resumed run does not write it again."""
    checkpoint = trainer.checkpoint()
    with command_line.writing(folder.log):
        folder.sync_log()
    if event.is_best:
        save_checkpoint(folder.best, replace(checkpoint, optimiser={}))
    save_checkpoint(folder.last, checkpoint)


def _draw_missing_pictures(trainer: Trainer, folder: RunFolder) -> None:
    """Draw the pictures that a killed process has not drawn after its last checkpoint."""
    pictures, last = (folder.curves, folder.examples), folder.last.stat().st_mtime
    if all(picture.exists() and picture.stat().st_mtime >= last for picture in pictures):
        return
    images = trainer.validation_set.images[:EXAMPLES]
    examples = [predict_tiled(trainer.model, normalise(image), tile=trainer.config.tile) for image in images]
    _draw_pictures(trainer.step, examples, trainer, folder)


def _draw_pictures(
    step: int, examples: Sequence[NDArray[np.float32]], trainer: Trainer, folder: RunFolder
) -> None:
    """Draw curves and examples, after the checkpoints: a failed picture must not cost a training."""
    from tinyunet.reporting import plots  # here, because Matplotlib takes long to import

    held_out = trainer.validation_set
    assert held_out.labels is not None
    assert held_out.kind is not None
    with command_line.writing(folder.curves):
        plots.plot_curves(folder.read_log(), folder.curves)
    with command_line.writing(folder.examples):
        plots.plot_examples(
            held_out.images[:EXAMPLES],
            [class_labels(labels, held_out.kind) for labels in held_out.labels[:EXAMPLES]],
            examples,
            folder.examples,
            title=f"held-out images at step {step}",
        )


@contextmanager
def _stop_after_step() -> Iterator[Callable[[], int]]:
    """Make Ctrl-C, SIGTERM and SIGHUP set a flag that is checked between steps; no step is left half done.

    Yields a function that gives the signal's number, 0 before. A second signal interrupts at once.
    """
    received: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt(number)
        with suppress(OSError, RuntimeError):  # the terminal is gone, or is just being written to
            print("\nstopping after this step (Ctrl-C again: at once, without saving)", file=sys.stderr)

    known = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]  # Windows has no SIGHUP
    before = {number: signal.getsignal(number) for number in known}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN or number == signal.SIGINT:  # nohup ignores SIGHUP
            signal.signal(number, on_signal)
    try:
        yield lambda: received[0] if received else 0
    except Exception as error:
        if len(received) > 1:  # code outside Python may turn an interrupt into any error
            raise KeyboardInterrupt(received[-1]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
