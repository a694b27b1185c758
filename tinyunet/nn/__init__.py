"""The parts of a network, and the optimiser of its weights.

- `module`: parameters with names, and modules made of them.
- `layers`: convolution and up-convolution with their weights, and the initial values of these.
- `sgd`: stochastic gradient descent with momentum.
"""

from tinyunet.nn.layers import Conv2d, ConvTranspose2d, he_normal
from tinyunet.nn.module import Module, Parameter
from tinyunet.nn.sgd import SGD

__all__ = ["SGD", "Conv2d", "ConvTranspose2d", "Module", "Parameter", "he_normal"]
