"""The cases of the campaign of inputs: each a folder of files of which something is wrong, and a command."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from tests.campaigns.mutations import MANY_DIGITS, mutate, mutate_json
from tests.campaigns.seeds import EXPORTED, FORMATS, START, TRAINING
from tinyunet.training.checkpoint import _checksum

DOCTOR = ("doctor", "data", "--out", "out", "--tile", "16", "--depth", "1")
TRAIN = ("train", "--data", "data", "--out", "out", "--steps", "1", *TRAINING)
PREDICT = ("predict", "run", "data", "--out", "out")
EVALUATE = ("evaluate", "predicted", "data", "--out", "out", "--pictures", "1")
EVALUATE_RUN = ("evaluate", "run", "--out", "out", "--pictures", "0")
RESUME = ("train", "--resume", "run", "--steps", "3")
REPORT = ("report", "run", "--out", "out/report.html")
WATCH = ("page of watch", "run")
COMPARE = (
    "compare", "--data", "data", "--out", "out", "--networks", "unet", "--minutes", "0.0005",
    "--holdout", "1", "--tile", "16", "--unet.base-channels", "2",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One command on damaged input.

    Attributes
    ----------
    kind : str
        Of the input.
    what : str
        Which file was damaged.
    command : tuple of str
    outputs : tuple of str
        What the command may write, in the case's folder.
    """

    kind: str
    what: str
    command: tuple[str, ...]
    outputs: tuple[str, ...] = ("out",)


def make_case(library: Path, folder: Path, seed: int, number: int) -> Case:
    """Write the files of a case into a folder; they depend on the seed and the number alone."""
    rng = random.Random(f"{seed} {number}")
    kinds, weights = zip(*((kind, weight) for kind, (weight, _) in KINDS.items()), strict=True)
    (kind,) = rng.choices(kinds, weights)
    folder.mkdir()
    (folder / "thesis.txt").write_text("not to be touched")
    what, command, *outputs = KINDS[kind][1](library, folder, rng)
    return Case(kind, what, tuple(command), tuple(outputs) or ("out",))


def _copy(library: Path, folder: Path, *names: str) -> None:
    for name in names:
        if (library / name).is_dir():
            shutil.copytree(library / name, folder / name)
        else:
            shutil.copy(library / name, folder / name)


def _damage(file: Path, library: Path, rng: random.Random) -> str:
    def other() -> bytes:
        return (library / "formats" / rng.choice(list(FORMATS))).read_bytes()

    file.write_bytes(mutate(file.read_bytes(), rng, other))
    return str(file.name)


def _replace_by_format(old: Path, formats: Path, rng: random.Random) -> Path:
    """Put a file of another format in the place of a PNG, rarely with the wrong suffix."""
    source = formats / rng.choice(list(FORMATS))
    suffix = rng.choice(list(FORMATS)) if rng.random() < 0.05 else source.name
    new = old.with_suffix(suffix[suffix.index(".") :])
    old.unlink()
    shutil.copy(source, new)
    return new


def _image(library: Path, folder: Path, rng: random.Random) -> tuple:
    _copy(library, folder, "data", "run")
    file = _replace_by_format(folder / "data/images/1.png", library / "formats", rng)
    what = _damage(file, library, rng)
    alone = ("predict", "run", str(file.relative_to(folder)), "--out", "out")
    return what, rng.choices((alone, PREDICT, DOCTOR, TRAIN), (60, 20, 15, 5))[0]


def _label(library: Path, folder: Path, rng: random.Random) -> tuple:
    _copy(library, folder, "data", "run", "predicted")
    file = _replace_by_format(folder / "data/labels/1.png", library / "label-formats", rng)
    what = _damage(file, library, rng)
    kind = rng.choice(((), ("--kind", rng.choice(("binary", "classes", "instances")))))
    ignore = rng.choice(((), (), ("--ignore", rng.choice(("255", "0", "#ff0000", "-1")))))
    command = rng.choices((DOCTOR, TRAIN, EVALUATE, COMPARE), (40, 10, 48, 2))[0]
    return what, (*command, *kind, *ignore)


def _archive(library: Path, folder: Path, rng: random.Random) -> tuple:
    _copy(library, folder, "run")
    file = folder / "set.npz"
    if rng.random() < 0.5:
        _copy(library, folder, "set.npz")
        what = _damage(file, library, rng)
    else:
        with np.load(library / "set.npz") as arrays:
            members = dict(arrays)
        what = rng.choice(list(members))
        members[what] = _other_array(members[what], rng)
        if rng.random() < 0.2:
            members.pop(rng.choice(list(members)))
        np.savez_compressed(file, **members)
    data = {"data": "set.npz"}
    command = rng.choices((DOCTOR, TRAIN, PREDICT), (30, 10, 60))[0]
    return what, tuple(data.get(word, word) for word in command)


def _other_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Give an array another type, shape or values."""
    draw = np.random.default_rng(rng.randrange(2**32))
    strange = array.astype(np.float64)
    strange[tuple(draw.integers(array.shape))] = rng.choice((np.nan, np.inf, -1, 0.5, 1e300, 2**31, -(2**63)))
    types = "?bBhHiIqQefdFDOSUMm"
    with np.errstate(all="ignore"):
        return rng.choice(
            (
                lambda: strange,
                lambda: (array // 255).astype(rng.choice(types[:-2])),
                lambda: array[..., None],
                lambda: array[0],
                lambda: array[:, :0],
                lambda: array[:, 1:],
                lambda: np.repeat(array[..., None], rng.choice((2, 3, 4, 5)), axis=3),
                lambda: draw.integers(0, rng.choice((2, 3, 50, 2**31)), array.shape),
                lambda: np.array(rng.choice((None, 3, "text", [[1], [2, 3]])), dtype=object),
                lambda: np.full_like(array, rng.choice((0, 1, 255))),
                lambda: np.zeros(rng.choice(((), (1,), (3, 1, 1), (3, 40, 36, 0), (1, 1, 1, 1, 1)))),
                lambda: np.zeros(array.shape, [("a", "u1")]),
                lambda: array.astype("M8[s]"),
            )
        )()


def _film(library: Path, folder: Path, rng: random.Random) -> tuple:
    _copy(library, folder, "film", "run", "predicted-film")
    files = sorted(file for file in (folder / "film").rglob("*") if file.is_file())
    file = rng.choice(files)
    if rng.random() < 0.2:
        file.unlink()
        what = f"{file.name} removed"
    else:
        what = _damage(file, library, rng)
    command = rng.choices((DOCTOR, TRAIN, PREDICT, EVALUATE), (20, 5, 45, 30))[0]
    names = {"data": "film", "predicted": "predicted-film"}
    return what, tuple(names.get(word, word) for word in command)


def _predictions(library: Path, folder: Path, rng: random.Random) -> tuple:
    part = rng.choice(("data", "data", "film"))
    predicted = "predicted" if part == "data" else "predicted-film"
    _copy(library, folder, part, predicted)
    files = sorted(file for file in (folder / predicted).rglob("*") if file.is_file())
    if part == "data":
        files = [file for file in files if file.name.startswith("1_")]
        for other in rng.sample(files, rng.randrange(len(files))):
            other.unlink()
            files.remove(other)
    what = _damage(rng.choice(files), library, rng)
    return what, ("evaluate", predicted, part, *EVALUATE[3:])


def _names(library: Path, folder: Path, rng: random.Random) -> tuple:
    """Rename images and labels alike, or to names that differ."""
    _copy(library, folder, "data", "run")
    names = (
        "a\udcff", "b" * 240, "new\nline", "-dash", "--out", "Ä\u0308", "\U0001f600", "a'\"b", "100%", "%s{}",
        "a;b", "$(x)", "two.dots", "trail. ", "CON", "*", "[1]", "\u202egnp", "9" * 240, "\t", "#1", "~",
        "a\\b", "01_t007", "t000", "1_mask", "0_probabilities", "x,y", "\x7f", "\x1b[31m", "a:b",
        "synthetic-cells:1", "٣", "²", "1 (2)", "=1+1", "<b>&amp;", "$\\alpha", "$x_$", "_",
    )  # fmt: skip
    new = rng.choice(names)
    for part in rng.choice((("images", "labels"), ("images", "labels"), ("images",))):
        (folder / f"data/{part}/1.png").rename(folder / f"data/{part}/{new}.png")
    if rng.random() < 0.3:
        (folder / "data/images" / rng.choice(names)).mkdir()
    if rng.random() < 0.3:
        (folder / "data" / rng.choice(names)).write_bytes(b"")
    return repr(new), rng.choices((DOCTOR, TRAIN, PREDICT, EVALUATE_RUN), (40, 10, 40, 10))[0]


def _json(library: Path, folder: Path, rng: random.Random) -> tuple:
    """Damage config.json or a line of log.jsonl of a run."""
    _copy(library, folder, "run")
    file = folder / "run" / rng.choice(("config.json", "log.jsonl", "log.jsonl"))
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    which = rng.randrange(len(lines))
    if rng.random() < 0.7:
        lines[which] = mutate_json(lines[which], rng)
        file.write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
        what = file.name
    else:
        what = _damage(file, library, rng)
    return _using_run(what, rng, library, folder, (50, 15, 5, 10, 20))


def _checkpoint_bytes(library: Path, folder: Path, rng: random.Random) -> tuple:
    _copy(library, folder, "run")
    what = _damage(folder / "run" / rng.choice(("best.safetensors", "last.safetensors")), library, rng)
    return _using_run(what, rng, library, folder, (10, 18, 50, 20, 2))


def _checkpoint_header(library: Path, folder: Path, rng: random.Random) -> tuple:
    """Damage what a checkpoint says, with the right checksum: as somebody who means it would."""
    _copy(library, folder, "run")
    both = [folder / "run" / f"{name}.safetensors" for name in ("best", "last")]
    file = rng.choice(both)
    arrays, header = load(file.read_bytes()), _header(file)
    what = "header"
    if rng.random() < 0.8:
        header = mutate_json(header, rng)
    else:
        what = rng.choice(sorted(arrays))
        _spoil_arrays(arrays, what, rng)
    try:
        metadata = {"format": "tinyunet 1", "header": header, "checksum": _checksum(header, arrays)}
        file.write_bytes(save(arrays, metadata))
    except Exception:  # text that is no UTF-8, for one: not a file that anyone can write
        return _checkpoint_header(library, _emptied(folder), rng)
    if rng.random() < 0.3:
        shutil.copy(file, both[file == both[0]])
    return _using_run(what, rng, library, folder, (10, 23, 45, 20, 2))


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder / "run")
    return folder


def _header(file: Path) -> str:
    content = file.read_bytes()
    table = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return str(table["__metadata__"]["header"])


def _spoil_arrays(arrays: dict[str, np.ndarray], name: str, rng: random.Random) -> None:
    action = rng.randrange(6)
    if action == 0:
        del arrays[name]
    elif action == 1:
        arrays[rng.choice(("weight/extra", "", "x" * 5000, "velocity/extra"))] = arrays[name]
    elif action == 2:
        arrays[name] = arrays[name].astype(rng.choice(("f2", "f8", "i1", "u8", "?")))
    elif action == 3:
        arrays[name] = arrays[name][None]
    elif action == 4:
        arrays[name] = np.full_like(arrays[name], rng.choice((np.nan, np.inf, 1e38, 0)))
    else:
        arrays[name] = arrays[name][:0]


def _exported(library: Path, folder: Path, rng: random.Random) -> tuple:
    """Damage a network that was exported, or what is inside a package."""
    name = rng.choice(list(EXPORTED.values()))
    _copy(library, folder, "data", name)
    if name == "model.zip" and rng.random() < 0.6:
        what = _damage_member(folder / name, library, rng)
    else:
        what = _damage(folder / name, library, rng)
    predict = ("predict", name, *PREDICT[2:])
    evaluate = ("evaluate", name, "data", *EVALUATE[3:])
    start = ("train", "--data", "data", "--out", "out", "--steps", "1", *START, "--start-from", name)
    return what, rng.choices((predict, evaluate, start), (60, 20, 20))[0]


def _damage_member(package: Path, library: Path, rng: random.Random) -> str:
    """Damage a file in a package, half of the time with the right checksum in its description."""
    with zipfile.ZipFile(package) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    what = rng.choice(["rdf.yaml", *(name for name in members if name.endswith(".onnx"))])
    before = hashlib.sha256(members[what]).hexdigest()
    members[what] = mutate(members[what], rng, lambda: (library / "formats/grey.png").read_bytes())
    if rng.random() < 0.5:
        after = hashlib.sha256(members[what]).hexdigest()
        members["rdf.yaml"] = members["rdf.yaml"].replace(before.encode(), after.encode())
    if rng.random() < 0.1:
        del members[rng.choice(list(members))]
    with zipfile.ZipFile(package, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return what


def _using_run(
    what: str, rng: random.Random, library: Path, folder: Path, weights: tuple[int, int, int, int, int]
) -> tuple:
    """Choose what reads a run: its report, a resumed training, prediction, evaluation, or the watch page."""
    _copy(library, folder, "data")
    command = rng.choices((REPORT, RESUME, PREDICT, EVALUATE_RUN, WATCH), weights)[0]
    return what, command, "out", *(["run"] if command == RESUME else [])


def _option(library: Path, folder: Path, rng: random.Random) -> tuple:
    """Give a strange value to an option or an argument."""
    _copy(library, folder, "data", "run", "predicted")
    command = rng.choice((DOCTOR, TRAIN, PREDICT, EVALUATE, EVALUATE_RUN, RESUME, REPORT))
    options = {
        "doctor": ("tile", "depth", "holdout", "ignore", "kind", "weights.w0", "partly-annotated", "model"),
        "train": ("steps", "tile", "seed", "lr", "momentum", "dropout", "holdout", "ignore", "base-channels",
                  "augmentation.elastic-points", "augmentation.rotation", "weights.sigma", "patience"),
        "predict": ("tile", "threshold", "min-size", "symmetries", "layout", "out"),
        "evaluate": ("pictures", "symmetries", "kind", "ignore", "partly-annotated", "out"),
        "report": ("out", "overwrite"),
    }  # fmt: skip
    values = (
        "", "0", "-1", "1", "12", "1.5", "nan", "inf", "-inf", "1e400", "9" * 20, "9" * 400, MANY_DIGITS,
        "-" + MANY_DIGITS, "text", "a" * 300, "a/" * 1800, "\udcff", "\x01", "0-1", "0,1,2", "50%",
        "1e-9%", "-", "#ff0000", "None", "True", "[]", "x/y", "/dev/null", "thesis.txt",
        "out/../thesis.txt/x", "٣", "data",
    )  # fmt: skip
    if rng.random() < 0.2:
        words = list(command)
        words[rng.randrange(1, len(words))] = rng.choice(values)
    else:
        words = [*command, f"--{rng.choice(options[command[0]])}", rng.choice(values)]
    outputs = {"out", "run"} if command == RESUME else {"out"}
    named = {after for before, after in pairwise(words) if before == "--out"}
    if command == REPORT and "None" in named:  # its default: into the run's folder
        outputs.add("run")
    outputs |= {place.partition("/")[0] for place in named} - set(os.listdir(folder))
    return " ".join(map(_short, words)), words, *sorted(outputs)


def _short(text: str) -> str:
    return text if len(text) < 40 else f"{text[:20]}… ({len(text)})"


KINDS: dict[str, tuple[int, Callable[[Path, Path, random.Random], tuple]]] = {
    "image": (34, _image),
    "label": (14, _label),
    "archive": (7, _archive),
    "film": (6, _film),
    "prediction": (8, _predictions),
    "name": (4, _names),
    "run's JSON": (8, _json),
    "checkpoint's bytes": (5, _checkpoint_bytes),
    "checkpoint's header": (10, _checkpoint_header),
    "exported network": (8, _exported),
    "option": (4, _option),
}
