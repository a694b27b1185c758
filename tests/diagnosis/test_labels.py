"""Checks of labels: each finds its fault in a set that has it, and nothing in one that does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from findings import SIDE, cells, found, grave, only, setup, textures
from sklearn.metrics import jaccard_score

from tinyunet import diagnosis
from tinyunet.data import UNKNOWN
from tinyunet.diagnosis.labels import (
    RARE,
    check_absent_classes,
    check_balance,
    check_kind,
    check_objects,
    check_touching,
    check_unknown,
    check_unlabelled,
)
from tinyunet.sampling import WeightMap
from tinyunet.training.setup import Setup


@pytest.mark.parametrize("kind", ["binary", "instances"])
def test_kind(kind):
    labels = [(cells() > 0).astype(int) if kind == "binary" else cells() for _ in range(4)]
    severity, message = only(found(check_kind, labels=labels, kind=kind))
    assert severity == "note"
    assert f"({kind})" in message
    assert "--kind" in message


def test_unlabelled():
    labels = [cells(), np.zeros_like(cells()), cells(), np.zeros_like(cells())]
    severity, message = only(found(check_unlabelled, labels=labels))
    assert severity == "warning"
    assert "2: i1, i3" in message
    assert found(check_unlabelled) == []


def three_classes(*last):
    """Labels of four images: classes 0, 1 and 2; the last image has only these."""
    usual = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3
    return [usual, usual, usual, np.where(np.isin(usual, last), usual, 0)]


def test_absent_classes():
    options = {"kind": "classes", "num_classes": 3}
    severity, message = only(found(check_absent_classes, labels=three_classes(0, 1), **options))
    assert severity == "warning"
    assert "no held-out image has a pixel of class 2" in message
    assert found(check_absent_classes, labels=three_classes(0, 1)[::-1], **options) == []  # others have it
    swapped = [np.zeros((SIDE, SIDE), int), three_classes(0, 1)[-1]]
    severity, message = only(found(check_absent_classes, textures(2), swapped, **options))
    assert severity == "problem"
    assert "no training image has a pixel of class 1, 2" in message
    assert found(check_absent_classes, labels=three_classes(0, 1, 2), **options) == []


def test_one_number_for_two_objects():
    labels = [cells() for _ in range(4)]
    labels[1][labels[1] == 4] = 1
    labels[2][2, 2] = 3
    scattered, *others = found(check_objects, labels=labels)
    assert scattered[0] == "warning"
    assert "rest of their object: 2" in scattered[1]
    assert "2: i1 (1), i2 (1)" in scattered[1]
    assert others == []


def test_numbers_may_be_left_out():
    """A number that no object has is no speck, and makes up for no piece that lies apart."""
    labels = np.where(cells() == 3, 9, cells())
    assert found(check_objects, labels=[labels] * 4) == []
    labels[2, 2] = 9
    assert "rest of their object: 4" in only(found(check_objects, labels=[labels] * 4))[1]


def test_corners_hold_an_object_together():
    labels = [cells() for _ in range(4)]
    labels[0][22, 22] = 1  # at the corner of cell 1, which ends at 21
    assert found(check_objects, labels=labels) == []


@pytest.mark.parametrize(("pixels", "speck"), [(9, True), (10, False)])
def test_specks(pixels, speck):
    labels = [cells() for _ in range(4)]
    labels[0][2, 2 : 2 + pixels] = 5
    findings = found(check_objects, labels=labels)
    assert len(findings) == speck
    if speck:
        assert findings[0][0] == "note"
        assert "objects smaller than 10 pixels: 1" in findings[0][1]


@pytest.mark.parametrize(("rows", "lost"), [(2, True), (3, False)])
def test_thin_objects_that_separation_would_lose(rows, lost):
    """Between two cells: of two rows each touches a neighbour, of three the middle one does not."""
    labels = [np.zeros((SIDE, SIDE), int) for _ in range(4)]
    for label in labels:
        label[10:20, 5:25], label[20 : 20 + rows, 5:25], label[20 + rows : 30 + rows, 5:25] = 1, 2, 3
    findings = found(check_objects, labels=labels)
    assert len(findings) == lost
    if lost:
        assert findings[0][0] == "warning"
        assert "touch another object: 4" in findings[0][1]


def test_objects_of_classes_are_not_counted():
    assert found(check_objects, labels=three_classes(0, 1, 2), kind="classes", num_classes=3) == []


def share_of_foreground(share):
    labels = np.zeros((SIDE, SIDE), np.int32)
    labels.reshape(-1)[: round(share * SIDE**2)] = 1
    return [labels] * 4


@pytest.mark.parametrize(("share", "severity"), [(RARE / 2, "warning"), (2 * RARE, "note")])
def test_balance(share, severity):
    labels = share_of_foreground(share)
    found_severity, message = only(found(check_balance, labels=labels, kind="binary"))
    assert found_severity == severity
    assert f"class 0 everywhere would be wrong at {100 * labels[0].mean():.1f} % of the pixels" in message


def test_balance_of_the_labelled_pixels_only():
    labels = [label.copy() for label in share_of_foreground(0.3)]
    for label in labels:
        label[SIDE // 2 :] = UNKNOWN  # all of it background
    message = only(found(check_balance, labels=labels, kind="binary"))[1]
    assert "class 1 everywhere would be wrong at 40.0 % of the pixels" in message


@pytest.mark.parametrize("foreground", [0.0, 0.05, 0.8])
def test_scores_of_a_constant_prediction_against_scikit_learn(foreground):
    """What training would report of the held-out images; a class that they lack has no score."""
    labels = [three_classes(0, 1)[0], *share_of_foreground(foreground)[:2]]
    labels[2] = np.where(np.arange(SIDE) < 5, UNKNOWN, labels[2])
    message = only(found(check_balance, textures(3), labels, kind="classes", num_classes=3, held_out=2))[1]
    truth = np.concatenate([label[label != UNKNOWN] for label in labels[1:]])
    answer = np.zeros_like(truth)
    each = jaccard_score(truth, answer, average=None, labels=[0, 1], zero_division=0)
    shown = [f"{each[0]:.4f}", "0.0000" if foreground else "–", "–"]
    mean = jaccard_score(truth, answer, average="macro", zero_division=0)
    assert f"IoU by class {', '.join(shown)}, mean {mean:.4f} on the held-out images" in message


def test_a_class_that_is_absent_is_not_the_rarest():
    """An absent class is another finding."""
    labels = [three_classes(0, 1)[-1]] * 4
    assert only(found(check_balance, labels=labels, kind="classes", num_classes=3))[0] == "note"


@pytest.mark.parametrize("class_balance", [True, False])
def test_loss_of_a_constant_prediction_against_pytorch(class_balance):
    """The best constant scores, found by gradient descent on PyTorch's weighted loss of the same samples."""
    setting = setup(weights=WeightMap(class_balance=class_balance))
    samples = [setting.sampler.sample(step) for step in range(3)]
    target = torch.tensor(np.concatenate([s.target.ravel() for s in samples]).astype(np.int64))
    weight = torch.tensor(np.concatenate([s.weight.ravel() for s in samples]))
    scores = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([scores], line_search_fn="strong_wolfe")

    def loss():
        descent.zero_grad()
        each = torch.nn.functional.cross_entropy(scores.expand(len(target), 2), target, reduction="none")
        value = (each * weight).sum() / weight.sum()
        value.backward()
        return value

    for _ in range(5):
        descent.step(loss)
    (finding,) = check_balance(setting)
    printed = float(str(finding.numbers["training loss then"]).split(",")[0])
    assert printed == pytest.approx(loss().item(), abs=0.0006)  # it has three digits


@pytest.mark.parametrize(
    ("apart", "text"), [(0, "16 of 16 cells touch another one (100 %)"), (1, "no cells touch")]
)
def test_touching(apart, text):
    severity, message = only(found(check_touching, labels=[cells(apart)] * 4))
    assert severity == "note"
    assert text in message


def test_touching_where_there_are_no_cells():
    severity, message = only(found(check_touching, labels=[np.zeros((SIDE, SIDE), int)] * 4))
    assert severity == "note"
    assert "no cells touch" in message


def test_touching_without_the_border_weight():
    severity, message = only(found(check_touching, labels=[cells(0)] * 4, weights=WeightMap(w0=0)))
    assert severity == "note"
    assert "--weights.w0 10" in message


def test_touching_at_corners_counts_as_in_training():
    labels = np.zeros((SIDE, SIDE), int)
    labels[5:10, 5:10], labels[10:15, 10:15] = 1, 2
    assert "8 of 8 cells" in only(found(check_touching, labels=[labels] * 4))[1]


def test_touching_cannot_be_seen_in_binary_labels():
    severity, message = only(found(check_touching, labels=share_of_foreground(0.3), kind="binary"))
    assert severity == "note"
    assert "binary" in message
    assert found(check_touching, labels=three_classes(0, 1, 2), kind="classes", num_classes=3) == []


def test_unknown_pixels():
    """They are reported, and no other check counts them as a class, an object or a neighbour."""
    known = [cells(apart=2) for _ in range(4)]
    labels = [label.copy() for label in known]
    labels[0][:, :8] = UNKNOWN
    labels[1][:24, 30:] = UNKNOWN
    severity, text = only(found(check_unknown, labels=labels))
    assert severity == "note"
    for part in ("note: 9 %", "i0 (17 %)", "i1 (19 %)", "images  2"):
        assert part in text, text
    assert not found(check_unknown)
    assert {f.severity for f in diagnosis.diagnose(setup(labels=labels))} == {"note"}
    emptied = [np.where(label > 0, UNKNOWN, label) for label in known]
    assert "without any foreground" in only(grave(found(check_unlabelled, labels=emptied)))


def test_classes_are_named_by_the_files_numbers():
    made = setup(labels=three_classes(0), kind="classes", num_classes=3)
    named = Setup(
        made.config,
        *(replace(part, class_values=(0, 128, 255)) for part in (made.training_set, made.validation_set)),
    )
    assert "0, 128, 255" in str(only(list(check_kind(named))))
    assert "class 128, 255" in str(only(list(check_absent_classes(named))))
    assert "class 0 everywhere" in only(list(check_balance(named))).what
