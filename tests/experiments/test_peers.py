"""Networks that are compared on images of several magnifications."""

import os

import numpy as np
import pytest

from tinyunet.data import read_images, split
from tinyunet.data.pixel_sizes import PixelSizes
from tinyunet.models import UNet
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.segmentation import segment
from tinyunet.training.config import TrainConfig


@pytest.fixture
def peers(monkeypatch):
    """The module, which sets the number of threads for a process of its own."""
    with monkeypatch.context() as patch:
        patch.setenv("NUMBA_NUM_THREADS", os.environ["NUMBA_NUM_THREADS"])
        from experiments import peers
    return peers


def test_scores_are_taken_at_the_images_own_pixels(peers, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (3, 40, 40)).astype(np.uint8), rng.integers(0, 2, (3, 40, 40))
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    table = tmp_path / "sizes.csv"
    table.write_text("name,pixel_size\nset-0,0.5\nset-1,0.5\nset-2,0.25\n")
    options = {"pixel_size": 0.5, "pixel_sizes": str(table)}
    config = TrainConfig(str(tmp_path / "set.npz"), holdout="2", tile=16, **options)
    _, held_out = split(read_images(config.data, **options), "2")
    assert held_out.images[0].shape == (20, 20, 1)
    network = UNet(base_channels=2, depth=1, seed=0)
    judged, predictions = peers.predict_as_they_are(network, config, held_out, ObjectRule())
    (prediction,) = predictions
    np.testing.assert_array_equal(judged.images[0][..., 0], images[2])
    factors = PixelSizes(config.data, str(table)).factors("set-2", 0.5)
    expected = segment([network], judged.images[0], tile=16, factors=factors)
    assert prediction.probabilities.shape == (40, 40, 2)
    np.testing.assert_array_equal(prediction.probabilities, expected.probabilities)


def test_steps_of_recorded_runs(peers):
    records = [{"task": "axons", "peer": "a", "steps": steps} for steps in (700, 801)]
    assert peers.recorded_steps(records, "axons", "a") == 750
    with pytest.raises(peers.OptionError, match="no recorded run on axons"):
        peers.recorded_steps(records, "axons", "b")


@pytest.mark.parametrize(("task", "left_out"), [("isbi", "BORDERS"), ("axons", "NO_BORDERS")])
def test_no_peer_is_the_default_recipe_again(peers, task, left_out):
    expected = [peer for peer in peers.PEERS if peer != getattr(peers, left_out)]
    assert peers.peers_on(task, peers.PEERS) == expected
