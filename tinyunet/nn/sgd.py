"""Stochastic gradient descent with momentum.

    v = momentum · v + grad + weight_decay · w
    w = w - lr · v

This is PyTorch's form. Caffe, which the paper used, has lr inside v, which is the same while lr is constant.
With momentum μ, the steps for a constant gradient grow to lr / (1 - μ) times it: 100 lr at the paper's 0.99.

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


def step_numpy(weights, grads, velocities, lr, momentum, weight_decay):
    for weight, grad, velocity in zip(weights, grads, velocities, strict=True):
        velocity *= momentum
        velocity += grad + weight_decay * weight
        weight -= lr * velocity


# The optimiser


class SGD(Optimiser):
    """Moves parameters against their gradients, with momentum.

    Parameters
    ----------
    parameters : iterable of Tensor
    lr : float
        The learning rate, > 0 and finite. May be changed between steps.
    momentum : float, 0 <= momentum < 1
        0.99 in the paper: with a batch of one image, many past images then determine each step.
    weight_decay : float, >= 0 and finite

    Raises
    ------
    OptionError
        A number is outside its range.

    Attributes
    ----------
    velocity : list of ndarray
        v for each parameter, 0 at the start.

    References
    ----------
    .. [1] Ronneberger et al. 2015, section 3.
    """

    STATE = ("velocity",)

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.99, weight_decay: float = 0.0
    ):
        require_numbers(
            "SGD",
            "finite lr > 0, 0 <= momentum < 1, finite weight_decay >= 0",
            lr=(lr, 0 < lr < np.inf),
            momentum=(momentum, 0 <= momentum < 1),
            weight_decay=(weight_decay, 0 <= weight_decay < np.inf),
        )
        super().__init__(parameters, lr)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocity = self._zeros()

    def scalars(self, step: int) -> NDArray[Any]:
        """Return lr: see `Optimiser.scalars`."""
        return self._in_dtype(self.lr)

    def _move(self, lists: list[list[Any]], scalars: Any) -> None:
        step(*lists, scalars, self.momentum, self.weight_decay)


# Numba


def step_numba(weights, grads, velocities, lr, momentum, weight_decay):
    for arrays in zip(weights, grads, velocities, strict=True):
        real = arrays[0].dtype.type
        _step(*(array.reshape(-1) for array in arrays), real(lr), real(momentum), real(weight_decay))


@parallel_kernel
def _step(weight, grad, velocity, lr, momentum, weight_decay):
    for i in prange(weight.size):
        velocity[i] = momentum * velocity[i] + (grad[i] + weight_decay * weight[i])
        weight[i] -= lr * velocity[i]


# CUDA: kernels/sgd.cu


def step_cuda(weights, grads, velocities, lr, momentum, weight_decay):
    reached = {"weight": weights, "grad": grads, "velocity": velocities}
    launch_for_all("sgd", reached, lr, momentum, weight_decay, flops=6)


step = Dispatch("sgd", "step", numpy=step_numpy, numba=step_numba, cuda=step_cuda)
