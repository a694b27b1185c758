"""A run's folder: its configuration, its log, its checkpoints and pictures.

config.json        what was asked for
log.jsonl          a line of JSON for each start (when, where, with which versions), step and validation
best.safetensors   the checkpoint with the best score on the held-out images
last.safetensors   the newest checkpoint: --resume goes on from it
curves.png         loss and scores
examples.png       held-out images, their labels, and what the network makes of them
report.html        all of it on one page, when python -m tinyunet.report was asked for it
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
                f"{self.path}: not the folder of a run (which has config.json and log.jsonl), "
                "nothing was overwritten",
                remedy="choose another --out",
            )
        if not overwrite:
            raise RunError(
                f"{self.path}: this run folder exists, nothing was overwritten",
                remedy=f"choose another --out, go on with --resume {self.path}, or give --overwrite",
            )

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder, without what an older run wrote; files that are not a run's stay."""
        self.path.mkdir(parents=True, exist_ok=True)
        for file in (self.best, self.last, self.curves, self.examples, self.report):
            file.unlink(missing_ok=True)
        self.write_config(config)
        self.log.write_text("")

    def write_config(self, config: dict[str, Any]) -> None:
        """Write what was asked for; for people to read."""
        self.config.write_text(json.dumps(config, indent=2) + "\n")

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the log."""
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """All complete lines of the log.

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
        except ValueError as error:  # no JSON, or no text
            raise RunError(
                f"{self.log}: line {number} is damaged",
                {"reason": error},
                "take the line out: the log is for curves and reports, the checkpoints do without",
            ) from error
        return record

    def forget_after(self, step: int) -> None:
        """Drop the log's lines beyond a step: a run that is resumed there will write them again."""
        kept = [record for record in self.read_log() if record["step"] <= step]
        beside = self.log.with_name(self.log.name + ".part")
        beside.write_text("".join(json.dumps(record) + "\n" for record in kept))
        beside.replace(self.log)
