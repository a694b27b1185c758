"""dropout: its generator against the published one, its statistics, and its gradient."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import DTYPES, assert_close, random_arrays

import tinyunet as tu
from tinyunet.backend import to_backend, to_host
from tinyunet.errors import OptionError
from tinyunet.ops.dropout import backward, forward, forward_numpy


def splitmix64(seed, count):
    """SplitMix64 in Python's unlimited integers, masked to 64 bits: state after state, as published."""
    mask, state = 2**64 - 1, int(seed)
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def test_the_generator_gives_the_published_numbers():
    """The sequence that is commonly printed for the seed 1234567 checks the oracle."""
    assert list(splitmix64(1234567, 3)) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**64 - 1), p=st.floats(0, 0.99))
def test_keeps_the_elements_that_splitmix64_says(backend, dtype, seed, p):
    (x,) = random_arrays([(2, 3, 5, 4)], dtype)
    kept = np.reshape([(z >> 11) * 2.0**-53 >= p for z in splitmix64(seed, x.size)], x.shape)
    expected = np.where(kept, x / dtype(1 - p), dtype(0))
    assert_close(forward(x, p, np.uint64(seed)), expected, tolerance=1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("seed", [0, 12345, 2**63 + 5, 2**64 - 1])
def test_every_backend_drops_the_same_elements(kernel_dtype, seed):
    (x,) = random_arrays([(2, 5, 7, 9)], kernel_dtype)
    expected = forward_numpy(x, 0.3, np.uint64(seed))
    for direction in (forward, backward):
        np.testing.assert_array_equal(to_host(direction(to_backend(x), 0.3, np.uint64(seed))), expected)


def test_share_kept_mean_and_independence(backend):
    """Over 100,000 elements: five standard deviations of the binomial distribution."""
    n, p = 100_000, 0.3
    bound = 5 * np.sqrt(p * (1 - p) / n)
    rng = np.random.default_rng(0)
    kept = tu.dropout(tu.Tensor(np.ones(n)), p, rng).numpy() > 0
    other = tu.dropout(tu.Tensor(np.ones(n)), p, rng).numpy() > 0
    assert abs(kept.mean() - (1 - p)) < bound
    for a, b in [(kept[1:], kept[:-1]), (kept[64:], kept[:-64]), (kept, other)]:
        assert abs((a & b).mean() - (1 - p) ** 2) < bound


def test_one_draw_per_call(backend):
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    seeds = same.integers(2**64, dtype=np.uint64, size=2)
    x = tu.Tensor(np.ones((1, 6, 6, 2)))
    for seed in seeds:
        np.testing.assert_array_equal(tu.dropout(x, 0.5, rng).data, forward(x.data, 0.5, seed))


def test_gradients_equal_finite_differences(backend):
    x = tu.Tensor(*random_arrays([(2, 3, 5, 2)], np.float64), requires_grad=True)
    assert tu.gradcheck(lambda x: tu.dropout(x, 0.4, np.random.default_rng(5)), [x])


def test_probability_zero_changes_nothing(backend):
    (x,) = random_arrays([(2, 3, 5, 2)], np.float32)
    np.testing.assert_array_equal(tu.dropout(tu.Tensor(x), 0, np.random.default_rng(0)).data, x)


@pytest.mark.parametrize("p", [-0.1, 1, 1.5, float("nan")])
def test_other_probabilities_are_refused(p):
    with pytest.raises(OptionError, match=f"p +{p}"):
        tu.dropout(tu.Tensor(np.ones(3)), p, np.random.default_rng(0))
