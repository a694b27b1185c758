"""Training samples by the CUDA kernels, against those that are made on the CPU."""

import gc
from dataclasses import replace

import fake_cupy
import numpy as np
import pytest
from scipy import ndimage

import tinyunet as tu
from tinyunet import sampling
from tinyunet.backend import cuda, lies_on_gpu, to_backend, to_host
from tinyunet.data import UNKNOWN, ImageSet, split, synthetic_cells
from tinyunet.errors import OutOfMemoryError
from tinyunet.sampling import Sampler, WeightMap, augment_cuda, weight_map_cuda
from tinyunet.sampling.augment import Augmentation, Augmenter
from tinyunet.sampling.sampler_cuda import CudaSampler, weights_by_class
from tinyunet.sampling.weight_map import nearest_two_cells, weight_map
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Stepped
from tinyunet.training.trainer import Trainer

# Coordinates are double on both sides, an image value is rounded to float32 up to six times, and a power of
# values in [0, 1] is off by up to 4 units in the last place: in units of the image's range, 10 · 2^-24.
IMAGE_TOLERANCE = 6e-7
# The distances are the same bits; of w0 + the class's weight, see `weight_map_cuda.weight_map`.
WEIGHT_TOLERANCE = 3e-7

INPUT, OUTPUT = 44, 20
RIGID = Augmentation(elastic_sigma=0)
FLIPS = replace(Augmentation.off(), flips=True)
BENT = Augmentation(rotation=0, flips=False, elastic_sigma=30, elastic_points=4)


def discs(seed, shape=(50, 61), cells=25):
    """Cells that touch: each pixel has the number of the nearest of the centres that are near."""
    rng = np.random.default_rng(seed)
    distance = np.hypot(*(np.indices(shape)[:, None] - rng.uniform(0, shape, (cells, 2)).T[:, :, None, None]))
    return np.where(distance.min(axis=0) < 6, distance.argmin(axis=0) + 1, 0).astype(np.int32)


def image_set(labels, kind="instances", num_classes=2, channels=1):
    shapes = [(*label.shape, channels) for label in labels]
    # Clipped: between pixels at either end of the range the spline overshoots it.
    images = [np.random.default_rng(i).normal(5, 3, shape).clip(3, 7) for i, shape in enumerate(shapes)]
    return ImageSet(images, [f"image-{i}" for i in range(len(labels))], labels, kind, num_classes)


def sampler(images, augmentation=Augmentation(), weights=WeightMap(sigma=2)):  # noqa: B008  frozen
    return Sampler(
        images,
        input_size=INPUT,
        output_size=OUTPUT,
        augmentation=augmentation,
        weights=weights,
        seed=0,
    )


def assert_same_sample(ours, expected, w0=10.0):
    """No coordinate of these samples is within rounding of the edge between two pixels: labels are equal."""
    image, target, weight = (to_host(array) for array in ours[:3])
    assert [a.dtype for a in (image, target, weight)] == [a.dtype for a in expected[:3]]
    allowed = IMAGE_TOLERANCE * np.ptp(expected.image)
    np.testing.assert_allclose(image, expected.image, rtol=0, atol=allowed)
    np.testing.assert_array_equal(target, expected.target)
    allowed = WEIGHT_TOLERANCE * (w0 + expected.weight.max())
    np.testing.assert_allclose(weight, expected.weight, rtol=0, atol=allowed)
    assert ours[3:] == expected[3:]


@pytest.mark.parametrize("augmentation", [Augmentation(), RIGID, BENT, FLIPS, Augmentation.off()])
def test_samples_are_those_of_the_cpu(build, augmentation):
    """Touching cells in images of two sizes, one of them smaller than the input tile."""
    images = image_set([discs(0), discs(1, (30, 90))])
    on_cpu = sampler(images, augmentation)
    on_gpu = CudaSampler(on_cpu)
    for step in range(4):
        expected = on_cpu.sample(step)
        assert_same_sample(on_gpu.sample(step), expected)
        sums = sampling.weights_by_class(expected, 2)
        np.testing.assert_allclose(weights_by_class(on_gpu.sample(step), 2), sums, rtol=WEIGHT_TOLERANCE)


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_classes_and_channels(build, kind):
    labels = [np.where(discs(i) > 0, 1 + (discs(i) % 3 == 1) * (kind == "classes"), 0) for i in range(2)]
    images = image_set(labels, kind, 3 if kind == "classes" else 2, channels=3)
    on_cpu = sampler(images)
    on_gpu = CudaSampler(on_cpu)
    seen = set()
    for step in range(3):
        assert_same_sample(on_gpu.sample(step), on_cpu.sample(step))
        seen |= set(np.unique(to_host(on_gpu.sample(step).target)))
    assert seen == set(range(images.num_classes))


@pytest.mark.parametrize("weights", [WeightMap(w0=0), WeightMap(class_balance=False, sigma=1, w0=3)])
def test_other_weights(build, weights):
    on_cpu = sampler(image_set([discs(0)]), weights=weights)
    assert_same_sample(CudaSampler(on_cpu).sample(0), on_cpu.sample(0), weights.w0)


@pytest.mark.parametrize("augmentation", [FLIPS, Augmentation.off()])
def test_without_interpolation_a_tile_is_a_copy(build, augmentation):
    on_cpu = sampler(image_set([discs(0), discs(1)], channels=2), augmentation)
    on_gpu = CudaSampler(on_cpu)
    for step in range(6):
        np.testing.assert_array_equal(to_host(on_gpu.sample(step).image), on_cpu.sample(step).image)


def test_a_tile_of_one_row_and_far_beyond_the_borders(build):
    """Images of one row or column, and displacements longer than the image."""
    for shape in ((1, 7), (9, 1), (2, 3)):
        image = np.random.default_rng(0).standard_normal((*shape, 1)).astype(np.float32)
        labels = np.arange(image.size).reshape(shape)
        augmenter = Augmenter(
            [image],
            [labels],
            input_size=18,
            output_size=10,
            label_margin=2,
            augmentation=Augmentation(elastic_sigma=50, gamma=0),
        )
        maker = augment_cuda.TileMaker(augmenter, [labels], [labels])
        tile = augmenter.sample(0, np.random.default_rng(3))
        ours = [to_host(a) for a in maker.tile(0, augmenter.draw(0, np.random.default_rng(3)))]
        np.testing.assert_allclose(ours[0], tile.image, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(ours[1], tile.labels)
        np.testing.assert_array_equal(ours[2], tile.labels[2:-2, 2:-2])


CELLS = {
    "discs": discs(0),
    "specks": np.where(np.random.default_rng(0).random((40, 53)) < 0.05, discs(2, (40, 53), 9) + 1, 0),
    "a tall image": discs(3, (70, 20)),
    "one cell": (discs(0) > 0).astype(np.int32),
    "none": np.zeros((9, 12), np.int32),
}


@pytest.mark.parametrize("max_distance", [np.inf, 5.5, 1, 0])
@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS)
def test_distances_have_the_bits_of_the_cpu(build, cells, max_distance):
    expected = nearest_two_cells(cells, max_distance=max_distance)
    for margin in (0, 3):
        middle = np.s_[margin : len(cells) - margin, margin : cells.shape[1] - margin]
        ours = weight_map_cuda.nearest_two_cells(
            to_backend(cells, np.int32), margin=margin, max_distance=max_distance
        )
        for our, theirs in zip(ours, expected, strict=True):
            assert to_host(our).tobytes() == theirs[middle].tobytes()


def test_distances_are_those_of_scipy(build):
    """One distance transform per cell. d is the float32 rounding of a root below 100."""
    cells = discs(4)
    each = [ndimage.distance_transform_edt(cells != cell) for cell in range(1, cells.max() + 1)]
    ours = weight_map_cuda.nearest_two_cells(to_backend(cells))
    for our, theirs in zip(ours, np.sort(each, axis=0), strict=False):
        np.testing.assert_allclose(to_host(our), theirs, rtol=0, atol=4e-6)


def test_weights_of_unknown_pixels(build):
    cells = discs(0)
    classes = np.where(np.arange(61) < 30, cells > 0, UNKNOWN).astype(np.int32)
    cells = np.where(classes == UNKNOWN, 0, cells)
    balance = [0.7, 1.9]
    expected = weight_map(cells, w0=10, sigma=5, class_balance=balance, classes=classes, ignore_label=UNKNOWN)
    arrays = (to_backend(cells), to_backend(classes), to_backend(balance, np.float32))
    ours = to_host(weight_map_cuda.weight_map(*arrays, w0=10, sigma=5))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=WEIGHT_TOLERANCE * 12)
    assert (ours[classes == UNKNOWN] == 0).all()


def test_two_runs_give_the_same_bits(emulated):
    on_cpu = sampler(image_set([discs(0)]))
    first, again = (CudaSampler(on_cpu).sample(3) for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first[:3], again[:3], strict=True))


@pytest.mark.parametrize("stand_in", [False, True])
def test_partly_annotated_images(request, stand_in):
    """Most tiles of the first image have no labelled pixel: they are drawn again, as on the CPU."""
    request.getfixturevalue("on_stand_in" if stand_in else "emulated")
    corner = np.full((90, 90), UNKNOWN, np.int32)
    corner[:25, :25] = discs(0)[:25, :25]
    on_cpu = sampler(image_set([corner, discs(1)]), RIGID)
    on_gpu = CudaSampler(on_cpu)
    unknown = 0
    for step in range(6):
        ours = on_gpu.sample(step)
        assert_same_sample(ours, on_cpu.sample(step))
        unknown += (to_host(ours.target) == UNKNOWN).sum()
        assert weights_by_class(ours, 2).any()
    assert unknown > 100


CONFIG = TrainConfig(steps=5, base_channels=2, depth=1, tile=20, validate_every=99, lr=0.01)


def trainer(**options):
    images = split(synthetic_cells(n=4, size=60, seed=0), "25%")
    return Trainer(replace(CONFIG, **options), *images)


@pytest.mark.parametrize(
    ("model", "options", "sends", "reads"),
    [
        ("unet", {}, [4, 8, 8, 192], [4, 320]),
        ("fcn", {"depth": 3, "base_channels": 1, "tile": 40}, [4, 8, 8, 192], [4, 640]),
        ("sliding-window", {"tile": 12}, [4, 192, 400, 400, 400, 400], [4, 16, 576, 576]),
    ],
)
def test_no_image_is_moved_while_training(on_stand_in, monkeypatch, model, options, sends, reads):
    """Once the set is on the GPU and the step captured, these bytes are sent and read in a step.

    Where the tile is and how it is bent, the learning rate, dropout's seeds; the loss, and the weights by
    class and column. A network that looks at 100 windows draws them on the CPU, from target and weight.
    """
    sent, send, read, get = [], fake_cupy.ndarray.set, [], fake_cupy.ndarray.get

    def recorded_set(self, arr):
        sent.append(arr.nbytes)
        send(self, arr)

    def recorded_get(self):
        read.append(self.nbytes)
        return get(self)

    run = trainer(model=model, **options).run()
    for _ in range(2):
        next(run)
    monkeypatch.setattr(fake_cupy.ndarray, "set", recorded_set)
    monkeypatch.setattr(fake_cupy.ndarray, "get", recorded_get)
    for _ in range(2):
        sent.clear()
        read.clear()
        assert isinstance(next(run), Stepped)
        assert sorted(sent) == sends
        assert sorted(read) == reads


def test_a_training_is_that_of_the_cpu(emulated):
    """Losses and what is known of the weights, up to rounding that five steps carry on."""
    on_gpu = trainer()
    losses = [event.loss for event in on_gpu.run() if isinstance(event, Stepped)]
    with tu.use_backend("numba"):
        on_cpu = trainer()
        expected = [event.loss for event in on_cpu.run() if isinstance(event, Stepped)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(on_gpu.progress.recent, on_cpu.progress.recent, rtol=1e-5)


def test_where_samples_lie(on_stand_in):
    sample = CudaSampler(sampler(image_set([discs(0)]))).sample(0)
    assert all(map(lies_on_gpu, sample[:3]))
    assert sample.image.shape == (1, INPUT, INPUT, 1)
    assert sample.target.shape == sample.weight.shape == (1, OUTPUT, OUTPUT)
    assert isinstance(sample.folded, int)


def test_images_that_do_not_fit(on_stand_in, monkeypatch):
    """Images of 50 × 61 pixels: 53 · 64 coefficients, and two labels per pixel."""
    on_cpu = sampler(image_set([discs(0), discs(1)]))
    gc.collect()  # arrays of other tests would be freed later
    fake_cupy.get_default_memory_pool().free_all_blocks()
    monkeypatch.setattr(fake_cupy.Device, "total", fake_cupy.Device.held + 70_000)
    needed = 2 * (4 * 53 * 64 + 8 * 50 * 61) / 1e6
    with pytest.raises(OutOfMemoryError, match=f"{needed:.1f} MB"):
        CudaSampler(on_cpu)
    monkeypatch.setattr(fake_cupy.Device, "total", fake_cupy.Device.held + 2**20)
    CudaSampler(on_cpu)


def test_a_tile_of_more_columns_than_a_block_has_threads(emulated):
    """Sums over the columns of two blocks, and over a batch of windows, which has one column."""
    rng = np.random.default_rng(0)
    for shape in ((1, 30, 300), (400, 1, 1)):
        target = rng.integers(-1, 3, shape, np.int32)
        weight = rng.random(shape, np.float32)
        sample = sampling.Sample(target, target, weight, "noise", 0)
        expected = sampling.weights_by_class(sample, 3)
        np.testing.assert_allclose(weights_by_class(sample, 3), expected, rtol=1e-12)
    assert cuda.blocks(300, cuda.THREADS_PER_BLOCK) == 2
