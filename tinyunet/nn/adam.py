"""Adam with decoupled weight decay (AdamW): each number of a weight has a step size of its own.

    mean   = mean + (1 - beta1) · (grad - mean)
    square = beta2 · square + (1 - beta2) · grad²
    w = w - lr · (mean / c1 / (sqrt(square / c2) + epsilon) + weight_decay · w)

with c1 = 1 - beta1^t and c2 = 1 - beta2^t in step t = 1, 2, …: both averages start at 0, and without the
corrections they would be too small at first. A step is about lr long whatever the gradient's size, as long as
its sign stays.

This is PyTorch's AdamW. With weight_decay 0 it is Adam. PyTorch's Adam adds its weight decay to the gradient,
which then is divided by the gradient's own size.

Tutorial: `tutorials/12_sgd_adam.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tinyunet.autograd import Tensor
from tinyunet.backend import Dispatch
from tinyunet.backend.jit import parallel_kernel
from tinyunet.nn.optimiser import Optimiser, launch_for_all, require_numbers

# NumPy: the reference


def step_numpy(weights, grads, means, squares, scalars, beta1, beta2, epsilon, weight_decay):
    lr, c1, c2 = scalars
    for weight, grad, mean, square in zip(weights, grads, means, squares, strict=True):
        mean += (1 - beta1) * (grad - mean)
        square *= beta2
        square += (1 - beta2) * (grad * grad)
        weight -= lr * (mean / c1 / (np.sqrt(square / c2) + epsilon) + weight_decay * weight)


# The optimiser


class AdamW(Optimiser):
    """Moves parameters against their gradients, each number by its mean gradient over its typical size.

    Parameters
    ----------
    parameters : iterable of Tensor
    lr : float
        The learning rate, > 0 and finite. May be changed between steps.
    beta1, beta2 : float, 0 <= beta < 1
        How much of the mean gradient and of the mean squared gradient stays in each step.
    epsilon : float, > 0 and finite
        Keeps numbers whose gradient is 0 from being divided by 0.
    weight_decay : float, >= 0 and finite
        Share of each weight, times lr, that a step takes away. 0: Adam.

    Raises
    ------
    OptionError
        A number is outside its range.

    Attributes
    ----------
    mean, square : list of ndarray
        For each parameter the running mean of its gradient and of its squared gradient, 0 at the start.

    Notes
    -----
    Steps are counted for the optimiser, not for each parameter: one that gets its first gradient late has
    the corrections of the others.

    References
    ----------
    .. [1] Kingma and Ba 2015, "Adam: a method for stochastic optimization".
    .. [2] Loshchilov and Hutter 2019, "Decoupled weight decay regularization".
    """

    STATE = ("mean", "square")

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        require_numbers(
            "AdamW",
            "finite lr > 0, 0 <= beta1 < 1, 0 <= beta2 < 1, finite epsilon > 0, finite weight_decay >= 0",
            lr=(lr, 0 < lr < np.inf),
            beta1=(beta1, 0 <= beta1 < 1),
            beta2=(beta2, 0 <= beta2 < 1),
            epsilon=(epsilon, 0 < epsilon < np.inf),
            weight_decay=(weight_decay, 0 <= weight_decay < np.inf),
        )
        super().__init__(parameters, lr)
        self.beta1, self.beta2 = beta1, beta2
        self.epsilon, self.weight_decay = epsilon, weight_decay
        self.mean, self.square = self._zeros(), self._zeros()

    def scalars(self, step: int) -> NDArray[Any]:
        """Return lr, c1 and c2: see `Optimiser.scalars`."""
        return self._in_dtype([self.lr, 1 - self.beta1 ** (step + 1), 1 - self.beta2 ** (step + 1)])

    def _move(self, lists: list[list[Any]], scalars: Any) -> None:
        step(*lists, scalars, self.beta1, self.beta2, self.epsilon, self.weight_decay)


# Numba


def step_numba(weights, grads, means, squares, scalars, beta1, beta2, epsilon, weight_decay):
    for arrays in zip(weights, grads, means, squares, strict=True):
        numbers = (*scalars, 1 - beta1, beta2, 1 - beta2, epsilon, weight_decay)
        _step(*(array.reshape(-1) for array in arrays), *map(arrays[0].dtype.type, numbers))


@parallel_kernel
def _step(weight, grad, mean, square, lr, c1, c2, share1, beta2, share2, epsilon, weight_decay):
    for i in prange(weight.size):
        mean[i] += share1 * (grad[i] - mean[i])
        square[i] = beta2 * square[i] + share2 * (grad[i] * grad[i])
        size = np.sqrt(square[i] / c2) + epsilon
        weight[i] -= lr * (mean[i] / c1 / size + weight_decay * weight[i])


# CUDA: kernels/adam.cu


def step_cuda(weights, grads, means, squares, scalars, beta1, beta2, epsilon, weight_decay):
    reached = {"weight": weights, "grad": grads, "mean": means, "square": squares}
    constants = 1 - beta1, beta2, 1 - beta2, epsilon, weight_decay
    launch_for_all("adam", reached, scalars, *constants, flops=16)


step = Dispatch("adam", "step", numpy=step_numpy, numba=step_numba, cuda=step_cuda)
