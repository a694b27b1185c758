"""A run that goes on from its last checkpoint: what may be different, and what its files become."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields

from tinyunet import command_line
from tinyunet.errors import RunError
from tinyunet.training.config import TrainConfig
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.stored_run import load_last
from tinyunet.training.trainer import Trainer

CHANGEABLE = {"steps", "validate_every", "patience"}  # the rest decided the steps made so far


def require_same_run(stored: TrainConfig, now: TrainConfig) -> None:
    """Raise a RunError unless a run that was started with the stored options can go on with these."""
    for name in (f.name for f in fields(TrainConfig)):
        before, given = getattr(stored, name), getattr(now, name)
        if before != given and name not in CHANGEABLE:
            raise cannot_change(name, before, given)
    if stored.steps == now.steps:
        return
    given = {"started with": f"--steps {stored.steps}", "given": f"--steps {now.steps}"}
    if stored.schedule != "constant":
        raise RunError(
            f"resume: the schedule {stored.schedule!r} ends with the last step: other --steps change all "
            "learning rates",
            given,
            "leave the option out, or start another run; one with --schedule constant can be prolonged",
        )
    if stored.fixed_statistics and stored.normalisation == "batch":
        raise RunError(
            f"resume: the last steps, {stored.fixed_statistics:g} of all, have fixed statistics: other "
            "--steps change which ones they are",
            given,
            "leave the option out, or start another run; one with --fixed-statistics 0 can be prolonged",
        )


def cannot_change(name: str, before: object, given: object) -> RunError:
    """Return the error for an option that has another value than that which the run was started with."""
    return RunError(
        f"resume: {name} cannot change during a run",
        {"started with": before, "given": given},
        "leave the option out, or start another run",
    )


def continue_run(trainer: Trainer, folder: RunFolder) -> None:
    """Bring a trainer and the files of its run to the last checkpoint."""
    checkpoint, _ = load_last(folder)
    trainer.restore(checkpoint)
    steps = trainer.config.steps
    if steps < trainer.step:
        raise RunError(
            f"resume: {folder.path} has made more steps than --steps",
            {"made": trainer.step, "--steps": steps},
            "give more --steps, or leave the option out",
        )
    with command_line.writing(folder.path):
        if not folder.log.exists():
            missing = f"warning: {folder.log} is missing; the curves start at step {trainer.step}"
            print(missing, file=sys.stderr)
            folder.start_log()
        folder.forget_after(trainer.step)
        folder.write_config(asdict(trainer.config))
