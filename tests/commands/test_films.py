"""Films of the Cell Tracking Challenge through all the commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from ctc_metrics.scripts.evaluate import evaluate_sequence
from films import SHAPE, cells_of, write, write_film

from tinyunet.data import UNKNOWN, read_images
from tinyunet.prediction.films import FilmWriter


@pytest.fixture
def film(tmp_path):
    """Six frames; three are outlined, one of them in part."""
    every = range(1, 6)
    return write_film(tmp_path / "SET", frames=6, outlined={1: every, 2: [1, 2], 5: every})


def test_training_on_a_film(command, film, tiny, tmp_path):
    status, out, message = command("train", "--data", film, "--out", "run", *tiny)
    assert status == 0, message
    assert "3 of 6 frames" in out
    assert "3 markers" in out
    assert "2 images to train on, 1 held out" in out
    status, out, message = command("evaluate", "run")
    assert status == 0, message
    assert "3 markers" in out


@pytest.mark.parametrize("name", ["train", "doctor", "evaluate"])
def test_the_chosen_annotation(command, film, tiny, tmp_path, name):
    """Silver truth, and background only near it, reach the reader from each command."""
    write_film(film, frames=6, outlined={frame: [1, 2] for frame in range(4)}, truth="ST", markers=False)
    chosen = ("--truth", "silver", "--partly-annotated", "5")
    if name == "train":
        status, out, message = command("train", "--data", film, "--out", "run", *tiny, *chosen)
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        assert (config["truth"], config["partly_annotated"]) == ("silver", 5)
    elif name == "doctor":
        status, out, message = command("doctor", film, "--tile", "16", "--depth", "1", *chosen)
        assert "unknown" in out
    else:
        tiny[tiny.index("--holdout") + 1] = "0"  # with silver truth too, a frame that was not trained on
        assert command("train", "--data", film, "--out", "run", *tiny)[0] == 0
        status, out, message = command("evaluate", "run", *chosen)
    assert status == 0, message
    assert "4 of 6 frames" in out
    assert "5 px" in out


def written(film, tmp_path):
    """A plausible prediction of a film: cells grown, shrunk, moved, joined, missed and invented."""
    for film_folder, shift in (("01", 0), ("02", 1)):
        writer = FilmWriter(tmp_path / "results" / f"{film_folder}_RES")
        for frame in range(6):
            truth = cells_of(frame)
            found = np.roll(truth, (frame % 3, shift), axis=(0, 1))
            found[truth == 1 + frame % 5] = 0
            found[:3, -4:] = 9
            if frame == 4:
                found[found == 2] = 3
            writer.add(f"{frame:03d}", found)
    return tmp_path / "results"


def scores_of(command, *arguments):
    status, out, message = command("evaluate", *arguments, "--out", "scores", "--pictures", 1, "--overwrite")
    assert status == 0, message
    return json.loads(Path("scores/scores.json").read_text()), out


@pytest.mark.parametrize("outlined", [None, {1: range(1, 6), 2: [1, 2], 5: range(1, 6)}])
def test_seg_is_that_of_py_ctcmetrics(command, tmp_path, outlined):
    """For completely and partly outlined films; and it accepts the results and their tracks as valid."""
    for film in ("01", "02"):
        write_film(tmp_path / "SET", film, frames=6, outlined=outlined)
    results, total = written("SET", tmp_path), 0
    for film in ("01", "02"):
        oracle = evaluate_sequence(
            str(results / f"{film}_RES"),
            str(tmp_path / "SET" / f"{film}_GT"),
            ["Valid", "SEG", "DET"],
            threads=1,
        )
        assert oracle["Valid"] == 1
        assert 0.5 < oracle["DET"] < 1
        for predictions in (results, results / f"{film}_RES"):
            record, out = scores_of(command, predictions, f"SET/{film}")
            # The same quotients of pixel counts, summed in another order.
            assert record["seg_over_objects"] == pytest.approx(oracle["SEG"], rel=1e-12)
        assert 0.3 < oracle["SEG"] < 0.9
        assert f"{oracle['SEG']:.6f}" in out
        assert f"{6 if outlined is None else 3} of 6 predicted frames" in out
        total += oracle["SEG"] / 2
    assert scores_of(command, results, "SET")[0]["seg_over_objects"] == pytest.approx(total, rel=1e-12)


def test_seg_of_objects_that_are_mostly_unknown(command, tmp_path):
    """They may cover an outlined cell: SEG counts them at any IoU, as py-ctcmetrics does."""
    film = write_film(tmp_path / "SET", frames=2, outlined={0: range(1, 6), 1: [1, 4]})
    truth = cells_of(1)
    found = np.where(np.isin(truth, [2, 3, 5]), 1, truth)  # one object of an outlined cell and three others
    writer = FilmWriter(tmp_path / "results" / "01_RES")
    for frame, objects in enumerate((cells_of(0), found)):
        writer.add(f"{frame:03d}", objects)
    (_, labels) = read_images(str(film)).labels
    assert np.mean(labels[found == 1] == UNKNOWN) > 0.5
    oracle = evaluate_sequence(str(tmp_path / "results" / "01_RES"), str(film / "01_GT"), ["SEG"], threads=1)
    record, out = scores_of(command, "results", film)
    assert record["seg_over_objects"] == pytest.approx(oracle["SEG"], rel=1e-12)
    assert f"{oracle['SEG']:.6f}" in out
    assert 0.5 < record["images"][1]["scores"]["seg"] < 0.7  # (1 + IoU of the large object) / 2
    assert record["mistakes"]["missed"] == 0


def test_predicting_a_film_writes_the_challenges_layout(command, film, tiny, tmp_path):
    steps = tiny[tiny.index("--steps") + 1 :]
    assert command("train", "--data", film, "--out", "run", *tiny[: -len(steps)], "40", *steps[1:])[0] == 0
    # After 40 steps no object has the size of those in training.
    status, out, message = command("predict", "run", film, "--out", "results", "--min-size", "10")
    assert status == 0, message
    folder = tmp_path / "results" / "01_RES"
    assert f"wrote 6 frames to {Path('results/01_RES')}" in out
    names = {"res_track.txt", *(f"mask{frame:03d}.tif" for frame in range(6))}
    assert {file.name for file in folder.iterdir()} == names
    for frame in range(6):
        with tifffile.TiffFile(folder / f"mask{frame:03d}.tif") as tiff:
            page = tiff.pages[0]
            assert (page.dtype, page.shape, page.compression) == (np.uint16, SHAPE, tifffile.COMPRESSION.LZW)
    oracle = evaluate_sequence(str(folder), str(film / "01_GT"), ["Valid", "SEG"], threads=1)
    record, _ = scores_of(command, "results", film)
    assert record["seg_over_objects"] == pytest.approx(oracle["SEG"], rel=1e-12)
    assert oracle["Valid"] == 1


def test_the_layout_is_that_of_the_images_by_default(command, trained, film, image, tmp_path):
    assert command("predict", trained, film, "--out", "files", "--layout", "files")[0] == 0
    assert len(list((tmp_path / "files").glob("01_t00?_instances.tif"))) == 6
    assert command("predict", trained, image.parent, "--out", "film", "--layout", "film")[0] == 0
    assert {file.name for file in (tmp_path / "film" / "01_RES").iterdir()} == {
        "mask000.tif",
        "res_track.txt",
    }


def test_films_are_overwritten_only_when_asked(command, refused, trained, film, unchanged, tmp_path):
    assert command("predict", trained, film, "--out", "results")[0] == 0
    with unchanged(tmp_path / "results"):
        assert "--overwrite" in refused("predict", trained, film, "--out", "results")


def test_results_that_lack_a_labelled_frame(film, refused, tmp_path):
    results = written("SET", tmp_path)
    (results / "01_RES" / "mask005.tif").unlink()
    message = refused("evaluate", results, film)
    assert "1: 01_t005" in message


def test_a_result_that_is_damaged_or_of_another_size(film, refused, tmp_path):
    results = written("SET", tmp_path)
    mask = results / "01_RES" / "mask001.tif"
    write(mask, np.zeros((9, 9), np.uint16))
    message = refused("evaluate", results, film)
    for text in ("01_t001", "(9, 9, 2)", "(48, 60)"):
        assert text in message
    mask.write_bytes(b"II*\0nothing")
    assert "mask001.tif" in refused("evaluate", results, film)


def test_an_empty_folder_of_results(film, refused, tmp_path):
    (tmp_path / "01_RES").mkdir()
    assert "01_RES/mask000.tif" in refused("evaluate", tmp_path / "01_RES", film)
