"""Overlap-tile on the GPU: tiles of the mirrored image and their scores, compared with NumPy's."""

import fake_cupy
import numpy as np
import pytest
from oracle import random_arrays

import tinyunet as tu
from tinyunet.backend import to_backend, to_host
from tinyunet.prediction import tiling
from tinyunet.prediction.tiling import TilesInMemory
from tinyunet.prediction.tiling_cuda import TilesOnGpu

TRANSFORMS = [(turns, flip) for flip in (False, True) for turns in range(4)]


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((9, 12, 1), (-4, 9), (2, 15)),
        ((5, 3, 2), (-23, 31), (-40, -7)),  # smaller than the halo: mirrored again and again; off the image
        ((1, 7, 3), (-5, 6), (-8, 20)),  # one row
        ((1, 1, 1), (-3, 4), (-2, 2)),  # one pixel
        ((2, 2, 1), (-9, 9), (50, 55)),
    ],
)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_tiles_are_those_of_numpy(build, transform, shape, rows, columns):
    (image,) = random_arrays([shape], np.float64)
    expected = TilesInMemory(image, 2).cut_out(transform, rows, columns)
    tile = to_host(TilesOnGpu(image, 2).cut_out(transform, rows, columns))
    np.testing.assert_array_equal(tile, expected)
    assert tile.dtype == np.float32


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_scores_are_added_where_numpy_adds_them(build, transform):
    """Twice, the second time with a part of the output cut off."""
    image, output = random_arrays([(6, 9, 1), (1, 8, 7, 3)], np.float32)
    in_memory, on_gpu = TilesInMemory(image, 3), TilesOnGpu(image, 3)
    for down, across, cut in ((slice(0, 6), slice(1, 6), (0, 0)), (slice(2, 5), slice(0, 4), (2, 3))):
        in_memory.add(transform, down, across, output, cut)
        on_gpu.add(transform, down, across, to_backend(output), cut)
    assert in_memory.scores().any()
    np.testing.assert_array_equal(on_gpu.scores(), in_memory.scores())


def predict(shape, padding, symmetries):
    model = tu.UNet(2, 3, base_channels=2, depth=1, padding=padding, seed=1)
    (image,) = random_arrays([shape], np.float32)
    return tu.predict_tiled(model, image, tile=8, symmetries=symmetries)


@pytest.mark.parametrize("symmetries", [1, 8])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("shape", [(19, 30, 2), (1, 17, 2), (3, 2, 2)])
def test_predictions_have_the_bits_of_tiles_in_memory(emulated, monkeypatch, shape, padding, symmetries):
    ours = predict(shape, padding, symmetries)
    monkeypatch.setattr(tiling, "TilesOnGpu", TilesInMemory)
    np.testing.assert_array_equal(ours, predict(shape, padding, symmetries))
    assert np.ptp(ours) > 0.01


def test_an_image_that_is_a_view_into_another(emulated):
    """It begins at an address that is not a multiple of 16 bytes."""
    (image,) = random_arrays([(20, 21, 1)], np.float32)
    model = tu.UNet(base_channels=2, depth=1)
    np.testing.assert_array_equal(
        tu.predict_tiled(model, image[1:]), tu.predict_tiled(model, image[1:].copy())
    )


def test_an_image_larger_than_the_memory_of_the_gpu(on_stand_in, monkeypatch):
    """It stays in host memory, and only its tiles go to the GPU."""
    model = tu.UNet(base_channels=2, depth=1, seed=1)
    (image,) = random_arrays([(60, 500, 1)], np.float32)
    expected = tu.predict_tiled(model, image, tile=8)
    fake_cupy.get_default_memory_pool().free_all_blocks()
    monkeypatch.setattr(fake_cupy.Device, "total", fake_cupy.Device.held + image.nbytes + 10**5)
    np.testing.assert_array_equal(tu.predict_tiled(model, image, tile=8), expected)


@pytest.mark.parametrize("symmetries", [1, 8])
def test_one_image_goes_to_the_gpu_and_one_comes_back(on_stand_in, monkeypatch, symmetries):
    """Not once per tile. The predictions are those of cuda-emulated, to the bit."""
    model = tu.UNet(2, 3, base_channels=2, depth=1, seed=1)
    (image,) = random_arrays([(19, 30, 2)], np.float32)
    there, back, tiles = [], [], []
    asarray, get = fake_cupy.asarray, fake_cupy.ndarray.get

    def watched_asarray(a, *arguments, **options):
        if not isinstance(a, fake_cupy.ndarray):
            there.append(np.shape(a))
        return asarray(a, *arguments, **options)

    def watched_get(array):
        back.append(array.shape)
        return get(array)

    monkeypatch.setattr(fake_cupy, "asarray", watched_asarray)
    monkeypatch.setattr(fake_cupy.ndarray, "get", watched_get)
    ours = tu.predict_tiled(
        model, image, tile=8, symmetries=symmetries, on_tile=lambda done, total: tiles.append(done)
    )
    assert len(tiles) >= 12 * symmetries
    assert there == [image.shape]
    assert back == [(19, 30, 3)]
    with tu.use_backend("cuda-emulated"):
        np.testing.assert_array_equal(ours, predict((19, 30, 2), "valid", symmetries))
