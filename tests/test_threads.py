"""Threads: what one chooses does not reach another, and a network that several use computes the same bits."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context

import numpy as np
import pytest

import tinyunet as tu
from tinyunet.backend import active_precision, cuda, cuda_emulator, cuda_log
from tinyunet.errors import GraphError
from tinyunet.sampling.sampler import Sampler

PASSES = 100
SIDE = 28  # the network's input at depth 1; its output has 12 pixels


def elsewhere(function, *arguments):
    """Call a function in a thread of its own: its result or its error."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result(60)


def network(dropout=0.0):
    return tu.UNet(base_channels=4, depth=1, dropout=dropout, seed=0)


def gradients(model):
    """The gradients of one forward and one backward pass, as bytes; None where there is none."""
    x = np.random.default_rng(1).standard_normal((1, SIDE, SIDE, 1)).astype(np.float32)
    for parameter in model.parameters():
        parameter.grad = None
    model.dropout_rng = np.random.default_rng(2)
    logits = model(tu.Tensor(x))
    tu.softmax_cross_entropy(logits, np.zeros(logits.shape[:3], int)).backward()
    return [None if p.grad is None else p.grad.tobytes() for p in model.parameters()]


@contextmanager
def predicting(model, backend="numba"):
    """Predict in another thread again and again; yields a list of the results, as bytes."""
    image = np.random.default_rng(3).random((20, 20, 1), np.float32)
    found, stop, begun = [], threading.Event(), threading.Event()

    def work():
        while not stop.is_set():
            with tu.use_backend(backend):
                found.append(tu.predict_tiled(model, image, tile=8).tobytes())
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        begun.wait(60)
        try:
            yield found
        finally:
            stop.set()
        done.result(60)


def test_a_training_has_all_gradients_while_another_thread_predicts():
    model = network()
    with predicting(model):
        for _ in range(PASSES):
            assert None not in gradients(model)


def test_training_and_prediction_compute_the_bits_that_each_computes_alone():
    """One network with dropout, in training mode; its backends differ in the last bits."""
    model = network(dropout=0.5)
    with tu.use_backend("numba"):
        alone = gradients(model)
    with predicting(model, "numpy") as found:
        pass
    predicted_alone = found[0]
    with tu.use_backend("numba"), predicting(model, "numpy") as found:
        for _ in range(PASSES):
            assert gradients(model) == alone
    assert set(found) == {predicted_alone}
    assert all(module.training for _, module in model.named_modules())


# Each switch: what sets it, and what it is set to.
SWITCHES = {
    "no_grad": (tu.no_grad, lambda: tu.add(leaf(), leaf()).requires_grad),
    "use_backend": (lambda: tu.use_backend("cuda-emulated", "bf16"), tu.active_backend),
    "precision": (lambda: tu.use_backend("cuda-emulated", "bf16"), active_precision),
    "checks": (cuda_emulator.checks, lambda: cuda_emulator._checked.get()),
    "constants": (lambda: cuda.constants_made_by(str), lambda: cuda.constant(np.zeros(1)).__class__),
    "launch log": (cuda_log.launch_log, lambda: len(cuda_log._logs.get())),
    "captured launches": (cuda_log.captured_launches, lambda: len(cuda_log._logs.get())),
}


def leaf():
    return tu.Tensor([1.0], requires_grad=True)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_the_thread_s_own(name):
    switch, state = SWITCHES[name]
    with tu.use_backend("numpy"):
        before = state()
        there = elsewhere(state)
        with switch():
            assert state() != before
            assert elsewhere(state) == there
        assert state() == before


def test_a_plain_choice_holds_in_its_thread():
    """A new thread inherits it only through the context of the thread that starts it."""
    default = elsewhere(tu.active_backend)

    def choose():
        tu.use_backend("numpy")
        return (
            tu.active_backend(),
            elsewhere(tu.active_backend),
            elsewhere(copy_context().run, tu.active_backend),
        )

    before = tu.active_backend()
    assert elsewhere(choose) == ("numpy", default, "numpy")
    assert tu.active_backend() == before


def test_tasks_of_one_thread_have_their_own_switches():
    async def without_recording(entered, leave):
        with tu.no_grad(), tu.use_backend("numpy"):
            entered.set()
            await leave.wait()
            assert not tu.add(leaf(), leaf()).requires_grad
            assert tu.active_backend() == "numpy"

    async def both():
        entered, leave = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(without_recording(entered, leave))
        await entered.wait()
        assert tu.add(leaf(), leaf()).requires_grad
        assert tu.active_backend() == "numba"
        leave.set()
        await task

    with tu.use_backend("numba"):
        asyncio.run(both())


def test_no_grad_refuses_functions_whose_body_runs_later():
    def generator():
        yield

    async def coroutine():
        pass

    for function in (generator, coroutine):
        with pytest.raises(GraphError, match=function.__name__):
            tu.no_grad()(function)


def test_a_generator_switches_for_its_caller_until_it_goes_on():
    def steps():
        with tu.no_grad():
            yield
        yield

    running = steps()
    next(running)
    assert not tu.add(leaf(), leaf()).requires_grad
    next(running)
    assert tu.add(leaf(), leaf()).requires_grad


def test_the_thread_that_makes_samples_has_the_backend_of_the_training(monkeypatch):
    seen = []
    monkeypatch.setattr(Sampler, "sample", lambda self, step, tile: seen.append((tu.active_backend(), step)))
    with tu.use_backend("numpy"):
        list(Sampler.stream(object.__new__(Sampler), 0, 3))
    assert seen == [("numpy", 0), ("numpy", 1), ("numpy", 2)]
