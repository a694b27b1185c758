"""ONNX: onnxruntime computes what the engine computes, for every form of the networks and several sizes."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import MODELS, with_statistics

import tinyunet as tu
from tinyunet.errors import OptionError
from tinyunet.exchange import packages
from tinyunet.exchange.onnx import mirrored, to_onnx
from tinyunet.models import make_network
from tinyunet.prediction.tiling import predict_tiled

# Both are float32. A score is a sum, through at most 23 layers, that both round in their own order; the
# engine's tests allow it 1e-5 of the largest score, and have seen 1.8e-6. Scores are below 1 here, and a
# probability changes by at most half of what the scores change by: 1e-6 is expected, twice that allowed.
TOLERANCE = 2e-6


def runtime(content):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images):
        (output,) = session.run(None, {"image": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
        return output.transpose(0, 2, 3, 1)

    return run


def probabilities(model, images):
    with tu.no_grad():
        scores = model(tu.Tensor(images)).numpy().astype(np.float64)
    shares = np.exp(scores - scores.max(axis=3, keepdims=True))
    return shares / shares.sum(axis=3, keepdims=True)


@pytest.fixture
def model(options):
    return with_statistics(make_network(**options))


def test_equals_the_engine_on_tiles_of_several_sizes(model):
    run, sizes = runtime(to_onnx(model, {})), model.geometry
    rng = np.random.default_rng(0)
    for shape in (
        (1, sizes.smallest, sizes.smallest + sizes.step),
        (2, sizes.smallest + 3 * sizes.step, sizes.smallest),
    ):
        images = rng.standard_normal((*shape, 2), dtype=np.float32)
        expected = probabilities(model, images)
        assert np.abs(expected - 1 / 3).max() > 0.005  # not blind
        np.testing.assert_allclose(run(images), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("options", [name for name in MODELS if not name.endswith("5")], indirect=True)
def test_with_its_mirror_equals_overlap_tile(model):
    """A whole image, up to its border; the smallest one and one whose sides differ."""
    run, step = runtime(to_onnx(model, {}, mirror=True)), model.geometry.step
    smallest = max(mirrored(model)) // step * step + step
    rng = np.random.default_rng(1)
    for shape in ((smallest, smallest), (smallest + step, smallest + 2 * step)):
        image = rng.standard_normal((*shape, 2), dtype=np.float32)
        expected = predict_tiled(model, image)
        np.testing.assert_allclose(run(image[np.newaxis])[0], expected, rtol=0, atol=TOLERANCE)


def test_the_file_says_what_it_is():
    model = tu.UNet(in_channels=3, num_classes=4, base_channels=1, depth=1)
    file = onnx.load_from_string(to_onnx(model, {"step": 7}))
    assert [(entry.key, json.loads(entry.value)) for entry in file.metadata_props] == [
        ("tinyunet", {"step": 7})
    ]
    assert [(opset.domain, opset.version) for opset in file.opset_import] == [("", 17)]
    shapes = [[d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in file.graph.input]
    assert shapes == [["batch", 3, "height", "width"]]
    assert {constant.name for constant in file.graph.initializer} >= model.state_dict().keys()


def test_the_same_network_gives_the_same_bytes():
    model = tu.UNet(base_channels=1, depth=2, normalisation="batch")
    assert to_onnx(model, {"a": 1}) == to_onnx(model, {"a": 1})


def test_what_cannot_be_written_is_refused(monkeypatch):
    with pytest.raises(OptionError, match="SlidingWindowClassifier"):
        to_onnx(tu.SlidingWindowClassifier(base_channels=1), {})
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(OptionError, match="pip install onnx"):
        packages.require("onnx")
