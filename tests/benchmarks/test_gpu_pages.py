"""The reader of the archives that the first day on a GPU brings back."""

import json
import tarfile

import pytest

from benchmarks import gpu_pages
from benchmarks.layers import DIRECTIONS
from tinyunet.errors import DataError

PAGE = "before\n<!-- measured {name} -->\nold\n<!-- end -->\nafter\n"
KERNELS = {"conv2d_forward_blocked": [8, 750.0], "relu_backward": [18, 250.0]}


def rate(tflops):
    return {direction: {"tflops": tflops} for direction in DIRECTIONS}


def report(device="GPU X", tiny=False, **figures):
    return {"device": device, "tiny": tiny, "date": "2026-01-01", **figures}


def archive(folder, **parts):
    path = folder / "first_day.tgz"
    with tarfile.open(path, "w:gz") as files:
        for name, figures in parts.items():
            (folder / f"{name}.json").write_text(json.dumps(figures))
            files.add(folder / f"{name}.json", f"./{name}.json")
    return path


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    (root / "kernels").mkdir(parents=True)
    (root / "README.md").write_text(PAGE.format(name="step"))
    (root / "kernels/README.md").write_text(PAGE.format(name="ladder") + PAGE.format(name="kernels"))
    return root


def test_pages_are_filled(root, tmp_path):
    step = {"step": 20.0, "prediction": 6.0}
    networks = [
        {
            "precision": "float32",
            "tinyunet": {"step": 11, "prediction": 3.0},
            "tinyunet, CUDA graph": {"step": 10.0},
            "eager": step,
            "channels_last": {"step": 30.0, "prediction": 4.5},
        }
    ]
    profile = {"float32": {"graph_ms": 12, "kernels_us": KERNELS}}
    gpu_pages.read([archive(tmp_path, networks=report(networks=networks), profile=report(**profile))], root)
    text = (root / "README.md").read_text()
    assert text.startswith("before\n<!-- measured step -->\n\n| precision |")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "| float32 | 10.0 ms, PyTorch's 20.0 ms: 2× | 3.0 ms, PyTorch's 4.5 ms: 1.5× |" in text
    assert "| bf16 | not measured yet | not measured yet |" in text
    kernels = (root / "kernels/README.md").read_text()
    assert "`conv2d_forward_blocked` ×8 75 %, `relu_backward` ×18 25 %" in kernels


def test_layers_beside_cudnn(root, tmp_path):
    name = gpu_pages.SHOWN_LAYERS[0]
    rungs = {"blocked": rate(30), "tensor": rate(80), "PyTorch float32": rate(40), "PyTorch tf32": rate(160)}
    layer = {"name": name, "flop": 1e9, "bytes": 1e7, "rungs": rungs}
    peaks = {"float32": 5e13, "tf32": 4e14, "bf16": 8e14, "copy": 4e12}
    layers = report(layers=[layer], peaks=peaks)
    written = gpu_pages.read([archive(tmp_path, layers=layers)], root)
    text = (root / "kernels/README.md").read_text()
    assert "| blocked | 30.0, 75 % | not measured yet | not measured yet |" in text
    assert "| tensor | 80.0, 50 % |" in text
    assert "| PyTorch tf32 | 160.0 |" in text
    assert all(path.stat().st_size for path in written)


def test_parts_that_were_kept_stay(root, tmp_path):
    gpu_pages.read([archive(tmp_path, profile=report(float32={"graph_ms": 12.0, "kernels_us": {}}))], root)
    gpu_pages.read([archive(tmp_path, correct=report(results=[]))], root)
    assert json.loads((root / gpu_pages.RESULTS).read_text()).keys() == {"profile", "correct"}
    assert "12.0 ms" in (root / "README.md").read_text()


def test_another_gpu_is_refused(root, tmp_path):
    gpu_pages.read([archive(tmp_path, correct=report(results=[]))], root)
    before = (root / gpu_pages.RESULTS).read_text()
    with pytest.raises(DataError):
        gpu_pages.read([archive(tmp_path, profile=report(device="GPU Y"))], root)
    assert (root / gpu_pages.RESULTS).read_text() == before


def test_a_rehearsal_fills_copies_that_say_so(root, tmp_path):
    before = (root / "README.md").read_text()
    rehearsed = report(tiny=True, float32={"graph_ms": 12.0, "kernels_us": {}})
    written = gpu_pages.read([archive(tmp_path, profile=rehearsed)], root)
    assert all(path.is_relative_to(root / gpu_pages.REHEARSED) for path in written)
    text = (root / gpu_pages.REHEARSED / "README.md").read_text()
    assert "12.0 ms" in text
    assert gpu_pages.REHEARSAL in text
    assert (root / "README.md").read_text() == before
    assert not (root / gpu_pages.RESULTS).exists()


def test_a_rehearsal_skips_what_needs_a_gpu(root, tmp_path):
    """Its layers and networks are reports without figures."""
    parts = {"layers": report(tiny=True), "networks": report(tiny=True), "train": report(tiny=True)}
    written = gpu_pages.read([archive(tmp_path, **parts)], root)
    assert {path.name for path in written} == {"README.md"}
    text = (root / gpu_pages.REHEARSED / "kernels/README.md").read_text()
    assert gpu_pages.REHEARSAL in text
    assert gpu_pages.NOT_MEASURED in text


def test_a_rehearsal_among_measurements_is_refused(root, tmp_path):
    (tmp_path / "other").mkdir()
    rehearsed = archive(tmp_path / "other", profile=report(tiny=True))
    with pytest.raises(DataError, match="rehearsal"):
        gpu_pages.read([archive(tmp_path, correct=report(results=[])), rehearsed], root)
    assert not (root / gpu_pages.RESULTS).exists()


def test_an_archive_without_figures(root, tmp_path):
    with pytest.raises(DataError, match="no figures"):
        gpu_pages.read([archive(tmp_path, other={})], root)
