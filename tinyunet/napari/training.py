"""Train on layers; without napari. What trains and records is what the command `tinyunet.train` uses.

The images of the layers are stored in the run's folder, as layers.npz, and the run is one of
``python -m tinyunet.train --data RUN/layers.npz``: the other commands take it, and `--resume` continues it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyunet import command_line, diagnosis, train
from tinyunet.data import ImageSet, LabelKind
from tinyunet.data.holdout import held_out_indices
from tinyunet.napari.layers import LayerSet, Output, Place, as_labels, stored_places
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.reporting import plots
from tinyunet.reporting.recorder import recorded, store
from tinyunet.training.config import read_data
from tinyunet.training.events import Event, Finished, Stepped, Validated
from tinyunet.training.run_folder import RunFolder

DRAWING_SHARE = 0.05  # of the time, at most, goes into the curves


@dataclass(frozen=True)
class Said:
    """A line of text: what was inferred about the images."""

    text: str


@dataclass(frozen=True)
class Warned:
    """A warning of the doctor, about the images or the options."""

    text: str


@dataclass(frozen=True)
class Started:
    """The first step is about to be made."""

    step: int
    """Steps that were made before, by a run that is resumed."""
    steps: int
    command: str
    """The command that repeats the run."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """The curves of the run so far."""

    png: bytes


@dataclass(frozen=True, eq=False)
class Preview:
    """The prediction of the first held-out images."""

    step: int
    shape: tuple[int, ...]
    """Shape of the labels layer."""
    pieces: list[tuple[Place, NDArray[np.int32]]]


@dataclass(frozen=True)
class Stopped:
    """The run was asked to stop; its checkpoint is stored."""

    step: int


Report = Event | Said | Warned | Started | Drawn | Preview | Stopped


@dataclass(frozen=True)
class Choices:
    """What a user chooses for a new run.

    Attributes
    ----------
    run : Path
        Its folder, new or empty.
    minutes, steps
        When to end: one of them is None.
    kind : {"binary", "classes", "instances"} or None
        The meaning of the labels; None infers it.
    unknown : int or None
        The value of pixels that nobody labelled. None: only -1 means unknown, and 0 is background.
    extra : tuple of str
        More options of `tinyunet.train`.
    """

    run: Path
    minutes: float | None = None
    steps: int | None = None
    kind: LabelKind | None = None
    unknown: int | None = None
    extra: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """Return the options of `tinyunet.train`."""
        given = {
            "--minutes": self.minutes,
            "--steps": self.steps,
            "--kind": self.kind,
            "--ignore": self.unknown,
        }
        words = ["--data", str(RunFolder(self.run).layers), "--out", str(self.run)]
        words += [word for name, value in given.items() if value is not None for word in (name, str(value))]
        return [*words, *self.extra]


def train_on_layers(layers: LayerSet, choices: Choices, stopping: Callable[[], bool]) -> Iterator[Report]:
    """Start a run; yield what happens.

    Parameters
    ----------
    layers : LayerSet
    choices : Choices
    stopping : callable
        Asked after each step whether to store a checkpoint and stop.

    Raises
    ------
    TinyUNetError
        As by the command: the folder is not free, the labels can be read in two ways, the loss diverges…
    """
    folder = RunFolder(choices.run)
    folder.require_free(overwrite=False)
    with command_line.writing(folder.layers):
        layers.save(folder.layers)
    yield from _train(choices.arguments(), stopping)


def resume(run: Path, stopping: Callable[[], bool]) -> Iterator[Report]:
    """Continue a run that was stopped, whether it was started here or by the command."""
    yield from _train(["--resume", str(run)], stopping)


def _train(arguments: list[str], stopping: Callable[[], bool]) -> Iterator[Report]:
    options = train.parse(arguments)
    images = read_data(options.config)
    yield Said(images.summary())
    command = shlex.join(["python", "-m", "tinyunet.train", *arguments])
    options, command = train.decide(options, images, command)
    trainer = train.make_trainer(options.config, images, options)
    yield from (Warned(str(finding)) for finding in diagnosis.warnings(trainer.setup))
    path = options.resume or options.out
    assert path is not None
    folder, rule = RunFolder(path), ObjectRule.of(trainer.training_set)
    preview = _Previews(images, options.config.holdout, rule)
    with train.open_run(trainer, options, folder):
        yield Started(trainer.step, trainer.config.steps, command)
        curves = _Curves(folder)
        for event in recorded(trainer, folder, command):
            yield event
            if isinstance(event, Validated):
                yield from preview.of(event)
            yield from curves.after(event)
            if isinstance(event, Stepped) and stopping():
                store(trainer, folder)
                yield Stopped(trainer.step)
                return


class _Previews:
    """From the probabilities of a validation to labels at their places in the layer."""

    def __init__(self, images: ImageSet, holdout: str, rule: ObjectRule):
        self._output: Output = "objects" if images.kind == "instances" else "classes"
        self._table, self._stored = images.class_table, stored_places(Path(images.source))
        self._held_out, self._rule = held_out_indices(len(images), holdout), rule

    def of(self, event: Validated) -> Iterator[Preview]:
        """Yield the preview; none of a run that was not started on layers."""
        if self._stored is None:
            return
        places, shape = self._stored
        labels = [
            as_labels(probabilities, self._output, self._table, self._rule)
            for probabilities in event.examples
        ]
        pieces = [(places[index], label) for index, label in zip(self._held_out, labels, strict=False)]
        yield Preview(event.step, shape, pieces)


class _Curves:
    """The curves of a run, drawn again as often as `DRAWING_SHARE` allows, in the thread that trains.

    Matplotlib is not safe to use in two threads at once, and the recorder draws here, too.
    """

    def __init__(self, folder: RunFolder):
        self._folder, self._due = folder, time.perf_counter()

    def after(self, event: Event) -> Iterator[Drawn]:
        started = time.perf_counter()
        if isinstance(event, Stepped) and started < self._due:
            return
        if isinstance(event, Stepped | Validated | Finished):
            yield Drawn(plots.curves_as_png(self._folder.read_log()))
            ended = time.perf_counter()
            self._due = ended + (ended - started) / DRAWING_SHARE
