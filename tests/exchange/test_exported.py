"""Exported files, read back: the network predicts the same bits; no other file is taken for one of ours."""

import hashlib
import json
import zipfile

import numpy as np
import onnx
import pytest
import yaml
from networks import MODELS, with_statistics
from onnx import TensorProto, helper, numpy_helper

import tinyunet as tu
from tinyunet.errors import CheckpointError
from tinyunet.exchange.exported import read_exported
from tinyunet.exchange.onnx import to_onnx
from tinyunet.exchange.record import FIXED, IMAGES, Record
from tinyunet.exchange.torch_names import torch_file
from tinyunet.models import make_network
from tinyunet.prediction.object_rule import ObjectRule

NETWORK = {"model": "unet", "in_channels": 1, "num_classes": 2, "base_channels": 2, "depth": 1}
RECORD = Record(NETWORK, {"values": [0, 7], "coloured": False}, 12, ObjectRule(31, 2.5))


def scores(model):
    side = model.geometry.smallest
    images = np.random.default_rng(4).standard_normal(
        (1, side, side + model.geometry.step, model.in_channels)
    )
    with tu.no_grad():
        return model(tu.Tensor(images.astype(np.float32))).numpy()


@pytest.mark.parametrize("form", ["onnx", "mirror", "torch"])
@pytest.mark.parametrize("options", [*list(MODELS)[:7], "fcn-3"], indirect=True)
def test_a_network_that_is_read_back_gives_the_same_bits(options, form, tmp_path):
    """With fixed statistics, which ONNX has folded by the same sums as prediction does."""
    model = with_statistics(make_network(**options))
    rule = ObjectRule(31, 2.5)
    record = Record(options, step=5, objects=rule).to_json()
    path = tmp_path / ("model.safetensors" if form == "torch" else "model.onnx")
    weights = model.state_dict()
    content = (
        torch_file(weights, record) if form == "torch" else to_onnx(model, record, mirror=form == "mirror")
    )
    path.write_bytes(content)
    exported = read_exported(path)
    assert (exported.record.step, exported.record.objects) == (5, rule)
    np.testing.assert_array_equal(scores(exported.model), scores(model))


@pytest.fixture
def model():
    return with_statistics(make_network(**NETWORK))


def changed(content, change):
    file = onnx.load_from_string(content)
    change(file)
    return file.SerializeToString()


def set_float(file, name, value):
    [tensor] = [tensor for tensor in file.graph.initializer if tensor.name == name]
    array = np.full_like(numpy_helper.to_array(tensor), value)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def outside(file):
    """Its weights are in another file."""
    tensor = file.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def sigmoid(file):
    file.graph.node[-1].CopyFrom(
        helper.make_node("Sigmoid", list(file.graph.node[-1].input), list(file.graph.node[-1].output))
    )


def set_record(**values):
    def change(file):
        record = {**RECORD.to_json(), **values}
        helper.set_model_props(file, {"tinyunet": json.dumps(record)})

    return change


STATISTICS = {"mean": [100.0], "deviation": [20.0]}


def fixed(**values):
    return set_record(images=FIXED, statistics={**STATISTICS, **values})


def other_producer(file):
    file.producer_name, file.producer_version = "pytorch", "2.1"


def cut_more(file):
    [tensor] = [tensor for tensor in file.graph.initializer if tensor.name.endswith(".first")]
    tensor.CopyFrom(numpy_helper.from_array(np.full(2, 5, np.int64), tensor.name))


ONNX_FAULTS = {
    "another program's": (other_producer, ["pytorch 2.1", "7 Conv", "Softmax"]),
    "without a record": (lambda file: file.ClearField("metadata_props"), ["another program"]),
    "opset 11": (lambda file: setattr(file.opset_import[0], "version", 11), ["11", "17"]),
    "NaN": (lambda file: set_float(file, "scores.bias", np.nan), ["not finite", "scores.bias"]),
    "infinite": (lambda file: set_float(file, "up.0.weight", np.inf), ["not finite", "up.0.weight"]),
    "a layer less": (lambda file: file.graph.initializer.pop(), ["do not fit"]),
    "outside": (outside, ["another file"]),
    "short": (lambda file: setattr(file.graph.initializer[0], "raw_data", b"1234"), ["damaged"]),
    "another last node": (sigmoid, ["Sigmoid"]),
    "a node more": (lambda file: file.graph.node.append(helper.make_node("Relu", ["a"], ["b"])), ["changed"]),
    "a node less": (lambda file: file.graph.node.pop(), ["changed"]),
    "another cut": (cut_more, ["changed"]),
    "another size": (set_record(network={**NETWORK, "base_channels": 4}), ["do not fit"]),
    "another padding": (set_record(network={**NETWORK, "padding": "same"}), ["changed"]),
    "too large": (set_record(network={**NETWORK, "base_channels": 10**6}), ["do not fit"]),
    "an unknown option": (set_record(network={**NETWORK, "width": 3}), ["width"]),
    "no network": (set_record(network=3), ["network is 3"]),
    "steps in words": (set_record(step="many"), ["many"]),
    "fixed, without statistics": (set_record(images=FIXED), [IMAGES, FIXED]),
    "statistics that are not used": (set_record(statistics=STATISTICS), [IMAGES, FIXED]),
    "no deviation": (fixed(deviation=[0.0]), ["deviation 0"]),
    "statistics that are not finite": (fixed(mean=[float("nan")]), ["nan"]),
    "statistics of two channels": (fixed(mean=[1.0, 2.0], deviation=[1.0, 2.0]), ["1 channels"]),
    "a mean less": (fixed(mean=[]), ["0 means"]),
    "only a mean": (set_record(images=FIXED, statistics={"mean": [1.0]}), ["deviation"]),
    "another normalisation": (set_record(images="divided by 255"), ["divided by 255", IMAGES]),
}


@pytest.mark.parametrize("name", ONNX_FAULTS)
def test_an_onnx_file_that_is_not_ours_is_refused(model, tmp_path, name):
    change, words = ONNX_FAULTS[name]
    content = to_onnx(model, RECORD.to_json())
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    read_exported(path)  # it is the change that is refused
    path.write_bytes(changed(content, change))
    with pytest.raises(CheckpointError) as error:
        read_exported(path)
    assert all(word in str(error.value) for word in [str(path), *words]), str(error.value)


@pytest.mark.parametrize("content", [b"", b"no ONNX", b"\xff" * 100])
def test_bytes_that_are_no_onnx(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        read_exported(tmp_path / "model.onnx")


def test_every_truncated_onnx_file_is_refused(model, tmp_path):
    content = to_onnx(model, RECORD.to_json())
    for length in np.linspace(0, len(content) - 1, 60).astype(int):
        (tmp_path / "model.onnx").write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_exported(tmp_path / "model.onnx")


def package(path, content, **description):
    """A package with only what is read of it."""
    weights = {"onnx": {"source": "weights.onnx", "sha256": hashlib.sha256(content).hexdigest()}}
    text = yaml.safe_dump({"type": "model", "weights": weights, **description})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("rdf.yaml", text)
        file.writestr("weights.onnx", content)
    return path


def test_packages_that_cannot_be_read(model, tmp_path):
    path, content = tmp_path / "model.zip", to_onnx(model, RECORD.to_json(), mirror=True)
    np.testing.assert_array_equal(scores(read_exported(package(path, content)).model), scores(model))
    wrong_sum = {"onnx": {"source": "weights.onnx", "sha256": "0" * 64}}
    keras = {"keras_hdf5": {"source": "weights.h5"}}
    gone = {"onnx": {"source": "../weights.onnx", "sha256": "0"}}
    for words, description in {
        "checksum": {"weights": wrong_sum},
        "keras_hdf5": {"weights": keras},
        "../weights.onnx": {"weights": gone},
        "describes no model": {"type": "dataset"},
        "ONNX weights": {"weights": []},
    }.items():
        with pytest.raises(CheckpointError, match=words):
            read_exported(package(path, content, **description))
    whole = package(path, content).read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.zip"):
            read_exported(path)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1  # in the weights, of which the archive has a checksum, too
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"model\.zip"):
        read_exported(path)
    for text in ("!!python/object/apply:os.system [touch ran]", "[", "3", "type: model", "a: " + "[" * 5000):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("rdf.yaml", text)
        with pytest.raises(CheckpointError, match=r"model\.zip"):
            read_exported(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.csv", "1")
    with pytest.raises(CheckpointError, match=r"data\.csv"):
        read_exported(path)


def test_other_files_are_none(tmp_path):
    assert read_exported(tmp_path / "missing.zip") is None
    (tmp_path / "folder.onnx").mkdir()
    assert read_exported(tmp_path / "folder.onnx") is None
