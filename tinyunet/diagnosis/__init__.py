"""What would go wrong with a data set, found before training: one small check for each trap.

A check looks at a `Trainer` that has made no step (its training and held-out images, the tile and the weights
that it would use) and yields findings. `CHECKS` lists them all; `diagnose` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tinyunet.diagnosis.copies import check_duplicates
from tinyunet.diagnosis.finding import Finding, Severity
from tinyunet.diagnosis.images import (
    check_bit_depth,
    check_constant,
    check_equal_channels,
    check_saturation,
    check_size,
)
from tinyunet.diagnosis.labels import (
    SAMPLED,
    check_absent_classes,
    check_balance,
    check_kind,
    check_objects,
    check_touching,
    check_unknown,
    check_unlabelled,
)
from tinyunet.sampling import Sample
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.trainer import Trainer

__all__ = ["CHECKS", "Finding", "diagnose", "telling_samples", "warnings"]

CHECKS: tuple[Callable[[Trainer], Iterator[Finding]], ...] = (
    check_kind,
    check_unlabelled,
    check_unknown,
    check_absent_classes,
    check_objects,
    check_constant,
    check_equal_channels,
    check_saturation,
    check_bit_depth,
    check_balance,
    check_size,
    check_duplicates,
    check_touching,
)


def diagnose(trainer: Trainer) -> list[Finding]:
    """All findings, the gravest first.

    Parameters
    ----------
    trainer : Trainer
        Made from the images and the options that training would use.
    """
    findings = [finding for check in CHECKS for finding in check(trainer)]
    order: tuple[Severity, ...] = ("problem", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def warnings(trainer: Trainer) -> list[Finding]:
    """The findings that are more than a note."""
    return [finding for finding in diagnose(trainer) if finding.severity != "note"]


def telling_samples(trainer: Trainer) -> dict[str, Sample]:
    """The tile with the most border among the first samples, as in the file and as training sees it."""
    as_filed = Trainer(
        replace(trainer.config, augmentation=Augmentation.off()), trainer.train, trainer.validation
    ).sampler
    samples = {step: as_filed.sample(step) for step in range(min(SAMPLED, len(trainer.train)))}
    step = max(samples, key=lambda step: float(samples[step].weight.sum()))
    return {"as in the file": samples[step], "augmented": trainer.sampler.sample(step)}
