"""The demonstration in the browser: its JavaScript gives what Python gives, in Chromium without a network."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import re
import shutil
import sys
import threading
from pathlib import Path

import browser
import numpy as np
import pytest
from PIL import Image

import tinyunet as tu
from tinyunet.data import normalise
from tinyunet.models import geometry
from tinyunet.prediction import tiling
from tinyunet.prediction.instances import label_instances

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))
import browser_demo  # noqa: E402

DEPTH, TILE = 3, 196  # as in demo.js


class Quiet(http.server.SimpleHTTPRequestHandler):
    def end_headers(self):
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the page's HTML, without Sphinx's frame."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS / "_static", folder / "_static")
    browser_demo.complete(folder / "_static")
    (html,) = re.findall(r"```\{raw\} html\n(.*?)```", (DOCS / "demo.md").read_text(), re.DOTALL)
    head = '<!DOCTYPE html><html lang="en"><title>demo</title><link rel="icon" href="data:,">'
    (folder / "demo.html").write_text(head + html)
    return folder


@pytest.fixture(scope="module")
def page(site, tmp_path_factory):
    """The page in Chromium, with its modules as `segment` and `demo`."""
    browser.chromium()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with browser.opened(tmp_path_factory.mktemp("profile")) as driver:
        driver.get(f"http://127.0.0.1:{server.server_port}/demo.html")
        yield driver
    server.shutdown()
    server.server_close()


IN_THE_PAGE = """
const done = arguments[arguments.length - 1];
Promise.all([import("./_static/demo/segment.js"), import("./_static/demo/demo.js")])
  .then(async ([segment, demo]) => done(JSON.stringify(await (async () => (EXPRESSION))())))
  .catch((error) => done(JSON.stringify({ error: String(error) })));
"""


def evaluate(page, expression):
    """The value of an expression in JavaScript, by way of JSON."""
    value = json.loads(page.execute_async_script(IN_THE_PAGE.replace("EXPRESSION", expression)))
    assert not (isinstance(value, dict) and "error" in value), value
    return value


def test_the_networks_file_is_the_one_that_the_page_describes():
    onnx = pytest.importorskip("onnx")
    path = DOCS / "_static" / "demo" / "network.onnx"
    assert path.stat().st_size < 300_000
    (record,) = (json.loads(item.value) for item in onnx.load(path).metadata_props if item.key == "tinyunet")
    network = record["network"]
    assert (network["depth"], network["padding"]) == (DEPTH, "valid")
    assert (network["in_channels"], network["num_classes"]) == (1, 2)


def test_geometry_and_tiles(page):
    assert [evaluate(page, f"segment.unet({depth})") for depth in range(1, 6)] == [
        vars(geometry.unet(depth)) for depth in range(1, 6)
    ]
    sizes, tiles = [1, 2, 7, 8, 195, 196, 197, 203, 388, 512, 1001], [1, 8, 100, 196, 700]
    for depth in (1, 3, 4):
        sides = evaluate(
            page,
            f"{json.dumps(sizes)}.map((size) => {json.dumps(tiles)}"
            f".map((tile) => segment.plan(segment.unet({depth}), size, tile)))",
        )
        for size, row in zip(sizes, sides, strict=True):
            for tile, side in zip(tiles, row, strict=True):
                expected = tiling.plan(geometry.unet(depth), size, tile)
                parts = [[part.start, part.stop] for part in expected.parts]
                assert side == {**vars(expected), "parts": parts}, (size, tile)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_mirror(page, size):
    indices = evaluate(page, f"[...Array(41).keys()].map((i) => segment.mirror(i - 20, {size}))")
    assert indices == tiling.mirror_indices(-20, 21, size).tolist()


@pytest.mark.parametrize("constant", [False, True])
def test_normalise(page, constant):
    grey = np.full(60, 7) if constant else np.random.default_rng(0).integers(0, 256, 60)
    found = evaluate(page, f"[...segment.normalise({grey.tolist()})]")
    # Both compute in float64 and round once to float32.
    np.testing.assert_allclose(found, normalise(grey.reshape(6, 10, 1)).ravel(), rtol=2**-23, atol=1e-7)


@pytest.mark.parametrize("depth", [None, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.3, 0.55, 0.8, 1.0])
def test_objects_of_noise(page, share, depth):
    """Specks, holes of every size, holes at the edge, necks; and no background at all."""
    noise = np.random.default_rng(1).uniform(0, 1, (40, 53)).astype(np.float32)
    noise = np.where(noise < share, 0.75, 0.25).astype(np.float32)
    options = json.dumps({"splitDepth": depth})
    found = evaluate(page, f"[...segment.labelInstances({noise.ravel().tolist()}, 53, 40, {options}).labels]")
    expected = label_instances(noise, split_depth=depth)
    assert expected.max() > 0
    np.testing.assert_array_equal(np.reshape(found, noise.shape), expected)


@pytest.mark.parametrize("seed", range(3))
def test_touching_discs(page, seed):
    """Many summits and necks, and seeds of the same height, which grow in the same order."""
    rng, (y, x) = np.random.default_rng(seed), np.indices((90, 110))
    discs = [
        np.hypot(y - rng.uniform(0, 90), x - rng.uniform(0, 110)) < rng.integers(4, 12) for _ in range(40)
    ]
    mask = np.where(np.any(discs, axis=0), 0.75, 0.25).astype(np.float32)
    found = evaluate(page, f"[...segment.labelInstances({mask.ravel().tolist()}, 110, 90).labels]")
    expected = label_instances(mask)
    assert expected.max() > label_instances(mask, split_depth=None).max()
    np.testing.assert_array_equal(np.reshape(found, mask.shape), expected)


@pytest.fixture(scope="module")
def runtime():
    if not browser_demo.has_runtime():
        pytest.skip("needs onnxruntime-web, which python docs/browser_demo.py fetches by npm")


class Exported(tu.UNet):
    """The exported network as one of ours, for `predict_tiled`."""

    def __init__(self):
        onnxruntime = pytest.importorskip("onnxruntime")
        super().__init__(in_channels=1, num_classes=2, depth=DEPTH, base_channels=1)
        self.session = onnxruntime.InferenceSession(DOCS / "_static" / "demo" / "network.onnx")

    def forward(self, x):
        (probabilities,) = self.session.run(None, {"image": x.data.transpose(0, 3, 1, 2)})
        return tu.Tensor(np.log(probabilities.clip(1e-30)).transpose(0, 2, 3, 1))  # softmax undoes it


@pytest.mark.parametrize("number", range(len(browser_demo.SAMPLES)))
def test_the_same_objects_as_python(page, runtime, site, number):
    grey = np.asarray(Image.open(site / "_static" / "demo" / f"sample-{number}.png"))
    found = evaluate(
        page,
        f"""await (async () => {{
            const sample = await (await fetch("_static/demo/sample-{number}.png")).blob();
            const {{ probabilities, labels, count }} = await demo.show(sample);
            return {{ probabilities: [...probabilities], labels: [...labels], count }};
        }})()""",
    )
    probabilities = np.reshape(found["probabilities"], grey.shape).astype(np.float32)
    labels = np.reshape(found["labels"], grey.shape)
    expected = tu.predict_tiled(Exported(), normalise(grey[..., np.newaxis]), tile=TILE)[..., 1]
    # Sums of at most 9 * 64 products in float32, layer by layer: as for the ONNX export itself.
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    np.testing.assert_array_equal(labels, label_instances(probabilities))
    # What rounds to the other side of the threshold may differ, and no sample has such a pixel.
    assert abs(expected - 0.5).min() > abs(probabilities - expected).max()
    np.testing.assert_array_equal(labels, label_instances(expected))
    assert found["count"] == labels.max() > 5
    assert page.find_element("id", "demo-status").text.startswith(f"{found['count']} objects in ")
    assert not page.get_log("browser")


def test_all_canvases_show_something(page, runtime):
    evaluate(page, 'await demo.show(fetch("_static/demo/sample-2.png").then((a) => a.blob())) !== null')
    for name in ("tiles", "classes", "objects"):
        data = page.execute_script(f"return document.getElementById('demo-{name}').toDataURL()")
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).convert("L"))
        assert picture.std() > 5, name


def test_a_file_that_is_no_picture(page, runtime):
    assert evaluate(page, 'await demo.show(new Blob(["text"]))') is None
    assert "no picture" in page.find_element("id", "demo-status").text


def test_a_site_without_the_runtime_says_so(page, site):
    shutil.rmtree(
        site / "_static" / "onnxruntime-web", ignore_errors=True
    )  # the last test: no other needs it
    page.refresh()
    assert evaluate(page, 'await demo.show(fetch("_static/demo/sample-2.png").then((a) => a.blob()))') is None
    assert "onnxruntime-web is missing" in page.find_element("id", "demo-status").text
