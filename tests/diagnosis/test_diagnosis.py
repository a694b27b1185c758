"""Each check finds its fault in a set that has it, and nothing in one that does not."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy import ndimage
from sklearn.metrics import jaccard_score

from tinyunet import diagnosis
from tinyunet.data import UNKNOWN, ImageSet, read_images
from tinyunet.diagnosis import CHECKS
from tinyunet.diagnosis.copies import ALIKE, check_duplicates, signature
from tinyunet.diagnosis.images import (
    SATURATED,
    check_bit_depth,
    check_constant,
    check_equal_channels,
    check_files,
    check_saturation,
    check_size,
)
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
from tinyunet.models import MODELS, make_network
from tinyunet.nn import Parameter
from tinyunet.sampling import WeightMap
from tinyunet.sampling.augment import Augmentation
from tinyunet.training.config import TrainConfig
from tinyunet.training.setup import Setup

SIDE = 48
TINY = {"base_channels": 2, "depth": 1, "tile": 32}


def textures(n, side=SIDE, seed=0):
    """Smooth noise in 8 bits, all images different."""
    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.normal(size=(side, side, 1)), (3, 3, 0)) for _ in range(n)]
    return [(128 + 30 * image / image.std()).clip(0, 250).astype(np.uint8) for image in smooth]


def cells(apart=2, side=SIDE):
    """Four numbered squares in the middle, so many pixels of background between them."""
    labels = np.zeros((side, side), np.int32)
    for number, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)], 1):
        top, left = 10 + y * (12 + apart), 10 + x * (12 + apart)
        labels[top : top + 12, left : left + 12] = number
    return labels


def setup(images=None, labels=None, *, kind="instances", num_classes=2, held_out=1, **options):
    """What a check looks at, with the last images held out. Four sound images unless given."""
    images = textures(4) if images is None else images
    labels = [cells() for _ in images] if labels is None else labels
    names = [f"i{number}" for number in range(len(images))]
    whole = ImageSet(images, names, labels, kind=kind, num_classes=num_classes)
    cut = len(images) - held_out
    parts = whole.subset(range(cut)), whole.subset(range(cut, len(images)))
    return Setup(TrainConfig(**{**TINY, **options}), *parts)


def found(check, *arguments, **options):
    """Severity and text of each finding of one check."""
    return [(finding.severity, str(finding)) for finding in check(setup(*arguments, **options))]


def only(findings):
    assert len(findings) == 1, findings
    return findings[0]


def grave(findings):
    return [text for severity, text in findings if severity != "note"]


def test_a_sound_set_gives_notes_only():
    findings = diagnosis.diagnose(setup())
    assert {finding.severity for finding in findings} == {"note"}
    assert diagnosis.warnings(setup()) == []


def test_gravest_first_and_printed_as_errors_are():
    images = textures(4)
    images[3], images[1] = images[0], np.full_like(images[1], 7)
    findings = diagnosis.diagnose(setup(images, tile=100))
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities, key=["problem", "warning", "note"].index)
    assert set(severities) == {"problem", "warning", "note"}
    assert diagnosis.warnings(setup(images, tile=100)) == findings[: -severities.count("note")]
    assert str(findings[0]).splitlines()[:2] == [
        "problem: 1 image with a single grey value",
        "  images  1: i1",
    ]


def test_the_example_is_the_sample_with_the_most_border():
    samples = diagnosis.example_samples(setup())
    as_filed = setup(augmentation=Augmentation.off()).sampler
    weights = [as_filed.sample(step).weight.sum() for step in range(3)]
    assert samples["as in the file"].weight.sum() == max(weights) > min(weights)
    assert samples["augmented"].name == samples["as in the file"].name


def test_no_network_is_made(monkeypatch):
    """Looking at images needs no weights, of which the paper's network has 31 million."""

    def fail(self, *arguments, **options):
        raise AssertionError("a weight was made")

    monkeypatch.setattr(Parameter, "__init__", fail)
    for model in MODELS:
        small = setup(model=model, depth=3 if model == "fcn" else 1)
        assert diagnosis.diagnose(small)
        assert diagnosis.example_samples(small)


@pytest.mark.parametrize("model", MODELS)
def test_tiles_are_those_of_the_network(model):
    small = setup(model=model, depth=3)
    network = make_network(**small.model_options)
    assert small.geometry == network.geometry
    assert small.output_size == network.geometry.output_size(small.input_size) >= TINY["tile"]


def test_every_check_is_in_the_list():
    assert set(CHECKS) == {value for name, value in vars(diagnosis).items() if name.startswith("check_")}


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


def test_constant_images():
    images = textures(4)
    images[2][...] = 9
    severity, message = only(found(check_constant, images))
    assert severity == "problem"
    assert "1: i2" in message
    assert found(check_constant) == []


@pytest.mark.parametrize(("levels", "few"), [(2, True), (15, True), (16, False)])
def test_few_grey_values(levels, few):
    images = textures(4)
    images[0] = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE, 1) % levels).astype(np.uint8)
    findings = found(check_constant, images)
    assert [severity for severity, _ in findings] == ["warning"] * few
    assert all(f"fewest  {levels}" in message for _, message in findings)


def test_equal_channels():
    colour = [np.repeat(image, 3, axis=2) for image in textures(4)]
    severity, message = only(found(check_equal_channels, colour))
    assert severity == "note"
    assert "all 3 channels are equal" in message
    colour[3][0, 0, 2] ^= 1
    assert found(check_equal_channels, colour) == []
    assert found(check_equal_channels) == []


@pytest.mark.parametrize(
    ("dtype", "top", "saturated"),
    [
        (np.uint8, 255, True),
        (np.uint16, 65535, True),
        (np.uint16, 4095, True),  # a 12-bit camera
        (np.float32, 0.7, True),  # at its own highest value
        (np.uint8, 254, False),
        (np.uint16, 4000, False),
        (np.uint8, 127, False),  # a power of two less one, but of too few bits
    ],
)
@pytest.mark.parametrize("pixels", [round(SATURATED * SIDE**2) - 1, round(SATURATED * SIDE**2) + 1])
def test_saturation(dtype, top, saturated, pixels):
    images = [(image / 256 * top).astype(dtype) for image in textures(4)]
    images[1].reshape(-1)[:pixels] = top
    findings = found(check_saturation, images)
    assert [severity for severity, _ in findings] == ["warning"] * (
        saturated and pixels > SATURATED * SIDE**2
    )
    assert all("1: i1" in message for _, message in findings)


def test_a_constant_image_is_not_saturated():
    """Its single grey value is another finding."""
    assert found(check_saturation, [np.full((SIDE, SIDE, 1), 255, np.uint8), *textures(3)]) == []


@pytest.mark.parametrize(
    ("dtype", "highest", "severity", "text"),
    [
        (np.uint16, 250, "warning", "8 bits"),
        (np.uint16, 4000, "note", "12-bit camera"),
        (np.uint16, 60_000, None, ""),
        (np.uint8, 250, None, ""),
        (np.float32, 200, None, ""),
    ],
)
def test_bit_depth(dtype, highest, severity, text):
    findings = found(check_bit_depth, [(image / 256 * highest).astype(dtype) for image in textures(4)])
    assert [found_severity for found_severity, _ in findings] == ([severity] if severity else [])
    assert all(text in message for _, message in findings)


def test_mixed_types():
    images = textures(4)
    images[0] = images[0].astype(np.uint16) * 200
    severity, message = only(found(check_bit_depth, images))
    assert severity == "note"
    assert "uint16 and uint8" in message


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


def test_images_smaller_than_the_tile():
    """At depth 1 outputs are even, and the halo is 8."""
    severity, message = only(found(check_size, tile=100))
    assert severity == "warning"
    assert "4 images smaller than the tile of 100 pixels" in message
    assert f"up to {100 * (1 - SIDE**2 / 100**2):.0f} %" in message
    assert "--tile 48 fits" in message
    assert found(check_size, tile=48) == []
    assert found(check_size, tile=50) == []  # 8 % may be mirrored


def test_images_smaller_than_the_tile_along_one_side():
    """The other side is long."""
    images = [np.tile(image, (1, 4, 1)) for image in textures(4)]
    labels = [np.tile(cells(), (1, 4))] * 4
    severity, message = only(found(check_size, images, labels, tile=100))
    assert severity == "warning"
    assert f"up to {100 * (1 - SIDE / 100):.0f} %" in message


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_advised_tile_fits(padding):
    images = textures(4, side=45)
    labels = [cells(side=45)] * 4
    _, message = only(found(check_size, images, labels, depth=2, tile=100, padding=padding))
    advised = int(message.split("--tile ")[1].split()[0])
    setting = setup(images, labels, depth=2, tile=advised, padding=padding)
    assert setting.output_size == advised <= 45
    larger = setup(images, labels, depth=2, tile=advised + 1, padding=padding)
    assert larger.output_size > 45  # it is the largest


@pytest.mark.parametrize(("side", "small"), [(20, True), (21, False)])
def test_images_smaller_than_the_view_of_the_network(side, small):
    """At depth 2 the network sees 20 pixels to each side; a mirror of side n has n − 1 before it repeats."""
    labels = [np.eye(side, dtype=int)] * 4
    findings = found(check_size, textures(4, side), labels, depth=2, tile=4)
    assert [severity for severity, _ in findings] == ["warning"] * small
    assert all("not larger than the 20 pixels" in message for _, message in findings)


def test_the_same_image_on_both_sides():
    images = textures(4)
    images[3] = images[1].copy()
    severity, message = only(found(check_duplicates, images))
    assert severity == "problem"
    assert "1 pair of a held-out and a training image with the same pixels" in message
    assert "i3 = i1" in message
    assert found(check_duplicates) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image // 2 + 60,
        lambda image: np.rot90(image),
        lambda image: image[::-1],
        lambda image: image.swapaxes(0, 1),
        lambda image: (
            (image + np.random.default_rng(1).normal(0, 10, image.shape)).clip(0, 255).astype(np.uint8)
        ),
        lambda image: np.roll(image, 1, axis=0),
        lambda image: image.astype(np.uint16) * 100,
    ],
    ids=["re-lit", "rotated", "mirrored", "transposed", "noisier", "moved", "16 bits"],
)
def test_nearly_the_same_image_on_both_sides(change):
    images = textures(4)
    images[3] = np.ascontiguousarray(change(images[1]))
    severity, message = only(found(check_duplicates, images))
    assert severity == "warning"
    assert "i3 ~ i1" in message


def test_unlike_images_of_any_size_are_no_duplicates():
    """Chance must not reach the threshold, and images smaller than a signature must not fail."""
    noise = np.random.default_rng(4).integers(0, 256, (12, 10, 10, 1)).astype(np.uint8)
    images = [*textures(12, side=60, seed=3), *noise]
    images[-1][...] = 5
    labels = [cells(side=60)] * 12 + [np.eye(10, dtype=int)] * 12
    assert found(check_duplicates, images, labels, held_out=6) == []
    signatures = np.array([signature(image).ravel() for image in images[:12]])
    assert np.abs(signatures @ signatures.T - np.eye(12)).max() < ALIKE - 0.1


@pytest.mark.parametrize("side", [48, 41])
def test_a_signature_is_the_means_of_blocks(side):
    image = textures(1, side)[0][..., 0]
    edges = [i * side // 16 for i in range(17)]
    cuts = [slice(*ends) for ends in pairwise(edges)]
    blocks = np.array([[image[rows, columns].mean() for columns in cuts] for rows in cuts])
    expected = (blocks - blocks.mean()) / np.linalg.norm(blocks - blocks.mean())
    np.testing.assert_allclose(signature(image[..., None]), expected, atol=1e-12)


@pytest.mark.parametrize(("same_labels", "severity"), [(True, "note"), (False, "problem")])
def test_the_same_image_twice_in_training(same_labels, severity):
    images = textures(4)
    images[1] = images[0]
    labels = [cells(), cells() if same_labels else cells(apart=3), cells(), cells()]
    found_severity, message = only(found(check_duplicates, images, labels))
    assert found_severity == severity
    assert "1 pair of training images" in message
    assert "i0 = i1" in message


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


def test_unusual_files_by_kind(tmp_path):
    """Each is read right all the same; a file is named by its path below the set."""
    grey = [texture[..., 0] for texture in textures(6)]
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for number, pixels in enumerate(grey):
        label = (cells() > 0).astype(np.uint8)
        turned = Image.Exif()
        turned[0x112] = 3
        if number < 2:
            tifffile.imwrite(tmp_path / "images" / f"{number}.tif", 255 - pixels, photometric="miniswhite")
        elif number < 4:
            Image.fromarray(pixels[::-1, ::-1]).save(tmp_path / "images" / f"{number}.png", exif=turned)
        else:
            stored = Image.fromarray(255 - pixels)
            stored.putpalette([255 - index for index in range(256) for _ in "RGB"])
            stored.save(tmp_path / "images" / f"{number}.bmp")
        Image.fromarray(label * 255).save(tmp_path / "labels" / f"{number}.png")
    whole = read_images(tmp_path)
    parts = whole.subset(range(5)), whole.subset([5])
    findings = {finding.what: finding for finding in check_files(Setup(TrainConfig(**TINY), *parts))}
    assert {finding.severity for finding in findings.values()} == {"note"}
    white, turned_upright = (
        findings["2 files: white is zero"],
        findings["2 files: turned upright (orientation 3)"],
    )
    assert white.numbers["files"] == "images/0.tif, images/1.tif"
    assert turned_upright.numbers["files"] == "images/2.png, images/3.png"
    assert "turned by the same tag" in turned_upright.remedy
    assert findings["2 files: palette"].numbers["files"] == "images/4.bmp, images/5.bmp"
    for number in (0, 2, 5):
        np.testing.assert_array_equal(whole.images[number][..., 0], grey[number])


@pytest.mark.parametrize(
    ("pages", "note"),
    [
        ([np.full((SIDE, SIDE), 4095, np.uint16)], "12 bits in 16"),
        ([np.ones((SIDE, SIDE), np.uint8), np.ones((9, 9), np.uint8)], "pages of several sizes"),
    ],
)
def test_unusual_stacks(tmp_path, pages, note):
    """One file is named as such; several notes of one file are listed one by one."""
    with tifffile.TiffWriter(tmp_path / "stack.tif") as file:
        for page in pages:
            file.write(page, metadata=None, photometric="minisblack")
    images = read_images(tmp_path / "stack.tif", labels=False)
    images = replace(images, notes={path: f"{text}; white is zero" for path, text in images.notes.items()})
    findings = list(check_files(Setup(TrainConfig(**TINY), images, images)))
    assert [finding.what for finding in findings] == [f"1 file: {note}", "1 file: white is zero"]
    assert all(finding.numbers == {"files": "stack.tif"} for finding in findings)


def test_classes_are_named_by_the_files_numbers():
    made = setup(labels=three_classes(0), kind="classes", num_classes=3)
    named = Setup(
        made.config,
        *(replace(part, class_values=(0, 128, 255)) for part in (made.training_set, made.validation_set)),
    )
    assert "0, 128, 255" in str(only(list(check_kind(named))))
    assert "class 128, 255" in str(only(list(check_absent_classes(named))))
    assert "class 0 everywhere" in only(list(check_balance(named))).what
