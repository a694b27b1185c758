"""A training step captured as a CUDA graph: on the stand-in for CuPy, and on a GPU where one is present."""

import gc
import weakref
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, count

import fake_cupy
import numpy as np
import pytest
from oracle import random_arrays

import tinyunet as tu
from tinyunet.backend import cuda, cuda_graph, to_backend, to_host
from tinyunet.backend.cuda_graph import CapturedStep
from tinyunet.backend.cuda_log import launch_log
from tinyunet.data import split, synthetic_cells
from tinyunet.errors import GraphError
from tinyunet.nn import SGD, Optimiser
from tinyunet.ops.linear_cross_entropy import loss_of_checked as fused_loss
from tinyunet.ops.softmax_cross_entropy import loss_of_checked as unfused_loss
from tinyunet.ops.targets import checked_pixels
from tinyunet.sampling.sampler_cuda import CudaSampler
from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Stepped
from tinyunet.training.trainer import Trainer

TEN = TrainConfig(
    steps=10, base_channels=4, depth=1, tile=12, holdout="1", validate_every=4, schedule="poly", lr=0.01
)  # and dropout


def trainer(config=TEN, **options):
    return Trainer(config, *split(synthetic_cells(n=2, size=40, seed=0), config.holdout), **options)


def outcome(trainer, between=lambda: None):
    """Losses, weights and the optimiser's state; `between` is called after each step."""
    losses = []
    for event in trainer.run():
        if isinstance(event, Stepped):
            losses.append(event.loss)
            between()
    arrays = [*(p.data for p in trainer.model.parameters()), *chain(*trainer.optimiser.state.values())]
    return [np.array(losses), *(to_host(array).copy() for array in arrays)]


def same_bits(arrays, others):
    return all(a.tobytes() == b.tobytes() for a, b in zip(arrays, others, strict=True))


@pytest.fixture
def launches(monkeypatch):
    """The number of kernels of the network that Python launched, in a list of one number.

    Samples are made outside the captured step.
    """
    count, launch = [0], cuda.launch

    def counted(stem, *arguments, **options):
        count[0] += stem not in ("augment", "weight_map")
        launch(stem, *arguments, **options)

    monkeypatch.setattr(cuda, "launch", counted)
    return count


@pytest.fixture
def pools():
    """The number of memory pools: the common one, and those left by other tests."""
    gc.collect()
    return len(fake_cupy.Device.pools)


@contextmanager
def no_warning(recwarn):
    yield
    assert not [w for w in recwarn if "CUDA graph" in str(w.message)]


@pytest.mark.parametrize("changes", [{"optimiser": "adam"}, {"normalisation": "batch"}, {}], ids=str)
def test_ten_steps_end_with_the_same_bits(on_stand_in, launches, recwarn, changes):
    """And from the third step on, Python launches nothing."""
    per_step, before = [], [0]

    def count():
        per_step.append(launches[0] - before[0])
        before[0] = launches[0]

    # No validation between the steps, whose launches would be counted.
    config = replace(TEN, validate_every=10, warmup=4, **changes)
    with no_warning(recwarn):
        with_graphs = outcome(trainer(config), count)
    assert per_step[0] == per_step[1] > 50
    assert per_step[2:] == [0] * 8

    per_step.clear()
    before[0] = launches[0]
    without = outcome(trainer(config, cuda_graph=False), count)
    assert len(set(per_step)) == 1
    assert per_step[0] > 50
    assert same_bits(with_graphs, without)
    assert len(set(with_graphs[0])) == 10
    with tu.use_backend("cuda-emulated"):
        assert same_bits(with_graphs, outcome(trainer(config)))


def test_the_steps_with_fixed_statistics_are_captured_anew(on_stand_in, launches, recwarn):
    per_step, before = [], [0]

    def count():
        per_step.append(launches[0] - before[0])
        before[0] = launches[0]

    config = replace(TEN, validate_every=10, normalisation="batch", fixed_statistics=0.4)
    with no_warning(recwarn):
        with_graphs = outcome(trainer(config), count)
    assert [number > 0 for number in per_step] == [True] * 2 + [False] * 4 + [True] * 2 + [False] * 2
    assert same_bits(with_graphs, outcome(trainer(config, cuda_graph=False)))


@pytest.mark.gpu
def test_ten_steps_on_a_gpu(gpu, recwarn):
    for optimiser in ("sgd", "adam"):
        config = replace(TEN, optimiser=optimiser, warmup=4)
        with no_warning(recwarn):
            assert same_bits(outcome(trainer(config)), outcome(trainer(config, cuda_graph=False)))


@pytest.mark.gpu
def test_trainers_leave_no_memory_on_a_gpu(gpu):
    """Whose graph holds several megabytes, more than CUDA takes at once."""
    import cupy

    def free_after_training():
        subject = trainer(replace(TEN, base_channels=8, tile=90, steps=2, validate_every=9))
        outcome(subject)
        assert subject._captured.bytes > 3_000_000
        del subject
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        return cupy.cuda.runtime.memGetInfo()[0]

    free_after_training()
    first = free_after_training()  # by then the kernels have taken their memory
    # The driver takes memory in pieces of 2 MB. Two graphs that stayed would hold 6 MB.
    free_after_training()
    assert free_after_training() > first - 4_000_000


def test_what_happens_between_the_steps(on_stand_in):
    """Validation, arrays held elsewhere, and a common pool that releases its free memory."""
    kept = []

    def others():
        kept.append((values := np.random.default_rng(len(kept)).standard_normal(500), to_backend(values)))
        fake_cupy.get_default_memory_pool().free_all_blocks()

    disturbed = outcome(trainer(replace(TEN, validate_every=1)), others)
    assert same_bits(disturbed, outcome(trainer(replace(TEN, validate_every=10))))
    assert all(np.array_equal(values, to_host(array)) for values, array in kept)


def baked_seed(monkeypatch):
    drawn = np.random.default_rng(0).integers(2**64, dtype=np.uint64)
    monkeypatch.setattr(cuda_graph._SeedArrays, "integers", lambda *_, dtype: drawn)


def baked_rate(monkeypatch):
    step, calls = Optimiser.step, count()
    monkeypatch.setattr(
        Optimiser, "step", lambda self, scalars: step(self, cuda.constant(self.scalars(next(calls))))
    )


def of_the_first_launch(name, monkeypatch):
    """Send this input only at the first launch, so that later launches use it again."""
    launch, first = cuda_graph._Graph.launch, {}
    monkeypatch.setattr(
        cuda_graph._Graph,
        "launch",
        lambda self, rng, arrays: launch(
            self, rng, {**arrays, name: first.setdefault(name, arrays[name].copy())}
        ),
    )


old_targets = partial(of_the_first_launch, "target")
old_weights = partial(of_the_first_launch, "weight")  # which are divided by their sum


@pytest.mark.parametrize(
    "mutation",
    [baked_seed, baked_rate, old_targets, old_weights],
    ids=["seed", "rate", "targets", "weights"],
)
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_what_changes_from_step_to_step(on_stand_in, monkeypatch, mutation, optimiser):
    """Each of these mistakes gives other bits."""
    config = replace(TEN, steps=4, validate_every=9, optimiser=optimiser)
    right = outcome(trainer(config, cuda_graph=False))
    assert same_bits(outcome(trainer(config)), right)
    mutation(monkeypatch)
    assert not same_bits(outcome(trainer(config)), right)


def dropped(enabled=True):
    """Run three steps. The zeros used as bias are freed before the array of the seed is made."""
    x, weight = random_arrays([(1, 8, 8, 3), (3, 3, 3, 4)], np.float32)
    weight = tu.Tensor(weight)

    def step(rng, x):
        return tu.dropout(tu.conv2d(tu.Tensor(x), weight), 0.5, rng).data

    captured, found = CapturedStep(enabled=enabled), []
    for number in range(3):
        found.append(to_host(captured.run(step, np.random.default_rng(number), x=x)))
        fake_cupy.get_default_memory_pool().free_all_blocks()
    return found


def test_the_inputs_of_a_launch_are_not_overwritten(on_stand_in, monkeypatch):
    right = dropped(enabled=False)
    assert same_bits(dropped(), right)
    monkeypatch.setattr(cuda_graph, "_allocate_outside", lambda malloc, *array: fake_cupy.empty(*array))
    assert not same_bits(dropped(), right)


def test_the_memory_of_a_graph_is_its_own(on_stand_in, monkeypatch):
    """In the common pool it may go to another array, or back to the GPU."""
    dropped()
    monkeypatch.setattr(fake_cupy.cuda, "MemoryPool", lambda _: fake_cupy.get_default_memory_pool())
    with pytest.raises(fake_cupy.CUDARuntimeError, match="cudaErrorIllegalAddress"):
        dropped()


def test_a_resumed_training_keeps_its_graph(on_stand_in, launches, tmp_path):
    """Weights and velocities are loaded into the arrays that the graph knows."""
    config = replace(TEN, validate_every=9)
    resumed = trainer(config)
    for event in resumed.run():
        if event.step == 4:
            save_checkpoint(tmp_path / "four", resumed.checkpoint())
        if event.step == 7:
            break
    assert isinstance(resumed.model.dropout_rng, np.random.Generator)  # and not the capture's stand-in
    resumed.restore(load_checkpoint(tmp_path / "four"))
    before = launches[0]
    next(event for event in resumed.run() if isinstance(event, Stepped))
    assert launches[0] == before
    assert same_bits(outcome(resumed)[1:], outcome(trainer(config, cuda_graph=False))[1:])


def test_the_log_counts_a_graph_as_what_it_launches(on_stand_in):
    logs = []
    for enabled in (True, False):
        with launch_log() as log:
            outcome(trainer(replace(TEN, steps=4), cuda_graph=enabled))
        logs.append(log)
    assert logs[0].totals == logs[1].totals
    for kernel in ("sgd_step", "linear_cross_entropy_forward", "linear_cross_entropy_backward"):
        assert logs[0].totals[kernel].launches == 4


def test_a_deleted_trainer_leaves_no_memory(on_stand_in, pools):
    """At once: Python's collector of cycles may run too late for the next allocation."""
    held = sum(pool.used_bytes() for pool in fake_cupy.Device.pools)
    lost = fake_cupy.Device.lost
    deleted = trainer(replace(TEN, steps=3))
    outcome(deleted)
    assert len(fake_cupy.Device.pools) == pools + 1
    reference = weakref.ref(deleted)
    del deleted
    assert reference() is None
    assert len(fake_cupy.Device.pools) == pools
    assert sum(pool.used_bytes() for pool in fake_cupy.Device.pools) == held
    assert fake_cupy.Device.lost == lost


def random_pixels(rng, shape):
    return checked_pixels("test", rng.integers(0, 2, shape), rng.uniform(0.5, 2, shape), 2)


def unfused(x, layer, bias, *pixels):
    return unfused_loss(tu.conv2d(x, layer, bias), *pixels)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("loss_of", "channels"), [(unfused, 8), (fused_loss, 8), (fused_loss, 5)])
def test_either_loss_in_a_captured_step(on_stand_in, launches, recwarn, loss_of, channels, bias):
    """With other pixels in each step, another sum of weights, and another gradient from behind.

    With 8 channels the last layer and the loss are one kernel, with 5 two.
    """
    layer, bias_values = random_arrays([(1, 1, channels, 2), (2,)], np.float32)
    parameters = tu.Tensor(layer, requires_grad=True), tu.Tensor(bias_values, requires_grad=True)

    def step(rng, x, target, weight, grad):
        x = tu.Tensor(x, requires_grad=True)
        loss = loss_of(x, parameters[0], parameters[1] if bias else None, target, weight)
        loss.backward(grad)
        found = loss.data, x.grad, *(p.grad for p in parameters[: 1 + bias])
        for parameter in parameters:
            parameter.grad = None
        return found

    def results(enabled):
        captured, found = CapturedStep(enabled=enabled), []
        for number, grad in enumerate([3, 1, 0.5, 1, -2]):
            rng = np.random.default_rng(number)
            target, weight = random_pixels(rng, (1, 15, 20))
            arrays = {
                "x": rng.standard_normal((1, 15, 20, channels), np.float32),
                "target": target,
                "weight": weight * np.float32(1 + number),
                "grad": np.array(grad, np.float32),
            }
            found += [to_host(array).copy() for array in captured.run(step, rng, **arrays)]
            counts.append(launches[0])
        return found

    counts = []
    with no_warning(recwarn):
        by_graph = results(True)
    assert counts[1] == counts[4]
    assert same_bits(by_graph, results(False))


class Descent:
    """A small network and its step, with graphs or without, on images of several sizes."""

    def __init__(self, enabled):
        self.model = tu.UNet(base_channels=4, depth=1, padding="same", seed=3)
        self.optimiser = tu.SGD(self.model.parameters(), lr=0.01)
        self.captured = CapturedStep(enabled=enabled)

    def step(self, rng, image, target, weight):
        self.model.dropout_rng = rng
        loss = self.model.loss(tu.Tensor(image), target, weight)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.data

    def losses(self, sides):
        found = []
        for number, side in enumerate(sides):
            rng = np.random.default_rng(number)
            image = rng.standard_normal((1, side, side, 1), np.float32)
            target, weight = random_pixels(rng, (1, side, side))
            arrays = {"image": image, "target": target, "weight": weight}
            found.append(self.captured.run(self.step, rng, **arrays).item())
        return found


def test_a_second_shape(on_stand_in, launches, pools):
    """It starts over, and so does the first shape when it returns. One graph is kept."""
    sides = [8, 8, 8, 8, 12, 12, 12, 8, 12, 12, 12]
    expected = Descent(False).losses(sides)
    per_step = launches[0] / len(sides)
    by_graphs = Descent(True)
    assert by_graphs.losses(sides) == expected
    replays = 2 + 1 + 1  # of the first four steps, of the next three, of the last three
    assert launches[0] == per_step * (len(sides) + len(sides) - replays)
    assert len(fake_cupy.Device.pools) == pools + 1


def test_the_memory_of_a_graph_goes_back_to_the_gpu(on_stand_in):
    """When the shape changes, when the graph is dropped, and after a failed capture."""
    first, second, third = (Descent(True) for _ in range(3))

    def held(descent):
        assert descent.captured._pool.total_bytes() == descent.captured.bytes
        return descent.captured.bytes

    for descent in (first, second):
        descent.losses([8, 8])
        assert held(descent) > 0
    first.losses([12])
    with pytest.warns(UserWarning, match="a reason"):
        assert second.captured.drop("a reason")
    step = third.step
    third.step = lambda *arguments, **arrays: to_host(step(*arguments, **arrays))
    with pytest.warns(UserWarning, match="RuntimeError"):
        third.losses([12, 12])
    assert [held(descent) for descent in (first, second, third)] == [0, 0, 0]


def test_another_precision_is_another_graph(on_stand_in, launches):
    losses = {}
    for enabled in (True, False):
        descent = Descent(enabled)
        losses[enabled] = descent.losses([8, 8, 8])
        with tu.use_backend("cuda", "bf16"):
            losses[enabled] += descent.losses([8, 8, 8])
    assert losses[True] == losses[False]
    assert losses[True][3:] != losses[True][:3]


def reads_back(loss):
    to_host(loss)


def copies(loss):
    to_backend(np.ones(3))


def compiles(loss):
    source = cuda.source_of("relu", "relu_forward")
    fake_cupy.RawModule(code=cuda.text_of(source)).get_function("relu_forward")


@pytest.mark.parametrize(
    ("forbidden", "why"),
    [
        (reads_back, "D2H"),
        (copies, "H2D"),
        (compiles, "cudaErrorStreamCaptureUnsupported"),  # ends the capture as well
    ],
)
def test_a_step_that_cannot_be_captured(on_stand_in, monkeypatch, forbidden, why):
    """One warning, and the training goes on without a graph, with the same bits."""
    config = replace(TEN, steps=5)
    expected = outcome(trainer(config, cuda_graph=False))
    descend = Trainer._descend

    def spoilt(self, *arguments, **arrays):
        loss = descend(self, *arguments, **arrays)
        forbidden(loss)
        return loss

    monkeypatch.setattr(Trainer, "_descend", spoilt)
    end, ended = fake_cupy.Stream.end_capture, []
    monkeypatch.setattr(fake_cupy.Stream, "end_capture", lambda stream: ended.append(stream) or end(stream))
    with pytest.warns(UserWarning, match=why) as warnings:
        assert same_bits(outcome(trainer(config)), expected)
    assert len(warnings) == len(ended) == 1


def test_no_memory_for_a_graph(on_stand_in, monkeypatch, pools):
    """Returning free memory to the GPU would help, but captured addresses are in it."""
    config = replace(TEN, steps=4, validate_every=9)
    subject = trainer(config)
    expected = outcome(subject)
    needed = subject._captured._pool.total_bytes()
    del subject

    begin = fake_cupy.Stream.begin_capture

    def begin_with_little_memory(stream):
        begin(stream)
        monkeypatch.setattr(fake_cupy.Device, "total", fake_cupy.Device.held + needed - 512)

    monkeypatch.setattr(fake_cupy.Stream, "begin_capture", begin_with_little_memory)

    def outcome_with_little_memory():
        losses = []
        for event in trainer(config).run():
            if isinstance(event, Stepped):
                losses.append(event.loss)
                monkeypatch.setattr(fake_cupy.Device, "total", 2**40)
        return losses

    with pytest.warns(UserWarning, match="cudaErrorMemoryAllocation"):
        assert outcome_with_little_memory() == expected[0].tolist()
    assert len(fake_cupy.Device.pools) == pools
    monkeypatch.setattr(
        cuda_graph, "_allocate", lambda size: fake_cupy.MemoryPointer(fake_cupy.Memory(size), 0)
    )
    with pytest.raises(fake_cupy.CUDARuntimeError, match="cudaErrorIllegalAddress"):
        outcome_with_little_memory()


def test_the_stand_in_captures_as_cuda_does(on_stand_in):
    """Nothing runs before the launch, addresses and scalars stay, and waiting is refused."""
    x, y = to_backend(np.array([-1.0, 2.0], np.float32)), to_backend(np.zeros(2, np.float32))
    cuda.launch("relu", "forward", (1,), (256,), x, y, 2)
    y[...] = 7
    stream = fake_cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        cuda.launch("relu", "forward", (1,), (256,), x, y, 2)
        number = to_backend(np.float32(5))
        graph = stream.end_capture()
    assert to_host(y).tolist() == [7, 7]
    x.set(np.array([3.0, -4.0], np.float32))
    graph.launch()
    assert to_host(y).tolist() == [3, 0]
    assert number.item() == 5
    refused = {
        "H2D": [lambda: to_backend(np.ones(2)), lambda: x.set(np.ones(2, np.float32))],
        "D2H": [x.get, number.item, lambda: to_host(x)],
    }
    with stream:
        stream.begin_capture()
        for kind, transfers in refused.items():
            for transfer in transfers:
                with pytest.raises(RuntimeError, match=kind):
                    transfer()
        stream.end_capture()
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureUnsupported"):
            fake_cupy.RawModule(code="").get_function("none")
        with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated"):
            stream.end_capture()
    with pytest.raises(RuntimeError, match="default"):
        fake_cupy.cuda.Stream(null=True).begin_capture()
    del y
    fake_cupy.get_default_memory_pool().free_all_blocks()
    with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress"):
        graph.launch()


def test_a_launch_changes_the_parameters_of_graphs_recorded_before(on_stand_in):
    """An ordinary step, a capture, and two launches, in which Python does not change the weight."""
    weight = tu.Tensor(np.ones((1, 1, 1, 1), np.float32), requires_grad=True)
    optimiser = SGD([weight], lr=0.1)

    def step(rng, x):
        tu.conv2d(tu.Tensor(x), weight).backward(x)
        optimiser.step(x)  # also the learning rate
        optimiser.zero_grad()
        return x

    captured, x = CapturedStep(), np.full((1, 1, 1, 1), 0.1, np.float32)
    for _ in range(4):
        y = tu.conv2d(tu.Tensor(x), weight)
        captured.run(step, np.random.default_rng(0), x=x)
        with pytest.raises(GraphError, match="version"):
            y.backward(x)
    assert captured.bytes


def test_a_tile_is_drawn_while_the_gpu_works_on_the_one_before(on_stand_in, monkeypatch):
    """And the loss is read only then, so that nothing waits for the GPU in between."""
    happened = []

    def noted(owner, name, what):
        function = getattr(owner, name)

        def note(*arguments, **arrays):
            result = function(*arguments, **arrays)
            happened.append(what(*arguments))
            return result

        monkeypatch.setattr(owner, name, note)

    noted(CapturedStep, "run", lambda *_: "launched")
    noted(CudaSampler, "sample", lambda _, step, tile: step)
    noted(fake_cupy.ndarray, "item", lambda *_: "read")
    outcome(trainer(replace(TEN, steps=3, validate_every=3)))
    assert happened == [0, "launched", 1, "read", "launched", 2, "read", "launched", "read"]


@pytest.mark.parametrize("error", [OSError("the disk is gone"), MemoryError("a tile")])
def test_a_tile_that_cannot_be_drawn_does_not_cost_the_step_before_it(on_stand_in, monkeypatch, error):
    """That step is counted. After an error that memory is short its tile is drawn once more, else it ends."""
    expected = outcome(trainer(TEN))
    sample, failed = CudaSampler.sample, []

    def fails_once(sampler, step, tile=0):
        if step == 4 and not failed:
            failed.append(step)
            raise error
        return sample(sampler, step, tile)

    monkeypatch.setattr(CudaSampler, "sample", fails_once)
    subject = trainer(TEN)
    if isinstance(error, MemoryError):
        with pytest.warns(UserWarning, match="dropped"):
            assert same_bits(outcome(subject), expected)
    else:
        with pytest.raises(OSError, match="disk"):
            outcome(subject)
    assert subject.step == (10 if isinstance(error, MemoryError) else 4)
