"""Dropout: each value is kept with probability 1 - p and scaled up, so that the mean stays the same.

    y[i] = x[i] / (1 - p) if kept[i], else 0
    grad_x[i] = grad_y[i] / (1 - p) if kept[i], else 0

A counter-based generator decides from (seed, i) alone whether element i is kept: the finaliser of Steele, Lea
and Flood's SplitMix64 (OOPSLA 2014). No mask is stored, threads need no order, and every backend drops the
same elements. The seed is one draw from `rng`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinyunet.autograd import Function, Tensor
from tinyunet.backend import Dispatch, allocator, cuda, to_backend
from tinyunet.backend.jit import kernel, parallel_kernel
from tinyunet.errors import OptionError

# NumPy: the reference

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_UNIT = 2.0**-53  # of the upper 53 bits


def forward_numpy(x, p, seed):
    bits = (np.arange(1, x.size + 1, dtype=np.uint64)) * _GOLDEN + np.full(x.size, seed)
    bits = (bits ^ (bits >> _30)) * _MIX_1
    bits = (bits ^ (bits >> _27)) * _MIX_2
    bits = bits ^ (bits >> _31)
    kept = ((bits >> _11) * _UNIT >= p).reshape(x.shape)
    return np.where(kept, x * x.dtype.type(1 / (1 - p)), x.dtype.type(0))


# The op: its checks, and its place in the graph


def dropout(x: Tensor, p: float, rng: np.random.Generator) -> Tensor:
    """Set each element to 0 with probability p, and divide the others by 1 - p.

    Parameters
    ----------
    x : Tensor, any shape
    p : float, 0 <= p < 1
    rng : numpy.random.Generator
        Gives the seed: one draw per call.

    Raises
    ------
    OptionError
        p is outside [0, 1).

    References
    ----------
    .. [1] Ronneberger et al. 2015, section 3.1: at the end of the contracting path.
    """
    if not 0 <= p < 1:
        raise OptionError("dropout: p is not a probability below 1", {"p": p}, "choose 0 <= p < 1")
    seed = rng.integers(2**64, dtype=np.uint64)
    return Dropout.apply(x, p=p, seed=seed)


class Dropout(Function):
    """The op in the graph. Backward is forward on the gradient, with the same seed."""

    name = "dropout"
    returns_new = True

    def forward(self, x, *, p, seed):
        self.save(p, seed)
        return forward(x, p, seed)

    def backward(self, grad_output):
        p, seed = self.saved
        return (backward(grad_output, p, seed),)


# Numba


@kernel
def _uniform(seed, i):
    """The i-th number of the sequence, in [0, 1)."""
    bits = np.uint64(i + 1) * _GOLDEN + seed
    bits = (bits ^ (bits >> _30)) * _MIX_1
    bits = (bits ^ (bits >> _27)) * _MIX_2
    bits = bits ^ (bits >> _31)
    return np.float64(bits >> _11) * _UNIT


def forward_numba(x, p, seed):
    y = allocator.empty_like(x)
    _forward(x.reshape(-1), p, x.dtype.type(1 / (1 - p)), seed, y.reshape(-1))
    return y


@parallel_kernel
def _forward(x, p, scale, seed, y):
    for i in prange(x.size):
        y[i] = x[i] * scale if _uniform(seed, i) >= p else 0


# CUDA: kernels/dropout.cu


def forward_cuda(x, p, seed):
    y, seed = cuda.empty(x.shape), to_backend(seed, np.uint64)
    scale = np.float32(1 / (1 - p))
    cuda.launch_elementwise("dropout", "forward", x.size, x, np.float64(p), scale, seed, y, flops=x.size)
    return y


forward = Dispatch("dropout", "forward", numpy=forward_numpy, numba=forward_numba, cuda=forward_cuda)
backward = Dispatch("dropout", "backward", numpy=forward_numpy, numba=forward_numba, cuda=forward_cuda)
