"""Images and labels that are no set: exit status 2, one message with the file and its values."""

import shutil

import numpy as np
import pytest
from messages import says
from PIL import Image


def empty(data):
    for file in (data / "images").iterdir():
        file.unlink()
    return "images", ".png"


def text_as_image(data):
    (data / "images" / "1.png").write_text("no image")
    return "1.png", "8 bytes"


def truncated(data):
    file = data / "images" / "1.png"
    file.write_bytes(file.read_bytes()[:400])
    return "1.png", "400 bytes"


def without_label(data):
    (data / "labels" / "1.png").unlink()
    return ("1: 1",)


def without_image(data):
    (data / "images" / "2.png").unlink()
    return ("1: 2",)


def without_labels(data):
    shutil.rmtree(data / "labels")
    return "labels/", "masks/"


def other_size(data):
    Image.fromarray(np.zeros((40, 37), np.uint8)).save(data / "labels" / "1.png")
    return "(40, 36, 1)", "(40, 37)"


def strange_labels(data):
    Image.fromarray(np.random.default_rng(0).choice([0, 128, 255], (40, 36)).astype(np.uint8)).save(
        data / "labels" / "1.png"
    )
    return ("0, 128, 255",)


def all_background(data):
    for file in (data / "labels").iterdir():
        Image.fromarray(np.zeros((40, 36), np.uint8)).save(file)
    return ("--kind binary",)


def other_channels(data):
    Image.fromarray(np.zeros((40, 36, 3), np.uint8)).save(data / "images" / "1.png")
    return "(40, 36, 1)", "(40, 36, 3)"


def unknown_type(data):
    (data / "images" / "notes.docx").write_text("")
    (data / "labels" / "notes.png").write_bytes((data / "labels" / "1.png").read_bytes())
    return "notes.docx", ".png"


SPOILED = (
    empty, text_as_image, truncated, without_label, without_image, without_labels, other_size, strange_labels,
    all_background, other_channels, unknown_type,
)  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda f: f.__name__)
def test_data_to_train_on(refused, data, tiny, tmp_path, spoil):
    texts = spoil(data)
    says(refused("train", "--data", data, "--out", "run", *tiny), data, *texts)
    assert not (tmp_path / "run").exists()


def test_no_images_to_predict(refused, data, trained, tmp_path):
    texts = empty(data)
    says(refused("predict", trained, data, "--out", "results"), data, *texts)
    assert not (tmp_path / "results").exists()


def test_no_image_can_be_predicted(refused, data, trained, tmp_path):
    for file in (data / "images").iterdir():
        file.write_text("no image")
    says(refused("predict", trained, data, "--out", "results"), "0.png", "8 bytes")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("spoil", [text_as_image, truncated, other_channels], ids=lambda f: f.__name__)
def test_an_image_that_fails_does_not_cost_the_others(command, data, trained, tmp_path, spoil):
    """It is named at the end, and the exit status says that it is missing."""
    texts = spoil(data)
    status, out, message = command("predict", trained, data, "--out", "results")
    assert status == 1
    assert "wrote 8 files" in out
    texts = ("1 channels", "3 channels") if spoil is other_channels else texts
    for text in (data / "images" / "1.png", *texts, "1 of 3"):
        assert str(text) in message
    assert len(list((tmp_path / "results").iterdir())) == 8


@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_an_image_that_fails_after_reading(command, data, trained, tmp_path, monkeypatch, error):
    from tinyunet.prediction.segmentation import segment

    def fail_once(models, image, **options):
        if not failed:
            failed.append(True)
            raise error
        return segment(models, image, **options)

    failed = []
    monkeypatch.setattr("tinyunet.predict.segment", fail_once)
    status, _, message = command("predict", trained, data, "--out", "results")
    assert (status, len(list((tmp_path / "results").iterdir()))) == (1, 8)
    assert f"{data / 'images' / '0.png'}: 0: " in message


@pytest.mark.parametrize(
    ("name", "arrays", "texts"),
    [
        ("no-labels", {"images": np.ones((3, 20, 20))}, ("labels",)),
        ("nan", {"images": np.where(np.arange(1200).reshape(3, 20, 20) == 441, np.nan, 1)},
         ("nan-1", "row 2, column 1")),
        ("range", {"images": np.ones((3, 20, 20)), "labels": np.full((3, 20, 20), -2)},
         ("-2",)),
        ("wide", {"images": np.ones((3, 20, 20)), "labels": np.zeros((3, 20, 21))},
         ("(3, 20, 21)", "(3, 20, 20)")),
        ("flat", {"images": np.ones((20, 20))}, ("(20, 20)",)),
    ],
)  # fmt: skip
def test_archives(refused, tiny, tmp_path, name, arrays, texts):
    labels = {} if name == "no-labels" else {"labels": np.eye(20, dtype=int)[None].repeat(3, axis=0)}
    path = tmp_path / f"{name}.npz"
    np.savez(path, **labels | arrays)
    says(refused("train", "--data", path, "--out", "run", *tiny), path, *texts)


def test_labels_out_of_range_of_classes(refused, tiny, tmp_path):
    labels = np.arange(1200).reshape(3, 20, 20)
    np.savez(tmp_path / "x.npz", images=np.ones((3, 20, 20)), labels=labels)
    message = refused("train", "--data", tmp_path / "x.npz", "--kind", "classes", "--out", "run", *tiny)
    says(message, "x.npz", "256", "1200")


def test_data_that_is_not_there(refused, trained):
    says(refused("train", "--data", "celsl"), "celsl")
    says(refused("predict", trained, "celsl", "--out", "results"), "celsl")


def test_two_images_of_one_name(refused, trained, image):
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(image.with_suffix(".png"))
    message = refused("predict", trained, image.parent, "--out", "results")
    says(message, image.parent, "slide")


def test_channels_unlike_the_networks(refused, trained, make_data, tmp_path):
    message = refused("predict", trained, make_data("colour", channels=(3,)), "--out", "results")
    says(message, "colour", "1 channels", "3 channels")
    assert not (tmp_path / "results").exists()
