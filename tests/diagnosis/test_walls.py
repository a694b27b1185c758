"""Thin walls between objects, and the trainings that weight the borders there."""

import shlex

import numpy as np
import pytest
from skimage.draw import disk

from tinyunet import train
from tinyunet.data import UNKNOWN, ImageSet
from tinyunet.diagnosis import find_walls, propose
from tinyunet.diagnosis.proposal import DECIDED
from tinyunet.diagnosis.walls import Walls
from tinyunet.sampling import WeightMap
from tinyunet.training.recipes import recipe


def image_set(*masks):
    images = [np.uint8(255 * (mask > 0))[..., None] for mask in masks]
    return ImageSet(images, [f"i{n}" for n in range(len(masks))], list(masks), "binary", 2)


def walls(side=300, apart=50, thickness=5):
    """Square cells on a grid of dark walls, as their mask."""
    inside = np.arange(side) % apart >= thickness
    return (inside[:, None] & inside).astype(np.int32)


def dots(apart):
    """Small discs on a grid, and one large one: the background is near some object everywhere."""
    mask = np.zeros((300, 300), np.int32)
    for y in range(5, 300, apart):
        for x in range(5, 300, apart):
            mask[disk((y, x), 3, shape=mask.shape)] = 1
    mask[disk((150, 150), 60)] = 1
    return mask


MEMBRANES = image_set(walls(), walls())


def test_the_sizes_of_walls_and_objects():
    """Walls 5 px wide have pixels at distances 1, 2 and 3 from the cells, which are 45 px wide."""
    found = find_walls(MEMBRANES)
    assert found == Walls(5, pytest.approx(45, abs=1))


@pytest.mark.parametrize(
    "mask",
    [walls(thickness=15), dots(14), dots(60), np.zeros((90, 90), np.int32), np.ones((90, 90), np.int32)],
    ids=["broad walls", "small objects near a large one", "objects apart", "no objects", "no background"],
)
def test_other_backgrounds_are_no_walls(mask):
    assert find_walls(image_set(mask)) is None


def test_unknown_pixels_are_neither_walls_nor_objects():
    labels = walls()
    labels[:, :155] = UNKNOWN  # up to a cell
    found = find_walls(image_set(labels))
    assert found == Walls(5, pytest.approx(45, abs=1))


def test_a_proposal_weights_their_borders():
    proposal = propose(MEMBRANES, recipe())
    assert proposal.config.weights == WeightMap(w0=10, class_balance=False)
    assert proposal.options["--weights.w0"] == "10"
    words = shlex.split(proposal.command(recipe()))
    assert train.parse(words[3:]).config == proposal.config
    apart = propose(image_set(dots(60)), recipe())
    assert apart.config.weights.w0 == 0
    assert "--weights.w0" not in apart.options


def test_a_weight_that_was_given_wins_over_a_proposal():
    assert propose(MEMBRANES, recipe(), DECIDED).config.weights.w0 == 0
    given = WeightMap(w0=3, class_balance=False)
    assert propose(MEMBRANES, recipe(weights=given)).config.weights == given
    assert "--weights.w0" not in propose(MEMBRANES, recipe(model="fcn")).options


@pytest.mark.parametrize(
    ("words", "weight"),
    [
        ("", 10),
        ("--recipe auto", 10),
        ("--recipe paper --weights.w0 0", 0),
        ("--weights.w0 0", 0),
        ("--weights.w0=3", 3),
        ("--weights.class_balance", 0),
        ("--recipe auto --weights.w0 0", 0),
        ("--recipe auto --weights.class-balance", 0),
    ],
)
def test_a_training_weights_their_borders_unless_a_weight_was_given(words, weight):
    command = f"train --holdout 1 {words}".strip()
    options = train.parse(command.split()[1:])
    decided, repeats = train.decide(options, MEMBRANES, command)
    assert decided.config.weights.w0 == weight
    assert decided.config.weights.class_balance == options.config.weights.class_balance
    assert train.parse(repeats.split()[1:]).config == decided.config


def test_held_out_images_decide_nothing():
    images = image_set(walls(), dots(60))
    for held_out, weight in (("0", 0), ("1", 10)):
        options = train.parse(["--holdout", held_out])
        assert train.decide(options, images, "train")[0].config.weights.w0 == weight


def test_of_images_that_are_read_as_needed_the_middle_is_looked_at(monkeypatch):
    """Around it is background alone, with which the whole image has no walls."""
    images = image_set(np.pad(walls(300), 100))
    monkeypatch.setattr("tinyunet.diagnosis.walls.LARGEST", 300)
    assert find_walls(images) is None
    monkeypatch.setattr(ImageSet, "is_read_as_needed", True)
    monkeypatch.setattr(ImageSet, "looked_at", images)
    assert find_walls(images) == Walls(5, pytest.approx(45, abs=1))
