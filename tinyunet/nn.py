"""Layers: parameters with names, and the initialisation that keeps the activations' variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet import ops
from tinyunet.autograd import Tensor
from tinyunet.backend import to_backend
from tinyunet.errors import CheckpointError


class Parameter(Tensor):
    """A tensor that training changes."""

    __slots__ = ()

    def __init__(self, data: NDArray[Any]):
        super().__init__(data, requires_grad=True)


class Module:
    """Something with parameters, made of parameters, modules and lists of modules.

    What is assigned to an attribute is found by its name: ``model.contracting[0].first.weight`` is named
    ``"contracting.0.first.weight"``.
    """

    training = True

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor in, tensor out."""
        raise NotImplementedError

    def _children(self) -> Iterator[tuple[str, Module]]:
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value))

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Names and modules of all parts, depth first: each part before its own parts."""
        for prefix, child in self._children():
            yield prefix, child
            yield from ((f"{prefix}.{name}", part) for name, part in child.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Names and parameters, in the order of the attributes."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield name, value
        for prefix, child in self._children():
            yield from ((f"{prefix}.{name}", parameter) for name, parameter in child.named_parameters())

    def parameters(self) -> list[Parameter]:
        """All parameters, in the order of `named_parameters`."""
        return [parameter for _, parameter in self.named_parameters()]

    def train(self, mode: bool = True) -> Module:
        """Switch dropout on (or off), here and in all parts. Returns self."""
        self.training = mode
        for _, child in self._children():
            child.train(mode)
        return self

    def eval(self) -> Module:
        """Switch dropout off, for prediction. Returns self."""
        return self.train(False)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The parameters' arrays by name: the arrays themselves, not copies."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays into the parameters of the same names, converted to the parameters' dtype.

        Raises
        ------
        CheckpointError
            Names are missing or left over, or a shape differs. Nothing is copied then.
        """
        own = self.state_dict()
        missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
        if missing or unknown:
            raise CheckpointError(
                "load_state_dict: the names do not fit this network",
                {"missing": sorted(missing)[:4] or "none", "unknown": sorted(unknown)[:4] or "none"},
                "make the network with the options it was trained with",
            )
        for name, array in own.items():
            if array.shape != state[name].shape:
                raise CheckpointError(
                    f"load_state_dict: {name} has another shape",
                    {"this network": array.shape, "given": state[name].shape},
                    "make the network with the options it was trained with",
                )
        for name, array in own.items():
            array[...] = to_backend(state[name], array.dtype)


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], incoming: int) -> Parameter:
    """Normal numbers of variance 2 / incoming, float32.

    With weights of this variance, a layer followed by a ReLU keeps the mean square of its input (He et al.
    2015; section 3 of the U-Net paper).

    Parameters
    ----------
    incoming : int
        N, the number of nodes that feed one neuron: 9 · 64 for a 3×3 convolution of 64 channels.
    """
    return Parameter(rng.normal(0, np.sqrt(2 / incoming), shape).astype(np.float32))


class Conv2d(Module):
    """A convolution with its weight and bias.

    Parameters
    ----------
    in_channels, out_channels, size : int
        C, F and K of the weight (K, K, C, F).
    padding : int
        As in `conv2d`.
    relu : bool
        Whether a ReLU follows.
    rng : numpy.random.Generator
        Draws the initial weight; the bias starts at 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        padding: int = 0,
        relu: bool = False,
        rng: np.random.Generator,
    ):
        self.padding, self.relu = padding, relu
        self.weight = he_normal(rng, (size, size, in_channels, out_channels), size * size * in_channels)
        self.bias = Parameter(np.zeros(out_channels, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H', W', F)."""
        return ops.conv2d(x, self.weight, self.bias, padding=self.padding, relu=self.relu)


class ConvTranspose2d(Module):
    """An up-convolution with its weight and bias.

    N is taken as 4 · out_channels, as in the authors' released network. In the paper's network, where
    out_channels is half of in_channels, this is 2 · in_channels: the variance is 1 / in_channels, which keeps
    the mean square through a layer that no ReLU follows.

    Parameters
    ----------
    in_channels, out_channels : int
        C and F of the weight (2, 2, C, F).
    relu : bool
        Whether a ReLU follows.
    rng : numpy.random.Generator
        Draws the initial weight; the bias starts at 0.
    """

    def __init__(self, in_channels: int, out_channels: int, *, relu: bool = False, rng: np.random.Generator):
        self.relu = relu
        self.weight = he_normal(rng, (2, 2, in_channels, out_channels), 4 * out_channels)
        self.bias = Parameter(np.zeros(out_channels, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, 2H, 2W, F)."""
        return ops.conv_transpose2d(x, self.weight, self.bias, relu=self.relu)
