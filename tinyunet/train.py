"""python -m tinyunet.train: train a network on a set of labelled images."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tinyunet import command_line, diagnosis
from tinyunet.backend import active_backend, use_backend
from tinyunet.data import ImageSet, split
from tinyunet.data.holdout import fold_holdouts
from tinyunet.diagnosis.decisions import gives_weights
from tinyunet.diagnosis.proposal import DECIDED
from tinyunet.diagnosis.walls import BORDER_WEIGHT
from tinyunet.errors import OptionError, RunError
from tinyunet.exchange.start import read_start
from tinyunet.metrics.folds import pixel_scores_of_folds
from tinyunet.reporting.fold_table import fold_table
from tinyunet.reporting.recorder import record_training
from tinyunet.reporting.trial import AS_MANY_AS_FIT, fit_into
from tinyunet.training import mpi, recipes
from tinyunet.training.checkpoint import load_model
from tinyunet.training.config import TrainConfig, read_data
from tinyunet.training.folds import CrossValidation, FoldsFolder
from tinyunet.training.ranks import ALONE, Ranks
from tinyunet.training.resume import cannot_change, continue_run, require_same_run
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.stored_run import load_last
from tinyunet.training.trainer import Trainer
from tinyunet.training.validation import count_pixels

WAITING = [name for name in DECIDED if name != "depth"]  # None waits for it


@dataclass(frozen=True)
class Options:
    """Train a network on labelled images, or on synthetic ones that need no download.

    Writes config.json, log.jsonl, the best and the last checkpoint, curves.png and examples.png. With --folds
    it writes folds.json, and the others for each fold, into fold-0, fold-1 and so on.
    """

    recipe: Literal["default", "paper", "auto"] = "default"
    """Options that belong together; each can still be set by itself. default: batch normalisation and Adam,
    which learn fastest on most sets; images that are lit from one side are not turned, and where thin walls
    part the objects, as membranes do, the borders have the paper's weight. paper: SGD with a momentum of 0.99
    and the weight map, as in the paper. auto: default, with the depth, tile and steps that tinyunet.doctor
    proposes for the images."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=recipes.recipe)
    minutes: float | None = None
    """Train for this long, in place of --steps: a trial of some seconds finds how many steps fit. The run
    names them, and --steps with this number repeats it to the bit. A tenth of them is the default of
    --validate-every."""
    out: Path | None = None
    """Folder of the run, new or empty; runs/NAME-OF-THE-DATA if omitted."""
    folds: int | None = None
    """Cross-validation: part the images into this many folds, and train a network for each, which holds out
    that fold and trains on the others. If there are several films, each stays in one fold. With the folder,
    tinyunet.predict averages the networks; tinyunet.evaluate and tinyunet.report score every image by the
    network that has not seen it."""
    resume: Path | None = None
    """Continue the run in this folder, or the runs of a cross-validation, with the options they were started
    with. More --steps are possible with --schedule constant."""
    overwrite: bool = False
    """Replace an existing run folder."""
    backend: command_line.BackendName | None = None
    """Kernels to use; numba if omitted."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """On "cuda": what the factors of convolutions are rounded to; weights and sums stay float32."""
    cuda_graph: bool = True
    """On "cuda": launch each step as one graph, which reserves the memory of a step. Same results."""

    def __post_init__(self) -> None:
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise OptionError(f"minutes is {self.minutes}, expected more than 0")


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    given = sys.argv[1:] if arguments is None else arguments
    command_line.run(lambda: _run(arguments, shlex.join(["python", "-m", "tinyunet.train", *given])))


def _run(arguments: list[str] | None, command: str) -> None:
    """Train in this process, or as one of those that mpiexec has started."""
    with mpi.job() as ranks:
        train(ranks.on_first(lambda: _require_work(parse(arguments), ranks)), command, ranks)


def _require_work(options: Options, ranks: Ranks) -> Options:
    """Raise an OptionError unless every process has something to do."""
    if options.config.batch < ranks.size:
        raise OptionError(
            "a step has fewer tiles than there are processes to share them",
            {"--batch": options.config.batch, "processes": ranks.size},
            f"give --batch {ranks.size} or more, or start fewer processes",
        )
    return options


def parse(arguments: list[str] | None) -> Options:
    """The options of a command line; those of a resumed run default to the ones it was started with.

    The network's default to those of the one that the training starts from. With --minutes the steps, and the
    steps between two validations unless they are given, wait for a trial; with --recipe auto these and others
    wait for the images.
    """
    parse = partial(
        tyro.cli,
        Options,
        prog="python -m tinyunet.train",
        args=arguments,
        config=(tyro.conf.UseAppendAction,),
    )
    options: Options = parse()
    recipe_config = _recipe_config(options)
    if options.config.start_from and not options.resume:
        start = read_start(Path(options.config.start_from))
        if start.network.get("normalisation") != "batch":  # the default's --lr is too large for it
            recipe_config = recipes.recipe("paper", options.config.model)
        recipe_config = replace(recipe_config, **start.config_options())
    if recipe_config != Options().config:
        options = parse(default=Options(options.recipe, recipe_config))
    if options.minutes is not None:
        if options.resume:
            raise OptionError(
                f"--resume {options.resume} continues a run whose number of steps is fixed",
                remedy="leave out --minutes",
            )
        waiting = replace(recipe_config, steps=AS_MANY_AS_FIT, validate_every=AS_MANY_AS_FIT)
        options = parse(default=Options(options.recipe, waiting))
        if options.config.steps != AS_MANY_AS_FIT:
            raise OptionError(
                f"--minutes {options.minutes:g} and --steps {options.config.steps} both say when to end",
                remedy="leave one of them out",
            )
    if options.resume is None:
        if options.folds is not None:
            _require_no_holdout(sys.argv[1:] if arguments is None else arguments)
        return options
    if options.out or options.overwrite:
        raise OptionError(
            f"--resume {options.resume} continues in that folder and overwrites nothing",
            remedy="leave out --out and --overwrite",
        )
    stored = _stored(options.resume)
    options = parse(default=stored)
    if options.folds != stored.folds:
        raise cannot_change("folds", stored.folds, options.folds)
    require_same_run(stored.config, options.config)
    return options


def _recipe_config(options: Options) -> TrainConfig:
    """The configuration of the recipe; what --recipe auto decides later is `_undecided`."""
    if options.recipe != "auto":
        return recipes.recipe(options.recipe, options.config.model)
    waiting: dict[str, Any] = dict.fromkeys(WAITING, AS_MANY_AS_FIT)
    return recipes.recipe(model=options.config.model, **waiting)


def _undecided(config: TrainConfig) -> list[str]:
    """The options that wait for the images, because they were not given."""
    return [name for name in DECIDED if getattr(config, name) in (None, AS_MANY_AS_FIT)]


def _require_no_holdout(arguments: list[str]) -> None:
    if given := [argument for argument in arguments if argument.partition("=")[0] == "--holdout"]:
        raise OptionError(
            f"{given[0]} and --folds cannot both be given: the folds hold out each image once",
            remedy="leave one of them out",
        )


def _stored(path: Path) -> Options:
    """The options that a run, or the runs of a cross-validation, were started with."""
    folder = FoldsFolder(path)
    if folder.exists():
        options = folder.read()
        return Options(config=options.config, folds=len(options.holdouts))
    return Options(config=load_last(RunFolder(path))[1])


def train(options: Options, command: str, ranks: Ranks = ALONE) -> None:
    """Train with a progress bar.

    Parameters
    ----------
    options : Options
    command : str
        What was typed: the log gets the command that repeats the run.
    ranks : Ranks
        The processes that train together.
    """
    # First: a backend that is missing is an error before anything is read or written.
    use_backend(options.backend or active_backend(), options.precision)
    ranks.take_gpu()
    path = options.resume or options.out or Path("runs") / _name_of(options.config.data)
    folder = RunFolder(path) if options.folds is None else FoldsFolder(path)
    if not options.resume:
        # Before anything is read:
        ranks.on_first(lambda: folder.require_free(overwrite=options.overwrite))
    images = read_data(options.config)
    print(f"{options.config.data}: {images.summary()}")
    options, command = decide(options, images, command, ranks)
    if isinstance(folder, FoldsFolder):
        _train_folds(options, images, folder, command, ranks)
    else:
        _train_once(options, images, folder, command, ranks)
    if options.minutes is not None:
        steps = options.config.steps
        print(f"--minutes {options.minutes:g} became {steps} steps; the same bits again: {command}")


def decide(options: Options, images: ImageSet, command: str, ranks: Ranks = ALONE) -> tuple[Options, str]:
    """Decide by the images what the options leave open; also returns the command that says all of it.

    Parameters
    ----------
    options : Options
        As `parse` returns them.
    images : ImageSet
        All of them, before any is held out.
    command : str
        The command that was parsed.
    ranks : Ranks
        The processes that train together.
    """
    options, command = ranks.on_first(lambda: _by_images(options, images, command))
    if options.minutes is not None:
        options = ranks.from_first(_with_steps_that_fit(options, images, ranks))
        command = _with_steps(command, options.config)
    return options, command


def _by_images(options: Options, images: ImageSet, command: str) -> tuple[Options, str]:
    """Decide what the images decide."""
    if options.recipe == "auto" and not options.resume:
        options, command = _with_proposal(options, images, command)
    if options.recipe == "default" and not options.resume:
        options, command = _as_images_decide(options, images, command)
    return options, command


def _images_to_train_on(options: Options, images: ImageSet) -> ImageSet:
    """Those that are not held out, or all images of a cross-validation."""
    return images if options.folds else split(images, options.config.holdout)[0]


def _as_images_decide(options: Options, images: ImageSet, command: str) -> tuple[Options, str]:
    """Take what the default recipe leaves to the images, and say what it is."""
    training_set, given = _images_to_train_on(options, images), command_line.options_of(shlex.split(command))
    config, decisions = diagnosis.decide(training_set, options.config, given)
    for decision in decisions:
        print(decision)
    words = [word for decision in decisions for word in decision.words]
    return replace(options, config=config), shlex.join([*shlex.split(command), *words])


def _with_proposal(options: Options, images: ImageSet, command: str) -> tuple[Options, str]:
    """Decide by the images to train on what was not given."""
    undecided = _undecided(options.config)
    if not gives_weights(command_line.options_of(shlex.split(command))):
        undecided.append(BORDER_WEIGHT)
    training_set = _images_to_train_on(options, images)
    proposal = diagnosis.propose(training_set, options.config, undecided, minutes=options.minutes)
    words = [word for pair in proposal.options.items() if pair[0] != "--recipe" for word in pair]
    command = shlex.join([*command_line.replaced(command, "recipe", "default"), *words])
    print(f"{proposal}\n  {command}\n", flush=True)
    return replace(options, recipe="default", config=proposal.config), command


def _with_steps_that_fit(options: Options, images: ImageSet, ranks: Ranks) -> Options:
    """Find by a trial how many steps fit into the minutes, which the folds of a cross-validation share."""
    assert options.minutes is not None
    minutes = options.minutes / (options.folds or 1)
    make = partial(make_trainer, images=images, options=options, ranks=ranks)
    return replace(options, config=fit_into(minutes, make, options.config))


def _train_once(options: Options, images: ImageSet, folder: RunFolder, command: str, ranks: Ranks) -> None:
    trainer = make_trainer(options.config, images, options, ranks)
    _require_alike(trainer)
    if ranks.is_first:
        _warn(trainer, set())
    with open_run(trainer, options, folder):
        record_training(trainer, folder, command)


def _require_alike(trainer: Trainer) -> None:
    """Raise a RunError unless all processes would compute the same bits; say which processes they are."""
    if trainer.ranks.size > 1:
        mpi.require_alike(trainer.ranks, mpi.facts(trainer.images))
        print(mpi.describe(trainer.ranks))


@contextmanager
def open_run(trainer: Trainer, options: Options, folder: RunFolder) -> Iterator[None]:
    """Lock the folder of a run and create its files, or bring the trainer to where `options.resume` goes on.

    Where several processes train, the first one does it, and the others take over its state.

    Raises
    ------
    RunError
        The folder is not free, or another process trains in it.
    CheckpointError
        The checkpoint is damaged, or belongs to other images or another network.
    """
    if not trainer.ranks.is_first:
        trainer.take_over()
        yield
        return
    with _locked(folder.path):
        if options.resume:
            continue_run(trainer, folder)
        else:
            folder.require_free(overwrite=options.overwrite)  # again: another process may have been faster
            _start(trainer)
            with command_line.writing(folder.path):
                folder.create(asdict(trainer.config))
        trainer.take_over()
        yield


def make_trainer(config: TrainConfig, images: ImageSet, options: Options, ranks: Ranks = ALONE) -> Trainer:
    """Split the images by the configuration, and make the trainer; of the options, only the GPU's count."""
    return Trainer(config, *split(images, config.holdout), cuda_graph=options.cuda_graph, ranks=ranks)


def _start(trainer: Trainer) -> None:
    """Load the weights that the configuration starts from, if it names any, and say which layers are new."""
    if not trainer.config.start_from:
        return
    start = read_start(Path(trainer.config.start_from))
    new = start.load_into(trainer.model, trainer.model_options)
    print(f"starts from {start.path}" + (f"; with random weights: {', '.join(new)}" if new else ""))
    if start.note:
        print(f"  {start.note}")


def _warn(trainer: Trainer, said: set[str]) -> None:
    """Print the doctor's warnings that were not yet said: most of them hold for all folds."""
    for finding in diagnosis.warnings(trainer.setup):
        if str(finding) not in said:
            print(finding, file=sys.stderr)
        said.add(str(finding))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Make a folder and keep other processes from training in it."""
    with ExitStack() as held:
        with command_line.writing(path):
            held.enter_context(RunFolder(path).locked())
        yield


def _train_folds(options: Options, images: ImageSet, folder: FoldsFolder, command: str, ranks: Ranks) -> None:
    """Train each fold in turn, or those that are left; print the scores of all."""
    assert options.folds is not None
    runs = CrossValidation(options.config, fold_holdouts(images.names, options.folds))
    with _locked_by_first(folder.path, ranks):
        ranks.on_first(lambda: _prepare(folder, runs, options, images))
        matrices, said = [], set[str]()
        for number, config in enumerate(runs.fold_configs):
            trainer, fold = make_trainer(config, images, options, ranks), folder.run(number)
            if number == 0:
                _require_alike(trainer)
            print(f"{fold.path.name} of {len(runs.holdouts)}: images {config.holdout} are held out")
            try:
                _train_fold(trainer, fold, command, said)
            except KeyboardInterrupt:
                with suppress(OSError):  # the terminal may be gone
                    print(f"go on with this fold and the others with --resume {folder.path}")
                raise
            if ranks.is_first:  # the others may not see the folder
                best, _ = load_model(fold.path)
                matrices.append(count_pixels(best, trainer.validation_set, tile=config.tile))
    if ranks.is_first:
        print(f"{len(matrices)} folds; each image was scored by the network that has not seen it:")
        print(fold_table(pixel_scores_of_folds(matrices)))


def _locked_by_first(path: Path, ranks: Ranks) -> AbstractContextManager[None]:
    """Lock a folder as `_locked`, on the first of the processes that train together."""
    return _locked(path) if ranks.is_first else nullcontext()


def _prepare(folder: FoldsFolder, runs: CrossValidation, options: Options, images: ImageSet) -> None:
    """Create the folder of a cross-validation, or go on in it."""
    if options.resume and runs.holdouts != (before := folder.read().holdouts):
        raise RunError(
            f"resume: {images.source} has changed since the folds were made",
            {"held out before": "; ".join(before), "now": "; ".join(runs.holdouts)},
            "restore the old data, or start another run",
        )
    if not options.resume:
        folder.require_free(overwrite=options.overwrite)  # again: another process may have been faster
    with command_line.writing(folder.record):
        if options.resume:
            folder.write(runs)
        else:
            folder.create(runs)


def _train_fold(trainer: Trainer, folder: RunFolder, command: str, said: set[str]) -> None:
    """Train a fold from the start, or go on from its last checkpoint; one that is finished stays as it is."""
    with _locked_by_first(folder.path, trainer.ranks):
        if trainer.ranks.on_first(lambda: _begin_or_continue(trainer, folder)):
            return
        trainer.take_over()
        if trainer.ranks.is_first:
            _warn(trainer, said)
        record_training(trainer, folder, command)


def _begin_or_continue(trainer: Trainer, folder: RunFolder) -> bool:
    """Bring a fold to its start or its last checkpoint; return whether it is finished."""
    if not folder.last.exists():
        _start(trainer)
        with command_line.writing(folder.path):
            folder.create(asdict(trainer.config))
        return False
    _, stored = load_last(folder)
    require_same_run(stored, trainer.config)
    log = folder.read_log()
    is_finished = bool(log) and log[-1]["event"] == "finished" and stored == trainer.config
    continue_run(trainer, folder)
    return is_finished


def _with_steps(command: str, config: TrainConfig) -> str:
    """Put the steps that a trial found in the place of --minutes: that command repeats the run to the bit."""
    words = command_line.replaced(command, "minutes", str(config.steps), name_then="steps")
    if "--validate-every" not in map(command_line.option_of, words):
        words += ["--validate-every", str(config.validate_every)]
    return shlex.join(words)


def _name_of(data: str) -> str:
    """The name of a set, for its run folder; "." gets the name of the folder that it stands for."""
    return Path(data).resolve().stem.replace(":", "-")


if __name__ == "__main__":
    main()
