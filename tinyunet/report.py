"""python -m tinyunet.report: one HTML page on what a run did, how well, on what, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from tinyunet import command_line
from tinyunet.backend import active_backend, use_backend
from tinyunet.data import ImageSet, split
from tinyunet.data.atomic_write import make_folder, write_text
from tinyunet.diagnosis import diagnose, example_samples
from tinyunet.errors import OptionError, RunError
from tinyunet.metrics.folds import summarise_folds
from tinyunet.metrics.scores import (
    ImageScores,
    Measure,
    Prediction,
    Scored,
    score_images,
    summarise,
    with_few_maps,
)
from tinyunet.reporting.progress import over_images
from tinyunet.training.checkpoint import load_model
from tinyunet.training.config import read_data
from tinyunet.training.folds import FoldsFolder, load_networks, predict_held_out
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.setup import Setup
from tinyunet.training.stored_run import predict_unseen, stored_classes, stored_config


@dataclass(frozen=True)
class Options:
    """Write one HTML page about a run, with all pictures in it: to read, to keep, to send.

    Of a cross-validation it is a short page: the scores of each fold, their mean and spread, and every image,
    scored by the fold that held it out. For pictures and curves, give the folder of one fold.

    It predicts the held-out images with the run's best checkpoint and shows scores, mistakes on the worst and
    the best images, curves, the doctor's findings, the configuration beside the paper's, times, machine,
    versions and the commands. It opens in any browser, without a network.
    """

    run: tyro.conf.Positional[Path]
    """The run's folder, or that of a cross-validation."""
    out: Path | None = None
    """File for the page; report.html in the run's folder if omitted."""
    pictures: int = 3
    """Number of images to show of the worst ones, and of the best."""
    symmetries: Literal[1, 8] = 1
    """8: average over rotations and mirror images, which takes eight times as long."""
    overwrite: bool = False
    """Replace an existing page."""
    backend: command_line.BackendName | None = None
    """Kernels for the prediction; numba if omitted."""

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise OptionError(f"pictures is {self.pictures}, expected at least 0")


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    command_line.run(lambda: report(tyro.cli(Options, prog="python -m tinyunet.report", args=arguments)))


def report(options: Options) -> None:
    """Predict the held-out images, score them, and write the page."""
    from tinyunet.reporting import page  # here, because Matplotlib takes long to import

    use_backend(options.backend or active_backend())
    if FoldsFolder(options.run).exists():
        _report_folds(options)
        return
    folder = RunFolder(options.run)
    path = options.out or folder.report
    _require_free(path, overwrite=options.overwrite)
    model, checkpoint = load_model(options.run)
    config, log = stored_config(checkpoint, options.run), folder.read_log()
    if not any(record["event"] == "step" for record in log):
        raise RunError(
            f"{folder.log}: missing, or without any training step",
            remedy="give the folder of a run, with all files that the training wrote",
        )
    images = read_data(config, stored_classes(checkpoint, options.run))
    print(f"{config.data}: {images.summary()}")
    setup = Setup(config, *split(images, config.holdout))
    predict = partial(predict_unseen, model, checkpoint, symmetries=options.symmetries)
    held_out = setup.validation_set
    results = page.Results(held_out, *_score(held_out, predict(held_out), options.pictures))
    content = page.Content(
        name=options.run.resolve().name,
        data=images.summary(),
        config=config,
        checkpoint=checkpoint,
        parameters=sum(parameter.data.size for parameter in model.parameters()),
        training_images=len(setup.training_set),
        symmetries=options.symmetries,
        results=results,
        examples=page.make_examples(results, predict, options.pictures),
        log=log,
        findings=diagnose(setup),
        samples=example_samples(setup),
        commands=_commands(options, options.run),
    )
    _write(path, page.render(content))


def _report_folds(options: Options) -> None:
    """Predict every image by the fold that held it out, score them, and write the page."""
    from tinyunet.reporting import fold_page  # here, because Jinja takes long to import

    path = options.out or FoldsFolder(options.run).report
    _require_free(path, overwrite=options.overwrite)
    networks = load_networks(options.run)
    checkpoint = networks[0].checkpoint
    config = stored_config(checkpoint, networks[0].path)
    images = read_data(config, stored_classes(checkpoint, networks[0].path))
    print(f"{config.data}: {images.summary()}")
    held_out = predict_held_out(networks, images, symmetries=options.symmetries)
    _, scores, _ = _score(held_out.images, held_out.predictions, 0)
    content = fold_page.FoldContent(
        name=options.run.resolve().name,
        images=held_out.images,
        sizes=held_out.sizes,
        scores=scores,
        folds=summarise_folds(scores, held_out.sizes),
        config=config,
        checkpoints=[network.checkpoint for network in networks],
        symmetries=options.symmetries,
        commands=_commands(options, networks[0].path),
    )
    _write(path, fold_page.render(content))


def _write(path: Path, page: str) -> None:
    with command_line.writing(path):
        make_folder(path.parent)
        write_text(path, page)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _require_free(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise RunError(
            f"{path}: a folder, expected the page's file", remedy=f"such as {path / 'report.html'}"
        )
    command_line.require_no_file(path, overwrite=overwrite)


def _score(
    images: ImageSet, predictions: Iterator[Prediction], pictures: int
) -> tuple[dict[str, Measure], list[ImageScores], list[float]]:
    """Measures over the set, scores of each image, and seconds to predict it, with a progress bar."""
    scored = over_images(score_images(images, predictions), len(images))
    seconds: list[float] = []

    def timed() -> Iterator[Scored]:
        for one in scored:
            seconds.append(one.prediction.seconds)
            yield one

    assert images.kind is not None
    measures, completed = summarise(with_few_maps(timed(), images.kind, pictures))
    return measures, completed, seconds


def _commands(options: Options, trained: Path) -> list[str]:
    """The commands that trained, from a run's log; those to evaluate, to predict and to write this page."""
    run = str(options.run)
    started = [record["command"] for record in RunFolder(trained).read_log() if record["event"] == "started"]
    symmetries = [] if options.symmetries == 1 else ["--symmetries", str(options.symmetries)]
    return [
        *started,
        _command("evaluate", run, "--out", f"{run}-scores", *symmetries),
        _command("predict", run, "NEW-IMAGES", "--out", f"{run}-predicted"),
        _command("report", run, *symmetries),
    ]


def _command(name: str, *arguments: str) -> str:
    return shlex.join(["python", "-m", f"tinyunet.{name}", *arguments])


if __name__ == "__main__":
    main()
