"""A narrow U-Net, ten steps on the emulated CUDA kernels, against PyTorch and against NumPy."""

import numpy as np
import pytest
import torch
from oracle import TORCH, assert_close, torch_parameters, torch_unet

import tinyunet as tu
from tinyunet.ops.targets import checked_pixels


def image_and_target():
    """Noise of 60×60, and classes by brightness for the 20×20 output of a valid U-Net of depth 2."""
    x = np.random.default_rng(0).standard_normal((1, 60, 60, 1)).astype(np.float32)
    return x, (x[:, 20:40, 20:40, 0] > 0).astype(np.int64)


def train(model, optimizer, steps):
    x, target = image_and_target()
    losses = []
    for _ in range(steps):
        loss = model.loss(tu.Tensor(x), *checked_pixels("test", target, None, 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("variant", "normalisation"), [("paper", "none"), ("release", "none"), ("paper", "batch")]
)
def test_ten_steps_to_the_losses_of_torch(emulated_or_gpu, variant, normalisation):
    """Each step rounds by about 1e-7, and its weights carry the rounding of earlier steps: 1e-5."""
    options = {"variant": variant, "normalisation": normalisation}
    model = tu.UNet(base_channels=4, depth=2, dropout=0, **options, seed=1)
    parameters = torch_parameters(model)
    losses = train(model, tu.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4), steps=10)

    optimizer = torch.optim.SGD(parameters.values(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    x, target = image_and_target()
    expected = []
    for _ in range(10):
        scores = torch_unet(parameters, torch.tensor(x), depth=2, variant=variant)
        loss = TORCH["softmax_cross_entropy"](scores, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert losses[-1] < losses[0] - 0.05  # it does learn
    for name, parameter in model.named_parameters():
        expected = parameters[name].detach().numpy()
        if normalisation == "batch" and name.startswith("up") and name.endswith("bias"):
            # A bias that the next normalisation subtracts: it starts at 0, and its gradient is rounding.
            assert max(np.abs(parameter.numpy()).max(), np.abs(expected).max()) < 1e-8
        else:
            assert_close(parameter.numpy(), expected, name, tolerance=1e-4)


def test_with_dropout_as_numpy(emulated):
    losses = {}
    for backend in ("cuda-emulated", "numpy"):
        with tu.use_backend(backend):
            model = tu.UNet(base_channels=2, depth=2, seed=1)
            losses[backend] = train(model, tu.SGD(model.parameters(), lr=0.01, momentum=0.9), steps=3)
    np.testing.assert_allclose(losses["cuda-emulated"], losses["numpy"], rtol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 1e-3), ("bf16", 1e-2)])
def test_lower_precisions_learn_as_well(emulated, precision, tolerance):
    """A factor is off by up to 2^-11 or 2^-8 of itself, a loss of many pixels by less."""
    losses = []
    for name in ("float32", precision):
        with tu.use_backend("cuda-emulated", name):
            model = tu.UNet(base_channels=4, depth=2, dropout=0, seed=1)
            losses.append(train(model, tu.SGD(model.parameters(), lr=0.01, momentum=0.9), steps=4))
    np.testing.assert_allclose(*losses, rtol=tolerance)
    assert losses[0] != losses[1]
