"""Find what would go wrong in training on a data set, before training: one small check for each trap.

A check looks at a `Setup` (training and held-out images, the tile, the samples that training would use) and
yields findings. `CHECKS` lists the checks; `diagnose` runs them. `propose` measures the images, and proposes
options for a training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from tinyunet.backend.threads import on_all_cores
from tinyunet.diagnosis.copies import check_duplicates
from tinyunet.diagnosis.decisions import Decision, decide
from tinyunet.diagnosis.finding import Finding, Severity
from tinyunet.diagnosis.images import (
    check_bit_depth,
    check_constant,
    check_equal_channels,
    check_files,
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
from tinyunet.diagnosis.light import check_light, is_lit_from_one_side
from tinyunet.diagnosis.magnification import check_pixel_sizes
from tinyunet.diagnosis.proposal import Proposal, propose
from tinyunet.diagnosis.walls import find_walls
from tinyunet.sampling import Sample
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.setup import Setup

__all__ = [
    "CHECKS",
    "Decision",
    "Finding",
    "Proposal",
    "decide",
    "diagnose",
    "example_samples",
    "find_walls",
    "is_lit_from_one_side",
    "propose",
    "warnings",
]

AT_START = 2  # images to train on, and held-out ones, of a set that is read as needed

CHECKS: tuple[Callable[[Setup], Iterator[Finding]], ...] = (
    check_kind,
    check_unlabelled,
    check_unknown,
    check_absent_classes,
    check_objects,
    check_constant,
    check_equal_channels,
    check_saturation,
    check_bit_depth,
    check_files,
    check_balance,
    check_size,
    check_pixel_sizes,
    check_duplicates,
    check_touching,
    check_light,
)
# Those that find nothing graver than a note.
NOTES = (check_kind, check_equal_channels, check_files, check_touching, check_light)


def diagnose(setup: Setup) -> list[Finding]:
    """Run all checks; returns their findings, the gravest first.

    Parameters
    ----------
    setup : Setup
        The images and the options that training would use. Of images that are read as needed a few are looked
        at, and the findings are about these.
    """
    return _found(setup.looked_at(), CHECKS)


def _found(setup: Setup, checks: Iterable[Callable[[Setup], Iterator[Finding]]]) -> list[Finding]:
    """Run some checks; returns their findings, the gravest first."""
    findings = itertools.chain.from_iterable(on_all_cores(lambda check: list(check(setup)), checks))
    order: tuple[Severity, ...] = ("problem", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def warnings(setup: Setup) -> list[Finding]:
    """Run the checks that may find more than a note; returns such findings.

    Of images that are read as needed very few are looked at, because a training waits for it.
    """
    graver = (check for check in CHECKS if check not in NOTES)
    return [finding for finding in _found(setup.looked_at(AT_START), graver) if finding.severity != "note"]


def example_samples(setup: Setup) -> dict[str, Sample]:
    """The tile with the most border among the first samples: as in the file, and as training sees it."""
    unchanged = replace(setup.config, augmentation=Augmentation.off())
    sampler = Setup(unchanged, setup.training_set, setup.validation_set).sampler
    samples = {step: sampler.sample(step) for step in range(min(SAMPLED, len(setup.training_set)))}
    step = max(samples, key=lambda step: float(samples[step].weight.sum()))
    return {"as in the file": samples[step], "augmented": setup.sampler.sample(step)}
