"""Trains U-Nets of PyTorch for a time, in the ways that are common: the peers of `experiments.peers`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

import tinyunet as tu
from benchmarks.torch_unet import TorchUNet
from tinyunet.data import ImageSet
from tinyunet.models import Network
from tinyunet.sampling import WeightMap, batch
from tinyunet.training.config import TrainConfig
from tinyunet.training.setup import Setup

WIDTH, DEPTH = 16, 4
SEEN = 444  # pixels: the side of the input from which valid convolutions make a tile of 260
SLOPE = 0.01  # of nnU-Net's leaky ReLU

PLAIN = WeightMap(w0=0, class_balance=False)  # the same weight for each pixel
Loss = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


class NnUNet(nn.Module):
    """A U-Net after nnU-Net v2: padded, with instance normalisation, and with scores at each level."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        widths = [WIDTH * 2**level for level in range(DEPTH + 1)]
        self.down = nn.ModuleList(
            self._stage(before, after, 1 if level == 0 else 2)
            for level, (before, after) in enumerate(zip([in_channels, *widths], widths, strict=False))
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.raise_ = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, stride=2) for below, here in pairs)
        self.up = nn.ModuleList(self._stage(2 * here, here, 1) for _, here in pairs)
        self.scores = nn.ModuleList(nn.Conv2d(here, num_classes, 1) for _, here in pairs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    @staticmethod
    def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels, step in ((in_channels, stride), (out_channels, 1)):
            layers.append(nn.Conv2d(channels, out_channels, 3, step, padding=1))
            layers += [nn.InstanceNorm2d(out_channels, affine=True), nn.LeakyReLU(SLOPE, inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> Any:
        """(N, C, H, W) to scores; in training to those of all levels, the full resolution first."""
        skips = []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        skips.pop()
        found = []
        for raise_, stage, scores in zip(self.raise_, self.up, self.scores, strict=True):
            x = stage(torch.cat([raise_(x), skips.pop()], dim=1))
            found.append(scores(x))
        return found[::-1] if self.training else found[-1]


def cross_entropy(scores: Any, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean over the pixels; the weights add up to 1."""
    losses = functional.cross_entropy(scores, target.clamp(min=0), reduction="none")
    return (losses * weight).sum()


def dice_and_cross_entropy(scores: Any, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return nnU-Net's loss with deep supervision: halved from level to level, none at the coarsest."""
    shares = [0.5**level for level in range(len(scores) - 1)]
    total = scores[0].new_zeros(())
    for level, share in enumerate(shares):
        step = 2**level  # the nearest pixel, as nnU-Net samples targets
        there, labels = scores[level], target[:, ::step, ::step]
        known = labels >= 0
        classes = labels.clamp(min=0)
        entropy = functional.cross_entropy(there, classes, reduction="none")[known].mean()
        probabilities = torch.softmax(there, 1)[:, 1:] * known[:, None]
        truth = functional.one_hot(classes, there.shape[1]).permute(0, 3, 1, 2)[:, 1:] * known[:, None]
        shared, both = (probabilities * truth).sum((0, 2, 3)), (probabilities + truth).sum((0, 2, 3))
        dice = ((2 * shared + 1e-5) / (both + 1e-5).clamp(min=1e-8)).mean()
        total = total + share * (entropy - dice)
    return total / sum(shares)


@dataclass(frozen=True)
class TorchRecipe:
    """A way to train a U-Net in PyTorch.

    Attributes
    ----------
    network : callable
        From the numbers of input channels and of classes.
    optimiser : callable
        From the parameters.
    schedule : callable
        From the share of the time that has passed to the factor of the learning rate.
    weights : WeightMap
        Of the pixels.
    loss : callable
        From scores, classes (N, H, W) with -1 for unknown, and the weights of the pixels.
    padding : {"valid", "same"}
        Of the network's convolutions.
    clip : float, optional
        The largest norm of all gradients together.
    """

    network: Callable[[int, int], nn.Module]
    optimiser: Callable[[Any], torch.optim.Optimizer]
    schedule: Callable[[float], float]
    weights: WeightMap = PLAIN
    loss: Loss = cross_entropy
    padding: Literal["valid", "same"] = "valid"
    clip: float | None = None


def poly(share: float) -> float:
    """Fall to 0 almost in proportion."""
    return (1 - share) ** 0.9


def cosine(share: float) -> float:
    """Fall to 0 by half a wave."""
    return (1 + math.cos(math.pi * share)) / 2


RECIPES = {
    "PyTorch, SGD": TorchRecipe(
        lambda channels, classes: TorchUNet(WIDTH, channels, classes),
        lambda parameters: torch.optim.SGD(parameters, lr=3e-3, momentum=0.99),
        poly,
        weights=WeightMap(),
    ),
    "PyTorch, Adam": TorchRecipe(
        lambda channels, classes: TorchUNet(WIDTH, channels, classes, normalised=True),
        lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        cosine,
    ),
    "PyTorch, nnU-Net": TorchRecipe(
        NnUNet,
        lambda parameters: torch.optim.SGD(
            parameters, lr=1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5
        ),
        poly,
        loss=dice_and_cross_entropy,
        padding="same",
        clip=12.0,
    ),
}


class Adapter(Network):
    """PyTorch's network as one of ours, for prediction and scores."""

    def __init__(self, network: nn.Module, setup: Setup):
        self.network, self.geometry = network.eval(), setup.geometry
        self.in_channels = setup.model_options["in_channels"]
        self.num_classes = setup.model_options["num_classes"]

    def forward(self, x: tu.Tensor) -> tu.Tensor:
        """(N, H, W, C) -> (N, H', W', K)."""
        with torch.inference_mode():
            scores = self.network(torch.from_numpy(x.data).permute(0, 3, 1, 2))
        return tu.Tensor(scores.permute(0, 2, 3, 1).contiguous().numpy())


def train_pytorch(
    recipe: TorchRecipe,
    config: TrainConfig,
    training_set: ImageSet,
    held_out: ImageSet,
    seconds: float,
    steps: int | None = None,
) -> tuple[Network, int, float]:
    """Train by PyTorch, channels last, for some CPU seconds or for some steps, which the schedule follows.

    Returns
    -------
    network : Network
    steps : int
    took : float
        CPU seconds.
    """
    config = replace(config, weights=recipe.weights)
    if recipe.padding == "same":  # a tile loses nothing: it is as large as what the others see
        config = replace(config, padding="same", tile=config.tile + SEEN - 260)
    setup = Setup(config, training_set, held_out)
    classes = setup.model_options["num_classes"]
    torch.manual_seed(config.seed)
    network: Any = recipe.network(setup.model_options["in_channels"], classes)
    network = network.to(memory_format=torch.channels_last)
    optimiser = recipe.optimiser(list(network.parameters()))
    peak, took, made = optimiser.param_groups[0]["lr"], 0.0, 0
    for sample in setup.sampler.stream(0, 10**9):
        started = time.process_time()
        share = made / steps if steps else took / seconds
        optimiser.param_groups[0]["lr"] = peak * recipe.schedule(min(1.0, share))
        _step(recipe, network, optimiser, batch.finish(sample, classes))
        took, made = took + time.process_time() - started, made + 1
        if made >= steps if steps else took >= seconds:
            return Adapter(network, setup), made, took
    raise AssertionError("the sampler's stream has an end")


def _step(recipe: TorchRecipe, network: nn.Module, optimiser: Any, tile: batch.Batch) -> None:
    network.train()
    x = torch.from_numpy(tile.image).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    target, weight = torch.from_numpy(tile.target).long(), torch.from_numpy(tile.weight)
    optimiser.zero_grad()
    recipe.loss(network(x), target, weight).backward()
    if recipe.clip is not None:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
    optimiser.step()
