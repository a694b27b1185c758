"""Training gives the same bits however often it is stopped; every run ends; scores are correct."""

import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from oracle import assert_close, torch_parameters, torch_unet
from sklearn.metrics import jaccard_score

from tinyunet.autograd import Tensor
from tinyunet.data import UNKNOWN, ImageSet, normalise
from tinyunet.errors import CheckpointError, RunError
from tinyunet.models import UNet
from tinyunet.nn import AdamW
from tinyunet.ops.softmax_cross_entropy import softmax_cross_entropy
from tinyunet.sampling import WeightMap
from tinyunet.sampling.augment import Augmentation
from tinyunet.training import population
from tinyunet.training.checkpoint import load_checkpoint, load_model, save_checkpoint
from tinyunet.training.config import TrainConfig, optimiser_options
from tinyunet.training.events import Finished, Stepped, Validated
from tinyunet.training.trainer import Trainer
from tinyunet.training.validation import validate

TINY = TrainConfig(
    base_channels=2, depth=1, tile=16, steps=5, validate_every=2, lr=0.01, momentum=0.9, dropout=0.5
)

# Two steps of five.
FIXED = {"normalisation": "batch", "fixed_statistics": 0.4}
ADAM = {"optimiser": "adam", "momentum": None, "weight_decay": 0.1, "schedule": "cosine", "warmup": 3}


def blobs(seed, n=3, shape=(40, 36), kind="binary"):
    """Bright discs in noise, with their classes."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    images, labels = [], []
    for _ in range(n):
        label = np.zeros(shape, np.uint8)
        for value in range(1, 7):
            at = rng.uniform(0, shape)
            inside = np.hypot(y - at[0], x - at[1]) < 6
            label[inside] = value if kind == "instances" else 1 + value % 2 if kind == "classes" else 1
        images.append((label[..., None] > 0) * 3 + rng.normal(size=(*shape, 1)))
        labels.append(label)
    names = [f"blobs-{i}" for i in range(n)]
    return ImageSet(images, names, labels, kind, 3 if kind == "classes" else 2)


TRAIN, HELD_OUT = blobs(0), blobs(1, n=2)


def trainer(config=TINY, training_set=TRAIN, held_out=HELD_OUT):
    return Trainer(config, training_set, held_out)


def bits(training):
    return {name: array.tobytes() for name, array in training.model.state_dict().items()}


def finished(training):
    *_, last = training.run()
    return last


NETWORKS = pytest.mark.parametrize(
    "network", [{"padding": "valid"}, {"padding": "same"}, {"normalisation": "batch"}, FIXED], ids=str
)


@NETWORKS
def test_the_same_seed_gives_the_same_bits(network):
    config = replace(TINY, **network)
    one, other = trainer(config), trainer(config)
    events = [list(each.run()) for each in (one, other)]
    assert bits(one) == bits(other)
    assert bits(one) != bits(trainer(config))
    losses = [[event.loss for event in run if isinstance(event, Stepped)] for run in events]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 5
    finished(changed := trainer(replace(config, seed=1)))
    assert bits(changed) != bits(one)


@pytest.mark.parametrize(
    "changes",
    [{"padding": "valid"}, {"padding": "same"}, {"normalisation": "batch"}, FIXED, ADAM],
    ids=["valid", "same", "batch", "fixed", "adam"],
)
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("before_validation", [True, False])
def test_stopped_and_resumed_gives_the_same_bits(tmp_path, changes, stop, before_validation):
    """Through a file; at steps 2, 4 and 5 just before or just after the validation that is due there."""
    config = replace(TINY, **changes)
    whole = trainer(config)
    expected = [event for event in whole.run() if isinstance(event, Validated)]

    stopped, found = trainer(config), []
    for event in stopped.run():
        found += [event] if isinstance(event, Validated) else []
        last = not before_validation and (stop % 2 == 0 or stop == 5)
        if event.step == stop and isinstance(event, Validated if last else Stepped):
            break
    save_checkpoint(tmp_path / "last", stopped.checkpoint())

    resumed = trainer(config)
    resumed.restore(load_checkpoint(tmp_path / "last"))
    assert resumed.step == stop
    found += [event for event in resumed.run() if isinstance(event, Validated)]
    assert bits(resumed) == bits(whole)
    for part, arrays in whole.optimiser.state.items():
        for one, other in zip(resumed.optimiser.state[part], arrays, strict=True):
            assert one.tobytes() == other.tobytes()
            assert one.any()
    assert resumed.progress == whole.progress
    assert [(e.step, e.scores, e.is_best) for e in found] == [(e.step, e.scores, e.is_best) for e in expected]


THREADS = """
import sys, numba
sys.path[:0] = sys.argv[1:]
from test_trainer import TINY, bits, finished, trainer
from dataclasses import replace
found = []
for threads in (1, 2, 2):
    numba.set_num_threads(threads)
    for network in ({"padding": "valid"}, {"normalisation": "batch"}):
        training = trainer(replace(TINY, **network, base_channels=5, steps=3))
        finished(training)
        found.append(bits(training))
print(found[0:2] == found[2:4] == found[4:6])
"""


def test_the_number_of_threads_does_not_matter():
    """In a process of its own: Numba's number of threads is fixed when it starts. They do not spin."""
    done = subprocess.run(
        [sys.executable, "-c", THREADS, os.path.dirname(__file__), os.path.dirname(oracle.__file__)],
        env={**os.environ, "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.stdout == "True\n", done.stderr


def test_events_come_in_order():
    kinds = [(type(event), event.step) for event in trainer().run()]
    steps = [[(Stepped, step)] + [(Validated, step)] * (step in (2, 4, 5)) for step in range(1, 6)]
    assert kinds == [*sum(steps, []), (Finished, 5)]  # noqa: RUF017  five lists


def test_every_step_drops_other_units():
    training = trainer()
    drawn = [
        training.model.dropout_rng.bit_generator.state["state"]["state"]
        for event in training.run()
        if isinstance(event, Stepped)
    ]
    assert len(set(drawn)) == 5


def test_each_seed_and_step_draws_other_numbers(monkeypatch):
    """For dropout, and for a network that makes a batch, such as the sliding window's windows."""
    drawn = []
    monkeypatch.setattr(
        UNet, "training_batch", lambda self, sample, rng: drawn.append(rng.random()) or sample
    )
    for seed in (0, 1):
        training = trainer(replace(TINY, seed=seed, steps=2))
        for event in training.run():
            if isinstance(event, Stepped):
                drawn.append(training.model.dropout_rng.random())
    assert len(drawn) == len(set(drawn)) == 8


def test_the_options_reach_their_parts():
    options = {"momentum": 0.7, "weight_decay": 0.25, "augmentation": Augmentation.off()}
    training = trainer(replace(TINY, weights=WeightMap(w0=2), **options))
    assert (training.optimiser.momentum, training.optimiser.weight_decay) == (0.7, 0.25)
    assert training.sampler.augmenter.augmentation == Augmentation.off()
    assert training.sampler.settings == WeightMap(w0=2)
    adam = trainer(replace(TINY, **ADAM)).optimiser
    assert (type(adam), adam.weight_decay) == (AdamW, 0.1)
    other = trainer(replace(TINY, seed=1, **options))
    assert bits(other) != bits(training)
    assert not np.array_equal(other.sampler.sample(0).image, training.sampler.sample(0).image)


def test_defaults_are_the_papers():
    config = TrainConfig()
    assert (optimiser_options(config)["momentum"], config.tile) == (0.99, 388)


def test_a_listener_may_leave_the_network_in_any_mode():
    """It may predict between two steps, which drop out the same units as without it."""
    alone, watched = trainer(), trainer()
    finished(alone)
    for _ in watched.run():
        watched.model.eval()
    assert bits(watched) == bits(alone)


def test_a_tile_in_which_nothing_is_labelled_changes_no_average():
    """Its loss of 0 says nothing about the progress of the training."""
    training = trainer()
    sample = training.sampler.sample(0)
    nothing = sample._replace(target=np.full_like(sample.target, UNKNOWN), weight=0 * sample.weight)
    assert training._train_on(training._prepared(nothing, 0)) == 0
    assert training.progress.recent == []


def test_a_finished_run_goes_on_with_more_steps():
    training = trainer()
    assert finished(training).reason == "all 5 steps"
    before = bits(training)
    assert [type(event) for event in training.run()] == [Finished]
    assert bits(training) == before
    longer = trainer(replace(TINY, steps=7))
    longer.restore(training.checkpoint())
    assert [event.step for event in longer.run() if isinstance(event, Stepped)] == [6, 7]


def test_weights_that_are_not_finite():
    training = trainer()
    events = training.run()
    loss = next(events).loss
    training.model.parameters()[0].data[...] = math.nan
    with pytest.raises(RunError) as error:
        next(events)
    for text in (
        "step 2",
        "nan",
        f"last finite loss  {loss:.6g}",
        "learning rate     0.00818",
        "with momentum 0.9 a constant gradient acts as with 0.0818",
        "--lr, for instance 0.001",
    ):
        assert text in str(error.value)


def test_a_rate_that_is_too_high():
    """It diverges after training steps: either the loss is not finite or, at a validation, a weight."""
    with pytest.raises(RunError, match=r"last finite loss +\d"):
        finished(trainer(replace(TINY, lr=1e25)))


def test_diverged_weights_are_neither_best_nor_saved():
    training = trainer(replace(TINY, validate_every=1))
    events = training.run()
    assert isinstance(next(events), Stepped)
    training.model.parameters()[0].data[0, 0] = math.inf
    with pytest.raises(RunError, match=r"contracting\.0\.first\.weight"):
        next(events)
    with pytest.raises(RunError, match=r"contracting\.0\.first\.weight"):
        training.checkpoint()
    assert training.progress.best_step == 0


def test_stops_early_and_stays_stopped():
    """A rate so small that no prediction changes: the first validation is the best."""
    config = replace(TINY, lr=1e-12, validate_every=1, patience=2, steps=9)
    training = trainer(config)
    events = list(training.run())
    assert events[-1] == Finished(3, "no better score in 2 validations")
    assert [event.is_best for event in events if isinstance(event, Validated)] == [True, False, False]
    assert (training.progress.best_step, training.progress.since_best) == (1, 2)
    again = trainer(config)
    again.restore(training.checkpoint())
    assert list(again.run()) == [events[-1]]
    patient = trainer(replace(config, patience=3))
    patient.restore(training.checkpoint())
    assert finished(patient) == Finished(4, "no better score in 3 validations")


@pytest.mark.parametrize(
    ("schedule", "share"),
    [
        ("constant", lambda k: 1),
        ("poly", lambda k: (1 - k / 5) ** 0.9),
        ("cosine", lambda k: (1 + np.cos(np.pi * k / 5)) / 2),
    ],
)
@pytest.mark.parametrize(
    ("warmup", "rise"), [(0, [1, 1, 1, 1, 1]), (1, [1, 1, 1, 1, 1]), (4, [0.25, 0.5, 0.75, 1, 1])]
)
def test_schedules(schedule, share, warmup, rise):
    training = trainer(replace(TINY, schedule=schedule, warmup=warmup))
    rates = [event.lr for event in training.run() if isinstance(event, Stepped)]
    np.testing.assert_allclose(rates, [0.01 * share(k) * rise[k] for k in range(5)], rtol=1e-12)


def test_one_image_is_memorised():
    """The loss falls to a tenth of that at the start."""
    one = blobs(3, n=1)
    config = replace(
        TINY,
        base_channels=4,
        steps=120,
        validate_every=120,
        lr=0.05,
        dropout=0.0,
        augmentation=Augmentation.off(),
        weights=WeightMap(w0=0),
    )
    events = list(trainer(config, one, one).run())
    losses = [event.loss for event in events if isinstance(event, Stepped)]
    assert np.mean(losses[-10:]) < 0.1 * np.mean(losses[:3])
    assert events[-2].scores.mean_iou > 0.9


def test_steps_of_adam_follow_pytorchs():
    """With the gradients of the samples, at rates that rise and fall."""
    config = replace(TINY, dropout=0.0, **ADAM)
    training, model = trainer(config), trainer(config).model
    theirs = {name: torch.tensor(p.data.copy(), requires_grad=True) for name, p in model.named_parameters()}
    reference = torch.optim.AdamW(theirs.values(), weight_decay=0.1)
    for event in training.run():
        if not isinstance(event, Stepped):
            continue
        sample = training.sampler.sample(event.step - 1)
        softmax_cross_entropy(model(Tensor(sample.image)), sample.target, sample.weight).backward()
        reference.param_groups[0]["lr"] = event.lr
        for name, parameter in model.named_parameters():
            theirs[name].grad = torch.tensor(parameter.grad)
            parameter.grad = None
        reference.step()
        for name, parameter in training.model.named_parameters():
            # A gradient near 0 may have another sign after rounding, and then moves by lr in each step.
            close = np.isclose(parameter.data, theirs[name].detach().numpy(), rtol=0, atol=1e-5)
            assert close.mean() > 0.95
        model.load_state_dict(training.model.state_dict())
        for name, parameter in model.named_parameters():
            theirs[name].data[...] = torch.tensor(parameter.data)
    assert event.step == 5


def test_adam_diverges_without_a_word_about_momentum():
    with pytest.raises(RunError) as error:
        finished(trainer(replace(TINY, optimiser="adam", momentum=None, lr=1e30)))
    assert "momentum" not in str(error.value)


def test_a_step_follows_the_definition():
    """One step of SGD, computed from the loss of the sample by hand: v = gradient, w = w - lr v."""
    config = replace(TINY, dropout=0.0)
    training, model = trainer(config), trainer(config).model
    sample = training.sampler.sample(0)
    loss = softmax_cross_entropy(model(Tensor(sample.image)), sample.target, sample.weight)
    loss.backward()
    event = next(training.run())
    assert event.loss == loss.item()
    for ours, theirs in zip(training.model.parameters(), model.parameters(), strict=True):
        np.testing.assert_allclose(ours.data, theirs.data - 0.01 * theirs.grad, rtol=0, atol=1e-7)


def unknown_at_the_right(images):
    labels = [np.where(np.arange(36) < 20, label.astype(int), UNKNOWN) for label in images.labels]
    return replace(images, labels=labels)


def test_the_loss_of_a_step_leaves_out_what_is_unknown():
    """Compared with PyTorch, whose cross-entropy can ignore a label too."""
    training = trainer(
        replace(TINY, dropout=0.0), unknown_at_the_right(TRAIN), unknown_at_the_right(HELD_OUT)
    )
    for step in range(4):
        sample = training.sampler.sample(step)
        scores = torch.tensor(training.model(Tensor(sample.image)).data).permute(0, 3, 1, 2)
        weight = torch.tensor(sample.weight)
        target = torch.tensor(sample.target.astype(np.int64))
        energy = F.cross_entropy(scores, target, reduction="none", ignore_index=UNKNOWN)
        expected = (weight * energy).sum() / weight[target != UNKNOWN].sum()
        drawn = training._prepared(sample, step)
        assert training._train_on(drawn) == pytest.approx(expected.item(), rel=1e-5)  # float32 sums


def test_scores_leave_out_what_is_unknown():
    """Pixels count only where they are known."""
    held_out = blobs(5, n=2)
    model = UNet(1, 2, base_channels=2, depth=1, padding="same", seed=2)
    shown = {}
    scores = validate(
        model, unknown_at_the_right(held_out), tile=16, on_image=lambda number, p: shown.update({number: p})
    )
    truth, found = np.array(held_out.labels)[..., :20], np.array([shown[i] for i in (0, 1)]).argmax(axis=3)
    assert scores.pixel_error == pytest.approx(np.mean(found[..., :20] != truth), abs=1e-12)
    pair = truth.ravel(), found[..., :20].ravel()
    assert scores.iou == pytest.approx(jaccard_score(*pair, average=None), abs=1e-12)
    assert scores != validate(model, held_out, tile=16)


@pytest.mark.parametrize("kind", ["binary", "classes", "instances"])
def test_scores_are_those_of_scikit_learn_over_all_pixels(kind):
    held_out = blobs(5, n=3, kind=kind)
    held_out.labels[1][...] = 0  # an image without the objects, of which some are predicted
    classes = held_out.num_classes
    model = UNet(1, classes, base_channels=2, depth=1, padding="same", seed=2)
    shown = {}
    scores = validate(model, held_out, tile=16, on_image=lambda number, p: shown.update({number: p}))
    for number, image in enumerate(held_out.images):
        assert shown[number].shape == (40, 36, classes)
        # Inside, where padding has no effect, tiles give what the network gives for the whole image.
        direct = model.eval()(Tensor(normalise(image)[np.newaxis])).data[0].argmax(axis=2)
        assert (shown[number].argmax(axis=2) == direct)[12:-12, 12:-12].all()
    truth = np.minimum(held_out.labels, 1) if kind == "instances" else np.array(held_out.labels)
    found = np.array([shown[number].argmax(axis=2) for number in range(3)])
    assert scores.pixel_error == pytest.approx(np.mean(found != truth), abs=1e-12)
    pair = truth.ravel(), found.ravel()
    assert scores.iou == pytest.approx(jaccard_score(*pair, average=None, labels=range(classes)), abs=1e-12)
    assert scores.mean_iou == pytest.approx(jaccard_score(*pair, average="macro"), abs=1e-12)


def lesions():
    """Ten held-out images, two of which have a small lesion."""
    held_out = blobs(1, n=10)
    labels = [np.zeros((40, 36), np.uint8) for _ in range(10)]
    labels[3][10:16, 10:16] = labels[7][20:25, 5:12] = 1
    return replace(held_out, labels=labels)


def predictions(monkeypatch, answers):
    """Let validations find these classes, an array (images, H, W) for each, instead of the network's."""
    shown = iter(np.eye(2, dtype=np.float32)[np.concatenate(answers)])
    monkeypatch.setattr("tinyunet.training.validation.predict_tiled", lambda *_, **__: next(shown))


def test_a_network_that_predicts_nothing_is_not_the_best(monkeypatch):
    held_out = lesions()
    truth = np.array(held_out.labels, int)
    nothing, some, many = np.zeros_like(truth), truth.copy(), truth.copy()
    some[[0, 1, 2, 4, 5, 6, 8, 9], 5, 5:8] = 1  # three false pixels in each empty image
    many[:, 25:] = 1  # so many false ones that the mean IoU is lower than that of predicting nothing
    answers = [nothing, many, nothing, some, nothing, nothing]
    predictions(monkeypatch, answers)
    training = trainer(replace(TINY, validate_every=1, steps=9, patience=2), held_out=held_out)
    events = list(training.run())
    validated = [event for event in events if isinstance(event, Validated)]
    assert [event.is_best for event in validated] == [True, True, False, True, False, False]
    assert events[-1] == Finished(6, "no better score in 2 validations")
    assert training.progress.best_step == 4
    for event, answer in zip(validated, answers, strict=True):
        oracle = jaccard_score(truth.ravel(), answer.ravel(), average=None)
        assert event.scores.iou == pytest.approx(oracle, abs=1e-15)
        assert event.scores.mean_iou == pytest.approx(oracle.mean(), abs=1e-15)
    assert validated[0].scores.iou[1] == 0
    assert validated[0].scores.mean_iou > validated[1].scores.mean_iou
    assert training.progress.best_score == validated[3].scores.mean_iou


def test_a_resumed_run_knows_whether_its_best_network_finds_anything(monkeypatch):
    held_out = lesions()
    truth = np.array(held_out.labels, int)
    many = truth.copy()
    many[:, 25:] = 1
    config = replace(TINY, validate_every=1, steps=2)
    predictions(monkeypatch, [many, 0 * truth])
    stopped = trainer(config, held_out=held_out)
    next(event for event in stopped.run() if isinstance(event, Validated))
    checkpoint = stopped.checkpoint()
    again = trainer(config, held_out=held_out)
    again.restore(checkpoint)
    assert [event.is_best for event in again.run() if isinstance(event, Validated)] == [False]
    # An older version stored the score alone, a mean over images: the next network that finds something wins.
    del checkpoint.progress["best_finds_classes"]
    checkpoint.progress["best_score"] = 0.97
    predictions(monkeypatch, [many])
    old = trainer(config, held_out=held_out)
    old.restore(checkpoint)
    assert [event.is_best for event in old.run() if isinstance(event, Validated)] == [True]


def test_a_class_that_is_nowhere_has_no_score():
    """Neither in the log nor in the mean."""
    held_out = replace(blobs(5, n=2), kind="classes", num_classes=3)
    model = UNet(1, 3, base_channels=2, depth=1, padding="same", seed=2)
    model.scores.bias.data[2] = -1e6
    scores = validate(model, held_out, tile=16)
    assert scores.iou[2] is None
    assert scores.mean_iou == pytest.approx(np.mean(scores.iou[:2]), rel=1e-12)


def test_examples_are_the_first_images():
    training = trainer(held_out=blobs(1, n=5))
    validated = next(event for event in training.run() if isinstance(event, Validated))
    assert len(validated.examples) == 3
    np.testing.assert_allclose(validated.examples[0].sum(axis=2), 1, rtol=0, atol=1e-6)


def test_validation_does_not_touch_the_training():
    often, once = trainer(replace(TINY, validate_every=1)), trainer(replace(TINY, validate_every=9))
    finished(often), finished(once)
    assert bits(often) == bits(once)


def test_a_checkpoint_of_another_network():
    wide = trainer(replace(TINY, base_channels=3))
    with pytest.raises(CheckpointError, match="'base_channels': 3"):
        trainer().restore(wide.checkpoint())


def test_a_checkpoint_for_prediction_only():
    training = trainer()
    checkpoint = training.checkpoint()
    one_number = {name: np.zeros(1, np.float32) for name in checkpoint.weights}  # would fit any shape
    for optimiser in ({}, {"velocity": {}}, {"velocity": one_number}):
        with pytest.raises(CheckpointError, match="contracting"):
            training.restore(replace(checkpoint, optimiser=optimiser))


def test_images_smaller_than_a_tile_are_mirrored():
    small = blobs(0, shape=(9, 40))
    config = replace(TINY, tile=60, steps=2)
    assert finished(trainer(config, small, small)).step == 2


def test_the_network_is_stored_with_all_its_options():
    """Defaults included: they may change in a later version. So are the options of the optimiser."""
    checkpoint = trainer(TrainConfig(tile=16, base_channels=2)).checkpoint()
    assert checkpoint.config["momentum"] == 0.99
    network = checkpoint.network
    assert network == {
        "model": "unet", "in_channels": 1, "num_classes": 2, "base_channels": 2, "depth": 4,
        "padding": "valid", "dropout": 0.5, "variant": "paper", "normalisation": "none", "seed": 0,
    }  # fmt: skip


NORMALISED = replace(TINY, normalisation="batch")


def test_a_checkpoint_predicts_by_the_statistics_of_its_weights(tmp_path):
    """At each step, not only where there was a validation; PyTorch's network with the same numbers agrees."""
    image = normalise(HELD_OUT.images[0]).astype(np.float32)[np.newaxis, :28, :28]
    training, found = trainer(NORMALISED), []
    untrained = {name: buffer.numpy().copy() for name, buffer in training.model.named_buffers()}
    for event in training.run():
        if isinstance(event, Stepped):
            checkpoint = training.checkpoint()
            save_checkpoint(tmp_path / "last", checkpoint)
            model, _ = load_model(tmp_path / "last")
            expected = torch_unet(torch_parameters(model), torch.tensor(image), depth=1, training=False)
            assert_close(model(Tensor(image)).data, expected.detach().numpy())

            other = trainer(NORMALISED).model
            other.load_state_dict({**checkpoint.weights, **untrained})
            population.estimate(other, training._population_tiles)
            assert all(np.array_equal(other.state_dict()[n], a) for n, a in checkpoint.weights.items())
            found.append(model.state_dict()["contracting.1.second.variance"].copy())
    assert len({each.tobytes() for each in found}) == 5


def test_the_last_steps_are_normalised_as_predictions_are():
    """By the statistics of many tiles with the weights of the first of these steps, which then stay."""
    training = trainer(replace(TINY, **FIXED, dropout=0.0))
    model, losses = training.model, []
    for event in training.run():
        if isinstance(event, Stepped) and event.step == 3:
            population.estimate(model, (training.sampler.sample(step).image for step in range(20)))
            fixed = {name: buffer.numpy().copy() for name, buffer in model.named_buffers()}
            image, target, weight, _ = training._prepared(training.sampler.sample(3), 3).batch
            expected = model.eval().loss(Tensor(image), target, weight).data.item()
        losses += [event.loss] if isinstance(event, Stepped) else []
    assert losses[3] == expected
    assert {name: buffer.numpy().tobytes() for name, buffer in model.named_buffers()} == {
        name: array.tobytes() for name, array in fixed.items()
    }


def test_networks_without_statistics_draw_no_tiles_for_them():
    finished(training := trainer())
    assert "_population_tiles" not in vars(training)


def test_a_run_of_a_version_without_normalisation_is_resumed():
    stopped, whole = trainer(), trainer()
    finished(whole)
    checkpoint = None
    for event in stopped.run():
        if event.step == 3:
            checkpoint = stopped.checkpoint()
            break
    earlier = {name: value for name, value in checkpoint.network.items() if name != "normalisation"}
    resumed = trainer()
    resumed.restore(replace(checkpoint, network=earlier))
    finished(resumed)
    assert bits(resumed) == bits(whole)
    with pytest.raises(CheckpointError, match="another network"):
        trainer(NORMALISED).restore(replace(checkpoint, network=earlier))


@pytest.mark.parametrize("batch", [1, 2])
def test_tiles_drawn_ahead_change_no_bit(monkeypatch, batch):
    """As on a GPU, where the first tile of a step is drawn during the last of the step before."""
    expected = trainer(replace(TINY, batch=batch))
    finished(expected)
    monkeypatch.setattr("tinyunet.training.trainer.active_backend", lambda: "cuda")
    ahead = trainer(replace(TINY, batch=batch))
    waited = [event.waited for event in ahead.run() if isinstance(event, Stepped)]
    assert bits(ahead) == bits(expected)
    assert waited[0] > 0 == max(waited[1:])
