"""Tiled predictions against one forward pass over the whole mirrored image."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from oracle import randomised
from scipy.special import softmax

from tinyunet.autograd import Tensor
from tinyunet.errors import OptionError, ShapeError
from tinyunet.models import FCN, UNet
from tinyunet.models.geometry import unet
from tinyunet.prediction.tiling import (
    TRANSFORMS,
    mirror_indices,
    multiplications_per_pixel,
    plan,
    predict_tiled,
    transformed,
    turned,
)

# Probabilities. With NumPy, BLAS adds the same float32 sums in another order for tiles of another width.
TOLERANCE = 1e-5


def random_net(depth, padding="valid", variant="paper", channels=1, classes=2):
    """A network with random biases: the initial zeros could hide a wrong padding."""
    model = UNet(
        channels, classes, base_channels=2, depth=depth, padding=padding, variant=variant, seed=depth
    )
    rng = np.random.default_rng(depth)
    for parameter in model.parameters():
        if parameter.data.ndim == 1:
            parameter.data[...] = rng.normal(0, 0.3, parameter.shape)
    return model


def random_image(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def whole_scores(model, image):
    """The scores of a valid network, from one forward pass."""
    pads = []
    for size in image.shape[:2]:
        before = model.geometry.halo
        side = model.geometry.input_for_output(size)
        pads.append((before, side - size - before))
    padded = np.pad(image, [*pads, (0, 0)], mode="reflect")
    model.eval()
    scores = model(Tensor(padded[np.newaxis])).data[0]
    return scores[: image.shape[0], : image.shape[1]]


@pytest.mark.parametrize("variant", ["paper", "release"])
@pytest.mark.parametrize(
    ("depth", "shape", "tiles"),
    [
        (0, (9, 14), (1, 4, 40)),
        (1, (1, 1), (1, 40)),
        (1, (1, 7), (1, 2, 40)),
        (1, (33, 26), (1, 7, 16, 388)),
        (2, (13, 50), (1, 12, 21, 388)),
        (3, (5, 3), (1, 388)),  # smaller than the halo of 44: mirrored more than once
        (3, (61, 40), (1, 12, 20, 28, 388)),
        (4, (57, 36), (20, 388)),
    ],
)
def test_tiled_equals_whole(variant, depth, shape, tiles):
    model, image = random_net(depth, variant=variant), random_image(*shape, 1)
    expected = softmax(whole_scores(model, image), axis=2)
    assert np.ptp(expected) > 0.01 or image.size == 1  # a constant would equal anything
    for tile in tiles:
        found = predict_tiled(model, image, tile=tile)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE, err_msg=f"tile {tile}")


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("tile", [1, 20, 100])
def test_tiles_are_few_and_as_small_as_possible(padding, tile):
    """The side is the smallest, up to `tile`, that needs the fewest tiles."""
    geometry = unet(2, padding)
    largest = geometry.nearest_inputs(max(4, tile) + 2 * geometry.halo)[1] - 2 * geometry.halo
    for size in range(1, 130):
        counts = {}
        for output in range(largest, 0, -4):
            if geometry.takes(output + 2 * geometry.halo) and output >= 4:
                step = output - output % 4
                counts[output] = 1 + max(0, -(-(size - output) // step))
        fewest = min(counts.values())
        side = plan(geometry, size, tile)
        assert len(side.parts) == fewest
        assert side.output == min(output for output, count in counts.items() if count == fewest)


def test_channels_and_classes():
    model, image = random_net(2, channels=3, classes=4), random_image(30, 21, 3)
    found = predict_tiled(model, image, tile=8)
    assert found.shape == (30, 21, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(whole_scores(model, image), axis=2), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.sum(axis=2), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 7), (45, 38)])
def test_padded_network_has_no_seam(depth, shape):
    """The zeros that a padded network invents have no effect: one large tile equals many small ones."""
    model, image = random_net(depth, padding="same"), random_image(*shape, 1)
    expected = predict_tiled(model, image, tile=388)
    for tile in (1, 13, 24):
        found = predict_tiled(model, image, tile=tile)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE, err_msg=f"tile {tile}")


@pytest.mark.parametrize("shape", [(1, 7), (45, 38)])
def test_fcn_has_no_seam(shape):
    model, image = randomised(FCN(base_channels=2, depth=3)), random_image(*shape, 1)
    expected = predict_tiled(model, image, tile=388)
    assert np.ptp(expected[..., 0]) > 0.01 or min(shape) == 1
    for tile in (1, 13, 24):
        found = predict_tiled(model, image, tile=tile)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE, err_msg=f"tile {tile}")


def test_an_image_of_any_type():
    """16-bit camera images, and float64, the usual result of NumPy."""
    model, image = random_net(1), np.random.default_rng(0).integers(0, 9, (20, 13, 1))
    expected = predict_tiled(model, image.astype(np.float32), tile=8)
    for dtype in (np.uint16, np.float64):
        np.testing.assert_array_equal(predict_tiled(model, image.astype(dtype), tile=8), expected)


def test_scores_whose_exponentials_overflow():
    model, image = random_net(1, classes=3), random_image(9, 7, 1)
    model.scores.bias.data[...] = [1000, -1000, 1000]
    model.scores.weight.data[...] = 0
    np.testing.assert_array_equal(predict_tiled(model, image), np.broadcast_to([0.5, 0, 0.5], (9, 7, 3)))


def test_prediction_records_no_graph(monkeypatch):
    """Otherwise the maps of all layers would be kept for a backward pass: several times a tile's memory."""
    model, recorded = random_net(1), []
    forward = UNet.forward

    def watched(self, x):
        y = forward(self, x)
        recorded.append(y.requires_grad)
        return y

    monkeypatch.setattr(UNet, "forward", watched)
    predict_tiled(model, random_image(20, 13, 1), tile=8)
    assert set(recorded) == {False}


def test_padded_network_inside_a_large_image():
    """Far from the edge the prediction is that of the plain network on the plain image."""
    model, image = random_net(1, padding="same"), random_image(64, 48, 1)
    model.eval()
    plain = softmax(model(Tensor(image[np.newaxis])).data[0], axis=2)
    margin = model.geometry.halo
    inside = slice(margin, -margin), slice(margin, -margin)
    found = predict_tiled(model, image, tile=10)
    np.testing.assert_allclose(found[inside], plain[inside], rtol=0, atol=TOLERANCE)


def test_eight_symmetries_are_averaged_scores():
    model, image = random_net(2), random_image(19, 30, 1)
    total = np.zeros((19, 30, 2))
    for turns in range(4):
        for flip in (False, True):
            seen = np.rot90(np.fliplr(image) if flip else image, turns)
            back = np.rot90(whole_scores(model, np.ascontiguousarray(seen)), -turns)
            total += np.fliplr(back) if flip else back
    found = predict_tiled(model, image, tile=10, symmetries=8)
    np.testing.assert_allclose(found, softmax(total / 8, axis=2), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_mirror_is_that_of_numpy_pad(size):
    """With reflections of reflections: 23 pixels before and 31 after."""
    expected = np.pad(np.arange(size), (23, 31), mode="reflect")
    np.testing.assert_array_equal(mirror_indices(-23, size + 31, size), expected)


def test_threads_predict_with_one_model_in_training_mode():
    """Without dropout, each beginning or ending while the other is at work; the model stays in its mode."""
    model, image = random_net(1), random_image(20, 20, 1)
    alone = predict_tiled(model.eval(), image, tile=8)
    model.train()
    begun, both, ended = threading.Event(), threading.Event(), threading.Event()

    def first(done, total):
        begun.set()
        both.wait(30)

    def second(done, total):
        both.set()
        ended.wait(30)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(predict_tiled, model, image, tile=8, on_tile=first)
        begun.wait(30)
        other = pool.submit(predict_tiled, model, image, tile=8, on_tile=second)
        both.wait(30)
        training = model.training
        scores = one.result()
        ended.set()
        np.testing.assert_array_equal(scores, alone)
        np.testing.assert_array_equal(other.result(), alone)
    assert training
    assert all(module.training for module in (model, model.contracting[0], model.up[0]))


@pytest.mark.parametrize(("symmetries", "total"), [(1, 6), (8, 48)])
def test_on_tile_counts(symmetries, total):
    """20 × 13 pixels in tiles of 8: three by two of them for each symmetry."""
    counts = []
    predict_tiled(
        random_net(1),
        random_image(20, 13, 1),
        tile=8,
        symmetries=symmetries,
        on_tile=lambda done, of: counts.append((done, of)),
    )
    assert counts == [(done, total) for done in range(1, total + 1)]


def test_memory_is_the_result_and_one_tile():
    """An image 16 times as large needs no more memory besides the result (up to half of the small result)."""
    model = random_net(1)
    beside = []
    for side in (96, 384):
        image = random_image(side, side, 1)
        predict_tiled(model, image[:32, :32], tile=32)
        tracemalloc.start()
        result = predict_tiled(model, image, tile=32)
        beside.append(tracemalloc.get_traced_memory()[1] - result.nbytes)
        tracemalloc.stop()
    small_result = 96 * 96 * 2 * 4
    assert beside[1] < beside[0] + small_result // 2


@pytest.mark.parametrize(
    ("image", "expected", "found"),
    [
        (np.zeros((5, 5)), "2 channels", "(5, 5)"),
        (np.zeros((5, 5, 3)), "2 channels", "(5, 5, 3)"),
        (np.zeros((1, 5, 5, 2)), "one image (H, W, C)", "(1, 5, 5, 2)"),
        (np.zeros((0, 5, 2)), "one image", "(0, 5, 2)"),
    ],
)
def test_an_image_that_does_not_fit(image, expected, found):
    with pytest.raises(ShapeError) as error:
        predict_tiled(random_net(1, channels=2), image)
    assert expected in str(error.value)
    assert found in str(error.value)


@pytest.mark.parametrize("options", [{"tile": 0}, {"tile": -4}, {"symmetries": 4}, {"symmetries": 0}])
def test_an_option_out_of_range(options):
    (name, value), *_ = options.items()
    with pytest.raises(OptionError, match=f"{name} {value}"):
        predict_tiled(random_net(1), random_image(5, 5, 1), **options)


def test_a_small_image_costs_no_more_with_a_large_tile():
    """The tile is not larger than the image needs."""
    model = random_net(1)
    costs = [multiplications_per_pixel(model, (20, 14), tile=tile) for tile in (20, 388)]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_multiplications_are_those_of_all_tiles(monkeypatch, padding):
    model, image = random_net(1, padding=padding), random_image(20, 13, 1)
    seen = []
    forward = UNet.forward

    def watched(self, x):
        seen.append(x.shape[1:3])
        return forward(self, x)

    monkeypatch.setattr(UNet, "forward", watched)
    predict_tiled(model, image, tile=8)
    assert len(seen) > 1
    expected = sum(model.multiplications(*sides) for sides in seen) / (20 * 13)
    assert multiplications_per_pixel(model, (20, 13), tile=8) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_where_pixels_of_an_image_are_in_the_transformed_image(transform):
    image = np.arange(7 * 9).reshape(7, 9)
    down, across = slice(1, 5), slice(2, 9)
    found = transformed(image, *transform)[turned(down, across, image.shape, *transform)]
    np.testing.assert_array_equal(found, transformed(image[down, across], *transform))
