"""python -m tinyunet.evaluate: compare predictions with the ground truth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from tinyunet import command_line
from tinyunet.backend import active_backend, use_backend
from tinyunet.data import ImageSet, LabelKind
from tinyunet.data.atomic_write import make_folder, write_text
from tinyunet.errors import DataError, OptionError, first_names
from tinyunet.exchange.exported import load_networks
from tinyunet.metrics.folds import FoldScores, summarise_folds
from tinyunet.metrics.naming import format_value, headline_measure, lower_is_better, readable_name
from tinyunet.metrics.scores import (
    ImageScores,
    Measure,
    Prediction,
    score_images,
    summarise,
    with_few_maps,
    worst_first,
)
from tinyunet.prediction.files import (
    SEGMENTATIONS,
    from_objects,
    predicted_classes,
    predicted_names,
    read_label_image,
    read_prediction,
)
from tinyunet.prediction.films import find_results
from tinyunet.reporting.fold_table import fold_table
from tinyunet.reporting.progress import over_images
from tinyunet.training.config import ReadingOptions, read_data, read_labelled
from tinyunet.training.folds import Loaded, predict_held_out
from tinyunet.training.stored_run import choice_after_training, predict_unseen, stored_classes, stored_data


@dataclass(frozen=True, kw_only=True)
class Options(ReadingOptions):
    """Compare predictions with the ground truth, or a run's best checkpoint with its held-out images.

    Of a cross-validation it compares all images, each predicted by the one fold that held it out, and adds
    the scores of each fold with their mean and spread.

    Prints each measure over the whole set, from counts added over the images; its mean and spread (standard
    deviation) over the images that have a value; and the worst image. An image has no value of a class or
    object that it neither has nor is predicted to have. For binary labels it names the threshold that is best
    for V_Rand, for tinyunet.predict. With --out it also writes scores.json, which has every image's scores,
    and NAME_errors.png, which shows objects that were missed, split, merged or added, and wrong borders. The
    kind of labels decides which measures are taken: see tinyunet/metrics/scores.py.
    """

    predictions: tyro.conf.Positional[Path]
    """A folder that tinyunet.predict wrote, or with 01_RES/mask000.tif in it; or a network in one file, a
    checkpoint or one that tinyunet.export wrote; or, without LABELS, a run or the folder of a
    cross-validation."""
    labels: tyro.conf.Positional[str | None] = None
    """The images that were predicted, or that the network in a file is to predict, with their labels: any set
    that training reads. Predictions are found by the images' names."""
    out: Path | None = None
    """Folder for scores.json and the pictures, new or empty."""
    symmetries: Literal[1, 8] = 1
    """Only for a network. 8: average over rotations and mirror images, which takes eight times as long."""
    split: bool = True
    """Only for a network: cut objects at narrow necks, as tinyunet.predict does."""
    pictures: int = 8
    """Number of images to show, the worst first."""
    overwrite: bool = False
    """Write into a folder that holds files."""
    backend: command_line.BackendName | None = None
    """Kernels for the prediction; numba if omitted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pictures < 0:
            raise OptionError(f"pictures is {self.pictures}, expected at least 0")
        if self.labels is not None and self.predictions.is_dir() and (self.symmetries != 1 or not self.split):
            raise OptionError(
                f"{self.predictions} is compared as it was predicted, without --symmetries or --no-split",
                {"symmetries": self.symmetries, "split": self.split},
                "give them to tinyunet.predict, or evaluate a run, without LABELS",
            )


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    command_line.run(
        lambda: evaluate(
            tyro.cli(
                Options,
                prog="python -m tinyunet.evaluate",
                args=arguments,
                config=(tyro.conf.UseAppendAction,),
            )
        )
    )


def evaluate(options: Options) -> None:
    """Score every image, with a progress bar; write the results, then print them."""
    use_backend(options.backend or active_backend())
    if options.out:
        command_line.require_empty(options.out, overwrite=options.overwrite)
    images, predictions, notes, sizes = _predicted(options)
    assert images.kind is not None
    scored = over_images(score_images(images, predictions), len(images))
    measures, scores = summarise(with_few_maps(scored, images.kind, options.pictures))
    folds = summarise_folds(scores, sizes) if len(sizes) > 1 else None
    notes += [f"{options.labels or images.source}: {images.summary()}", _table(measures)]
    notes += [_mistakes_line(images.kind, scores)]
    if folds:
        notes += ["the folds, each on the images that it held out:", fold_table(folds)]
    if threshold_line := _threshold_line(measures):
        notes += [threshold_line]
    if (seg := _seg_over_objects(measures)) is not None:
        notes += [f"SEG over the objects of all images, as the Cell Tracking Challenge takes it: {seg:.6f}"]
    try:
        if options.out:
            notes += [_write(options, images, measures, scores, folds)]
    finally:  # a file that cannot be written must not cost the table
        print("\n".join(notes))


class Predicted(NamedTuple):
    """Labelled images and their predictions."""

    images: ImageSet
    predictions: Iterator[Prediction]
    notes: list[str]
    """What to print of them."""
    fold_sizes: Sequence[int] = ()
    """How many of them each fold held out."""


def _predicted(options: Options) -> Predicted:
    if options.labels is None:
        return _from_run(options)
    return _from_network(options) if options.predictions.is_file() else _from_folder(options)


def _from_network(options: Options) -> Predicted:
    """Labelled images, predicted by the network in a file."""
    assert options.labels is not None
    [network] = load_networks(options.predictions)
    path, model, checkpoint, statistics, pixel_size = network
    choice = choice_after_training(options.plane_choice(), checkpoint, model)
    images = read_labelled(options.labels, options, stored_classes(checkpoint, path), choice, pixel_size)
    predictions = predict_unseen(
        model,
        checkpoint,
        images,
        symmetries=options.symmetries,
        split=options.split,
        statistics=statistics,
    )
    known = "" if _knows_its_images(network) else "; it does not say on which images it was trained"
    return Predicted(images, predictions, [f"{path}: network of step {checkpoint.step}{known}"])


def _knows_its_images(network: Loaded) -> bool:
    return bool(network.checkpoint.config)


def _from_run(options: Options) -> Predicted:
    """The held-out images of a run, or of the folds of a cross-validation."""
    if predicted_names(options.predictions) or find_results(options.predictions):
        raise DataError(
            f"{options.predictions}: a folder of predictions, without labels to compare them with",
            remedy="give the labelled images as the second argument",
        )
    networks = load_networks(options.predictions)
    path, checkpoint = networks[0].path, networks[0].checkpoint
    if not _knows_its_images(networks[0]):
        raise DataError(
            f"{path}: an exported network, which does not say on which images it was trained",
            remedy="give labelled images as the second argument",
        )
    data = replace(stored_data(checkpoint), **_given(options))
    held_out = predict_held_out(
        networks,
        read_data(data, stored_classes(checkpoint, path)),
        symmetries=options.symmetries,
        split=options.split,
    )
    notes = [
        f"{network.path}: network of step {network.checkpoint.step} on {size} held-out images"
        for network, size in zip(networks, held_out.sizes, strict=True)
    ]
    return Predicted(held_out.images, held_out.predictions, notes, held_out.sizes)


def _given(options: ReadingOptions) -> dict[str, Any]:
    """The options for images and labels that were given, which override those of the run."""
    values = {f.name: getattr(options, f.name) for f in fields(ReadingOptions)}
    return {name: value for name, value in values.items() if value not in (None, ())}


def _from_folder(options: Options) -> Predicted:
    """Labelled images, and their predictions from a folder."""
    predicted = predicted_names(options.predictions)
    films = {} if predicted else find_results(options.predictions)
    if not predicted and not films:
        raise DataError(
            f"{options.predictions}: not a folder of predictions",
            {"looked for": ", ".join([*(f"NAME_{part}" for part in SEGMENTATIONS), "01_RES/mask000.tif"])},
            "give a folder that tinyunet.predict wrote; for a run give no labels, because it has its own",
        )
    assert options.labels is not None
    images = read_labelled(options.labels, options, predicted_classes(options.predictions))
    if films:  # of all frames, few of which have labels
        predicted = films.keys() & set(images.names)
    _require_same_names(predicted, set(images.names), options)
    if films:
        from_films = (
            from_objects(name, read_label_image(films[name]), images.num_classes) for name in images.names
        )
        return Predicted(
            images, from_films, [f"{len(predicted)} of {len(films)} predicted frames have labels"]
        )
    from_files = (
        read_prediction(options.predictions, name, images.num_classes, images.class_table)
        for name in images.names
    )
    return Predicted(images, from_files, [])


def _require_same_names(predicted: set[str], labelled: set[str], options: Options) -> None:
    without_labels, without_prediction = sorted(predicted - labelled), sorted(labelled - predicted)
    if without_labels or without_prediction:
        raise DataError(
            f"{options.predictions} and {options.labels} do not hold the same images, by name",
            {
                "predicted, without labels": f"{len(without_labels)}: {first_names(without_labels)}",
                "labelled, not predicted": f"{len(without_prediction)}: {first_names(without_prediction)}",
            },
            "predict exactly the images to compare, and keep their names",
        )


def _table(measures: dict[str, Measure]) -> str:
    lines = [f"{'':<25}{'whole set':>10}{'mean':>10}{'spread':>10}   images   worst image"]
    for name, measure in measures.items():
        arrow = "↓" if lower_is_better(name) else "↑"
        at = "" if measure.threshold is None else f"   (threshold {measure.threshold})"
        lines.append(
            f"{name:<23}{arrow} {format_value(measure.set_wide):>10}{format_value(measure.mean):>10}"
            f"{format_value(measure.spread):>10}{measure.images:>9}   "
            f"{measure.worst or 'none has this value'}{at}"
        )
    return "\n".join(lines)


def _seg_over_objects(measures: dict[str, Measure]) -> float | None:
    """SEG as the challenge takes it; None without true objects, or unless the labels are "instances"."""
    return measures["seg"].set_wide if "seg" in measures else None


def _threshold_line(measures: dict[str, Measure]) -> str:
    """Say with which threshold tinyunet.predict separates cells best; "" unless the labels are binary."""
    fine = measures.get("v_rand_fine")
    if fine is None or fine.threshold is None:
        return ""
    best = f"{fine.threshold:g}"
    return f"V_Rand is best at the threshold {best}, for objects: tinyunet.predict --threshold {best}"


def _mistakes_line(kind: LabelKind, scores: Sequence[ImageScores]) -> str:
    """The mistakes of all images, in one line."""
    counts = _total(scores)
    border = counts.pop("border")
    unit = "wrong pixels inside and outside" if kind == "classes" else f"of {counts.pop('objects')} objects"
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{unit}: {listed}; at borders {border} wrong pixels"


def _total(scores: Sequence[ImageScores]) -> dict[str, int]:
    return {name: sum(image.mistakes.counts[name] for image in scores) for name in scores[0].mistakes.counts}


def _write(
    options: Options,
    images: ImageSet,
    measures: dict[str, Measure],
    scores: Sequence[ImageScores],
    folds: FoldScores | None,
) -> str:
    """Write scores.json and the pictures; returns a line that says so."""
    assert options.out is not None
    assert images.labels is not None
    record = {
        "predictions": str(options.predictions),
        "labels": options.labels or images.source,
        "kind": images.kind,
        "classes": [images.class_name(number) for number in range(images.num_classes)],
        "measures": {name: asdict(measure) for name, measure in measures.items()},
        "seg_over_objects": _seg_over_objects(measures),
        "mistakes": _total(scores),
        "folds": folds
        and {
            "scores": folds.folds,
            "measures": {name: asdict(measure) for name, measure in folds.measures.items()},
        },
        "images": [
            {"name": image.name, "scores": image.values, "mistakes": image.mistakes.counts}
            for image in scores
        ],
    }
    with command_line.writing(options.out / "scores.json"):
        make_folder(options.out)
        write_text(options.out / "scores.json", json.dumps(record, indent=2, allow_nan=False) + "\n")

    from tinyunet.reporting import plots  # here, because Matplotlib takes long to import

    assert images.kind is not None
    measure = headline_measure(images.kind)
    worst = worst_first(scores, measure)[: options.pictures]
    for i in worst:
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
    return f"wrote scores.json and {len(worst)} pictures to {options.out}"


if __name__ == "__main__":
    main()
