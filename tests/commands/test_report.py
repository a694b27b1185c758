"""python -m tinyunet.report: one valid page with everything in it, and the numbers that evaluate gives."""

import base64
import errno
import io
import json
import os
import re
from dataclasses import asdict

import html5lib
import numpy as np
import pytest
from PIL import Image
from skimage.measure import label as components

from tinyunet.metrics.naming import format_value
from tinyunet.metrics.scores import THRESHOLDS_OF
from tinyunet.reporting import page
from tinyunet.training import checkpoint
from tinyunet.training.events import Collapsed
from tinyunet.training.run_folder import RunFolder

HEADINGS = [
    "Scores on the held-out images",
    "Learning curves",
    "Worst images, by mean IoU",
    "The doctor's findings",
    "Configuration",
    "Time",
    "Machine and versions",
    "Commands",
]


def parsed(path):
    """The page's elements; anything that HTML does not allow is an error."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parse(path.read_text(encoding="utf-8"))


def text_of(element):
    return " ".join("".join(element.itertext()).split())


def headings(document):
    return [text_of(element) for element in document.iter("h2")]


def table_under(document, heading):
    """Rows of the section's first table, each a list of texts."""
    section = next(s for s in document.iter("section") if text_of(s.find("h2")) == heading)
    return [[text_of(cell) for cell in row] for row in next(section.iter("table")).iter("tr")]


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_a_folder_in_the_place_of_the_page(refused, trained, overwrite):
    message = refused("report", trained, "--out", ".", *overwrite)
    assert "report.html" in message


def test_a_page_that_the_disk_has_no_room_for(command, refused, trained, monkeypatch):
    """Half a page is neither taken for a page nor in the way of the next one."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tinyunet.data.atomic_write.os.replace", full)
    assert "No space left" in refused("report", trained)
    assert not list(trained.glob("report.html*"))
    monkeypatch.undo()
    assert command("report", trained)[0] == 0


def test_no_network_is_made_to_look_at_the_data(command, trained, monkeypatch):
    """The only network is the one that is loaded."""
    made = []
    make_network = checkpoint.make_network
    monkeypatch.setattr(
        checkpoint, "make_network", lambda **options: made.append(options) or make_network(**options)
    )
    monkeypatch.setattr("tinyunet.training.trainer.make_network", None)
    assert command("report", trained)[0] == 0
    assert len(made) == 1


def test_a_page_of_a_run(command, trained):
    status, out, message = command("report", trained)
    assert status == 0, message
    path = RunFolder(trained).report
    assert f"wrote {path}" in out
    document = parsed(path)
    assert headings(document) == HEADINGS  # one held-out image: it is the worst, and no other is the best
    assert text_of(document.find(".//h1")) == "trained"


def test_it_needs_no_other_file(command, trained):
    """No file, no network, no script: all content is in the page."""
    command("report", trained)
    document = parsed(RunFolder(trained).report)
    tags = {element.tag for element in document.iter() if isinstance(element.tag, str)}
    assert not tags & {"script", "link", "iframe", "object"}
    sources = [
        value
        for element in document.iter()
        for name, value in element.attrib.items()
        if name in ("src", "srcset", "href", "poster", "data")
    ]
    assert len(sources) == 2 * 2 + 3 + 2 * 3  # curves light and dark; an image; two samples
    assert all(source.startswith("data:image/") for source in sources)
    style = text_of(document.find(".//style"))
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style


def test_pictures_show_something(command, trained):
    command("report", trained)
    sources = [element.attrib["src"] for element in parsed(RunFolder(trained).report).iter("img")]
    for source in sources:
        kind, content = re.fullmatch(r"data:image/(webp|svg\+xml);base64,(.*)", source).groups()
        content = base64.b64decode(content)
        if kind == "webp":
            assert np.asarray(Image.open(io.BytesIO(content)).convert("L")).std() > 5
        else:
            assert b"<svg" in content


def test_scores_are_those_of_evaluate(command, trained, tmp_path):
    command("report", trained, "--symmetries", 8)
    command("evaluate", trained, "--symmetries", 8, "--out", tmp_path / "scores", "--pictures", 0)
    measures = json.loads((tmp_path / "scores" / "scores.json").read_text())["measures"]
    head, *rows = table_under(parsed(RunFolder(trained).report), HEADINGS[0])
    assert head[:7] == ["measure", "whole set", "mean", "spread", "images", "best value", "worst image"]
    expected = [
        [format_value(m["set_wide"]), format_value(m["mean"]), "–", str(m["images"]), m["worst"]]
        for m in measures.values()
    ]
    assert [[*row[1:5], row[6]] for row in rows] == expected
    assert [row[5] for row in rows] == ["0" if name.endswith("error") else "1" for name in measures]


def test_configuration_beside_the_papers(command, trained):
    command("report", trained)
    rows = {row[0]: row[1:] for row in table_under(parsed(RunFolder(trained).report), "Configuration")}
    assert rows["--base-channels"] == ["2", "64"]
    assert rows["--padding"] == ["valid", "the same"]
    assert rows["--lr"] == ["0.01", "not stated"]
    assert rows["--optimiser"] == ["sgd", "the same"]
    assert rows["--momentum"] == ["0.9", "0.99"]
    assert rows["--weights.class-balance"] == ["yes", "the same"]
    assert rows["--augmentation.flips"] == ["yes", ""]
    changed = {
        text_of(row[0])
        for row in parsed(RunFolder(trained).report).iter("tr")
        if row[-1].tag == "td" and any(cell.get("class") == "changed" for cell in row)
    }
    assert "--steps" in changed
    assert "--padding" not in changed


def test_papers_values_are_of_options_that_exist():
    names = dict(page._flat(page.asdict(page.TrainConfig())))
    assert page.PAPER.keys() | page.UNSTATED.keys() <= names.keys()
    assert not page.PAPER.keys() & page.UNSTATED.keys()


def test_machines_and_commands(command, trained):
    command("train", "--resume", trained, "--steps", 5)
    command("report", trained)
    document = parsed(RunFolder(trained).report)
    commands = [text_of(element) for element in document.iter("pre")]
    assert commands[0].startswith("python -m tinyunet.train --data ")
    assert commands[1].endswith(f"--resume {trained} --steps 5")
    assert [text.split()[2] for text in commands[2:]] == [
        "tinyunet.evaluate",
        "tinyunet.predict",
        "tinyunet.report",
    ]
    head, *rows = table_under(document, "Machine and versions")
    assert [text[:11] for text in head] == ["", "from step 0", "from step 4", "this page"]
    assert ["numpy", *3 * [np.__version__]] in rows
    times = dict(table_under(document, "Time"))
    assert times["training"].endswith("in 5 steps")
    assert times["validation"].endswith("in 3 validations")


def test_a_collapse_is_reported(command, trained):
    """The training's warning of a constant prediction stands above the curves."""
    collapsed = Collapsed(4, "dead units", "class 0 everywhere", {"layer <down.0>": "0 of 2"}, "less --lr")
    RunFolder(trained).append({"event": "collapsed", **asdict(collapsed)})
    command("report", trained)
    section = next(s for s in parsed(RunFolder(trained).report).iter("section") if "curves" in text_of(s[0]))
    box = next(section.iter("div"))
    assert box.get("class") == "finding warning"
    assert text_of(box) == "warning: class 0 everywhere layer <down.0>: 0 of 2 less --lr"


def test_names_that_look_like_markup(command, tiny, make_data, tmp_path):
    """Names of files, images and the run stay text."""
    name, run = """<b>"it's" & <script>alert(1)""", tmp_path / "<i>run 'quoted'"
    data = make_data(f"set {name}")
    for part in ("images", "labels"):
        (data / part / "1.png").rename(data / part / f"{name}.png")
    command("train", "--data", data, "--out", run, *tiny, "--holdout", "1-2")
    status, _, message = command("report", run)
    assert status == 0, message
    document = parsed(RunFolder(run).report)
    assert text_of(document.find(".//h1")) == run.name
    assert any(text_of(element).startswith(name) for element in document.iter("h3"))
    assert any(element.attrib["alt"].startswith(name) for element in document.iter("img"))
    assert not list(document.iter("script"))
    assert not list(document.iter("i"))


def test_objects_and_classes(command, tiny, make_data):
    """Other kinds of labels have other measures and other mistakes."""
    for kind, order, mistakes in (
        ("instances", "average precision", "missed, merged, split, added, border"),
        ("classes", "mean IoU", "missed, added, confused, border"),
    ):
        data = make_data(kind)
        for file in (data / "labels").iterdir():
            objects = components(np.asarray(Image.open(file)) > 0)
            labels = objects if kind == "instances" else np.minimum(objects, 2)
            Image.fromarray(labels.astype(np.uint8)).save(file)
        run = data.parent / f"run-{kind}"
        command("train", "--data", data, "--kind", kind, "--out", run, *tiny, "--holdout", "0-1")
        status, _, message = command("report", run, "--pictures", 1)
        assert status == 0, message
        document = parsed(RunFolder(run).report)
        assert f"Worst images, by {order}" in headings(document)
        assert f"Best images, by {order}" in headings(document)
        legend = next(element for element in document.iter("ul"))
        assert ", ".join(text_of(item).split(":")[0] for item in legend) == mistakes


def test_every_measure_is_explained():
    """For every kind of labels."""
    measures = ["rand_error", "warping_error", "split_merge_error", *THRESHOLDS_OF, "seg"]
    rows = page.rows_of(dict.fromkeys(["iou_3", "dice_0", *measures], page.Measure(None, None, 0, None)))
    meanings = {row["name"]: row["meaning"] for row in rows}
    assert meanings["iou_3"] == "intersection over union of class 3"
    assert all(meanings.values())


def test_pictures_are_shrunk_not_stretched():
    content = base64.b64decode(page._as_webp(np.zeros((900, 1800, 3), np.uint8)).split(",")[1])
    assert Image.open(io.BytesIO(content)).size == (720, 360)


def test_overwritten_only_when_asked(command, refused, trained, tmp_path):
    path = tmp_path / "pages" / "mine.html"
    path.parent.mkdir()
    path.write_text("mine")
    assert "nothing was overwritten" in refused("report", trained, "--out", path)
    assert path.read_text() == "mine"
    assert command("report", trained, "--out", path, "--overwrite", "--pictures", 0)[0] == 0
    assert "Worst" not in path.read_text()


def test_the_run_is_left_alone(command, trained, unchanged, tmp_path):
    with unchanged(trained):
        assert command("report", trained, "--out", tmp_path / "new" / "page.html")[0] == 0


def test_runs_that_cannot_be_reported(refused, trained, tmp_path):
    assert "no such checkpoint" in refused("report", tmp_path / "nowhere")
    assert "pictures is -1" in refused("report", trained, "--pictures", "-1")
    (trained / "log.jsonl").unlink()
    assert "log.jsonl" in refused("report", trained)
    (trained / "best.safetensors").write_bytes(b"broken")
    assert "damaged" in refused("report", trained)
