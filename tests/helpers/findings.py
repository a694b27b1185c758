"""A small sound set of images, and what the checks of a diagnosis find in it."""

import numpy as np
from scipy import ndimage

from tinyunet.data import ImageSet
from tinyunet.training.config import TrainConfig
from tinyunet.training.setup import Setup

SIDE = 48
TINY = {"base_channels": 2, "depth": 1, "tile": 32}


def textures(n, side=SIDE, seed=0):
    """Smooth noise in 8 bits, all images different."""
    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.normal(size=(side, side, 1)), (3, 3, 0)) for _ in range(n)]
    return [(128 + 30 * image / image.std()).clip(0, 250).astype(np.uint8) for image in smooth]


def cells(apart=2, side=SIDE):
    """Four numbered squares in the middle, so many pixels of background between them."""
    labels = np.zeros((side, side), np.int32)
    for number, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)], 1):
        top, left = 10 + y * (12 + apart), 10 + x * (12 + apart)
        labels[top : top + 12, left : left + 12] = number
    return labels


def setup(images=None, labels=None, *, kind="instances", num_classes=2, held_out=1, **options):
    """What a check looks at, with the last images held out. Four sound images unless given."""
    images = textures(4) if images is None else images
    labels = [cells() for _ in images] if labels is None else labels
    names = [f"i{number}" for number in range(len(images))]
    whole = ImageSet(images, names, labels, kind=kind, num_classes=num_classes)
    cut = len(images) - held_out
    parts = whole.subset(range(cut)), whole.subset(range(cut, len(images)))
    return Setup(TrainConfig(**{**TINY, **options}), *parts)


def found(check, *arguments, **options):
    """Severity and text of each finding of one check."""
    return [(finding.severity, str(finding)) for finding in check(setup(*arguments, **options))]


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def grave(findings):
    return [text for severity, text in findings if severity != "note"]
