"""What the tests of the networks share."""

import numpy as np
import pytest

import tinyunet as tu
from tinyunet import ops


@pytest.fixture
def count_multiplications(monkeypatch):
    """`count_multiplications(model, height, width)` watches the ops of one image."""

    def count(model, height, width):
        total = 0

        def watch(op, outputs_of):
            def watched(x, weight, *rest, **options):
                nonlocal total
                y = op(x, weight, *rest, **options)
                n, height, width, _ = outputs_of(x, y).shape
                total += n * height * width * weight.data.size
                return y

            return watched

        with monkeypatch.context() as patch, tu.no_grad():
            # Each pixel of the output takes the whole weight; of an up-convolution, each of the input.
            patch.setattr(ops, "conv2d", watch(ops.conv2d, lambda x, y: y))
            patch.setattr(ops, "conv_transpose2d", watch(ops.conv_transpose2d, lambda x, y: x))
            model.eval()(tu.Tensor(np.zeros((1, height, width, model.in_channels), np.float32)))
        return total

    return count
