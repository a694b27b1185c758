"""Samples: image, target and weight of one place, the same for the same (seed, step)."""

import threading
import time

import numpy as np
import pytest
from scipy import ndimage

from tinyunet.data import UNKNOWN, ImageSet
from tinyunet.errors import DataError, OptionError
from tinyunet.ops.softmax_cross_entropy import NO_LABEL
from tinyunet.sampling import Sampler, WeightMap
from tinyunet.sampling.augment import Augmentation

INPUT, OUTPUT = 64, 20  # as of a network of depth 2 that gives a little more; the halo is 22


def discs(seed, shape=(70, 90), cells=30):
    """Touching cells: each pixel has the number of the nearest centre, if that is near."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    centres = rng.uniform(0, shape, (cells, 2))
    distance = np.hypot(y - centres[:, 0, None, None], x - centres[:, 1, None, None])
    return np.where(distance.min(axis=0) < 8, distance.argmin(axis=0) + 1, 0).astype(np.int32)


def image_set(labels, kind, num_classes=2, images=None):
    images = images or [np.arange(label.size, dtype=np.float64).reshape(*label.shape, 1) for label in labels]
    names = [f"image-{i}" for i in range(len(labels))]
    return ImageSet(images, names, labels, kind, num_classes)


def sampler(images, *, seed=0, augmentation=Augmentation.off(), weights=WeightMap()):  # noqa: B008  frozen
    return Sampler(
        images, input_size=INPUT, output_size=OUTPUT, augmentation=augmentation, weights=weights, seed=seed
    )


def place_of(sample, shape):
    """Row and column of the output tile in an image whose pixels are numbered, normalised."""
    number = np.arange(shape[0] * shape[1])
    cut = (INPUT - OUTPUT) // 2
    value = sample.image[0, cut, cut, 0] * number.std() + number.mean()
    return divmod(round(float(value)), shape[1])


def separated(labels):
    """Without the pixels that have another cell among their eight neighbours."""
    largest = ndimage.maximum_filter(labels, 3, mode="nearest")
    smallest = ndimage.minimum_filter(np.where(labels == 0, labels.max() + 1, labels), 3, mode="nearest")
    return np.where((labels > 0) & (largest == smallest), labels, 0)


def border(cells, w0, sigma):
    """The paper's border term, by one distance transform per cell."""
    distances = [ndimage.distance_transform_edt(cells != value) for value in np.unique(cells[cells > 0])]
    d1, d2 = np.sort(distances, axis=0)[:2]
    return np.where(cells == 0, w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)), 0)


def balance(classes, num_classes):
    counts = np.bincount(np.concatenate([c.ravel() for c in classes]), minlength=num_classes)
    return counts.sum() / (num_classes * counts)


@pytest.mark.parametrize("kind", ["instances", "binary", "classes"])
def test_target_and_weight_are_those_of_the_tiles_place(kind):
    """Each is cut from the weight map of the whole image, mirrored: so cells just outside the tile count.

    A cell further from the tile than the margin of 4 sigma is not seen: at most 10 exp(-8) = 0.0034.
    """
    numbered = [discs(seed) for seed in range(4)]
    if kind == "instances":
        cells = [separated(labels) for labels in numbered]
        labels, classes = numbered, [(c > 0).astype(int) for c in cells]
    else:
        grouped = [np.where(label > 0, 1 + (label % 3 == 1) * (kind == "classes"), 0) for label in numbered]
        cells = [ndimage.label(label > 0)[0] for label in grouped]
        labels, classes = [label.astype(np.uint8) for label in grouped], grouped
    num_classes = 3 if kind == "classes" else 2
    weights_of_class = balance(classes, num_classes)
    made = sampler(image_set(labels, kind, num_classes))
    np.testing.assert_allclose(made.class_weights, weights_of_class, rtol=1e-6)

    seen = set()
    reach = 60
    for step in range(12):
        sample = made.sample(step)
        index = int(sample.name.removeprefix("image-"))
        row, column = place_of(sample, (70, 90))
        tile = np.s_[row : row + OUTPUT, column : column + OUTPUT]
        wide = np.s_[reach + row : reach + row + OUTPUT, reach + column : reach + column + OUTPUT]
        np.testing.assert_array_equal(sample.target[0], classes[index][tile])
        mirrored = np.pad(cells[index], reach, mode="reflect")
        expected = weights_of_class[classes[index][tile]] + border(mirrored, 10, 5)[wide]
        np.testing.assert_allclose(sample.weight[0], expected, rtol=0, atol=0.0034 + 1e-5)
        seen |= set(np.unique(sample.target))
    assert seen == set(range(num_classes))


def test_shapes_and_types():
    sample = sampler(image_set([discs(0)], "instances"), augmentation=Augmentation()).sample(0)
    assert sample.image.shape == (1, INPUT, INPUT, 1)
    assert sample.target.shape == sample.weight.shape == (1, OUTPUT, OUTPUT)
    assert sample.image.dtype == sample.weight.dtype == np.float32
    assert sample.target.dtype == np.int32
    assert all(array.flags.c_contiguous for array in sample[:3])


def test_touching_cells_are_separated():
    """Two half planes that touch: two columns become background, with the weight of a border."""
    halves = np.repeat(np.array([1, 2], np.int32), 100)[None, :].repeat(200, axis=0)
    made = sampler(image_set([halves], "instances", images=[halves[..., None] * 1.0]))
    columns = [sample.target[0].sum(axis=1) for sample in map(made.sample, range(40))]
    found = {int(c) for column in columns for c in column}
    assert found <= {OUTPUT, OUTPUT - 1, OUTPUT - 2}
    crossed = next(s for s in map(made.sample, range(40)) if (s.target == 0).sum() == 2 * OUTPUT)
    expected = made.class_weights[0] + 10 * np.exp(-(3**2) / 50)
    np.testing.assert_allclose(crossed.weight[crossed.target == 0], expected, rtol=1e-5)


def test_the_weight_map_has_the_given_strength_and_width():
    """The border between the two half planes once more: d1 + d2 is 3 in its two columns."""
    halves = np.repeat(np.array([1, 2], np.int32), 30)[None, :].repeat(60, axis=0)
    images = image_set([halves], "instances", images=[halves[..., None] * 1.0])
    made = sampler(images, weights=WeightMap(w0=3, sigma=2, class_balance=False))
    crossed = next(s for s in map(made.sample, range(40)) if (s.target == 0).sum() == 2 * OUTPUT)
    np.testing.assert_allclose(
        crossed.weight[crossed.target == 0], 1 + 3 * np.exp(-(3**2) / (2 * 2**2)), rtol=1e-5
    )


def test_image_and_target_stay_together_when_bent():
    """The image is the class itself: after rotation, flips and bending they differ at borders at most."""
    labels = [(discs(seed, (120, 120), 12) > 0).astype(np.uint8) for seed in range(2)]
    bent = Augmentation(brightness=0, contrast=0, gamma=0)
    images = image_set(labels, "binary", images=[label[..., None] for label in labels])
    made = sampler(images, augmentation=bent)
    cut = (INPUT - OUTPUT) // 2
    for step in range(10):
        sample = made.sample(step)
        label = labels[int(sample.name.removeprefix("image-"))]
        middle = (0.5 - label.mean()) / label.std()
        bright = sample.image[0, cut:-cut, cut:-cut, 0] > middle
        assert (bright == sample.target[0]).mean() > 0.98


@pytest.fixture
def cells():
    return image_set([discs(seed) for seed in range(5)], "instances")


def assert_same(a, b):
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_step_decides_the_sample(cells):
    bent = {"augmentation": Augmentation()}
    expected = [sampler(cells, **bent).sample(step) for step in range(8)]
    made = sampler(cells, **bent)
    for step in (7, 2, 2, 0, 5):  # in any order
        assert_same(made.sample(step), expected[step])
    for other in (sampler(cells, seed=1, **bent).sample(3), expected[4]):
        assert not np.array_equal(other.image, expected[3].image)


def test_the_seed_decides_the_order_of_the_images_and_the_places_in_each(cells):
    one, other = sampler(cells), sampler(cells, seed=1)
    assert [one.sample(step).name for step in range(10)] != [other.sample(step).name for step in range(10)]
    one, other = (sampler(cells.subset([0]), seed=seed) for seed in (0, 1))
    for step in range(3):
        assert not np.array_equal(one.sample(step).image, other.sample(step).image)


@pytest.mark.parametrize("ahead", [1, 2, 5])
@pytest.mark.parametrize(("consumer", "producer"), [(0, 0), (0.004, 0), (0, 0.004)])
def test_the_stream_does_not_depend_on_timing(cells, ahead, consumer, producer, monkeypatch):
    made = sampler(cells)
    expected = [made.sample(step) for step in range(3, 11)]
    sample = made.augmenter.sample

    def slow(index, rng):
        time.sleep(producer)
        return sample(index, rng)

    monkeypatch.setattr(made.augmenter, "sample", slow)
    found = []
    for one in made.stream(3, 11, ahead):
        time.sleep(consumer)
        found.append(one)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_the_stream_works_ahead(cells, monkeypatch):
    """The second sample is made while the caller has the first; otherwise the thread would be useless."""
    made = sampler(cells)
    sample, second = made.sample, threading.Event()

    def record(step, tile):
        if step == 1:
            second.set()
        return sample(step, tile)

    monkeypatch.setattr(made, "sample", record)
    stream = made.stream(0, 3)
    next(stream)
    assert second.wait(10)
    stream.close()


def test_the_stream_makes_no_sample_beyond_its_end(cells, monkeypatch):
    made, steps = sampler(cells), []
    sample = made.sample
    monkeypatch.setattr(made, "sample", lambda step, tile: steps.append(step) or sample(step, tile))
    assert len(list(made.stream(2, 5))) == 3
    assert steps == [2, 3, 4]


def test_a_stream_that_is_left_ends_its_thread(cells):
    stream = sampler(cells).stream(0, 1000)
    next(stream)
    assert any(thread.name.startswith("tinyunet-sampler") for thread in threading.enumerate())
    stream.close()
    assert not any(thread.name.startswith("tinyunet-sampler") for thread in threading.enumerate())


def test_an_error_in_the_thread_is_raised_at_its_step(cells, monkeypatch):
    made = sampler(cells)
    sample = made.sample

    def fail(step, tile):
        if step == 2:
            raise MemoryError("no room for sample 2")
        return sample(step, tile)

    monkeypatch.setattr(made, "sample", fail)
    stream = made.stream(0, 5)
    next(stream), next(stream)
    with pytest.raises(MemoryError, match="no room for sample 2"):
        next(stream)


def test_every_image_once_an_epoch(cells):
    made = sampler(cells)
    names = [made.sample(step).name for step in range(20)]
    epochs = [names[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(epoch) == sorted(cells.names) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1  # in changing order


def test_class_weights_are_of_the_whole_set():
    """Three of four images are background; each class has the same weight in sum."""
    label = np.zeros((30, 30), np.uint8)
    label[:10, :3] = 1
    empty = np.zeros_like(label)
    made = sampler(image_set([empty, label, empty, empty], "binary"))
    np.testing.assert_allclose(made.class_weights, [3600 / (2 * 3570), 3600 / (2 * 30)], rtol=1e-6)
    even = sampler(image_set([empty, label], "binary"), weights=WeightMap(w0=0, class_balance=False))
    assert even.class_weights == [1, 1]
    assert np.unique(even.sample(0).weight) == [1]


@pytest.fixture
def partly_known():
    """Touching cells; the right third is not labelled."""
    labels = [np.where(np.arange(90) < 60, discs(seed), UNKNOWN) for seed in range(3)]
    return image_set(labels, "instances")


def test_unknown_pixels_weigh_nothing_and_are_no_class(partly_known):
    """Unknown pixels are unknown in the target and weigh 0; the others are those of the known cells."""
    made = sampler(partly_known)
    labels = partly_known.labels
    cells = [separated(label.clip(0)) for label in labels]
    in_balance = [(c > 0)[:, :60].astype(int) for c in cells]
    np.testing.assert_allclose(made.class_weights, balance(in_balance, 2), rtol=1e-6)
    unknown_pixels = 0
    for step in range(12):
        sample = made.sample(step)
        index = int(sample.name.removeprefix("image-"))
        row, column = place_of(sample, (70, 90))
        tile = np.s_[row : row + OUTPUT, column : column + OUTPUT]
        unknown = labels[index][tile] == UNKNOWN
        unknown_pixels += unknown.sum()
        np.testing.assert_array_equal(sample.target[0], np.where(unknown, UNKNOWN, cells[index][tile] > 0))
        wide = np.s_[60 + row : 60 + row + OUTPUT, 60 + column : 60 + column + OUTPUT]
        term = border(np.pad(cells[index], 60, mode="reflect"), 10, 5)[wide]
        expected = np.array(made.class_weights)[(cells[index][tile] > 0).astype(int)] + term
        np.testing.assert_allclose(
            sample.weight[0], np.where(unknown, 0, expected), rtol=0, atol=0.0034 + 1e-5
        )
    assert unknown_pixels > 200


def test_unknown_pixels_are_bent_with_the_image(partly_known):
    """The image is 1 where it is unknown: so it is after rotation, flips and bending, but for its edges."""
    labels = partly_known.labels
    images = [(label == UNKNOWN)[..., None] * 1.0 for label in labels]
    still = Augmentation(brightness=0, contrast=0, gamma=0)
    made = sampler(image_set(labels, "instances", images=images), augmentation=still)
    cut, seen = (INPUT - OUTPUT) // 2, 0
    middle = (0.5 - 1 / 3) / np.sqrt(2 / 9)
    for step in range(12):
        sample = made.sample(step)
        marked = sample.image[0, cut:-cut, cut:-cut, 0] > middle
        assert (marked == (sample.target[0] == UNKNOWN)).mean() > 0.97
        assert (sample.weight[0][sample.target[0] == UNKNOWN] == 0).all()
        assert (sample.weight[0][sample.target[0] != UNKNOWN] > 0).all()
        seen += 0 < marked.mean() < 1
    assert seen >= 3


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_unknown_pixels_join_no_cells(kind):
    """Two cells that are connected only by unknown pixels are two, with a border between them."""
    label = np.zeros((OUTPUT, OUTPUT), np.int32)
    label[:, :9] = label[:, 11:] = 1
    label[12:, 9:11] = UNKNOWN
    images = image_set([label], kind, images=[label[..., None] * 1.0])
    sample = sampler(images, weights=WeightMap(class_balance=False)).sample(0)  # there is one position only
    np.testing.assert_allclose(sample.weight[sample.target == 0], 1 + 10 * np.exp(-(3**2) / 50), rtol=1e-5)


def test_a_tile_without_a_labelled_pixel_is_drawn_again():
    label = np.full((200, 200), UNKNOWN, np.int32)
    label[:60, :60] = 1
    made = sampler(image_set([label], "instances"))
    for step in range(20):
        row, column = place_of(made.sample(step), (200, 200))
        assert row < 60
        assert column < 60


def test_without_labels():
    images = ImageSet([np.zeros((9, 9, 1))], ["one"], source="folder")
    with pytest.raises(DataError, match="folder"):
        sampler(images)


def test_unknown_is_what_the_loss_takes_for_no_label():
    """Targets go into a step as they are: `ImageSet` has looked at the labels."""
    assert UNKNOWN == NO_LABEL


@pytest.mark.parametrize("options", [{"w0": -1}, {"sigma": 0}, {"sigma": float("nan")}])
def test_weights_out_of_range(options):
    with pytest.raises(OptionError, match="w0"):
        WeightMap(**options)
