"""python -m tinyunet.evaluate: compare predictions with the ground truth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from tinyunet import command_line
from tinyunet.backend import active_backend, use_backend
from tinyunet.data import ImageSet, LabelKind, split
from tinyunet.data.decode import decode
from tinyunet.errors import DataError, OptionError, first_names
from tinyunet.metrics.naming import format_value, headline_measure, lower_is_better, readable_name
from tinyunet.metrics.scores import (
    ImageScores,
    Measure,
    Prediction,
    score_image,
    seg_over_objects,
    summarise,
    worst_first,
)
from tinyunet.prediction.films import find_results
from tinyunet.training.checkpoint import load_model
from tinyunet.training.config import LabelOptions, read_data, read_labelled
from tinyunet.training.stored_run import predict_images, stored_data

PARTS = ("probabilities.tif", "classes.png", "instances.tif")  # what tinyunet.predict writes as NAME_…


@dataclass(frozen=True, kw_only=True)
class Options(LabelOptions):
    """Compare predictions with the ground truth, or a run's best checkpoint with its held-out images.

    Prints the mean over the images of each measure, its spread (standard deviation over the images) and the
    worst image. With --out also scores.json, which has every image's scores, and NAME_errors.png, which shows
    what was missed, split, merged or added, and where only the border is wrong. Which measures are taken
    depends on what the labels are: see tinyunet/metrics/scores.py.
    """

    predictions: tyro.conf.Positional[Path]
    """A folder that tinyunet.predict wrote, or with 01_RES/mask000.tif in it; or a run's, without LABELS."""
    labels: tyro.conf.Positional[str | None] = None
    """The images that were predicted, with their labels: any set that training reads, of the same names."""
    out: Path | None = None
    """Folder for scores.json and the pictures; one that holds files is refused."""
    symmetries: Literal[1, 8] = 1
    """Of a run; 8: average over rotations and mirror images, which takes eight times as long."""
    split: bool = True
    """Of a run: cut objects at narrow necks, as tinyunet.predict does."""
    pictures: int = 8
    """How many images to show, the worst first."""
    overwrite: bool = False
    """Write into a folder that holds files."""
    backend: Literal["numba", "numpy", "cuda", "cuda-emulated"] | None = None
    """Which kernels predict the held-out images; numba when left out."""

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise OptionError(f"pictures is {self.pictures}, expected at least 0")
        if self.labels is not None and (self.symmetries != 1 or not self.split):
            raise OptionError(
                f"{self.predictions} is compared as it was predicted, without symmetries or split",
                {"symmetries": self.symmetries, "split": self.split},
                "give them to tinyunet.predict, or evaluate a run, without LABELS",
            )


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    command_line.run(lambda: evaluate(tyro.cli(Options, prog="python -m tinyunet.evaluate", args=arguments)))


def evaluate(options: Options) -> None:
    """Score every image, with a progress bar, and print the scores."""
    use_backend(options.backend or active_backend())
    if options.out:
        command_line.require_empty(options.out, overwrite=options.overwrite)
    images, predictions = _of_run(options) if options.labels is None else _of_folder(options)
    assert images.labels is not None
    assert images.kind is not None
    bar = tqdm(predictions, total=len(images), unit="image", disable=None, leave=False)
    measures, scores = summarise(
        [
            score_image(name, prediction, labels, images.kind, images.num_classes)
            for name, labels, prediction in zip(images.names, images.labels, bar, strict=True)
        ]
    )
    print(f"{options.labels or images.source}: {images.summary()}")
    print(_table(measures))
    print(_told(images.kind, scores))
    if images.kind == "instances" and (seg := seg_over_objects(scores)) is not None:
        print(f"SEG over the objects of all images, as the Cell Tracking Challenge takes it: {seg:.6f}")
    if options.out:
        _write(options, images, measures, scores)


def _of_run(options: Options) -> tuple[ImageSet, Iterator[Prediction]]:
    """The images that a run held out, and what its best checkpoint makes of them."""
    if _predicted_names(options.predictions):
        raise DataError(
            f"{options.predictions}: a folder of predictions, and no labels to compare them with",
            remedy="give the labelled images as second argument",
        )
    model, checkpoint = load_model(options.predictions)
    data = replace(stored_data(checkpoint), **_given(options))
    _, images = split(read_data(data), data.holdout)
    print(f"{options.predictions}: network of step {checkpoint.step} on {len(images)} held-out images")
    return images, predict_images(model, checkpoint, images, symmetries=options.symmetries, cut=options.split)


def _given(options: LabelOptions) -> dict[str, Any]:
    """The options for labels that were given: they override those of the run."""
    values = {f.name: getattr(options, f.name) for f in fields(LabelOptions)}
    return {name: value for name, value in values.items() if value is not None}


def _of_folder(options: Options) -> tuple[ImageSet, Iterator[Prediction]]:
    """Labelled images, and what a folder of predictions holds for them."""
    predicted = _predicted_names(options.predictions)
    if not predicted:
        raise DataError(
            f"{options.predictions}: not a folder of predictions",
            {"looked for": ", ".join([*(f"NAME_{part}" for part in PARTS), "01_RES/mask000.tif"])},
            "give a folder that tinyunet.predict wrote; of a run give no labels, it has its own",
        )
    assert options.labels is not None
    images = read_labelled(options.labels, options)
    films = find_results(options.predictions)
    if films:  # of all frames, of which few have labels
        predicted &= set(images.names)
    _require_same_names(predicted, set(images.names), options)
    if films:
        print(f"{len(predicted)} of {len(films)} predicted frames have labels")
        return images, (_of_objects(_single_page(films[name]), images) for name in images.names)
    return images, (_read_prediction(options.predictions, name, images) for name in images.names)


def _predicted_names(folder: Path) -> set[str]:
    endings = tuple(f"_{part}" for part in PARTS)
    if not folder.is_dir():
        return set()
    files = {file.name.rpartition("_")[0] for file in folder.iterdir() if file.name.endswith(endings)}
    return files or set(find_results(folder))


def _require_same_names(predicted: set[str], labelled: set[str], options: Options) -> None:
    without_labels, without_prediction = sorted(predicted - labelled), sorted(labelled - predicted)
    if without_labels or without_prediction:
        raise DataError(
            f"{options.predictions} and {options.labels} are not the same images, by name",
            {
                "predicted, without labels": f"{len(without_labels)}: {first_names(without_labels)}",
                "labelled, not predicted": f"{len(without_prediction)}: {first_names(without_prediction)}",
            },
            "predict exactly the images that are to be compared, and keep their names",
        )


def _read_prediction(folder: Path, name: str, images: ImageSet) -> Prediction:
    """Probabilities; where only classes or objects were kept, those as probabilities of 0 and 1."""
    probabilities, classes, instances = (folder / f"{name}_{part}" for part in PARTS)
    objects = _single_page(instances) if instances.is_file() else None
    if probabilities.is_file():
        return Prediction(_pages(probabilities), objects)
    if classes.is_file():
        chosen = _single_page(classes)
    else:
        assert objects is not None
        return _of_objects(objects, images)
    highest = max(int(chosen.max()), images.num_classes - 1)
    return Prediction(np.eye(highest + 1, dtype=np.float32)[chosen], objects)


def _of_objects(objects: NDArray[Any], images: ImageSet) -> Prediction:
    """Objects alone, as probabilities of 0 and 1 of being one."""
    if images.num_classes > 2:
        raise DataError(
            f"{images.source}: the labels are of several classes, the predictions are objects only",
            {"classes": images.num_classes},
            remedy="put NAME_classes.png or NAME_probabilities.tif there, as tinyunet.predict writes them",
        )
    foreground = (objects > 0).astype(np.uint8)
    return Prediction(np.eye(images.num_classes, dtype=np.float32)[foreground], objects)


def _pages(file: Path) -> NDArray[Any]:
    """All pages of a file as channels, (H, W, pages)."""
    pages = decode(file, labels=True)
    if len({page.shape for page in pages}) != 1:
        raise DataError(
            f"{file}: damaged, expected pages of one size",
            {"found": ", ".join(str(page.shape) for page in pages) or "no page"},
            "write the file with tinyunet.predict",
        )
    return np.concatenate(pages, axis=2)


def _single_page(file: Path) -> NDArray[Any]:
    pages = _pages(file)
    if pages.shape[2] != 1 or pages.dtype.kind not in "ui":
        raise DataError(
            f"{file}: expected one page of whole numbers",
            {"found": f"{pages.shape[2]} of {pages.dtype}"},
            "write the file with tinyunet.predict",
        )
    return pages[:, :, 0]


def _table(measures: dict[str, Measure]) -> str:
    lines = [f"{'':<25}{'mean':>10}{'spread':>10}   images   worst image"]
    for name, measure in measures.items():
        arrow = "↓" if lower_is_better(name) else "↑"
        at = "" if measure.threshold is None else f"   (threshold {measure.threshold})"
        lines.append(
            f"{name:<23}{arrow} {format_value(measure.mean):>10}{format_value(measure.spread):>10}"
            f"{measure.images:>9}   {measure.worst or 'none has this value'}{at}"
        )
    return "\n".join(lines)


def _told(kind: LabelKind, scores: Sequence[ImageScores]) -> str:
    """The mistakes of all images, in one line."""
    counts = _total(scores)
    border = counts.pop("border")
    unit = "wrong pixels inside and outside" if kind == "classes" else f"of {counts.pop('objects')} objects"
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{unit}: {listed}; at borders {border} wrong pixels"


def _total(scores: Sequence[ImageScores]) -> dict[str, int]:
    return {name: sum(one.mistakes.counts[name] for one in scores) for name in scores[0].mistakes.counts}


def _write(
    options: Options, images: ImageSet, measures: dict[str, Measure], scores: Sequence[ImageScores]
) -> None:
    assert options.out is not None
    assert images.labels is not None
    record = {
        "predictions": str(options.predictions),
        "labels": options.labels or images.source,
        "kind": images.kind,
        "measures": {name: asdict(measure) for name, measure in measures.items()},
        "seg_over_objects": seg_over_objects(scores) if images.kind == "instances" else None,
        "mistakes": _total(scores),
        "images": [
            {"name": one.name, "scores": one.values, "mistakes": one.mistakes.counts} for one in scores
        ],
    }
    with command_line.writing(options.out / "scores.json"):
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "scores.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")

    from tinyunet.reporting import plots  # here, because matplotlib takes long to import

    assert images.kind is not None
    measure = headline_measure(images.kind)
    for i in worst_first(scores, measure)[: options.pictures]:
        value = format_value(scores[i].values[measure])
        path = options.out / f"{images.names[i]}_errors.png"
        with command_line.writing(path):
            plots.plot_mistakes(
                images.images[i],
                images.labels[i],
                scores[i].mistakes,
                path,
                title=f"{images.names[i]}: {readable_name(measure)} {value}",
            )
    print(f"wrote scores.json and {min(options.pictures, len(images))} pictures to {options.out}")


if __name__ == "__main__":
    main()
