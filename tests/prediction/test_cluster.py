"""A prediction shared out to workers of dask.distributed, against that of one process."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oracle import randomised

import tinyunet as tu
from tinyunet.data.windows import open_windows
from tinyunet.errors import RunError
from tinyunet.prediction import cluster as clusters
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.slides import SlideOptions, SlideWriter
from tinyunet.prediction.workers import Job

zarr = pytest.importorskip("zarr")
pytest.importorskip("distributed")

OPTIONS = SlideOptions(tile=60, probabilities=True)
RULE = ObjectRule(5, 1.5)


def loader(path):
    """What reads a network on a worker; a closure, because workers cannot import this module."""

    def load():
        model = tu.UNet(base_channels=2, depth=2, seed=0)
        with np.load(path) as weights:
            model.load_state_dict(dict(weights))
        return [model]

    return load


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A folder with an image, weights, and what one process predicts."""
    from scipy import ndimage

    folder = tmp_path_factory.mktemp("slide")
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(301, 260)), 3)
    image = (noise / np.abs(noise).max() * 900 + 1000).astype(np.uint16)
    zarr.create_array(folder / "slide.zarr", shape=image.shape, chunks=(64, 64), dtype=image.dtype)[...] = (
        image
    )
    model = randomised(tu.UNet(base_channels=2, depth=2, seed=1), 1)
    np.savez(folder / "weights.npz", **model.state_dict())
    assert predict(job_of(folder, "one.zarr")) > 5
    return folder


def job_of(folder, out):
    weights = folder / "weights.npz"
    return Job(loader(weights), folder / "slide.zarr", folder / out, OPTIONS, None, "numpy", "float32")


def predict(job, share=None, on_tile=None):
    """Predict as the command does; returns how many objects there are."""
    with tu.use_backend(job.backend):
        writer = SlideWriter(job.load(), open_windows(job.image), job.out, OPTIONS, None, 10**9, share)
        writer.require_free(resume=False, overwrite=True)
        writer.predict(on_tile)
        count = writer.number(RULE)
        writer.finish()
        return count


def files(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def workers():
    with clusters.connected(2, None) as connected:
        yield connected


def test_two_workers_give_the_bytes_of_one_process_though_one_is_killed(slide, workers):
    """By SIGKILL when a third is done."""
    job = replace(workers.check(job_of(slide, "two.zarr")), memory=10**9)
    by_worker = workers._client.run(os.getpid)
    killed = []

    def kill(done, total):
        if 3 * done > total and not killed:
            killed.append(next(iter(by_worker.values())))
            os.kill(killed[0], signal.SIGKILL)

    predict(job, workers.share(job), kill)
    assert killed
    assert files(slide / "two.zarr") == files(slide / "one.zarr")


@pytest.mark.parametrize("what", ["weights", "image", "folder"])
def test_a_file_that_a_worker_cannot_see_is_named(slide, workers, tmp_path, what):
    shutil.copytree(slide / "slide.zarr", tmp_path / "slide.zarr")
    shutil.copy(slide / "weights.npz", tmp_path)
    job = job_of(tmp_path, "out.zarr")
    changed = {
        "weights": {"load": loader(tmp_path / "gone.npz")},
        "image": {"image": tmp_path / "gone.zarr"},
        "folder": {"out": tmp_path / "gone" / "out.zarr"},
    }[what]
    with pytest.raises(RunError, match="gone") as error:
        workers.check(replace(job, **changed))
    assert "worker tls://127.0.0.1" in str(error.value)


def test_workers_that_compute_other_bits_are_named(slide, workers, monkeypatch):
    """Other versions at the start, and a worker of another kind that comes later."""
    job = workers.check(job_of(slide, "other.zarr"))
    with monkeypatch.context() as patch:
        patch.setattr(clusters, "computer", lambda backend: job.computer | {"numpy": "1.0"})
        with pytest.raises(RunError, match=r"numpy 1\.0"):
            workers.check(job)
    later = replace(job, computer=job.computer | {"processor": "i386"}, memory=10**9)
    with pytest.raises(RunError, match="i386") as error:
        predict(later, workers.share(later))
    assert "--resume" in str(error.value)


def test_a_worker_does_not_write_into_what_was_begun_again(slide):
    """Its command was killed, and another one has begun with other settings."""
    job = job_of(slide, "again.zarr")
    writer = SlideWriter(job.load(), open_windows(job.image), job.out, OPTIONS, None, 10**9)
    writer.begin()
    settings = Path(f"{job.out}.part/.tinyunet/settings.json")
    settings.write_text(settings.read_text().replace('"tile": 60', '"tile": 80'))
    with tu.use_backend("numpy"), pytest.raises(RunError, match="begun again"):
        writer.write_region(0)
