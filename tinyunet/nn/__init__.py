"""The parts of a network, and the optimiser of its weights.

- `module`: parameters and buffers with names, and modules made of them.
- `layers`: convolution, with or without batch normalisation, and up-convolution; their initial weights.
- `sgd`: stochastic gradient descent with momentum.
"""

from tinyunet.nn.layers import Conv2d, ConvTranspose2d, NormalisedConv2d, he_normal
from tinyunet.nn.module import Buffer, Module, Parameter
from tinyunet.nn.sgd import SGD

__all__ = [
    "SGD",
    "Buffer",
    "Conv2d",
    "ConvTranspose2d",
    "Module",
    "NormalisedConv2d",
    "Parameter",
    "he_normal",
]
