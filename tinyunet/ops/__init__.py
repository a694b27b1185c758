"""The ops of the network: one file per op, with its equation, checks, NumPy reference and Numba kernels.

`tinyunet.backend.DISPATCH_TABLE` lists them all: for each op and direction, the implementation of each
backend.
"""

from tinyunet.ops.add import add
from tinyunet.ops.conv2d import conv2d
from tinyunet.ops.conv_transpose2d import conv_transpose2d
from tinyunet.ops.crop_concat import crop_concat
from tinyunet.ops.dropout import dropout
from tinyunet.ops.linear_cross_entropy import linear_cross_entropy
from tinyunet.ops.max_pool2d import max_pool2d
from tinyunet.ops.relu import relu
from tinyunet.ops.softmax_cross_entropy import softmax_cross_entropy

__all__ = [
    "add",
    "conv2d",
    "conv_transpose2d",
    "crop_concat",
    "dropout",
    "linear_cross_entropy",
    "max_pool2d",
    "relu",
    "softmax_cross_entropy",
]
