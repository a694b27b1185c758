"""python -m experiments.best_effort scores networks alone and together, and makes no run twice."""

import os

import numpy as np
import pytest
from segmentations import membranes

from tinyunet import metrics, train
from tinyunet.backend import dispatch
from tinyunet.data import read_images
from tinyunet.exchange.exported import load_models
from tinyunet.prediction.segmentation import segment

TINY = ["--base-channels", "2", "--depth", "1", "--tile", "16", "--steps", "2", "--validate-every", "1"]


@pytest.fixture
def best_effort(monkeypatch, tmp_path):
    """The module, on thirty small images and with trainings of two steps."""
    with monkeypatch.context() as patch:  # the module sets it for a process of its own
        patch.setenv("NUMBA_NUM_THREADS", os.environ["NUMBA_NUM_THREADS"])
        from experiments import best_effort
    (tmp_path / "experiments" / "records").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    dispatch._choice.set(None)
    labels = np.stack([membranes((40, 36), 8 + number % 5) for number in range(30)]) * np.uint8(255)
    images = (labels * 0.6 + np.random.default_rng(0).normal(50, 20, labels.shape)).clip(0, 255)
    np.savez(tmp_path / "isbi2012_em_train.npz", images=images.astype(np.uint8), labels=labels)
    made = []

    def complete(folder, arguments):
        assert train.parse(list(arguments)).config.steps == best_effort.STEPS
        if folder not in made:
            train.main([*arguments, *TINY])
            made.append(folder)

    monkeypatch.setattr(best_effort.results, "complete", complete)
    return best_effort


def test_scores_each_network_and_their_mean_once(best_effort, tmp_path):
    for networks in (2, 2, 3):
        best_effort.main(best_effort.Options(networks, tmp_path, tmp_path / "runs"))
    lines = best_effort.read_records()
    assert [line["seeds"] for line in lines] == [[0], [1], [0, 1], [2], [0, 1, 2]]
    images = read_images(tmp_path / "isbi2012_em_train.npz").subset(range(24, 30))
    for line in lines:
        runs = [tmp_path / "runs" / f"seed-{seed}" / "last.safetensors" for seed in line["seeds"]]
        together = [network for run in runs for network in load_models(run)]
        maps = [segment(together, image, tile=16, symmetries=8).probabilities for image in images.images]
        stack = np.stack([one[..., 1] for one in maps]), np.stack(images.labels)
        for name, threshold in line["thresholds"].items():
            expected = metrics.v_rand(*stack, thresholds=[threshold])
            assert line["scores"][name] == pytest.approx(expected, rel=1e-12)
