"""The pixel classifier: its layers, its agreement with PyTorch, sliding with and without shared work."""

from collections import Counter

import numpy as np
import pytest
import torch
from oracle import TOLERANCE, as_float64, assert_close, assert_network_equals_torch, randomised, torch_twin

import tinyunet as tu
from tinyunet.data import ImageSet
from tinyunet.errors import GraphError, OptionError, ShapeError
from tinyunet.sampling import Sample, WeightMap
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Stepped
from tinyunet.training.trainer import Trainer


def random_image(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def test_the_sides_of_the_paper(wrap_op):
    """Table 1 of Ciresan et al.: a window of 95 pixels, and what is left of it after each layer."""
    sides = []

    def watch(op):
        def watched(*inputs, **options):
            y = op(*inputs, **options)
            sides.append(y.shape[1])
            return y

        return watched

    for name in ("conv2d", "max_pool2d"):
        wrap_op(name, watch)
    model = tu.SlidingWindowClassifier(base_channels=1)
    model(tu.Tensor(np.zeros((1, 95, 95, 1), np.float32)))
    assert sides == [92, 46, 42, 21, 18, 9, 6, 3, 1, 1]


def test_parameters_of_the_paper():
    shapes = {name: a.shape for name, a in tu.SlidingWindowClassifier().state_dict().items()}
    weights = [shape for name, shape in shapes.items() if name.endswith("weight")]
    four = [(4, 4, 48, 48)] * 2
    assert weights == [(4, 4, 1, 48), (5, 5, 48, 48), *four, (3, 3, 48, 200), (1, 1, 200, 2)]


@pytest.mark.parametrize(("depth", "window"), [(1, 9), (2, 23), (3, 47), (4, 95), (5, 191)])
def test_windows_have_a_middle(depth, window):
    model = tu.SlidingWindowClassifier(base_channels=1, depth=depth)
    assert model.window == window
    assert model.geometry.halo == window // 2
    assert window % 2 == 1


@pytest.mark.parametrize(("depth", "window"), [(1, 9), (2, 23), (3, 47)])
def test_windows_equal_those_of_torch(backend, depth, window):
    model = tu.SlidingWindowClassifier(3, 4, base_channels=3, depth=depth, neurons=5)
    assert_network_equals_torch(as_float64(randomised(model)), (window, window), batch=5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("depth", "size"), [(1, (10, 16)), (2, (26, 34)), (3, (54, 62))])
def test_shared_work_gives_what_brute_force_gives(backend, depth, size, dtype):
    """Two images, whose fragments must not be mixed."""
    model = randomised(tu.SlidingWindowClassifier(2, 3, base_channels=4, depth=depth, neurons=6))
    model = as_float64(model) if dtype == np.float64 else model
    x = tu.Tensor(random_image(2, *size, 2, dtype=dtype))
    shared, slid = model(x), model.slide(x, batch=37)
    assert shared.shape == (2, *(side - model.window + 1 for side in size), 3)
    assert np.ptp(slid.data) > 0.1
    assert_close(shared.data, slid.data, tolerance=TOLERANCE[np.dtype(dtype)])


def test_sliding_over_a_single_window():
    model = randomised(tu.SlidingWindowClassifier(base_channels=3, depth=1))
    x = tu.Tensor(random_image(1, 9, 9, 1))
    np.testing.assert_array_equal(model.slide(x).data, model(x).data)


def test_shared_work_gives_what_torch_gives_for_single_windows():
    model = as_float64(randomised(tu.SlidingWindowClassifier(base_channels=3, depth=2)))
    x = random_image(1, 30, 34, 1, dtype=np.float64)
    y = model(tu.Tensor(x)).data
    parameters = {name: torch.tensor(array) for name, array in model.state_dict().items()}
    for i, j in [(0, 0), (7, 11), (3, 6), (5, 0)]:
        window = torch.tensor(x[:, i : i + 23, j : j + 23])
        assert_close(y[:, i, j], torch_twin(model, parameters, window)[:, 0, 0].numpy())


def test_the_window_lies_around_its_pixel():
    """Tiled prediction, which mirrors half a window around the image, against NumPy's padding."""
    model = randomised(tu.SlidingWindowClassifier(base_channels=3, depth=2))
    image = random_image(17, 13, 1)
    padded = np.pad(image, [(11, 11), (11, 11), (0, 0)], mode="reflect")
    scores = model.slide(tu.Tensor(padded[np.newaxis])).data[0]
    expected = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    for tile in (1, 6, 388):
        np.testing.assert_allclose(tu.predict_tiled(model, image, tile=tile), expected, rtol=0, atol=1e-5)


def test_a_whole_image_records_no_graph():
    model = tu.SlidingWindowClassifier(base_channels=1, depth=1)
    windows, image = (tu.Tensor(np.zeros((1, side, side, 1), np.float32)) for side in (9, 12))
    model(windows).backward(np.ones((1, 1, 1, 2)))
    with pytest.raises(GraphError):
        model(image).backward(np.ones((1, 4, 4, 2)))


def tile(side=16, window=9, seed=0):
    """A sample whose pixels hold their coordinates: image[i, j] = 100 i + j."""
    rows, columns = np.indices((side + window - 1,) * 2)
    image = (100 * rows + columns).astype(np.float32)[np.newaxis, :, :, np.newaxis]
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, (1, side, side))
    return Sample(image, target, rng.uniform(0, 5, target.shape).astype(np.float32), "tile", 0)


def test_training_windows_are_those_around_their_pixels():
    sample, model = tile(), tu.SlidingWindowClassifier(base_channels=1, depth=1, windows=30)
    batch = model.training_batch(sample, np.random.default_rng(1))
    assert batch.image.shape == (30, 9, 9, 1)
    assert batch.image.flags.c_contiguous
    assert batch.target.shape == batch.weight.shape == (30, 1, 1)
    assert (batch.weight == 1).all()
    assert len(np.unique(batch.image[:, 4, 4, 0])) > 20
    for window, target in zip(batch.image, batch.target, strict=True):
        i, j = divmod(int(window[0, 0, 0]), 100)
        np.testing.assert_array_equal(window, sample.image[0, i : i + 9, j : j + 9])
        assert target == sample.target[0, i, j]
    again = model.training_batch(sample, np.random.default_rng(1))
    np.testing.assert_array_equal(again.image, batch.image)


def test_pixels_are_drawn_in_proportion_to_their_weights():
    """Weights 0, 1 and 3 get 0, 1000 and 3000 of 4000 draws, within five standard deviations.

    The last pixel has its share like any other.
    """
    weight = np.zeros((1, 3, 3), np.float32)
    weight[0, 0, 1], weight[0, 2, 2] = 1, 3
    sample = tile(3)._replace(weight=weight)
    model = tu.SlidingWindowClassifier(base_channels=1, depth=1, windows=4000)
    batch = model.training_batch(sample, np.random.default_rng(0))
    drawn = Counter(batch.image[:, 0, 0, 0].tolist())
    assert drawn.keys() == {1.0, 202.0}
    assert abs(drawn[202.0] - 3000) < 5 * np.sqrt(4000 * 0.75 * 0.25)


def test_a_tile_in_which_nothing_counts_changes_nothing():
    sample = tile(4)._replace(weight=np.zeros((1, 4, 4), np.float32))
    model = tu.SlidingWindowClassifier(base_channels=1, depth=1, windows=5)
    assert not model.training_batch(sample, np.random.default_rng(0)).weight.any()


@pytest.mark.parametrize(
    ("depth", "sides"),
    [(1, (9, 9)), (1, (14, 10)), (2, (23, 23)), (2, (34, 26)), (3, (47, 47)), (3, (54, 62))],
)
def test_multiplications_are_those_of_the_ops(count_multiplications, depth, sides):
    """For one window, and for a whole image."""
    model = tu.SlidingWindowClassifier(3, 4, base_channels=5, depth=depth, neurons=7)
    assert model.multiplications(*sides) == count_multiplications(model, *sides)


def test_multiplications_by_hand():
    """One channel, one neuron, a window of 9: 6² results of 4² products, then 3² products, then a score each.

    On 12 × 12 pixels there are 16 windows. They share 9² results of the convolution.
    """
    model = tu.SlidingWindowClassifier(base_channels=1, depth=1, neurons=1)
    one = 6 * 6 * 16 + 9 + 2
    shared = 9 * 9 * 16 + 16 * (9 + 2)
    assert (model.multiplications(9, 9), model.multiplications(12, 12)) == (one, shared) == (587, 1472)
    assert model.redundancy(12, 12) == 16 * 587 / 1472


def test_learns_one_image_by_heart():
    """Through the trainer: the loss falls, and shared prediction finds the discs."""
    y, x = np.indices((40, 40))
    label = (np.hypot(y - 14, x - 20) < 9).astype(np.uint8)
    grey = 3.0 * label[..., None] + np.random.default_rng(0).standard_normal((40, 40, 1))
    images = ImageSet([grey], ["disc"], [label], "binary", 2)
    config = TrainConfig(
        model="sliding-window", base_channels=4, depth=1, tile=32, steps=80, validate_every=80, lr=0.05,
        momentum=0.9, augmentation=Augmentation.off(), weights=WeightMap(w0=0),
    )  # fmt: skip
    events = list(Trainer(config, images, images).run())
    losses = [event.loss for event in events if isinstance(event, Stepped)]
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:3])
    assert events[-2].scores.mean_iou > 0.8


def test_stopped_and_resumed_draws_the_same_windows():
    label = np.eye(30, dtype=np.uint8)
    images = ImageSet([random_image(30, 30, 1)], ["noise"], [label], "binary", 2)
    config = TrainConfig(model="sliding-window", base_channels=2, depth=1, tile=16, steps=3, lr=0.01)
    whole, stopped, resumed = (Trainer(config, images, images) for _ in range(3))
    list(whole.run())
    next(stopped.run())
    resumed.restore(stopped.checkpoint())
    list(resumed.run())
    for name, array in whole.model.state_dict().items():
        assert array.tobytes() == resumed.model.state_dict()[name].tobytes()


def test_inputs_that_do_not_fit():
    model = tu.SlidingWindowClassifier(in_channels=3, base_channels=1, depth=2)
    with pytest.raises(ShapeError, match=r"28(?s:.)*26(?s:.)*30"):
        model(tu.Tensor(np.zeros((1, 30, 28, 3), np.float32)))
    with pytest.raises(ShapeError, match=r"\(1, 23, 23, 1\)"):
        model(tu.Tensor(np.zeros((1, 23, 23, 1), np.float32)))
    with pytest.raises(ShapeError, match="23"):
        model.slide(tu.Tensor(np.zeros((1, 30, 22, 3), np.float32)))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("in_channels", 0),
        ("num_classes", 1),
        ("base_channels", 0),
        ("depth", 0),
        ("neurons", 0),
        ("windows", 0),
    ],
)
def test_options_out_of_range(option, value):
    with pytest.raises(OptionError, match=f"{option} is {value}"):
        tu.SlidingWindowClassifier(**{option: value})
