"""A run's folder: its configuration, its log, its checkpoints and pictures.

config.json        the options
log.jsonl          a line of JSON for each start (when, where, with which versions), step and validation
best.safetensors   the checkpoint with the best score on the held-out images
last.safetensors   the newest checkpoint: --resume continues from it
curves.png         loss and scores
examples.png       held-out images, their labels and their predictions
report.html        all of it on one page, if python -m tinyunet.report wrote it
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinyunet.atomic_write import write_text
from tinyunet.errors import RunError


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
        self.report = path / "report.html"

    def require_free(self, *, overwrite: bool) -> None:
        """Raise a RunError unless the folder is new or empty, or holds a run that may be overwritten."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not (self.config.is_file() and self.log.is_file()):
            raise RunError(
                f"{self.path}: not a run folder (config.json and log.jsonl), nothing was overwritten",
                remedy="choose another --out",
            )
        if not overwrite:
            raise RunError(
                f"{self.path}: this run folder exists, nothing was overwritten",
                remedy=f"choose another --out, continue with --resume {self.path}, or give --overwrite",
            )

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder and remove the files of an older run; other files stay."""
        self.path.mkdir(parents=True, exist_ok=True)
        for file in (self.best, self.last, self.curves, self.examples, self.report):
            file.unlink(missing_ok=True)
        self.write_config(config)
        write_text(self.log, "")

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the options, for people to read."""
        write_text(self.config, json.dumps(config, indent=2) + "\n")

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the log."""
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")

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
            record: dict[str, Any] = json.loads(line)
        except ValueError as error:  # not JSON, or not text
            raise RunError(
                f"{self.log}: line {number} is damaged",
                {"reason": error},
                "delete the line: only curves and reports use the log, not the checkpoints",
            ) from error
        return record

    def forget_after(self, step: int) -> None:
        """Drop the log's lines after a step: a run that is resumed there writes them again."""
        kept = [record for record in self.read_log() if record["step"] <= step]
        write_text(self.log, "".join(json.dumps(record) + "\n" for record in kept))
