"""Stochastic gradient descent with momentum.

    v = momentum · v + grad + weight_decay · w
    w = w - lr · v

This is PyTorch's form. Caffe, which the paper used, has lr inside v, which is the same while lr is constant.
With momentum μ, the steps for a constant gradient grow to lr / (1 - μ) times it: 100 lr at the paper's 0.99.

Tutorial: `tutorials/11_sgd_training.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tinyunet.autograd import Tensor
from tinyunet.backend import Dispatch, array_library, cuda, to_backend
from tinyunet.backend.changes import count_changes
from tinyunet.backend.jit import parallel_kernel
from tinyunet.errors import OptionError

# NumPy: the reference


def step_numpy(weights, grads, velocities, lr, momentum, weight_decay):
    for weight, grad, velocity in zip(weights, grads, velocities, strict=True):
        velocity *= momentum
        velocity += grad + weight_decay * weight
        weight -= lr * velocity


# The optimiser


class SGD:
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

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.99, weight_decay: float = 0.0
    ):
        for name, value, fits in (
            ("lr", lr, 0 < lr < np.inf),
            ("momentum", momentum, 0 <= momentum < 1),
            ("weight_decay", weight_decay, 0 <= weight_decay < np.inf),
        ):
            if not fits:
                raise OptionError(
                    f"SGD: {name} is {value}",
                    remedy="finite lr > 0, 0 <= momentum < 1, finite weight_decay >= 0",
                )
        self.parameters = list(parameters)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.velocity: list[NDArray[Any]] = [array_library().zeros_like(p.data) for p in self.parameters]

    def step(self, lr: Any = None) -> None:
        """Update every parameter that has a gradient, in place.

        Parameters
        ----------
        lr : array of one element, optional
            Replaces `self.lr`. It lies where the backend computes, so that a step that is captured as a CUDA
            graph can have another learning rate at each launch.
        """
        pairs = zip(self.parameters, self.velocity, strict=True)
        moving = [(p.data, p.grad, velocity) for p, velocity in pairs if p.grad is not None]
        if moving:
            count_changes([p for p in self.parameters if p.grad is not None])
            lr = self.lr if lr is None else lr
            step(*zip(*moving, strict=True), lr, self.momentum, self.weight_decay)

    def zero_grad(self) -> None:
        """Set the gradients to None: otherwise they add up over backward passes."""
        for parameter in self.parameters:
            parameter.grad = None


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
    counts = [weight.size for weight in weights]
    blocks = [cuda.blocks(count, cuda.THREADS_PER_BLOCK) for count in counts]
    first_blocks = itertools.accumulate(blocks[:-1], initial=0)
    places = (map(cuda.address, arrays) for arrays in (weights, grads, velocities))
    table = np.array(list(zip(*places, counts, first_blocks, strict=True)), np.uint64)
    scalars = map(np.float32, (momentum, weight_decay))
    cuda.launch(
        "sgd",
        "step",
        (sum(blocks),),
        (cuda.THREADS_PER_BLOCK,),
        *(cuda.constant(table), len(counts), to_backend(lr, np.float32), *scalars),
        reached={"weight": weights, "grad": grads, "velocity": velocities},
        flops=6 * sum(counts),
    )


step = Dispatch("sgd", "step", numpy=step_numpy, numba=step_numba, cuda=step_cuda)
