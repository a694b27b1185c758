"""python -m tinyunet.compile: compile all CPU kernels now, rather than during the first training.

Compiled kernels are kept on disk beside the package (or, where that is not writable, in the user's cache
folder), so this is needed once per installation. It trains and predicts with a tiny network.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import tyro

from tinyunet import command_line, metrics
from tinyunet.autograd import Tensor
from tinyunet.data import split, synthetic_cells, synthetic_dic
from tinyunet.ops.add import add
from tinyunet.ops.conv_transpose2d import conv_transpose2d
from tinyunet.ops.crop_concat_conv2d import crop_concat_conv2d
from tinyunet.ops.relu import relu
from tinyunet.ops.softmax_cross_entropy import softmax_cross_entropy
from tinyunet.prediction.instances import label_instances
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.training.config import TrainConfig
from tinyunet.training.trainer import Trainer


def compile_kernels() -> None:
    """Run every kernel once, in float32."""
    synthetic_dic(n=1, size=256)  # cells of their usual size, whose windows are parts of the image
    images = synthetic_cells(n=2, size=64, seed=0)
    plain = TrainConfig(steps=1, base_channels=4, depth=1, tile=16)
    for config in (plain, replace(plain, padding="same", normalisation="batch")):
        trainer = Trainer(config, *split(images, "1"))
        for _ in trainer.run():
            pass
    predict_tiled(trainer.model, images.images[0].astype("float32"), tile=64)
    assert images.labels is not None
    cells = label_instances(images.labels[0] > 0) > 0  # not predicted: an untrained network may find none
    metrics.warping_error(cells, cells)
    x = Tensor(images.images[0][None].astype("float32"), requires_grad=True)
    loss = softmax_cross_entropy(relu(add(x, x)), np.zeros(x.shape[:3], int))
    loss.backward(2)  # a gradient other than the 1 of training needs a kernel
    # Large with few channels and with more, small with many: Winograd's convolution has kernels for each of
    # these. The up-convolution has some for filters that fill registers, and another for many channels.
    for size, channels in ((132, 8), (132, 64), (12, 256)):
        maps = Tensor(np.zeros((1, size, size, channels // 2), np.float32), requires_grad=True)
        weight = Tensor(np.zeros((3, 3, channels, channels), np.float32), requires_grad=True)
        y = crop_concat_conv2d(maps, maps, weight, relu=True)
        y.backward(np.zeros(y.shape, np.float32))
    for channels in (8, 256):
        maps = Tensor(np.zeros((1, 2, 8, channels), np.float32), requires_grad=True)
        weight = Tensor(np.zeros((2, 2, channels, 8), np.float32), requires_grad=True)
        y = conv_transpose2d(maps, weight)
        y.backward(np.zeros(y.shape, np.float32))


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    start = time.perf_counter()
    command_line.run(
        lambda: tyro.cli(
            compile_kernels, prog="python -m tinyunet.compile", args=arguments, description=__doc__
        )
    )
    print(f"kernels ready after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
