"""Memory is used again, never while an array is held, and a steady training step allocates nothing new."""

import gc
import threading

import numpy as np
import pytest

import tinyunet as tu
from tinyunet.backend import allocator

resource = pytest.importorskip("resource", reason="page faults are counted by Unix")

SHAPE = (3, 70, 90, 7)  # 529,200 bytes


@pytest.fixture
def pool(monkeypatch):
    """An empty pool for this test."""
    gc.collect()
    allocator._returned.clear()
    monkeypatch.setattr(allocator, "_pool", allocator._Pool())
    yield allocator._pool
    gc.collect()
    allocator._returned.clear()  # the test's memory must not reach the package's pool


def address(array):
    return array.ctypes.data


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_an_array_is_like_numpys(dtype):
    array = allocator.empty(SHAPE, dtype)
    assert (array.shape, array.dtype) == (SHAPE, dtype)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert address(array) % 64 == 0
    array[...] = 3
    np.testing.assert_array_equal(array, np.full(SHAPE, 3))
    assert type(array) is np.ndarray


def test_memory_is_used_again_when_the_array_is_gone(pool):
    array = allocator.empty(SHAPE)
    before = address(array)
    del array
    assert address(allocator.empty((3, 71, 90, 7))) == before


@pytest.mark.parametrize(
    "hold",
    [
        lambda a: a,
        lambda a: a[1:],
        lambda a: a[..., 0].T[3:5],
        lambda a: a.reshape(-1).view(np.uint8),
        lambda a: memoryview(a),
        lambda a: tu.Tensor(a),
        lambda a: iter(a),
        np.asarray,
        np.ravel,
    ],
)
def test_memory_that_is_held_is_not_used_again(pool, hold):
    array = allocator.empty(SHAPE)
    before, held = address(array), hold(array)
    del array
    others = [allocator.empty(SHAPE) for _ in range(3)]
    assert before not in map(address, others)
    del held
    assert address(allocator.empty(SHAPE)) == before


def test_what_is_kept_is_bounded(pool):
    """A hundred sizes one after the other: not a hundred pieces of memory."""
    for height in range(100, 10_000, 100):
        allocator.empty((height, 1000))
    assert sum(memory.size for memory in pool.free) <= allocator.RESERVE * pool.most_in_use
    assert pool.most_in_use <= 1.25 * 9_900 * 4_000
    assert pool.in_use <= pool.most_in_use


def test_threads_never_share(pool):
    """Four threads take, fill, check and release."""
    wrong = []

    def work(number):
        for size in np.random.default_rng(number).integers(20_000, 100_000, 300):
            array = allocator.empty((int(size),))
            array[...] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_steady_training_step_allocates_no_new_memory():
    """Page faults, which are counted, not timed. Without the pool there are 7,000 in each step."""
    model = tu.UNet(base_channels=8, depth=2, seed=0)
    optimiser = tu.SGD(model.parameters(), lr=1e-4)
    x = tu.Tensor(np.random.default_rng(0).standard_normal((1, 508, 508, 1), dtype=np.float32))
    target = np.zeros((1, 468, 468), int)
    faults = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tu.softmax_cross_entropy(model(x), target).backward()
        optimiser.step()
        optimiser.zero_grad()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults[3:]) < 200, faults


def test_a_tensor_that_is_kept_keeps_its_values():
    model = tu.UNet(base_channels=8, depth=1, seed=0)
    x = tu.Tensor(np.random.default_rng(0).standard_normal((1, 124, 124, 1), dtype=np.float32))
    kept = model(x)
    values = kept.data.copy()
    for _ in range(3):
        tu.softmax_cross_entropy(model(x), np.zeros((1, *kept.shape[1:3]), int)).backward()
    np.testing.assert_array_equal(kept.data, values)


def test_kept_memory_can_be_released(pool):
    held, gone = allocator.empty((1000, 1000)), allocator.empty((1000, 1000))
    held[...] = 7
    del gone
    allocator.release_free()
    assert (pool.free, pool.in_use) == ([], allocator._rounded(held.nbytes))
    assert (held == 7).all()
