import math
from dataclasses import replace

import numpy as np
import pytest
from skimage.draw import disk

import tinyunet as tu
from tinyunet.data import ImageSet
from tinyunet.errors import OptionError
from tinyunet.prediction import segmentation
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.segmentation import segment


def image_set(*labels, kind="instances"):
    images = [np.zeros((*label.shape, 1), np.uint8) for label in labels]
    names = [str(number) for number in range(len(images))]
    return ImageSet(images, names, list(labels), kind, 2, "made up")


def discs(radius, count=20, side=400):
    """Discs that lie apart, numbered from 1."""
    labels = np.zeros((side, side), np.int32)
    centres = [(y, x) for y in range(40, side, 80) for x in range(40, side, 80)]
    for number, centre in enumerate(centres[:count], 1):
        labels[disk(centre, radius)] = number
    return labels


@pytest.mark.parametrize("radius", [6, 12, 30])
def test_depth_is_a_sixth_of_the_radius(radius):
    rule = ObjectRule.of(image_set(discs(radius), discs(radius)))
    assert rule.split_depth == pytest.approx(max(1, radius / 6), rel=0.05)


def test_a_rule_for_a_scaled_image_is_that_of_its_objects():
    """Discs whose areas are multiplied by four; shallow necks do not become shallower."""
    rule, of_large = (ObjectRule.of(image_set(discs(radius))) for radius in (15, 30))
    scaled = rule.scaled((2, 2))
    assert scaled.min_size == pytest.approx(of_large.min_size, rel=0.02)
    assert scaled.split_depth == pytest.approx(of_large.split_depth)
    assert ObjectRule(10, 0.5).scaled((1, 1)) == ObjectRule(10, 0.5)
    assert ObjectRule(10, 2.0).scaled((0.2, 0.1)) == ObjectRule(0, 1.0)
    assert ObjectRule(10, None).scaled((2, 2)) == ObjectRule(40, None)


def test_one_object_in_twenty_may_be_smaller_than_the_smallest():
    """An area is that of a number in an image, whichever images have it too."""
    areas = np.arange(1, 101) * 3
    labels = [np.repeat(np.arange(51), [10, *part])[None].astype(np.int32) for part in np.split(areas, 2)]
    rule = ObjectRule.of(image_set(*labels))
    assert rule.min_size == int(np.percentile(areas, 5)) == 17
    assert rule.split_depth == pytest.approx(max(1, math.sqrt(np.median(areas) / math.pi) / 6), abs=0.05)


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_labels_that_number_no_objects_leave_the_default(kind):
    assert ObjectRule.of(image_set((discs(9) > 0).astype(np.int32), kind=kind)) == ObjectRule()
    assert ObjectRule.of(image_set(np.zeros((9, 9), np.int32))) == ObjectRule()


def test_unknown_pixels_are_no_object():
    labels = discs(9)
    labels[:20] = -1
    assert ObjectRule.of(image_set(labels)) == ObjectRule.of(image_set(np.maximum(labels, 0)))


def test_networks_that_predict_together():
    rules = [ObjectRule(10, 1.0), ObjectRule(21, 2.0)]
    assert ObjectRule.mean(rules) == ObjectRule(16, 1.5)
    assert ObjectRule.mean([*rules, ObjectRule(10, None)]).split_depth is None


@pytest.mark.parametrize("values", [{"min_size": -1}, {"split_depth": 0.0}, {"split_depth": math.nan}])
def test_impossible_rules(values):
    with pytest.raises(OptionError, match=next(iter(values))):
        replace(ObjectRule(), **values)


@pytest.mark.parametrize(
    ("rule", "objects"),
    [
        (ObjectRule(10, 1.0), 3),
        (ObjectRule(26, 1.0), 2),  # without the speck
        (ObjectRule(10, 6.0), 2),  # in one piece
        (ObjectRule(26, None), 1),
    ],
    ids=str,
)
def test_the_rule_decides_what_is_kept_and_cut(monkeypatch, rule, objects):
    """Two discs of radius 18 with a neck that is 4.6 pixels deep, and a speck of 25 pixels."""
    mask = np.zeros((60, 120), bool)
    for centre in ((30, 30), (30, 54)):
        mask[disk(centre, 18)] = True
    mask[2:7, 100:105] = True
    probabilities = np.stack([~mask, mask], axis=2).astype(np.float32)
    monkeypatch.setattr(segmentation, "predict_tiled", lambda *_, **__: probabilities)
    found = segment([tu.UNet(base_channels=1, depth=1)], mask[..., None], tile=60, rule=rule)
    assert found.objects.max() == objects
