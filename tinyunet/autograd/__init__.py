"""Tensors, the backward pass, and the check of gradients.

- `tensor`: a tensor, an op, and the backward pass.
- `gradcheck`: the comparison of gradients with finite differences.
"""

from tinyunet.autograd.tensor import Function, Tensor, no_grad

__all__ = ["Function", "Tensor", "no_grad"]
