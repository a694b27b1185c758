"""Record a training: listen to a trainer, show its progress, and write its run folder."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

from tinyunet import command_line
from tinyunet.backend import active_backend, active_precision
from tinyunet.data import class_labels
from tinyunet.reporting import environment
from tinyunet.training.checkpoint import save_checkpoint
from tinyunet.training.events import Collapsed, Event, Stepped, Validated
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.trainer import Trainer


def record_training(trainer: Trainer, folder: RunFolder, command: str) -> None:
    """Make the remaining steps of a run, shown on the screen and recorded in its folder.

    Parameters
    ----------
    trainer : Trainer
    folder : RunFolder
        Holds the trainer's configuration: it was just created, or the run goes on in it.
    command : str
        The command as it was typed, for the log.

    Raises
    ------
    KeyboardInterrupt
        The user stopped the run with Ctrl-C; the step was finished and its checkpoint is stored. Pressed
        twice, it stops at once and stores nothing.
    """
    with command_line.writing(folder.log):
        folder.append(_started(trainer.step, command))
    print(_introduction(trainer), flush=True)
    with _interrupt_after_step() as interrupted:
        _follow(trainer, folder, interrupted)


def _started(step: int, command: str) -> dict[str, Any]:
    """The log's record of a start: when, where, by which command and with which versions."""
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


def _introduction(trainer: Trainer) -> str:
    parameters = sum(parameter.data.size for parameter in trainer.model.parameters())
    weights = ", ".join(f"{weight:.2f}" for weight in trainer.sampler.class_weights)
    return (
        f"{len(trainer.training_set)} images to train on, {len(trainer.validation_set)} held out; "
        f"tiles {trainer.input_size} -> {trainer.output_size}; {parameters:,} parameters; "
        f"class weights {weights}"
    )


def _follow(trainer: Trainer, folder: RunFolder, interrupted: Callable[[], bool]) -> None:
    """Run the trainer; turn each event into progress, log lines, checkpoints and pictures."""
    bar = tqdm(
        total=trainer.config.steps, initial=trainer.step, unit="step", dynamic_ncols=True, disable=None
    )
    with bar:
        for event in trainer.run():
            with command_line.writing(folder.log):
                folder.append(_log_record(event))
            if isinstance(event, Stepped):
                bar.set_postfix(loss=f"{event.loss:.3f}", refresh=False)
                bar.update()
                if interrupted():
                    save_checkpoint(folder.last, trainer.checkpoint())
                    bar.close()
                    print(f"stopped after step {trainer.step}; go on with --resume {folder.path}")
                    raise KeyboardInterrupt
            elif isinstance(event, Validated):
                bar.write(_validation_line(event, len(trainer.validation_set)))
                _save_checkpoints(event, trainer, folder)
                _draw_pictures(event, trainer, folder)
            elif isinstance(event, Collapsed):
                bar.write(str(event), file=sys.stderr)
            else:
                bar.write(f"finished at step {event.step}: {event.reason}")
    if folder.best.exists():
        progress = trainer.progress
        print(f"best mean IoU {progress.best_score:.4f} at step {progress.best_step}; see")
        for path in (folder.curves, folder.examples, folder.best):
            print(f"  {path}")


def _log_record(event: Event) -> dict[str, Any]:
    if isinstance(event, Stepped):
        return {"event": "step", **asdict(event)}
    if isinstance(event, Validated):
        scores = asdict(event.scores)
        return {"event": "validation", "step": event.step, **scores, "seconds": event.seconds}
    if isinstance(event, Collapsed):
        return {"event": "collapsed", **asdict(event)}
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
    if event.is_best:
        save_checkpoint(folder.best, replace(checkpoint, velocity={}))
    save_checkpoint(folder.last, checkpoint)


def _draw_pictures(event: Validated, trainer: Trainer, folder: RunFolder) -> None:
    """Draw curves and examples, after the checkpoints: a failed picture must not cost a training."""
    from tinyunet.reporting import plots  # here, because Matplotlib takes long to import

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


@contextmanager
def _interrupt_after_step() -> Iterator[Callable[[], bool]]:
    """Make Ctrl-C set a flag that is checked between steps, so that no step is left half done.

    Yields a function that says whether it is set. Pressed twice, Ctrl-C interrupts at once.
    """
    pressed = 0

    def on_interrupt(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt
        print("\nstopping after this step (Ctrl-C again: at once, without saving)", file=sys.stderr)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: pressed > 0
    except Exception as error:
        if pressed > 1:  # code outside Python may turn an interrupt into any error
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
