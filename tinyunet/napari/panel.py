"""What the widgets share: a form, work in another thread, its progress, and errors in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from magicgui.widgets import ComboBox, Container, Widget
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from tinyunet import command_line
from tinyunet.errors import TinyUNetError

Report = Callable[[object], None]
Stopping = Callable[[], bool]
Work = Callable[[Report, Stopping], None]


class Cancelled(Exception):
    """Raised by work that was asked to stop and leaves no result."""


class Job(QObject):
    """Work in another thread.

    Parameters
    ----------
    work : callable
        Called there with two functions: the first takes what is `reported` in the thread of the widgets; the
        second tells whether the work shall stop, because `stop` was called or napari is being closed.
    """

    reported = Signal(object)
    failed = Signal(str)
    """A mistake that the user can correct, in words. Other errors reach napari with their traceback."""
    ended = Signal()

    def __init__(self, work: Work):
        super().__init__()
        self._work, self._stopping = work, False
        self._worker: Any = create_worker(self._run, _start_thread=False)
        self._worker.finished.connect(self.ended)

    def start(self) -> None:
        """Start the thread."""
        self._worker.start()

    def stop(self) -> None:
        """Ask the work to stop."""
        self._stopping = True

    def _run(self) -> None:
        try:
            self._work(self.reported.emit, lambda: self._stopping or self._worker.abort_requested)
        except Cancelled:
            pass
        except (TinyUNetError, OSError, MemoryError) as error:
            self.failed.emit(command_line.explain(error))


def choose_layer(viewer: Any, kind: type, label: str) -> ComboBox:
    """Make a choice among the viewer's layers of a kind."""
    return ComboBox(
        label=label, choices=lambda _: [layer for layer in viewer.layers if isinstance(layer, kind)]
    )


def placement(layer: Any) -> dict[str, Any]:
    """Return where a layer lies in the viewer's world, for a layer that is to lie on it."""
    return {name: getattr(layer, name) for name in ("scale", "translate", "rotate", "shear")}


def _disconnect(event: Any, callback: Callable[..., None], *destroyed: QObject) -> None:
    event.disconnect(callback)


class Panel(QWidget):
    """A form above buttons, a progress bar and a line of text.

    Parameters
    ----------
    viewer : napari.Viewer
    fields : sequence of magicgui widgets
        The form; it follows the layers of the viewer.
    """

    def __init__(self, viewer: Any, fields: Sequence[Widget]):
        super().__init__()
        self.viewer = viewer
        self.job: Job | None = None
        self._form = Container(widgets=list(fields))
        self.bar, self.text = QProgressBar(), QLabel()
        self.bar.setVisible(False)
        self.text.setWordWrap(True)
        self._buttons = QHBoxLayout()
        self.box = QVBoxLayout(self)
        self.box.addWidget(self._form.native)
        self.box.addLayout(self._buttons)
        self.box.addWidget(self.bar)
        self.box.addWidget(self.text)
        self.box.addStretch()
        self._starters: list[QPushButton] = []
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            event.connect(self._follow_layers)
            self.destroyed.connect(partial(_disconnect, event, self._follow_layers))

    def add_button(self, text: str, action: Callable[[], None], *, stops: bool = False) -> QPushButton:
        """Add a button; one that stops is enabled while there is work, the others while there is none."""
        button = QPushButton(text)
        button.clicked.connect(action)
        button.setEnabled(not stops)
        self._buttons.addWidget(button)
        if stops:
            self._stopper = button
        else:
            self._starters.append(button)
        return button

    def start(self, work: Work) -> None:
        """Start work in another thread; what it reports goes to `on_report`."""
        self.job = job = Job(work)
        job.reported.connect(self.on_report)
        job.failed.connect(self.on_failure)
        job.ended.connect(self.on_end)
        self.destroyed.connect(job.stop)
        self._show_running(True)
        self.bar.setRange(0, 0)  # busy, until the first report says how much there is
        job.start()

    def stop(self) -> None:
        """Ask the work to stop."""
        if self.job is not None:
            self.job.stop()
            self.text.setText("stopping …")

    def on_report(self, report: Any) -> None:
        """Show what the work reported."""
        raise NotImplementedError

    def on_failure(self, message: str) -> None:
        """Show an error in words, as a notification that stays and in the panel."""
        self.text.setText(message)
        show_error(message)

    def progress(self, done: int, total: int) -> None:
        """Move the bar."""
        self.bar.setRange(0, total)
        self.bar.setValue(done)

    def on_end(self) -> None:
        """Let the next work be started."""
        self._show_running(False)

    def _show_running(self, running: bool) -> None:
        self.bar.setVisible(running)
        self._stopper.setEnabled(running)
        for button in self._starters:
            button.setEnabled(not running)

    def _follow_layers(self, event: Any = None) -> None:
        self._form.reset_choices()
