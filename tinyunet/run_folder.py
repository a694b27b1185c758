"""A run's folder: its configuration, its log, its checkpoints and pictures.

config.json        what was asked for
log.jsonl          a line of JSON for each step and each validation
best.safetensors   the checkpoint with the best score on the held-out images
last.safetensors   the newest checkpoint: --resume goes on from it
curves.png         loss and scores
examples.png       held-out images, their labels, and what the network makes of them
"""

from __future__ import annotations

import json
import shutil
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

    def require_free(self, *, overwrite: bool) -> None:
        """Raise a RunError if the folder exists, unless it is a run's and may be overwritten."""
        if self.path.exists() and not overwrite:
            raise RunError(
                f"{self.path}: this run folder exists, nothing was overwritten",
                remedy=f"choose another --out, go on with --resume {self.path}, or give --overwrite",
            )
        if self.path.exists() and not self.config.is_file():
            raise RunError(
                f"{self.path}: not the folder of a run (no config.json in it), nothing was overwritten",
                remedy="choose another --out",
            )

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder, in place of an older one, and write what was asked for; for people to read."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        self.config.write_text(json.dumps(config, indent=2) + "\n")

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the log."""
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """All complete lines of the log."""
        if not self.log.exists():
            return []
        lines = self.log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def forget_after(self, step: int) -> None:
        """Drop the log's lines beyond a step: a run that is resumed there will write them again."""
        kept = [record for record in self.read_log() if record["step"] <= step]
        self.log.write_text("".join(json.dumps(record) + "\n" for record in kept))
