"""Follow runs from outside, while other processes train them: read their folders, and never write.

A run may not have begun, may be resumed or replaced by another, and its log may end in half a line.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyunet.training.progress import RECENT
from tinyunet.training.run_folder import RunFolder, parse_record
from tinyunet.training.validation import Scores

SILENT = 60.0  # seconds without a line after which a run may have stopped, unless its steps take as long
DEEPEST = ("log.jsonl", "*/log.jsonl", "*/*/log.jsonl")  # a run; runs in a folder; folds of runs in a folder


class FollowedLog:
    """A log that grows. It reads what is new, and all of it again if the log was replaced.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    records : list of dict
        Of the complete lines so far.
    damaged : int
        How many lines were left out, because they are no records.
    """

    def __init__(self, path: Path):
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.damaged = 0
        self._end, self._last_line = 0, b""

    def update(self) -> None:
        """Read the lines that were added."""
        try:
            with self.path.open("rb") as file:
                # A run that is resumed or replaced writes another line here: lines hold times.
                file.seek(self._end - len(self._last_line))
                if file.read(len(self._last_line)) != self._last_line:
                    self._forget()
                    file.seek(0)
                lines = file.readlines()
        except OSError:  # it has not begun, or was removed
            self._forget()
            return
        for line in lines:
            if not line.endswith(b"\n"):  # half a line: its other half comes later
                break
            self._end, self._last_line = self._end + len(line), line
            try:
                self.records.append(parse_record(line))
            except ValueError:
                self.damaged += 1


@dataclass(frozen=True)
class Snapshot:
    """What a run's folder tells at one moment.

    Attributes
    ----------
    path : Path
    log : sequence of dict
    damaged : int
        How many lines of the log could not be read.
    config : dict
        Its options; empty while it has none.
    examples : float or None
        When its picture of predictions was drawn, in seconds; None if there is none.
    silent : float
        Seconds since the last line of the log.
    """

    path: Path
    log: Sequence[dict[str, Any]]
    damaged: int
    config: dict[str, Any]
    examples: float | None
    silent: float

    @property
    def key(self) -> str:
        """A short name of the path, for links."""
        return hashlib.sha256(str(self.path).encode(errors="replace")).hexdigest()[:12]

    def records(self, *events: str) -> list[dict[str, Any]]:
        """The log's records of these events."""
        return [record for record in self.log if record["event"] in events]

    @property
    def step(self) -> int:
        """The step that was made last."""
        return max((record["step"] for record in self.log), default=0)

    @property
    def steps(self) -> int | None:
        """How many steps it is to make; None if that is not known."""
        return _whole(self.config.get("steps"))

    @property
    def loss(self) -> float | None:
        """The mean loss of the last steps."""
        losses = [record["loss"] for record in self.records("step")[-RECENT:]]
        return statistics.fmean(losses) if losses else None

    @property
    def best(self) -> dict[str, Any] | None:
        """The validation with the best scores, by the rule that chooses the checkpoint."""
        scored = [record for record in self.records("validation") if record["mean_iou"] is not None]
        return max(scored, key=_rank, default=None)

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """Collapses, and the plateau if it lasts."""
        left = [record["since"] for record in self.records("plateau left")]
        collapses, plateaus = self.records("collapsed"), self.records("plateau")
        return collapses[-1:] + [record for record in plateaus[-1:] if record["step"] not in left]

    @property
    def state(self) -> str:
        """One of waiting, training, silent, finished."""
        if not self.log:
            return "waiting"
        if self.log[-1]["event"] == "finished":
            return "finished"
        return "silent" if self.silent > SILENT + 3 * self._longest_pause else "training"

    @property
    def seconds_left(self) -> float | None:
        """The time for the steps and validations that are left, if they take as long as the last ones."""
        seconds = [record["seconds"] for record in self.records("step")[-RECENT:]]
        if self.state != "training" or not seconds or self.steps is None:
            return None
        steps_left = max(self.steps - self.step, 0)
        each = _whole(self.config.get("validate_every")) or max(self.steps, 1)
        validations = [record["seconds"] for record in self.records("validation")[-3:]]
        validating = statistics.fmean(validations) if validations else 0.0
        left = steps_left * statistics.median(seconds) + math.ceil(steps_left / each) * validating
        return left if math.isfinite(left) else None

    @property
    def _longest_pause(self) -> float:
        """The longest of the last steps and validations: so long it is normal to hear nothing."""
        return max((record["seconds"] for record in self.records("step", "validation")[-RECENT:]), default=0)


def _rank(record: dict[str, Any]) -> tuple[bool, float]:
    iou = record.get("iou")  # not in the logs of older versions
    known = tuple(value for value in iou if isinstance(value, float | int)) if isinstance(iou, list) else ()
    return Scores(0.0, known, record["mean_iou"]).rank


def _whole(value: object) -> int | None:
    """A positive whole number, or None."""
    return value if isinstance(value, int) and 0 < value < 2**53 else None


class Follower:
    """Follows runs, and finds those that begin in the meantime.

    Parameters
    ----------
    paths : sequence of Path
        Runs, or folders of runs; they need not exist yet.
    """

    def __init__(self, paths: Sequence[Path]):
        self._paths = paths
        self._logs: dict[Path, FollowedLog] = {}

    def snapshots(self, now: float) -> list[Snapshot]:
        """Read all runs as they are now, which is in seconds since the epoch."""
        runs = list(dict.fromkeys(run for path in self._paths for run in _runs(path)))
        self._logs = {run: self._logs.get(run) or FollowedLog(RunFolder(run).log) for run in runs}
        for log in self._logs.values():
            log.update()
        return [_snapshot(run, log, now) for run, log in self._logs.items()]


def _runs(path: Path) -> Iterable[Path]:
    """The runs that a path names, in the order of their names; itself if there are none yet."""
    for pattern in DEEPEST:
        with suppress(OSError):
            if found := sorted((log.parent for log in path.glob(pattern)), key=_natural):
                return found
    return [path]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """The key of the order in which fold-10 comes after fold-9."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def _snapshot(run: Path, log: FollowedLog, now: float) -> Snapshot:
    folder = RunFolder(run)
    changed, drawn = _time_of(folder.log), _time_of(folder.examples)
    silent = max(now - changed, 0.0) if changed is not None else 0.0
    return Snapshot(run, list(log.records), log.damaged, _config(folder), drawn, silent)


def _time_of(file: Path) -> float | None:
    """When a file was last written; None if there is none."""
    try:
        return file.stat().st_mtime
    except OSError:
        return None


def _config(folder: RunFolder) -> dict[str, Any]:
    try:
        config = json.loads(folder.config.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
