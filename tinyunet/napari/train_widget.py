"""The widget that trains on an image layer and a labels layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import ComboBox, FileEdit, FloatSpinBox, SpinBox
from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_warning
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QLabel

from tinyunet.data import LabelKind
from tinyunet.napari.layers import layer_set
from tinyunet.napari.panel import Panel, Report, Stopping, choose_layer, placement
from tinyunet.napari.training import (
    Choices,
    Drawn,
    Preview,
    Said,
    Started,
    Stopped,
    Warned,
    resume,
    train_on_layers,
)
from tinyunet.training.events import Collapsed, Finished, Plateau, PlateauLeft, Stepped, Validated

if TYPE_CHECKING:
    import napari

KINDS: dict[str, LabelKind | None] = {
    "as their values say": None,
    "a mask": "binary",
    "classes": "classes",
    "objects": "instances",
}
PREVIEW = "prediction of held-out images"


class TrainWidget(Panel):
    """Train a network on an image layer and the labels drawn on it.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer):
        self.image = choose_layer(napari_viewer, Image, "image")
        self.labels = choose_layer(napari_viewer, Labels, "labels")
        self.kind = ComboBox(label="labels are", choices=list(KINDS))
        self.zero = ComboBox(label="0 means", choices=["background", "not labelled"])
        self.run = FileEdit(mode="d", label="run folder")
        self.unit = ComboBox(label="train for", choices=["minutes", "steps"])
        self.minutes = FloatSpinBox(label="minutes", value=5, min=0.05, max=10000, step=1)
        self.steps = SpinBox(label="steps", value=1000, min=1, max=10_000_000)
        fields = [
            self.image,
            self.labels,
            self.kind,
            self.zero,
            self.run,
            self.unit,
            self.minutes,
            self.steps,
        ]
        super().__init__(napari_viewer, fields)
        self._placement: dict[str, Any] = {}
        self.unit.changed.connect(self._show_unit)
        self._show_unit()
        self.add_button("Train", self.train)
        self.add_button("Go on", self.go_on)
        self.add_button("Stop", self.stop, stops=True)
        self.curves = QLabel()
        self.box.insertWidget(self.box.count() - 1, self.curves)

    def train(self) -> None:
        """Start a new run on the chosen layers."""
        image, labels = self.image.value, self.labels.value
        if image is None or labels is None:
            show_error("open an image, and draw labels on it, first")
            return
        by_time = self.unit.value == "minutes"
        choices = Choices(
            run=Path(self.run.value).absolute(),
            minutes=self.minutes.value if by_time else None,
            steps=None if by_time else self.steps.value,
            kind=KINDS[self.kind.value],
            unknown=0 if self.zero.value == "not labelled" else None,
        )
        pixels = image.data[0] if image.multiscale else image.data
        ignore = () if choices.unknown is None else (choices.unknown,)
        numbers = np.array(labels.data)  # a copy: drawing goes on

        def reports(stopping: Stopping) -> Iterator[object]:
            layers = layer_set(pixels, numbers, rgb=image.rgb, ignore=ignore)
            return train_on_layers(layers, choices, stopping)

        self._placement = placement(labels)
        self._follow(reports)

    def go_on(self) -> None:
        """Continue the run in the chosen folder."""
        run = Path(self.run.value).absolute()
        self._follow(lambda stopping: resume(run, stopping))

    def _follow(self, reports: Callable[[Stopping], Iterator[object]]) -> None:
        def work(report: Report, stopping: Stopping) -> None:
            for something in reports(stopping):
                report(something)

        self.text.setText("reading …")
        self.start(work)

    def on_report(self, report: Any) -> None:
        """Show what happened."""
        match report:
            case Said(text):
                self.text.setText(text)
            case Warned(text):
                show_warning(text)
            case Started(step, steps, command):
                self.progress(step, steps)
                self.text.setToolTip(command)
            case Stepped():
                self.bar.setValue(report.step)
                self.bar.setFormat(f"step %v of %m, loss {report.loss:.3f}")
            case Validated():
                best = " (best)" if report.is_best else ""
                self.text.setText(f"step {report.step}: mean IoU {report.scores.mean_iou:.3f}{best}")
            case Preview():
                self._show_preview(report)
            case Drawn(png):
                pixels = QPixmap()
                pixels.loadFromData(png)
                self.curves.setPixmap(pixels)
            case Collapsed() | Plateau() | PlateauLeft():
                self.text.setText(str(report))
            case Stopped(step):
                self.text.setText(f"stopped after step {step}; “Go on” continues the run in this folder")
            case Finished():
                self.text.setText(f"{self.text.text()}\nfinished at step {report.step}: {report.reason}")

    def _show_preview(self, preview: Preview) -> None:
        """Put predictions of held-out images into a layer of their own, and turn to the first of them."""
        shown = [layer for layer in self.viewer.layers if layer.name == PREVIEW]
        if not shown or shown[0].data.shape != preview.shape:
            empty = np.zeros(preview.shape, np.int32)
            layer = self.viewer.add_labels(empty, name=PREVIEW, opacity=0.5, **self._placement)
            for axis, index in enumerate(preview.pieces[0][0][:-2]):
                self.viewer.dims.set_current_step(axis, index.start)
        else:
            layer = shown[0]
        for place, labels in preview.pieces:
            layer.data[place] = labels
        layer.refresh()

    def _show_unit(self) -> None:
        self.minutes.visible = self.unit.value == "minutes"
        self.steps.visible = self.unit.value == "steps"
