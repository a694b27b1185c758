"""The U-Net paper (Ronneberger, Fischer, Brox 2015) as an engine that one person can read.

The rooms, in the order in which data flows through them:

- `data`: image sets: read, held out, grown from a seed.
- `sampling`: training tiles: cut out, deformed, weighted.
- `ops`: one file per op: equation, NumPy, Numba, CUDA.
- `autograd`: tensors, the backward pass, the gradient check.
- `nn`: layers, initialisation, SGD and Adam.
- `models`: the U-Net; FCN and sliding window, which it replaced.
- `training`: configuration, loop, checkpoints.
- `prediction`: overlap-tile, objects, result files.
- `metrics`: how good a segmentation is.
- `diagnosis`: what is wrong with a data set.
- `reporting`: pictures, the report's page, progress on the screen.
- `exchange`: networks in the formats of other programs.
- `backend`: which arrays, which kernels, and the machinery that runs them.

Beside them stand the commands: `train`, `predict`, `evaluate`, `doctor`, `report`, `export`, `compare`,
`compile`.
Images and feature maps are channels last, (N, H, W, C).
"""

# ruff: noqa: E402

from tinyunet import startup

startup.quit_on_interrupt()  # before the imports that take seconds
startup.share_cores()

from tinyunet import metrics
from tinyunet.autograd import Tensor, no_grad
from tinyunet.autograd.gradcheck import gradcheck
from tinyunet.backend import active_backend, use_backend
from tinyunet.models import FCN, SlidingWindowClassifier, UNet
from tinyunet.nn.adam import AdamW
from tinyunet.nn.sgd import SGD
from tinyunet.ops.add import add
from tinyunet.ops.batch_norm import batch_norm
from tinyunet.ops.conv2d import conv2d
from tinyunet.ops.conv_transpose2d import conv_transpose2d
from tinyunet.ops.crop_concat import crop_concat
from tinyunet.ops.crop_concat_conv2d import crop_concat_conv2d
from tinyunet.ops.dropout import dropout
from tinyunet.ops.linear_cross_entropy import linear_cross_entropy
from tinyunet.ops.max_pool2d import max_pool2d
from tinyunet.ops.relu import relu
from tinyunet.ops.softmax_cross_entropy import softmax_cross_entropy
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.sampling.elastic import elastic_deform
from tinyunet.sampling.weight_map import weight_map

__version__ = "0.1.0"

__all__ = [
    "FCN",
    "SGD",
    "AdamW",
    "SlidingWindowClassifier",
    "Tensor",
    "UNet",
    "active_backend",
    "add",
    "batch_norm",
    "conv2d",
    "conv_transpose2d",
    "crop_concat",
    "crop_concat_conv2d",
    "dropout",
    "elastic_deform",
    "gradcheck",
    "linear_cross_entropy",
    "max_pool2d",
    "metrics",
    "no_grad",
    "predict_tiled",
    "relu",
    "softmax_cross_entropy",
    "use_backend",
    "weight_map",
]
