"""python -m tests.campaigns.broken: break commands on purpose, and see whether the campaigns find it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from unittest.mock import patch

from tests.campaigns import forked, inputs, kills
from tests.campaigns.seeds import write_library


def _raise() -> None:
    raise KeyError("pixel_error")


def _hang() -> None:
    while True:
        pass


COMMANDS: dict[str, Callable[[], object]] = {  # by what the campaign has to call it
    "traceback": _raise,
    "signal 11": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "memory": lambda: bytearray(b"x") * (2**31 + 2**28),
    "changed files": lambda: Path("thesis.txt").write_text("touched"),
    "no message": lambda: sys.exit(2),
    "hang": _hang,
}


@contextmanager
def _written_in_place(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    with open(path, "wb") as file:
        yield file


RESUMING = {
    "a checkpoint that is not written whole": ("tinyunet.training.checkpoint.replacing", _written_in_place),
    "a log that is not cut back": (
        "tinyunet.training.run_folder.RunFolder.forget_after",
        lambda self, step: None,
    ),
    "a training that forgets its velocity": (
        "tinyunet.training.trainer.Trainer._load_optimiser",
        lambda self, velocity: None,
    ),
}


def main() -> None:
    """Break one thing at a time; prints what was not found, and the exit status is 1 if there is any."""
    with tempfile.TemporaryDirectory(prefix="tinyunet-broken-", dir=forked.SCRATCH) as place:
        missed = [*_commands(Path(place)), *_resuming(Path(place))]
    print("\n".join(f"not found: {name}" for name in missed) or "all were found")
    sys.exit(bool(missed))


def _commands(place: Path) -> Iterator[str]:
    library = place / "inputs"
    library.mkdir()
    forked.warm_up(library, write_library(library))
    for name, broken in COMMANDS.items():
        everything = dict.fromkeys(forked.COMMANDS, lambda arguments, broken=broken: broken())
        with (
            patch.dict(forked.COMMANDS, everything),
            # Only where the limit is what has to be found: memory takes long to get on a busy machine.
            patch.object(forked, "SECONDS", 4 if name == "hang" else forked.SECONDS),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            failures = inputs.campaign(library, place, 1, 1)
        if not (failures and failures[0].startswith(f"{name}: --seed 1 --only 0")):
            yield name


def _resuming(place: Path) -> Iterator[str]:
    reference = kills.make_reference(place / "kills")
    for name, (target, broken) in RESUMING.items():
        with patch(target, broken):
            if not _found(reference, place / "case"):
                yield name


def _found(reference: kills.Reference, case: Path) -> bool:
    """Kill at one operation after another, from the middle of the training on, until a run has a fault.

    In turn and not drawn: a moment drawn by time may miss the few that matter on a slow machine.
    """
    for operation in range(reference.operations // 2, reference.operations):
        run = kills.train_with([kills.Stop("killed at an operation", operation)], reference, case)
        shutil.rmtree(case)
        if run.faults:
            return True
    return False


if __name__ == "__main__":
    main()
