"""A run's folder: its configuration, its log, its checkpoints and pictures.

config.json        the options
log.jsonl          a line of JSON for each start (when, where, with which versions), step and validation
best.safetensors   the checkpoint with the best score on the held-out images
last.safetensors   the newest checkpoint: --resume continues from it
curves.png         loss and scores
examples.png       held-out images, their labels and their predictions
report.html        all of it on one page, if python -m tinyunet.report wrote it
layers.npz         the images and labels, if they are layers of napari
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinyunet.data.atomic_write import make_folder, write_text
from tinyunet.errors import RunError
from tinyunet.training.json_types import mismatch

# What the readers of the log use of each event. A line with less is damaged.
RECORDS: dict[str, dict[str, Any]] = {
    "started": {
        "at": str,
        "command": str,
        "backend": str,
        "machine": dict[str, Any],
        "versions": dict[str, Any],
    },
    "step": {"loss": float, "seconds": float, "waited": float},
    "validation": {"mean_iou": float | None, "pixel_error": float | None, "seconds": float},
    "collapsed": {"what": str, "numbers": dict[str, Any], "remedy": str},
    "plateau": {"what": str, "numbers": dict[str, Any], "remedy": str},
    "plateau left": {"since": int},
    "finished": {},
}


class RunFolder:
    """Paths and log of one run.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path):
        self.path = path
        self.config, self.log = path / "config.json", path / "log.jsonl"
        self.best, self.last = path / "best.safetensors", path / "last.safetensors"
        self.curves, self.examples = path / "curves.png", path / "examples.png"
        self.report, self.layers = path / "report.html", path / "layers.npz"

    def require_free(self, *, overwrite: bool) -> None:
        """Raise a RunError unless the folder is new or empty, or holds a run that may be overwritten.

        Layers to train on are put there before the run starts, and do not count.
        """
        if not self.path.exists() or (self.path.is_dir() and set(self.path.iterdir()) <= {self.layers}):
            return
        if not ((self.config.is_file() and self.log.is_file()) or self._holds_a_start()):
            raise RunError(
                f"{self.path}: not a run folder (config.json and log.jsonl), nothing was overwritten",
                remedy="choose another --out",
            )
        if not overwrite:
            raise RunError(
                f"{self.path}: this run folder exists, nothing was overwritten",
                remedy=f"choose another --out, continue with --resume {self.path}, or give --overwrite",
            )

    def require_checkpoint(self) -> None:
        """Raise a RunError if this is a run that was stopped before its first checkpoint was written."""
        if self.last.exists() or not self._has_config():
            return
        try:
            log = self.read_log()
        except RunError:
            log = []
        steps = [record["step"] for record in log if record["event"] == "step"]
        started = [record["command"] for record in log if record["event"] == "started"]
        raise RunError(
            f"{self.last}: no such checkpoint, the run was stopped before its first one",
            {"steps made": max(steps, default=0), "started with": started[-1] if started else "not logged"},
            "start it again, with --overwrite; a smaller --validate-every writes checkpoints more often",
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes from training in it during the ``with`` block.

        The lock belongs to the folder itself, so no file is left over; the system drops it when the process
        ends, however it ends. Without effect on Windows and on file systems that have no such locks.

        Raises
        ------
        RunError
            Another process holds it.
        """
        make_folder(self.path)
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{self.path}: another process is training in this folder",
                    remedy="wait until it has ended, or choose another --out",
                ) from None
            except OSError:  # NFS, for one, locks no folders
                pass
            yield
        finally:
            os.close(descriptor)

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder and remove the files of an older run; other files stay."""
        make_folder(self.path)
        self.remove_results()
        self.write_config(config)
        self.start_log()

    def remove_results(self) -> None:
        """Remove checkpoints, pictures and page, so that no later run is taken for an older one."""
        for file in (self.best, self.last, self.curves, self.examples, self.report):
            file.unlink(missing_ok=True)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the options, for people to read."""
        write_text(self.config, json.dumps(config, indent=2) + "\n", durable=True)

    def start_log(self) -> None:
        """Write an empty log."""
        write_text(self.log, "", durable=True)

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the log.

        Raises
        ------
        FileNotFoundError
            The log was removed.
        """
        with open(os.open(self.log, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def sync_log(self) -> None:
        """Wait until the log is on the disk: a checkpoint must not be newer than what it belongs to."""
        with self.log.open("ab") as file:
            os.fsync(file.fileno())

    def read_log(self) -> list[dict[str, Any]]:
        """Read all complete lines of the log.

        Raises
        ------
        RunError
            A line is damaged.
        """
        if not self.log.exists():
            return []
        lines = self.log.read_bytes().splitlines(keepends=True)
        return [self._record(n, line) for n, line in enumerate(lines, 1) if line.endswith(b"\n")]

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            return parse_record(line)
        except ValueError as error:
            raise RunError(
                f"{self.log}: line {number} is damaged",
                {"reason": error},
                "delete the line: only curves and reports use the log, not the checkpoints",
            ) from error

    def forget_after(self, step: int) -> None:
        """Drop the log's lines after a step: a run that is resumed there writes them again."""
        kept = [record for record in self.read_log() if record["step"] <= step]
        write_text(self.log, "".join(json.dumps(record) + "\n" for record in kept), durable=True)

    def _holds_a_start(self) -> bool:
        """Find out whether the folder holds only what a run leaves when it is killed as it starts."""
        if not self.path.is_dir():
            return False
        whole = {self.config.name, self.log.name}
        names = {file.name for file in self.path.iterdir()}
        if not names <= whole | {f"{name}.part" for name in whole}:
            return False
        return self._has_config() if self.config.exists() else names == {f"{self.config.name}.part"}

    def _has_config(self) -> bool:
        """Find out whether config.json holds the options of a training."""
        try:
            config = json.loads(self.config.read_bytes())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(config, dict) and {"data", "steps", "tile"} <= config.keys()


def parse_record(line: bytes) -> dict[str, Any]:
    """Parse a line of the log.

    Raises
    ------
    ValueError
        It is no JSON, or no record that the readers of the log can use; the reason.
    """
    try:
        record: dict[str, Any] = json.loads(line)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if reason := _mismatch(record):
        raise ValueError(reason)
    return record


def _mismatch(record: Any) -> str:
    """Describe what is wrong with a record, "" if nothing is."""
    if reason := mismatch(record, dict[str, Any], "the line"):
        return reason
    for name, type_ in {"event": str, "step": int}.items():
        if reason := mismatch(record.get(name), type_, name):
            return reason
    expected = RECORDS.get(record["event"])
    if expected is None:
        return f"the event {record['event']!r} is unknown"
    for name, type_ in expected.items():
        if name not in record:  # None may be a value
            return f"{name} is missing"
        if reason := mismatch(record[name], type_, name):
            return reason
    return ""
