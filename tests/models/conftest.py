"""Fixtures of the tests of the networks."""

import numpy as np
import pytest

import tinyunet as tu
from tinyunet.models import fcn, sliding_window, unet
from tinyunet.nn import layers


@pytest.fixture
def wrap_op(monkeypatch):
    """`wrap_op("conv2d", wrap)` puts `wrap(conv2d)` in the op's place, wherever the networks look it up.

    The convolution of a skip is made of crop_concat and conv2d, so that it calls what they are wrapped in.
    """
    fused = {"crop_concat": tu.crop_concat, "conv2d": tu.conv2d}

    def apply(name, wrap, patch=monkeypatch):
        wrapped = wrap(getattr(tu, name))
        for module in (layers, fcn, sliding_window, unet):
            if hasattr(module, name):
                patch.setattr(module, name, wrapped)
        if name in fused:
            patch.setitem(fused, name, wrapped)
            patch.setattr(layers, "crop_concat_conv2d", in_two_steps)

    def in_two_steps(upsampled, skip, *parameters, **options):
        return fused["conv2d"](fused["crop_concat"](upsampled, skip), *parameters, **options)

    return apply


@pytest.fixture
def count_multiplications(monkeypatch, wrap_op):
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
            wrap_op("conv2d", lambda op: watch(op, lambda x, y: y), patch)
            wrap_op("conv_transpose2d", lambda op: watch(op, lambda x, y: x), patch)
            model.eval()(tu.Tensor(np.zeros((1, height, width, model.in_channels), np.float32)))
        return total

    return count
