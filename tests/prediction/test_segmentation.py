"""One image, one or several networks: the average of their probabilities, and the tiles of all of them."""

import numpy as np

import tinyunet as tu
from tinyunet.data import normalise
from tinyunet.prediction.segmentation import segment
from tinyunet.prediction.tiling import predict_tiled

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 33, 1)).astype(np.uint8)


def networks(n):
    return [tu.UNet(base_channels=2, depth=1, seed=seed) for seed in range(n)]


def test_one_network_keeps_its_bits():
    (model,) = networks(1)
    expected = predict_tiled(model, normalise(IMAGE), tile=16)
    assert segment([model], IMAGE, tile=16).probabilities.tobytes() == expected.tobytes()


def test_several_networks_are_averaged():
    models = networks(3)
    expected = np.mean([predict_tiled(model, normalise(IMAGE), tile=16) for model in models], axis=0)
    found = segment(models, IMAGE, tile=16).probabilities
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2**-22)  # sums of up to 3 in float32
    np.testing.assert_allclose(found.sum(axis=2), 1, rtol=0, atol=1e-6)


def test_tiles_of_all_networks_are_counted_once():
    shown = []
    segment(networks(3), IMAGE, tile=16, on_tile=lambda done, total: shown.append((done, total)))
    assert [done for done, _ in shown] == list(range(1, len(shown) + 1))
    assert {total for _, total in shown} == {len(shown)}
