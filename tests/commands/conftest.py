"""A tiny data set, a network trained on it, and commands run in this process as from the shell."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tinyunet import compare, doctor, evaluate, export, predict, report, train, watch
from tinyunet.backend import dispatch

TINY = [
    "--base-channels", "2", "--depth", "1", "--tile", "16", "--steps", "4", "--validate-every", "2",
    "--holdout", "1", "--recipe", "paper", "--lr", "0.01", "--momentum", "0.9", "--schedule", "constant",
]  # fmt: skip
WITHOUT_HOLDOUT = [*TINY[: TINY.index("--holdout")], *TINY[TINY.index("--holdout") + 2 :]]
COMMANDS = {
    "compare": compare.main,
    "train": train.main,
    "predict": predict.main,
    "evaluate": evaluate.main,
    "doctor": doctor.main,
    "report": report.main,
    "watch": watch.main,
    "export": export.main,
}


def write_data(folder, images, labels):
    """`folder` with images/ and labels/ of PNG, named 0.png, 1.png and so on."""
    for part, arrays in {"images": images, "labels": labels}.items():
        (folder / part).mkdir(parents=True)
        for number, array in enumerate(arrays):
            Image.fromarray(array).save(folder / part / f"{number}.png")
    return folder


def blobs(n=3, shape=(40, 36), seed=0, channels=()):
    """Bright discs in noise, 8 bits, and where they are, as 0 and 255."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    images, labels = [], []
    for _ in range(n):
        label = np.zeros(shape, bool)
        for at in rng.uniform(0, shape, (5, 2)):
            label |= np.hypot(y - at[0], x - at[1]) < 6
        grey = (
            60 + 120 * label.reshape(*shape, *(1 for _ in channels)) + rng.normal(0, 20, (*shape, *channels))
        )
        images.append(grey.clip(0, 255).astype(np.uint8))
        labels.append(label * np.uint8(255))
    return images, labels


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    """Where a command writes by default; and the backend is reset."""
    monkeypatch.chdir(tmp_path)
    before = dispatch._choice.set(None)
    dispatch._default.cache_clear()  # a test may set the environment variable
    yield
    dispatch._choice.reset(before)
    dispatch._default.cache_clear()


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data", *blobs())


@pytest.fixture
def command(capsys):
    """`command("train", …)` gives exit status, standard output and standard error."""

    def run(name, *arguments):
        capsys.readouterr()
        status = 0
        try:
            COMMANDS[name]([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code or 0
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def refused(command):
    """Run a command that must fail as a user's mistake does, and give its message."""

    def run(name, *arguments):
        status, _, message = command(name, *arguments)
        assert status == 2, message
        assert "Traceback" not in message
        return message

    return run


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = write_data(folder / "data", *blobs())
    train.main(["--data", str(data), "--out", str(folder / "run"), *TINY])
    return folder / "run"


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of a run of four steps."""
    return Path(shutil.copytree(trained_once, tmp_path / "trained"))


@pytest.fixture(scope="session")
def folds_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    data = write_data(folder / "data", *blobs(5))
    train.main(["--data", str(data), "--out", str(folder / "run"), "--folds", "3", *WITHOUT_HOLDOUT])
    return folder / "run"


@pytest.fixture
def folds(folds_once, tmp_path):
    """A copy of three runs of four steps, which hold out 2, 2 and 1 of five images."""
    return Path(shutil.copytree(folds_once, tmp_path / "folds"))


@pytest.fixture
def tiny_fold():
    """Options of a training that takes a fraction of a second, without --holdout."""
    return list(WITHOUT_HOLDOUT)


@pytest.fixture
def image(tmp_path):
    """One image to predict, 33 × 50 pixels of 16 bits."""
    (tmp_path / "new").mkdir()
    path = tmp_path / "new" / "slide.tif"
    tifffile.imwrite(path, np.random.default_rng(5).integers(0, 4000, (33, 50)).astype(np.uint16))
    return path


def snapshot(folder):
    """Every file below a folder with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def unchanged():
    """`with unchanged(folder): …` asserts that no file in it was changed, added or removed."""
    from contextlib import contextmanager

    @contextmanager
    def check(folder):
        before = snapshot(folder)
        yield
        assert snapshot(folder) == before

    return check


@pytest.fixture
def tiny():
    """Options of a training that takes a fraction of a second."""
    return list(TINY)


@pytest.fixture
def make_data(tmp_path):
    """`make_data(name, **options of blobs)` writes another data set."""

    def make(name, **options):
        return write_data(tmp_path / name, *blobs(**options))

    return make


COMPARISON = [
    "--minutes", "0.002", "--holdout", "2", "--tile", "16", "--momentum", "0.9", "--seed", "3",
    "--unet.base-channels", "2", "--fcn.base-channels", "2", "--sliding-window.base-channels", "2",
    "--unet.lr", "0.01", "--fcn.lr", "0.01", "--sliding-window.lr", "0.01",
]  # fmt: skip


@pytest.fixture
def tiny_comparison():
    """Options of a comparison that takes a few seconds."""
    return list(COMPARISON)


@pytest.fixture(scope="session")
def compared(tmp_path_factory):
    """Results of comparing the three networks on three images of 40 × 36 pixels, one of them held out."""
    folder = tmp_path_factory.mktemp("compared")
    data = write_data(folder / "data", *blobs())
    compare.main(["--data", str(data), "--out", str(folder / "results"), *COMPARISON])
    return folder / "results"
