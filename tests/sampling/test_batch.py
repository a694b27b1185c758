"""A batch is the same on every backend, and what the checks of the losses would make of the sample."""

import numpy as np
import pytest

import tinyunet as tu
from tinyunet.backend import to_host
from tinyunet.data import UNKNOWN, ImageSet
from tinyunet.ops.targets import checked_pixels
from tinyunet.sampling import Sampler, WeightMap, batch
from tinyunet.sampling.augment import Augmentation


@pytest.fixture
def sampler():
    """Samples of one noisy image, in part unlabelled, with classes in stripes."""
    rng = np.random.default_rng(0)
    labels = (np.arange(50) // 9 % 2)[:, np.newaxis].repeat(60, axis=1)
    labels[:12] = UNKNOWN
    images = ImageSet([rng.normal(size=(50, 60, 1))], ["noise"], [labels], "binary", 2)
    options = {"augmentation": Augmentation(), "weights": WeightMap(), "seed": 0}
    return Sampler(images, input_size=44, output_size=36, **options)


@pytest.mark.parametrize("step", range(3))
def test_weights_have_the_bits_that_the_losses_would_give_them(sampler, step):
    assert batch.on_backend(sampler) is sampler
    sample = sampler.sample(step)
    finished = batch.finish(sample, 2)
    expected = checked_pixels("test", sample.target, sample.weight, 2, ignore_label=UNKNOWN)
    for ours, theirs in zip((finished.target, finished.weight), expected, strict=True):
        assert (ours.dtype, ours.tobytes()) == (theirs.dtype, theirs.tobytes())
    shares = [sample.weight[sample.target == number].sum() / sample.weight.sum() for number in (0, 1)]
    np.testing.assert_allclose(finished.class_shares, shares, rtol=1e-6)


def test_both_samplers_give_the_same_batch(sampler, emulated):
    """Up to rounding: weights differ by 3e-7 of themselves."""
    with tu.use_backend("numpy"):
        expected = batch.finish(sampler.sample(0), 2)
    finished = batch.finish(batch.on_backend(sampler).sample(0), 2)
    np.testing.assert_array_equal(to_host(finished.target), expected.target)
    np.testing.assert_allclose(to_host(finished.image), expected.image, rtol=0, atol=1e-5)
    np.testing.assert_allclose(to_host(finished.weight), expected.weight, rtol=1e-5)
    np.testing.assert_allclose(finished.class_shares, expected.class_shares, rtol=1e-6)


def test_a_sample_without_weights(sampler):
    sample = sampler.sample(0)
    finished = batch.finish(sample._replace(weight=0 * sample.weight), 2)
    assert not finished.weight.any()
    assert not finished.class_shares.any()
