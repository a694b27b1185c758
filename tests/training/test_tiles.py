"""A step of several tiles: PyTorch's gradient of the mean loss, and the same bits however they are shared."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import assert_close, softmax_cross_entropy, torch_parameters, torch_twin

import tinyunet as tu
from tinyunet.backend import to_host
from tinyunet.data import split, synthetic_cells
from tinyunet.ops.conv2d import Conv2d
from tinyunet.ops.crop_concat_conv2d import CropConcatConv2d
from tinyunet.sampling import batch
from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint
from tinyunet.training.config import TrainConfig
from tinyunet.training.ranks import Ranks, Sum
from tinyunet.training.stored_run import stored_config
from tinyunet.training.tiles import halves, share_out, tree_sum
from tinyunet.training.trainer import Trainer

TOLERANCE = 1e-5  # of the largest number of the gradient: six layers of float32
ONE = TrainConfig(
    base_channels=2, depth=1, tile=16, steps=4, validate_every=4, lr=0.01, momentum=0.9, dropout=0.0
)
THREE = replace(ONE, batch=3)
ADAM = {"optimiser": "adam", "momentum": None, "lr": 0.001, "normalisation": "batch", "fixed_statistics": 0.5}
TRAIN, HELD_OUT = split(synthetic_cells(n=4, size=40, seed=0), "3")


def trainer(config):
    return Trainer(config, TRAIN, HELD_OUT)


def finished(config):
    training = trainer(config)
    for _ in training.run():
        pass
    return training


def bits(training):
    return {name: array.tobytes() for name, array in training.model.state_dict().items()}


@pytest.mark.parametrize("backend", ["numba", "cuda-emulated"])
@pytest.mark.parametrize("normalisation", ["none", "batch"])
def test_the_gradient_of_a_step_is_that_of_the_mean_loss(backend, normalisation):
    with tu.use_backend(backend):
        training = trainer(replace(THREE, normalisation=normalisation))
        parameters = torch_parameters(training.model)
        samples = [batch.finish(training.sampler.sample(0, tile), 2) for tile in range(3)]
        stepped = next(training.run())
    losses = []
    for image, target, weight, _ in samples:
        scores = torch_twin(training.model, parameters, torch.tensor(to_host(image)))
        losses.append(softmax_cross_entropy(scores, to_host(target), to_host(weight), "sum"))
    loss = sum(losses) / 3
    loss.backward()
    assert stepped.loss == pytest.approx(loss.item(), rel=1e-5)
    assert len({tile.item() for tile in losses}) == 3
    velocity = [to_host(array).ravel() for array in training.optimiser.velocity]
    theirs = [parameters[name].grad.numpy().ravel() for name, _ in training.model.named_parameters()]
    assert_close(np.concatenate(velocity), np.concatenate(theirs), tolerance=TOLERANCE)


def test_a_tree_that_is_cut_anywhere_has_the_same_sum():
    """Each rank has tiles in a row, less than twice its share of them."""
    arrays = np.random.default_rng(0).standard_normal((9, 50), np.float32)
    single = [range(n, n + 1) for n in range(9)]

    def sum_of(part):
        return tree_sum(part, single, lambda tile: arrays[tile.start].copy())

    for tiles in range(1, 10):
        for ranks in range(1, tiles + 1):
            parts = share_out(range(tiles), ranks)
            assert [tile for part in parts for tile in part] == list(range(tiles))
            assert max(map(len, parts)) < 2 * tiles / ranks
            shared = tree_sum(range(tiles), parts, {part: sum_of(part) for part in parts}.__getitem__)
            assert shared.tobytes() == sum_of(range(tiles)).tobytes()


def test_the_tree_is_added_from_the_left_and_keeps_one_sum_a_level():
    """What it holds at most: the sums that wait for their right-hand neighbour, and a tile's own gradient."""
    alive, most = set(), []

    class Sum:
        def __init__(self, tiles):
            self.tiles = tiles
            alive.add(self)
            most.append(len(alive))

        def __iadd__(self, other):
            assert (self.tiles, other.tiles) == halves(range(self.tiles.start, other.tiles.stop))
            self.tiles = range(self.tiles.start, other.tiles.stop)
            alive.remove(other)
            return self

    with tu.use_backend("numpy"):
        total = tree_sum(range(16), [range(n, n + 1) for n in range(16)], Sum)
    assert total.tiles == range(16)
    assert max(most) == 5


def test_gradients_are_handed_on_while_the_backward_pass_goes_on(monkeypatch):
    """In a process's last tile, from the last layer to the first; the sum is that of a process alone."""
    handed_on = []

    class Noted(Sum):
        def extend(self, stop):
            handed_on.append((stop, self._array[:stop].tobytes()))

    monkeypatch.setattr(Ranks, "begin_sum", lambda ranks, array, add: Noted(array))
    training = trainer(THREE)
    before_convolution = []
    for op in (Conv2d, CropConcatConv2d):

        def noted(function, grad, backward=op.backward):
            before_convolution.append(len(handed_on))
            return backward(function, grad)

        monkeypatch.setattr(op, "backward", noted)
    next(training.run())
    last = before_convolution[-6:]
    assert before_convolution[:-6] == [0] * 12  # two tiles of six convolutions
    assert last == sorted(last)
    assert last[0] < last[-1]
    stops = [stop for stop, _ in handed_on]
    assert stops == sorted(stops)
    whole = handed_on[-1][1]
    assert all(whole.startswith(part) for _, part in handed_on)


def test_the_first_tile_of_a_step_is_that_of_a_step_of_one_tile():
    """The others are cut from other images; in an epoch each tile takes every image once."""
    one, three = trainer(replace(ONE, seed=5)).sampler, trainer(replace(THREE, seed=5)).sampler
    for step in range(5):
        assert three.sample(step).image.tobytes() == one.sample(step).image.tobytes()
        tiles = [three.sample(step, tile) for tile in range(3)]
        assert len({tile.name for tile in tiles}) == 3
    epoch = [[three.index_and_rng(step, tile)[0] for tile in range(3)] for step in range(3, 6)]
    assert [sorted(column) for column in zip(*epoch, strict=True)] == [[0, 1, 2]] * 3
    draws = {three.index_and_rng(step, tile)[1].random() for step in range(4) for tile in range(3)}
    assert len(draws) == 12


@pytest.mark.parametrize("changes", [{"dropout": 0.5}, ADAM], ids=["sgd", "adam"])
def test_stopped_and_resumed_gives_the_same_bits(tmp_path, changes):
    config = replace(THREE, **changes)
    whole = finished(config)
    stopped = trainer(config)
    next(events := stopped.run())
    next(events)
    save_checkpoint(tmp_path / "last", stopped.checkpoint())
    resumed = trainer(config)
    resumed.restore(load_checkpoint(tmp_path / "last"))
    for _ in resumed.run():
        pass
    assert bits(resumed) == bits(whole)
    assert resumed.progress == whole.progress
    assert bits(whole) != bits(finished(replace(config, batch=1)))


def test_a_checkpoint_of_an_earlier_version_is_one_of_single_tiles(tmp_path):
    checkpoint = trainer(ONE).checkpoint()
    old = {name: value for name, value in asdict(checkpoint)["config"].items() if name != "batch"}
    save_checkpoint(tmp_path / "last", replace(checkpoint, config=old))
    assert stored_config(load_checkpoint(tmp_path / "last"), Path("last")).batch == 1


def test_tiles_in_which_nothing_is_labelled_do_not_lower_the_average():
    """The plateau's measure is the loss of the tiles that have labels, though the step's is of all."""
    training = trainer(THREE)
    training._count_step(0.2, np.array([[0, 0], [0.25, 0.75], [0, 0]]))
    assert training.progress.recent == [[pytest.approx(0.6), 0.25, 0.75]]
