"""Each rule decides what it is for, on made-up sets, and leaves the default where the images say nothing."""

import shlex

import numpy as np
import pytest
from skimage.draw import disk
from skimage.filters import threshold_otsu
from skimage.measure import regionprops

from tinyunet import train
from tinyunet.data import UNKNOWN, ImageSet
from tinyunet.diagnosis.measures import class_contrast, measure, object_sizes
from tinyunet.diagnosis.proposal import DECIDED, FEWEST_STEPS, MOST_STEPS, propose, words_of
from tinyunet.sampling import WeightMap
from tinyunet.training.config import TrainConfig
from tinyunet.training.recipes import recipe
from tinyunet.training.setup import Setup


def discs(side, radius, apart, noise=0.1):
    """An image of bright discs on a grid, and their numbers."""
    labels = np.zeros((side, side), np.int32)
    centres = range(apart // 2, side - radius, apart)
    for number, (y, x) in enumerate([(y, x) for y in centres for x in centres], 1):
        labels[disk((y, x), radius, shape=labels.shape)] = number
    rng = np.random.default_rng(side + radius)
    return (labels > 0)[..., None] + rng.normal(0, noise, (side, side, 1)), labels


def image_set(pairs, kind="instances", num_classes=2):
    images, labels = zip(*pairs, strict=True)
    return ImageSet(list(images), [f"i{n}" for n in range(len(images))], list(labels), kind, num_classes)


SMALL = [discs(400, 4, 20) for _ in range(2)]


def proposed(pairs, kind="instances", num_classes=2, **options):
    return propose(image_set(pairs, kind, num_classes), recipe(**options))


def test_many_small_objects_need_few_poolings():
    """Discs 9 px wide: two poolings see 20 px to each side, which is twice that."""
    proposal = proposed(SMALL)
    assert proposal.config.depth == 2
    assert "20 px to each side" in proposal.reasons["--depth"]
    assert proposed([discs(512, 9, 40)]).config.depth == 3
    assert proposed([discs(512, 20, 80)]).config.depth == 4


def test_one_huge_object_keeps_the_default_and_says_why():
    proposal = proposed([discs(512, 200, 512)])
    assert proposal.config.depth == 4
    assert "not measured" in proposal.reasons["--depth"]


def test_grey_values_that_say_nothing_keep_the_depth():
    """In noise of four times the contrast a pixel has to be seen with its surroundings."""
    proposal = proposed([discs(512, 4, 20, noise=4)])
    assert proposal.config.depth == 4
    assert "grey values" in proposal.reasons["--depth"]


@pytest.mark.parametrize(("side", "depth", "tile"), [(512, 4, 388), (120, 4, 116), (64, 3, 60), (36, 2, 36)])
def test_tiny_images_get_fewer_poolings_and_smaller_tiles(side, depth, tile):
    """The view to each side, 92, 44 or 20 px, is smaller than the image; no tile is larger."""
    config = proposed([discs(side, side // 3, side)]).config
    assert (config.depth, config.tile) == (depth, tile)
    assert Setup(config, *[image_set([discs(side, side // 3, side)])] * 2).output_size == tile


def test_a_set_without_objects_keeps_the_default():
    empty = [(image, np.zeros_like(labels)) for image, labels in SMALL]
    proposal = proposed(empty)
    assert (proposal.config.depth, proposal.config.tile) == (4, 388)
    assert "no object" in proposal.reasons["--depth"]


def test_one_small_image_among_many_decides_nothing():
    assert proposed([discs(390, 20, 80)] * 19 + [discs(40, 12, 40)]).config.tile == 388


def test_steps_follow_the_area_of_the_images_within_limits():
    image = discs(64, 10, 64)  # whose tile has 60 pixels
    assert proposed([image]).config.steps == FEWEST_STEPS
    forty = proposed([image] * 40).config
    assert forty.steps == 10 * np.ceil(40 * 64**2 / 60**2)
    assert forty.validate_every == -(-forty.steps // 10)
    assert proposed([image] * 400).config.steps == MOST_STEPS


def test_a_sparse_class_is_named_but_not_balanced():
    sparse = discs(512, 10, 256)
    proposal = proposed([sparse])
    assert not proposal.config.weights.class_balance
    assert f"{100 * np.mean(sparse[1] > 0):.2g} %" in proposal.reasons["class balance"]
    given = proposed([sparse], weights=WeightMap(class_balance=True))
    assert given.config.weights.class_balance


def test_minutes_decide_the_steps():
    config = recipe(steps=7)
    proposal = propose(image_set(SMALL), config, minutes=2)
    assert proposal.config.steps == 7
    assert not {"--steps", "--validate-every"} & proposal.options.keys()


def test_given_options_win():
    config = recipe(depth=1, tile=100)
    proposal = propose(image_set(SMALL), config, ["steps", "validate_every"])
    assert (proposal.config.depth, proposal.config.tile) == (1, 100)
    assert proposal.options.keys() == {"--recipe", "--steps", "--validate-every"}
    assert proposal.config.steps == 10 * np.ceil(2 * 400**2 / 100**2)


@pytest.mark.parametrize("model", ["fcn", "sliding-window"])
def test_other_networks_keep_their_depth(model):
    config = proposed(SMALL, model=model).config
    assert config.depth is None
    assert config.tile == 388 or Setup(config, *[image_set(SMALL)] * 2).output_size == config.tile


def test_padded_networks_get_tiles_of_theirs():
    config = proposed([discs(200, 40, 200)], padding="same").config
    assert config.tile == Setup(config, *[image_set(SMALL)] * 2).output_size <= 200


def test_the_command_gives_the_configuration():
    """What the proposal prints can be typed: it is parsed to the same options."""
    basis = recipe(
        data="a b", holdout="1", ignore=(7, 255), weights=WeightMap(w0=0.0, class_balance=True), seed=3
    )
    proposal = propose(image_set(SMALL), basis)
    words = shlex.split(proposal.command(basis))
    assert words[:3] == ["python", "-m", "tinyunet.train"]
    assert train.parse(words[3:]).config == proposal.config
    text = str(proposal)
    for name in DECIDED:
        assert f"--{name.replace('_', '-')} {getattr(proposal.config, name)}" in text


def test_only_options_that_differ_are_typed():
    assert words_of(TrainConfig(), TrainConfig()) == []
    assert words_of(TrainConfig(weights=WeightMap(class_balance=False)), TrainConfig()) == [
        "--weights.no-class-balance"
    ]


def test_widths_are_those_of_the_largest_disc():
    """A disc is as wide as its diameter, which scikit-image measures too; a bar is as its shorter side."""
    labels = discs(100, 12, 100)[1]
    (width,), (area,) = object_sizes(labels, "instances")
    (properties,) = regionprops(labels)
    assert width == pytest.approx(properties.equivalent_diameter_area, abs=2)
    assert area == properties.area
    bar = np.zeros((60, 200), np.uint8)
    bar[20:31, 10:190] = 1
    assert object_sizes(bar, "binary")[0] == pytest.approx([11], abs=1)
    bar[20:31, 100:190] = 2
    assert len(object_sizes(bar, "classes")[0]) == 2


def test_specks_unknown_pixels_and_full_images():
    labels = np.full((50, 40), UNKNOWN, np.int32)
    labels[:, :20] = 0
    labels[3, 3:6] = 1
    assert object_sizes(labels, "binary")[0].size == 0
    assert object_sizes(np.ones((50, 40), np.uint8), "binary")[0] == pytest.approx([40], abs=1)


def test_contrast_is_otsus():
    """At Otsu's threshold, no other division of the grey values explains more of their variance."""
    image = np.random.default_rng(0).normal(size=(60, 60, 1)) + (np.indices((60, 60))[0] > 30)[..., None]
    cuts = np.linspace(-1, 2, 61)
    best = max(cuts, key=lambda cut: class_contrast(image, (image[..., 0] > cut).astype(int)))
    assert best == pytest.approx(threshold_otsu(image), abs=0.1)
    apart = np.repeat([0.0, 1], 50).reshape(10, 10, 1)
    assert class_contrast(apart, apart[..., 0].astype(int)) == pytest.approx(1)
    assert class_contrast(np.ones((4, 4, 1)), np.eye(4, dtype=int)) == 0


def test_measures_of_a_colour_set_take_the_channel_that_shows_most():
    image, labels = discs(100, 12, 30)
    noise = np.random.default_rng(1).normal(size=image.shape)
    one, three = image_set([(image, labels)]), image_set([(np.concatenate([noise, image], 2), labels)])
    assert measure(three).contrast == pytest.approx(measure(one).contrast)
