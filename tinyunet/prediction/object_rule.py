"""Decides which connected pixels are one object, by the sizes of the objects that a network was trained on.

Two numbers decide: below how many pixels something is a speck, and how deep a neck must be to cut there.
Both depend on how large the objects are. On three sets of `experiments.peers` (typical radii of 9, 21 and 23
pixels, one network each), necks of 1 to 1.5, of 3 to 6 and of 3 to 4 pixels gave the best average precision:
about a sixth of the radius.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyunet.data import ImageSet
from tinyunet.errors import OptionError
from tinyunet.metrics.mistakes import SMALLEST_OBJECT

SPECKS = 5  # percent of the training objects that are smaller than the smallest object to keep
SHALLOWEST, PER_RADIUS = 1.0, 1 / 6  # depth of a neck: pixels, the step of distances; parts of a radius


@dataclass(frozen=True)
class ObjectRule:
    """What `label_instances` keeps and where it cuts.

    Attributes
    ----------
    min_size : int
        Smallest object to keep, in pixels.
    split_depth : float or None
        How deep a neck must be to cut there, in pixels of distance to the background; None never cuts.
    """

    min_size: int = SMALLEST_OBJECT
    split_depth: float | None = 1.0

    def __post_init__(self) -> None:
        if self.min_size < 0:
            raise OptionError(f"min_size is {self.min_size}, expected at least 0")
        if self.split_depth is not None and not 0 < self.split_depth < math.inf:
            raise OptionError(f"split_depth is {self.split_depth}, expected a number above 0")

    def __str__(self) -> str:
        cut = "never cut" if self.split_depth is None else f"cut at necks {self.split_depth:g} pixels deep"
        return f"objects from {self.min_size} pixels, {cut}"

    @classmethod
    def of(cls, images: ImageSet) -> ObjectRule:
        """Derive the rule from the objects of a set; the default one unless its labels number objects.

        Objects are kept if they are at least as large as the smallest but 5 % of the set's. Necks are deep
        if they are deeper than a sixth of the typical radius, that of a disc of the median area. Of a set
        that is read as needed, the objects of the images `looked_at` count.

        Examples
        --------
        >>> from tinyunet.data import synthetic_cells
        >>> ObjectRule.of(synthetic_cells(n=3, size=200, seed=0)).min_size
        201
        """
        if images.kind != "instances" or images.labels is None:
            return cls()
        labels_looked_at = images.looked_at.labels
        assert labels_looked_at is not None
        areas = [np.unique(labels[labels > 0], return_counts=True)[1] for labels in labels_looked_at]
        area = np.concatenate(areas)
        if not area.size:
            return cls()
        radius = math.sqrt(float(np.median(area)) / math.pi)
        depth = max(SHALLOWEST, round(PER_RADIUS * radius, 1))
        return cls(min_size=int(np.percentile(area, SPECKS)), split_depth=depth)

    def scaled(self, factors: tuple[float, float]) -> ObjectRule:
        """Return the rule for an image whose height and width were multiplied by factors.

        A neck does not become shallower than `SHALLOWEST`, unless it was.

        >>> ObjectRule(min_size=30, split_depth=1.5).scaled((2.0, 2.0))
        ObjectRule(min_size=120, split_depth=3.0)
        """
        area, depth = factors[0] * factors[1], self.split_depth
        if depth is not None:
            depth = max(min(depth, SHALLOWEST), depth * math.sqrt(area))
        return ObjectRule(round(area * self.min_size), depth)

    @classmethod
    def mean(cls, rules: Sequence[ObjectRule]) -> ObjectRule:
        """Average the rules of networks that predict together."""
        depths = [rule.split_depth for rule in rules]
        known = [depth for depth in depths if depth is not None]
        return cls(
            min_size=round(sum(rule.min_size for rule in rules) / len(rules)),
            split_depth=sum(known) / len(known) if len(known) == len(depths) else None,
        )
