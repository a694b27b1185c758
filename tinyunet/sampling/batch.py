"""The input of a training step, made where the backend computes: on the CPU, or by CUDA kernels.

This is the only place that chooses between the two samplers; both give the same samples, up to rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend import active_backend
from tinyunet.sampling import sampler_cuda
from tinyunet.sampling.sampler import Sample, Sampler, weights_by_class


class Batch(NamedTuple):
    """A sample in the form that a network's `loss` takes."""

    image: Any
    """Shape (N, H, W, C)."""
    target: Any
    """Classes, shape (N, H', W'); -1 where nobody labelled the image."""
    weight: Any
    """Shape (N, H', W'): the sample's weights divided by their sum; 0 where that is 0."""
    class_shares: NDArray[np.float64]
    """The share of each class in the weights, shape (num_classes,); 0 where their sum is 0."""


def on_backend(sampler: Sampler) -> Sampler | sampler_cuda.CudaSampler:
    """The sampler whose samples lie where the active backend computes."""
    return sampler_cuda.CudaSampler(sampler) if _on_cuda() else sampler


def finish(sample: Sample, num_classes: int) -> Batch:
    """Divide the weights of a sample by their sum, so that the loss is a mean."""
    if _on_cuda():
        sums = sampler_cuda.weights_by_class(sample, num_classes)
        weight = sampler_cuda.mean_weights(sample, sums)
    else:
        sums = weights_by_class(sample, num_classes)
        total = sample.weight.sum(dtype=np.float64)
        weight = np.multiply(sample.weight, 1 / total if total else 0.0, dtype=np.float32)
    return Batch(sample.image, sample.target, weight, sums / (sums.sum() or 1))


def _on_cuda() -> bool:
    """Find out whether kernels are CUDA's, on a GPU or emulated."""
    return active_backend().startswith("cuda")
