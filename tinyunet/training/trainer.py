"""The training loop: it makes steps and yields events. Nothing is printed or written here.

A `Trainer` is a network, an optimiser and a sampler; `run` is a generator that makes steps and reports what
happened. The caller draws the progress bar, writes the log, saves checkpoints, or stops iterating.

The configuration decides the run, to the last bit: initial weights, samples and dropout are drawn from
(seed, step). A run that is stopped, stored as a `Checkpoint` and resumed ends with the same weights as a run
that was never stopped.

On a GPU, Python draws a step's sample while the step before it is computed, and reads that step's loss only
then, so that the GPU does not wait while a sample is drawn.

Tutorial: `tutorials/13_training_loop.py`.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyunet.autograd import Tensor
from tinyunet.backend import active_backend, to_backend, to_host
from tinyunet.backend.cuda_graph import CapturedStep
from tinyunet.data import UNKNOWN, ImageSet, class_labels, normalise
from tinyunet.data.class_table import ClassTable
from tinyunet.data.fingerprint import Fingerprints, changes, fingerprints, without
from tinyunet.errors import CheckpointError, OutOfMemoryError, RunError
from tinyunet.models import make_network, memory
from tinyunet.nn import OPTIMISERS
from tinyunet.prediction.object_rule import ObjectRule
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.sampling import Sample, Sampler, batch
from tinyunet.sampling.sampler import generator
from tinyunet.sampling.sampler_cuda import CudaSampler
from tinyunet.training import plateau, population
from tinyunet.training.ahead import Ahead
from tinyunet.training.checkpoint import Arrays, Checkpoint
from tinyunet.training.collapse import Facts, describe_rate, explain, loss_of_constant, watch_units
from tinyunet.training.config import TrainConfig, optimiser_options, written_out
from tinyunet.training.events import Collapsed, Event, Finished, Plateau, PlateauLeft, Stepped, Validated
from tinyunet.training.progress import RECENT, Progress
from tinyunet.training.ranks import ALONE, Ranks
from tinyunet.training.schedule import learning_rate
from tinyunet.training.setup import Setup
from tinyunet.training.tiles import Drawn, TileSum
from tinyunet.training.validation import Scores, score_of_constant, validate_on

Result = TypeVar("Result")

EXAMPLES = 3  # held-out images whose predictions are shown, and that are searched for dead units
GRACE_STEPS = 100  # in these, as in the first tenth of the run, a constant prediction is no cause for alarm
MEMORY_RAN_OUT = "there is not enough memory beside it"


class Trainer:
    """A network in training.

    Parameters
    ----------
    config : TrainConfig
    training_set, validation_set : ImageSet, with labels
        Both with the same classes and channels.
    cuda_graph : bool
        On the backend "cuda": whether steps are captured as a CUDA graph, see `tinyunet.backend.cuda_graph`.
        The results are the same, to the last bit.
    ranks : Ranks
        The processes that share the tiles of a step and the images of a validation.

    Attributes
    ----------
    config : TrainConfig
        With the optimiser's defaults written out.
    setup : Setup
    model : Network
    sampler : Sampler
        Samples of the training set.
    input_size, output_size : int
        Sides of the network's input and output tile, in pixels.
    step : int
        Number of steps made.
    progress : Progress
    """

    def __init__(
        self,
        config: TrainConfig,
        training_set: ImageSet,
        validation_set: ImageSet,
        *,
        cuda_graph: bool = True,
        ranks: Ranks = ALONE,
    ):
        self.config = config = written_out(config)
        self.training_set, self.validation_set = training_set, validation_set
        self.setup = Setup(config, training_set, validation_set)
        self.model_options = self.setup.model_options
        self.model = make_network(**self.model_options)
        optimiser = OPTIMISERS[config.optimiser]
        self.optimiser = optimiser(self.model.parameters(), config.lr, **optimiser_options(config))
        self.input_size, self.output_size = self.setup.input_size, self.setup.output_size
        self.sampler = self.setup.sampler
        self.step = 0
        self.progress = Progress()
        self._estimated_step = -1  # of the last estimate of a normalised network's statistics
        fixed = config.fixed_statistics if population.normalised_layers(self.model) else 0.0
        self._first_fixed_step = config.steps - round(fixed * config.steps)
        self._captured = CapturedStep(enabled=cuda_graph)
        self.ranks = ranks
        self._tiles = TileSum(self.model, self.optimiser, self._captured, config.batch, ranks)

    def run(self) -> Iterator[Event]:
        """Train from `step` to the configured number of steps.

        Yields
        ------
        Event
            Stepped after each step, Validated after each validation, Finished at the end. Collapsed before a
            Validated that found one class predicted everywhere (see `tinyunet.training.collapse`). It comes
            at once if a layer is dead; otherwise not in the first 100 steps or the first tenth of the run,
            because many good trainings start that way. It is not repeated unless the network predicted
            another class in between. Plateau and PlateauLeft before the Stepped of their step.

        Raises
        ------
        RunError
            The loss or a weight is not finite. By then the step with that loss has changed the weights.
        """
        config = self.config
        sampler = batch.on_backend(self.sampler)
        tiles = self._stream(sampler)
        while True:
            if self._must_validate():  # before the step: the run may have been stopped just before validating
                validated, collapsed = self._validate()
                if collapsed:
                    yield collapsed
                yield validated
            if config.patience and self.progress.since_best >= config.patience:
                yield Finished(self.step, f"no better score in {config.patience} validations")
                return
            if self.step >= config.steps:
                yield Finished(self.step, f"all {config.steps} steps")
                return
            started, drawn_ahead = time.perf_counter(), tiles.begun
            try:
                with memory.explained(self.model, self.input_size, training=True):
                    loss, waited, folded = self._make_step(tiles)
            except OutOfMemoryError:
                # A tile drawn ahead may have failed beside a graph that a validation has dropped since.
                if not self._captured.drop(MEMORY_RAN_OUT) and not drawn_ahead:
                    raise
                tiles = self._stream(sampler)  # an error ends a stream
                continue
            seconds = time.perf_counter() - started
            if changed := self._plateau():
                yield changed
            yield Stepped(self.step, loss, self.optimiser.lr, seconds, waited, folded)

    def _stream(self, sampler: Sampler | CudaSampler) -> Ahead[Drawn]:
        """The tiles of the steps that are left: of each step those that this process has."""
        samples = sampler.stream(self.step, self.config.steps, tiles=self._tiles.own)
        steps = range(self.step, self.config.steps)
        return Ahead(self._drawn(samples, step, tile) for step in steps for tile in self._tiles.own)

    def _drawn(self, samples: Iterator[Sample], step: int, tile: int) -> Drawn:
        """The next of the samples, as the network takes it."""
        started = time.perf_counter()
        sample = next(samples)
        waited = time.perf_counter() - started
        return self._prepared(sample, step, tile)._replace(waited=waited)

    def _must_validate(self) -> bool:
        due = self.step % self.config.validate_every == 0 or self.step == self.config.steps
        return due and self.step != self.progress.validated_step

    def _make_step(self, tiles: Ahead[Drawn]) -> tuple[float, float, int]:
        """Make a step; returns its loss, the seconds of waiting for samples, and the pixels that fold."""
        if self.config.batch == 1:
            drawn = _taken(tiles)
            return self._train_on(drawn), drawn.waited, drawn.folded
        return self._train_on_several(tiles)

    def _train_on(self, drawn: Drawn) -> float:
        """Make one step of gradient descent, and count it; returns the loss before it."""
        scalars = self._begin_step()
        image, target, weight, class_shares = drawn.batch
        array = self._captured.run(
            self._descend, drawn.rng, image=image, target=target, weight=weight, scalars=scalars
        )
        self.model.dropout_rng = drawn.rng  # a captured step leaves its own generator there
        drawn.launched()
        return self._count_step(float(array.item()), class_shares[np.newaxis])

    def _train_on_several(self, tiles: Ahead[Drawn]) -> tuple[float, float, int]:
        """Make one step as `_train_on` does, on all tiles of a batch: see `_make_step`."""
        shares: list[NDArray[np.float64]] = []
        waited, folded = 0.0, 0

        def take(tile: int) -> Drawn:
            nonlocal waited, folded
            drawn = _taken(tiles)
            shares.append(drawn.batch.class_shares)
            waited, folded = waited + drawn.waited, folded + drawn.folded
            return drawn

        loss = self._tiles.step(take, self._begin_step())
        self._count_step(loss, np.concatenate(self.ranks.from_all(np.array(shares))))
        return loss, waited, sum(self.ranks.from_all(folded))

    def _begin_step(self) -> NDArray[Any]:
        """Set the learning rate; returns what the optimiser needs in this step."""
        self.optimiser.lr = learning_rate(self.config, self.step)
        self.model.train()
        if self.step >= self._first_fixed_step:
            if self.step == self._first_fixed_step:
                self._estimate_population()
                self._captured.start_over()
            population.fix(self.model)
        return self.optimiser.scalars(self.step)

    def _prepared(self, sample: Sample, step: int, tile: int = 0) -> Drawn:
        """The sample of one of a step's tiles, as the network takes it."""
        sample = self.model.training_batch(sample, generator(self.config.seed, 3, step, tile))
        rng = generator(self.config.seed, 2, step, tile)
        return Drawn(rng, batch.finish(sample, self.training_set.num_classes), sample.folded)

    def _count_step(self, loss: float, class_shares: NDArray[np.float64]) -> float:
        """Count the step that was made on tiles with these shares of classes, shape (tiles, num_classes)."""
        if not math.isfinite(loss):
            raise self._diverged(f"step {self.step + 1}: the loss is {loss}")
        self.step += 1
        self.progress.last_loss = loss
        labelled = class_shares.any(axis=1)
        if labelled.any():  # where nothing is labelled, the loss is 0, which says nothing
            shares = class_shares[labelled].mean(axis=0)
            self.progress.recent.append([loss / float(labelled.mean()), *shares.tolist()])
            del self.progress.recent[:-RECENT]
        return loss

    def _descend(self, rng: np.random.Generator, image: Any, target: Any, weight: Any, scalars: Any) -> Any:
        """Make the step on arrays of the backend; returns the loss there, without reading it back."""
        self.model.dropout_rng = rng
        try:
            loss = self.model.loss(Tensor(image), target, weight)
            loss.backward()
            self.optimiser.step(scalars)
        finally:
            self.optimiser.zero_grad()
        return loss.data

    def _diverged(self, found: str) -> RunError:
        less_momentum = ", or less --momentum" if self.config.momentum else ""
        return RunError(
            f"{found}, the training has diverged",
            {
                "last finite loss": f"{self.progress.last_loss:.6g}",
                "learning rate": describe_rate(self.optimiser.lr, self.config.momentum),
            },
            f"start again with a smaller --lr, for instance {self.config.lr / 10:g}{less_momentum}",
        )

    def _require_finite_weights(self) -> None:
        """Diverged weights must neither be called the best nor replace a checkpoint."""
        for name, parameter in self.model.named_parameters():
            if not np.isfinite(parameter.numpy()).all():
                raise self._diverged(f"step {self.step}: {name} is not finite")

    def _require_same_weights(self) -> None:
        """The ranks never exchange weights: a fault in one of them must not go unnoticed."""
        if self.ranks.size == 1:
            return
        sums = self.ranks.from_all(zlib.crc32(b"".join(p.numpy().tobytes() for p in self.model.parameters())))
        if len(set(sums)) > 1:
            raise RunError(
                f"step {self.step}: the processes have come to different weights",
                {f"checksum of rank {number}": f"{value:08x}" for number, value in enumerate(sums)},
                "look for a fault in the memory or the processor of the rank that stands alone, and resume",
            )

    def _validate(self) -> tuple[Validated, Collapsed | None]:
        self._require_finite_weights()
        self._require_same_weights()
        started = time.perf_counter()
        self._estimate_population()
        scores, examples, predicted = self._predict_held_out()
        progress = self.progress
        is_best = scores.rank > (progress.best_finds_classes, progress.best_score)
        if is_best:
            (progress.best_finds_classes, progress.best_score), progress.best_step = scores.rank, self.step
        progress.since_best = 0 if is_best else progress.since_best + 1
        progress.validated_step, progress.last_score = self.step, scores.mean_iou
        seconds = time.perf_counter() - started
        return Validated(self.step, scores, is_best, seconds, tuple(examples)), self._collapse(predicted)

    def _estimate_population(self) -> None:
        """Bring the statistics of a normalised network up to its weights, unless they are or stay fixed."""
        if self.step > self._first_fixed_step:
            return
        if self._estimated_step != self.step and population.normalised_layers(self.model):
            self._with_memory_left(self._estimate)
            self._estimated_step = self.step

    def _estimate(self) -> None:
        with memory.explained(self.model, self.input_size, training=False):
            population.estimate(self.model, self._population_tiles)

    @cached_property
    def _population_tiles(self) -> list[NDArray[np.float32]]:
        """The same at each estimate, and drawn as for training: the tiles of the first steps."""
        sampler = batch.on_backend(self.sampler)
        return [sampler.sample(step).image for step in range(population.TILES)]

    def _predict_held_out(self) -> tuple[Scores, list[NDArray[np.float32]], set[int]]:
        """Scores, the probabilities of the first images, and the classes that were predicted anywhere."""
        return self._with_memory_left(self._validated)

    def _with_memory_left(self, compute: Callable[[], Result]) -> Result:
        """Compute, once more without the memory of the CUDA graph if there is not enough beside it."""
        try:
            return compute()
        except OutOfMemoryError:
            if not self._captured.drop(MEMORY_RAN_OUT):
                raise
        return compute()

    def _validated(self) -> tuple[Scores, list[NDArray[np.float32]], set[int]]:
        tile = self.config.tile
        return validate_on(self.ranks, self.model, self.validation_set, tile=tile, examples=EXAMPLES)

    def _collapse(self, predicted: set[int]) -> Collapsed | None:
        """Report that only one class was predicted, if so, unless it was reported before or is too early."""
        progress = self.progress
        if len(predicted) > 1 or len(_known_classes(self.validation_set)) == 1:
            progress.collapsed = False
            return None
        if progress.collapsed:
            return None
        with watch_units(self.model) as units:
            for image in self.validation_set.images[:EXAMPLES]:
                predict_tiled(self.model, normalise(image), tile=self.config.tile)
        settled = self.step >= max(GRACE_STEPS, self.config.steps / 10)
        if not settled and all(alive.any() for alive in units.values()):
            return None
        loss, constant = self._recent_losses() if progress.recent else (None, None)
        out_of_patience = 0 < self.config.patience <= progress.since_best
        collapsed = explain(
            Facts(
                step=self.step,
                predicted=predicted.pop(),
                units=units,
                loss=loss,
                constant=constant,
                lr=self.config.lr,
                momentum=self.config.momentum,
                shares=self.sampler.class_shares,
                class_weights=self.sampler.class_weights,
                balanced=self.config.weights.class_balance,
                final=out_of_patience or self.step >= self.config.steps,
            )
        )
        progress.collapsed = collapsed is not None
        return collapsed

    def _recent_losses(self) -> tuple[float, float]:
        """The mean of the recent losses, and the loss of the best constant prediction in these steps."""
        losses, *shares = zip(*self.progress.recent, strict=True)
        return float(np.mean(losses)), loss_of_constant(np.mean(shares, axis=1))

    def _plateau(self) -> Plateau | PlateauLeft | None:
        """Report the begin or the end of a plateau; there is none before enough losses can be averaged."""
        if len(self.progress.recent) < RECENT:
            return None
        loss, constant = self._recent_losses()
        if constant == 0:  # all pixels are of one class
            return None
        level = plateau.Level(self.step, loss, constant, self._constant_score)
        return plateau.watch(level, self.progress, self.config)

    @cached_property
    def _constant_score(self) -> float:
        return score_of_constant(self.validation_set)

    def checkpoint(self) -> Checkpoint:
        """Return all that `restore` and a prediction need. The arrays are the trainer's own, not copies.

        Raises
        ------
        RunError
            A weight is not finite.
        """
        self._require_finite_weights()
        self._estimate_population()
        return Checkpoint(
            network=self.model_options,
            config=asdict(self.config),
            step=self.step,
            progress=asdict(self.progress),
            weights=self.model.state_dict(),
            optimiser=self._optimiser_state,
            images=without(self.images, self.training_set.unreadable | self.validation_set.unreadable),
            classes=self._classes,
            objects=self._object_rule,
        )

    @property
    def _optimiser_state(self) -> dict[str, Arrays]:
        names = [name for name, _ in self.model.named_parameters()]
        state = self.optimiser.state.items()
        return {part: dict(zip(names, arrays, strict=True)) for part, arrays in state}

    def take_over(self) -> None:
        """Bring this process to where the first rank stands, which has read a checkpoint or weights."""
        if self.ranks.size == 1:
            return
        state = {
            part: {name: to_host(array) for name, array in arrays.items()}
            for part, arrays in {"": self.model.state_dict(), **self._optimiser_state}.items()
        }
        state, self.step, self.progress = self.ranks.from_first((state, self.step, self.progress))
        self.model.load_state_dict(state.pop(""))
        self._load_optimiser(state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises
        ------
        CheckpointError
            It was made with other images, classes or another network, or not the state of the optimiser.
        """
        self._require_same_classes(checkpoint)
        self._require_same_images(checkpoint)
        # An earlier version has not stored the options that there were not yet.
        if {**self.model.options(), **checkpoint.network} != self.model_options:
            raise CheckpointError(
                "resume: the checkpoint belongs to another network",
                {"checkpoint": checkpoint.network, "configured": self.model_options},
                "resume with the options and the data that the run was started with",
            )
        self.model.load_state_dict(checkpoint.weights)
        self._load_optimiser(checkpoint.optimiser)
        self.step = checkpoint.step
        self.progress = Progress(**checkpoint.progress)

    @cached_property
    def images(self) -> dict[str, Fingerprints]:
        """Checksums of the images and labels of each part."""
        return {"train": fingerprints(self.training_set), "held out": fingerprints(self.validation_set)}

    @cached_property
    def _object_rule(self) -> ObjectRule:
        return ObjectRule.of(self.training_set)

    @property
    def _classes(self) -> dict[str, Any]:
        table = self.training_set.class_table
        return {} if table is None else table.to_json()

    def _require_same_classes(self, checkpoint: Checkpoint) -> None:
        """Compare the files' numbers: the checksums of images are those of classes 0..K-1."""
        if checkpoint.classes and self._classes and checkpoint.classes != self._classes:
            before, now = ClassTable.from_json(checkpoint.classes), self.training_set.class_table
            raise CheckpointError(
                f"resume: {self.training_set.source} has other classes than when the run was started",
                {"started with": before, "now": now},
                "restore the old labels, or start another run",
            )

    def _require_same_images(self, checkpoint: Checkpoint) -> None:
        if checkpoint.images and (found := changes(checkpoint.images, self.images)):
            raise CheckpointError(
                f"resume: {self.training_set.source} has changed since the run was started",
                found,
                "restore the old data, or start another run",
            )

    def _load_optimiser(self, state: Mapping[str, Arrays]) -> None:
        names = [name for name, _ in self.model.named_parameters()]
        for part, arrays in self.optimiser.state.items():
            stored = state.get(part, {})
            for name, own in zip(names, arrays, strict=True):
                if name not in stored or stored[name].shape != own.shape:
                    raise CheckpointError(
                        f"resume: the checkpoint holds no {part} for {name}",
                        remedy="resume from last, not from best",
                    )
                own[...] = to_backend(stored[name], own.dtype)


def _known_classes(images: ImageSet) -> set[int]:
    """The classes that the labels of a set contain."""
    assert images.labels is not None
    assert images.kind is not None
    looked_at = images.looked_at.labels
    assert looked_at is not None
    values = [np.unique(class_labels(labels, images.kind)).tolist() for labels in looked_at]
    return set().union(*values) - {UNKNOWN}


def _taken(tiles: Ahead[Drawn]) -> Drawn:
    """Take the next tile. On a GPU the one after it is drawn as soon as the kernels for this are launched."""
    at_once = tiles.begun
    drawn = next(tiles)
    if at_once:
        drawn = drawn._replace(waited=0.0)
    return drawn._replace(launched=tiles.begin) if active_backend() == "cuda" else drawn
