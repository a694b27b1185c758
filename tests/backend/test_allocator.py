"""Memory is used again, never while an array is held, and a steady training step allocates nothing new."""

import gc
import mmap
import os
import threading
from pathlib import Path

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
    addresses = {address(allocator.empty((height, 1000))) for height in range(100, 10_000, 100)}
    assert len(addresses) == 1
    assert len(pool.segments) == 1
    assert pool.most_in_use <= 9_900 * 4_000 + allocator.PAGE


def test_what_is_left_of_a_gap_is_used_and_gaps_that_touch_become_one(pool):
    large = allocator.empty((8, 100, 1024))
    begin = address(large)
    del large
    halves = [allocator.empty((4, 100, 1024)) for _ in range(2)]
    assert list(map(address, halves)) == [begin, begin + halves[0].nbytes]
    for order in ((0, 1), (1, 0)):
        for number in order:
            halves[number] = None
        assert address(allocator.empty((8, 100, 1024))) == begin
        halves = [allocator.empty((4, 100, 1024)) for _ in range(2)]


def test_gaps_are_what_a_plain_model_of_memory_has(pool, monkeypatch):
    """Random sizes and lifetimes in small segments, beside a map of pages: no overlap, no loss."""
    monkeypatch.setattr(allocator, "SEGMENT", 16 * allocator.PAGE)
    rng, held = np.random.default_rng(0), {}
    for turn in range(600):
        if held and rng.random() < 0.5:
            del held[list(held)[rng.integers(len(held))]]
        else:
            block = pool.take(int(rng.integers(1, 12)) * allocator.PAGE)
            held[turn] = allocator._Lease(block, (1,), np.dtype(np.uint8))
    pool._collect()
    for segment in pool.segments:
        used = np.zeros(segment.size // allocator.PAGE, int)
        for lease in held.values():
            if lease._block.segment is segment:
                used[lease._block.begin // allocator.PAGE : lease._block.end // allocator.PAGE] += 1
        edges = np.flatnonzero(np.diff(np.concatenate([[1], used, [1]]) > 0)) * allocator.PAGE
        assert used.max() <= 1
        assert (segment.begins, segment.ends) == (edges[::2].tolist(), edges[1::2].tolist())
    assert pool.in_use == sum(lease._block.end - lease._block.begin for lease in held.values())


def test_memory_is_of_this_process_alone(pool):
    """After a fork, parent and child write to copies."""
    array = allocator.empty(SHAPE)
    array[...] = 1
    child = os.fork()
    if child == 0:
        array[...] = 2
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (array == 1).all()


def test_a_system_with_less_than_a_segment_gives_what_is_needed(pool, monkeypatch):
    def scarce(size, _map=allocator._map):
        if size > 2**20:
            raise MemoryError
        return _map(size)

    monkeypatch.setattr(allocator, "_map", scarce)
    assert allocator.empty(SHAPE).shape == SHAPE
    assert [segment.size for segment in pool.segments] == [allocator._whole_pages(529_200)]
    with pytest.raises(MemoryError):
        allocator.empty((2**20,))


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
    held[...] = gone[...] = 7
    del gone
    resident = _resident()
    allocator.release_free()
    assert resident - _resident() > 0.9 * 4_000_000
    assert pool.in_use == allocator._whole_pages(held.nbytes)
    assert (held == 7).all()
    del held
    allocator.release_free()
    assert (pool.segments, pool.in_use) == ([], 0)


def _resident():
    """The bytes of this process that are in memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        pytest.skip("what is in memory is read from Linux's /proc")


def test_the_peak_is_what_was_in_use_beyond_what_is(pool):
    held = allocator.empty(SHAPE)
    allocator.peak()
    gone = [allocator.empty(SHAPE) for _ in range(2)]
    del gone
    assert allocator.peak() == 2 * allocator._whole_pages(held.nbytes)
    assert allocator.peak() == 0
