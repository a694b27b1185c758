"""The parts of a network, and the optimisers of its weights.

- `module`: parameters and buffers with names, and modules made of them.
- `layers`: convolution, with or without batch normalisation, and up-convolution; their initial weights.
- `optimiser`: what optimisers have in common.
- `sgd`, `adam`: stochastic gradient descent with momentum, and AdamW.
"""

from typing import Literal

from tinyunet.nn.adam import AdamW
from tinyunet.nn.layers import Conv2d, ConvTranspose2d, NormalisedConv2d, he_normal
from tinyunet.nn.module import Buffer, Module, Parameter
from tinyunet.nn.optimiser import Optimiser
from tinyunet.nn.sgd import SGD

OptimiserName = Literal["sgd", "adam"]
OPTIMISERS: dict[str, type[Optimiser]] = {"sgd": SGD, "adam": AdamW}

__all__ = [
    "OPTIMISERS",
    "SGD",
    "AdamW",
    "Buffer",
    "Conv2d",
    "ConvTranspose2d",
    "Module",
    "NormalisedConv2d",
    "Optimiser",
    "OptimiserName",
    "Parameter",
    "he_normal",
]
