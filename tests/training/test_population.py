"""Population statistics: those of the tiles, of the present weights, and what predictions make of them."""

import numpy as np
import pytest
import torch
from oracle import as_float64, assert_close, randomised, torch_parameters, torch_unet
from torch.nn import functional as F

import tinyunet as tu
from tinyunet.nn import NormalisedConv2d
from tinyunet.training import population

OPTIONS = {"base_channels": 3, "depth": 1, "normalisation": "batch", "seed": 4}


def tiles(count, side=20, dtype=np.float64, seed=0):
    """Noise of other mean and contrast in each tile, which a tile's own statistics would hide."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(rng.normal(), rng.uniform(0.5, 3), (1, side, side, 1)) for _ in range(count)]
    return [array.astype(dtype) for array in arrays]


def statistics(model):
    return {name: buffer.numpy().copy() for name, buffer in model.named_buffers()}


def test_they_are_those_of_all_pixels_of_all_tiles(backend, monkeypatch):
    """PyTorch normalises the same values, layer by layer; the variance is the biased one, as in training."""
    model = as_float64(randomised(tu.UNet(**OPTIONS)))
    images = tiles(5)
    population.estimate(model, images)

    seen, batch_norm = [], F.batch_norm

    def watched(x, *more, **options):
        seen.append(x)
        return batch_norm(x, *more, **options)

    monkeypatch.setattr(F, "batch_norm", watched)
    for image in images:
        torch_unet(torch_parameters(model), torch.tensor(image), depth=1)
    layers = len(seen) // 5
    assert layers == len(population.normalised_layers(model)) == 6
    for number, (name, layer) in enumerate(
        (name, part) for name, part in model.named_modules() if isinstance(part, NormalisedConv2d)
    ):
        # All values of a layer, whose maps are of one size: (tiles, channels, pixels).
        values = torch.cat(seen[number::layers]).detach().flatten(2)
        assert_close(layer.mean.data, values.mean(dim=(0, 2)).numpy(), name)
        assert_close(layer.variance.data, values.var(dim=(0, 2), correction=0).numpy(), name)


def test_the_number_of_threads_and_what_was_there_before_do_not_matter(backend):
    model, other = (tu.UNet(**OPTIONS) for _ in range(2))
    images = tiles(3, dtype=np.float32)
    population.estimate(other, tiles(2, dtype=np.float32, seed=1))
    for each in (model, other.eval()):
        population.estimate(each, images)
    for name, array in statistics(model).items():
        np.testing.assert_array_equal(array, statistics(other)[name])


def test_the_network_is_left_as_it_was(backend):
    """Its mode, its weights, its random numbers: with dropout, which the estimate leaves out."""
    model, without = tu.UNet(**OPTIONS, dropout=0.5), tu.UNet(**OPTIONS, dropout=0)
    before = model.dropout_rng.bit_generator.state
    for each in (model, without):
        population.estimate(each, tiles(2, dtype=np.float32))
    assert model.training
    assert model.dropout_rng.bit_generator.state == before
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, array in without.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)


def test_an_error_ends_the_watching(backend):
    model = tu.UNet(**OPTIONS)
    before = statistics(model)
    with pytest.raises(tu.errors.ShapeError):
        population.estimate(model, [*tiles(1, dtype=np.float32), np.zeros((1, 7, 7, 1), np.float32)])
    assert all(layer.on_statistics is None for layer in population.normalised_layers(model))
    for name, array in statistics(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_nothing_is_computed_for_other_networks():
    def never():
        raise AssertionError("a tile was drawn")
        yield

    population.estimate(tu.UNet(base_channels=2, depth=1), never())


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_tiles_of_any_size_are_predicted_as_the_whole_image(backend, padding):
    """To the rounding of convolutions of another size; statistics of the tile would differ by 0.1."""
    model = randomised(tu.UNet(**OPTIONS, padding=padding))
    population.estimate(model, tiles(4, dtype=np.float32))
    (image,) = tiles(1, side=52, dtype=np.float32, seed=3)
    whole = tu.predict_tiled(model, image[0], tile=52)
    for tile in (8, 14, 30):
        np.testing.assert_allclose(tu.predict_tiled(model, image[0], tile=tile), whole, rtol=0, atol=1e-5)
    assert whole.std() > 0.05


def test_on_cuda_as_on_numpy(emulated_or_gpu):
    images = tiles(3, dtype=np.float32)
    model = randomised(tu.UNet(**OPTIONS))
    population.estimate(model, images)
    with tu.use_backend("numpy"):
        reference = randomised(tu.UNet(**OPTIONS))
        population.estimate(reference, images)
    for name, array in statistics(model).items():
        assert_close(array, statistics(reference)[name], name)
