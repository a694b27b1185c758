"""The training loop: steps in, events out. Nothing is printed or written here.

A `Trainer` is a network, an optimiser and a sampler; `run` is a generator that makes steps and says what
happened. Whoever listens draws the progress bar, writes the log, saves checkpoints, or stops listening.

The configuration decides the run, to the last bit: initial weights, samples and dropout are drawn from
(seed, step). A run that is stopped, stored as a `Checkpoint` and resumed ends with the weights of a run that
was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet import metrics
from tinyunet.autograd import Tensor
from tinyunet.backend import active_backend, to_backend
from tinyunet.backend.cuda_graph import CapturedStep
from tinyunet.data import UNKNOWN, ImageSet, class_labels, normalise
from tinyunet.data.fingerprint import Fingerprints, changes, fingerprints
from tinyunet.errors import CheckpointError, OutOfMemoryError, RunError
from tinyunet.models import Network, make_network, memory
from tinyunet.nn.sgd import SGD
from tinyunet.ops.targets import checked_pixels
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.sampling import Sample, Sampler, sampler_cuda, weights_by_class
from tinyunet.training.checkpoint import Arrays, Checkpoint
from tinyunet.training.collapse import Collapsed, Facts, describe_rate, explain, loss_of_constant, watch_units
from tinyunet.training.config import TrainConfig, network_options

EXAMPLES = 3  # held-out images whose predictions are shown, and on which dead units are looked for
RECENT = 50  # steps whose mean loss says where the training stands
MEMORY_RAN_OUT = "there is not enough memory beside it"
PATIENT = 100  # steps in which, as in the first tenth of the run, a constant prediction is no cause for alarm


@dataclass(frozen=True)
class Scores:
    """How well the held-out images are predicted where they are labelled, each the mean over the images."""

    pixel_error: float
    """Share of wrong pixels."""
    iou: tuple[float, ...]
    """Intersection over union of each class."""
    mean_iou: float
    """Mean over the classes: the score that decides which checkpoint is best."""


@dataclass(frozen=True)
class Stepped:
    """A step was made."""

    step: int
    loss: float
    lr: float
    seconds: float
    waited: float
    """Of these seconds, those spent waiting for the sample."""
    folded: int


@dataclass(frozen=True)
class Validated:
    """The held-out images were predicted."""

    step: int
    scores: Scores
    is_best: bool
    seconds: float
    examples: tuple[NDArray[np.float32], ...]
    """Probabilities (H, W, K) of the first held-out images."""


@dataclass(frozen=True)
class Finished:
    """The run has ended by itself."""

    step: int
    reason: str


Event = Stepped | Validated | Collapsed | Finished


@dataclass
class Progress:
    """What is known of the run so far, besides the weights."""

    best_score: float = -1.0
    best_step: int = 0
    since_best: int = 0
    """Validations since the best."""
    validated_step: int = 0
    """Step of the last validation."""
    last_loss: float = math.nan
    recent: list[list[float]] = field(default_factory=list)
    """Of each of the last `RECENT` steps: the loss, and the share of each class in the tile's weights."""
    collapsed: bool = False
    """Whether a constant prediction was reported, and no other prediction has been seen since."""


class Trainer:
    """A network in training.

    Parameters
    ----------
    config : TrainConfig
    train, validation : ImageSet, with labels
        `validation` has the classes and channels of `train`.
    cuda_graph : bool
        On the backend "cuda": whether steps are captured as a CUDA graph, see `tinyunet.backend.cuda_graph`.
        The results are the same, to the last bit.

    Attributes
    ----------
    model : Network
    sampler : Sampler
        Of the training images.
    input_size, output_size : int
        Sides of the network's input and output tile, in pixels.
    step : int
        Steps done.
    progress : Progress
    """

    def __init__(
        self, config: TrainConfig, train: ImageSet, validation: ImageSet, *, cuda_graph: bool = True
    ):
        self.config, self.train, self.validation = config, train, validation
        self.network = {
            **network_options(config),
            "in_channels": train.images[0].shape[2],
            "num_classes": train.num_classes,
            "seed": config.seed,
        }
        self.model = make_network(**self.network)
        self.optimiser = SGD(self.model.parameters(), config.lr, config.momentum, config.weight_decay)
        self.input_size = self.model.geometry.input_for_output(config.tile)
        self.output_size = self.model.geometry.output_size(self.input_size)
        self.sampler = Sampler(
            train,
            input_size=self.input_size,
            output_size=self.output_size,
            augmentation=config.augmentation,
            weights=config.weights,
            seed=config.seed,
        )
        self.step = 0
        self.progress = Progress()
        self._captured = CapturedStep(enabled=cuda_graph)

    def run(self) -> Iterator[Event]:
        """Train from `step` to the configured number of steps.

        Yields
        ------
        Stepped after each step, Validated after each validation, Finished at the end. Collapsed before a
        Validated that found one class predicted everywhere (see `tinyunet.training.collapse`). If a layer is
        dead it comes at once; otherwise not before step 100 nor in the first tenth of the run, because many
        good trainings start that way. It is not repeated unless another class was predicted in between.

        Raises
        ------
        RunError
            The loss or a weight is not finite. A step whose loss is not has changed the weights already.
        """
        config = self.config
        sampler = sampler_cuda.CudaSampler(self.sampler) if _on_cuda() else self.sampler
        samples = sampler.stream(self.step, config.steps)
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
            started = time.perf_counter()
            try:
                with memory.explained(self.model, self.input_size, training=True):
                    sample = next(samples)
                    waited = time.perf_counter() - started
                    loss = self._train_on(sample)
            except OutOfMemoryError:
                if not self._captured.drop(MEMORY_RAN_OUT):
                    raise
                samples = sampler.stream(self.step, config.steps)  # the other one ended with the error
                continue
            seconds = time.perf_counter() - started
            yield Stepped(self.step, loss, self.optimiser.lr, seconds, waited, sample.folded)

    def _must_validate(self) -> bool:
        due = self.step % self.config.validate_every == 0 or self.step == self.config.steps
        return due and self.step != self.progress.validated_step

    def _train_on(self, sample: Sample) -> float:
        """One step of gradient descent. Counts it; returns the loss before it."""
        self.optimiser.lr = self.learning_rate(self.step)
        self.model.train()
        rng = np.random.default_rng([self.config.seed, 2, self.step])
        sample = self.model.training_batch(sample, np.random.default_rng([self.config.seed, 3, self.step]))
        target, weight, shares = self._pixels(sample)
        lr = np.array(self.optimiser.lr, np.float32)
        array = self._captured.run(
            self._descend, rng, image=sample.image, target=target, weight=weight, lr=lr
        )
        self.model.dropout_rng = rng  # a step that is captured leaves its own
        loss = float(array.item())
        if not math.isfinite(loss):
            raise self._diverged(f"step {self.step + 1}: the loss is {loss}")
        self.step += 1
        self.progress.last_loss = loss
        if shares.any():
            self.progress.recent.append([loss, *shares.tolist()])
            del self.progress.recent[:-RECENT]
        return loss

    def _pixels(self, sample: Sample) -> tuple[Any, Any, NDArray[np.float64]]:
        """Targets and weights as `Network.loss` takes them, and the share of the weights of each class."""
        classes = self.train.num_classes
        if _on_cuda():  # a CudaSampler's: classes or UNKNOWN, and there no weight
            sums = sampler_cuda.weights_by_class(sample, classes)
            return sample.target, sampler_cuda.mean_weights(sample, sums), _shares(sums)
        target, weight = checked_pixels(
            "training", sample.target, sample.weight, classes, ignore_label=UNKNOWN
        )
        return target, weight, _shares(weights_by_class(sample, classes))

    def _descend(self, rng: np.random.Generator, image: Any, target: Any, weight: Any, lr: Any) -> Any:
        """The step on arrays of the backend: returns the loss, and reads nothing back."""
        self.model.dropout_rng = rng
        try:
            loss = self.model.loss(Tensor(image), target, weight)
            loss.backward()
            self.optimiser.step(lr)
        finally:
            self.optimiser.zero_grad()
        return loss.data

    def _diverged(self, found: str) -> RunError:
        return RunError(
            f"{found}, the training has diverged",
            {
                "last finite loss": f"{self.progress.last_loss:.6g}",
                "learning rate": describe_rate(self.optimiser.lr, self.config.momentum),
            },
            f"start again with a smaller --lr, for instance {self.config.lr / 10:g}, or less --momentum",
        )

    def _require_finite_weights(self) -> None:
        """What has diverged must not be called the best, nor replace a checkpoint that has not."""
        for name, parameter in self.model.named_parameters():
            if not np.isfinite(parameter.numpy()).all():
                raise self._diverged(f"step {self.step}: {name} is not finite")

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.config.schedule == "constant":
            return self.config.lr
        return self.config.lr * (1 - step / self.config.steps) ** 0.9

    def _validate(self) -> tuple[Validated, Collapsed | None]:
        self._require_finite_weights()
        started = time.perf_counter()
        scores, examples, predicted = self._scores()
        progress = self.progress
        is_best = scores.mean_iou > progress.best_score
        if is_best:
            progress.best_score, progress.best_step = scores.mean_iou, self.step
        progress.since_best = 0 if is_best else progress.since_best + 1
        progress.validated_step = self.step
        seconds = time.perf_counter() - started
        return Validated(self.step, scores, is_best, seconds, tuple(examples)), self._collapse(predicted)

    def _scores(self) -> tuple[Scores, list[NDArray[np.float32]], set[int]]:
        """Of the held-out images; the probabilities of the first few, and the classes that were predicted."""
        try:
            return self._predicted()
        except OutOfMemoryError:
            if not self._captured.drop(MEMORY_RAN_OUT):
                raise
        return self._predicted()

    def _predicted(self) -> tuple[Scores, list[NDArray[np.float32]], set[int]]:
        examples: list[NDArray[np.float32]] = []
        predicted: set[int] = set()

        def keep(number: int, probabilities: NDArray[np.float32]) -> None:
            predicted.update(np.unique(probabilities.argmax(axis=2)).tolist())
            if number < EXAMPLES:
                examples.append(probabilities)

        scores = evaluate(self.model, self.validation, tile=self.config.tile, on_image=keep)
        return scores, examples, predicted

    def _collapse(self, predicted: set[int]) -> Collapsed | None:
        """A report on a validation that predicted only these classes, if one is due and was not made yet."""
        progress = self.progress
        if len(predicted) > 1 or len(_known_classes(self.validation)) == 1:
            progress.collapsed = False
            return None
        if progress.collapsed:
            return None
        with watch_units(self.model) as units:
            for image in self.validation.images[:EXAMPLES]:
                predict_tiled(self.model, normalise(image), tile=self.config.tile)
        settled = self.step >= max(PATIENT, self.config.steps / 10)
        if not settled and all(alive.any() for alive in units.values()):
            return None
        losses, *shares = zip(*progress.recent, strict=True)
        collapsed = explain(
            Facts(
                step=self.step,
                predicted=predicted.pop(),
                units=units,
                loss=float(np.mean(losses)),
                constant=loss_of_constant(np.mean(shares, axis=1)),
                lr=self.config.lr,
                momentum=self.config.momentum,
                shares=self.sampler.class_shares,
                class_weights=self.sampler.class_weights,
                balanced=self.config.weights.class_balance,
            )
        )
        progress.collapsed = collapsed is not None
        return collapsed

    def checkpoint(self) -> Checkpoint:
        """Everything that `restore` needs. The arrays are the trainer's own, not copies.

        Raises
        ------
        RunError
            A weight is not finite.
        """
        self._require_finite_weights()
        names = [name for name, _ in self.model.named_parameters()]
        return Checkpoint(
            network=self.network,
            config=asdict(self.config),
            step=self.step,
            progress=asdict(self.progress),
            weights=self.model.state_dict(),
            velocity=dict(zip(names, self.optimiser.velocity, strict=True)),
            images=self._images,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        CheckpointError
            It is of other images or of another network, or holds no velocities.
        """
        self._require_same_images(checkpoint)
        if checkpoint.network != self.network:
            raise CheckpointError(
                "resume: the checkpoint is of another network",
                {"checkpoint": checkpoint.network, "configured": self.network},
                "resume with the options and the data that the run was started with",
            )
        self.model.load_state_dict(checkpoint.weights)
        self._load_velocity(checkpoint.velocity)
        self.step = checkpoint.step
        self.progress = Progress(**checkpoint.progress)

    @cached_property
    def _images(self) -> dict[str, Fingerprints]:
        return {"train": fingerprints(self.train), "held out": fingerprints(self.validation)}

    def _require_same_images(self, checkpoint: Checkpoint) -> None:
        if checkpoint.images and (found := changes(checkpoint.images, self._images)):
            raise CheckpointError(
                f"resume: {self.train.source} is not what the run was started with",
                found,
                "bring it back as it was, or start another run",
            )

    def _load_velocity(self, velocity: Arrays) -> None:
        for (name, _), own in zip(self.model.named_parameters(), self.optimiser.velocity, strict=True):
            if name not in velocity or velocity[name].shape != own.shape:
                raise CheckpointError(
                    f"resume: the checkpoint holds no velocity for {name}",
                    remedy="resume from last, not from best",
                )
            own[...] = to_backend(velocity[name], own.dtype)


def _on_cuda() -> bool:
    """Whether the kernels are CUDA's, on a GPU or emulated."""
    return active_backend().startswith("cuda")


def _shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return weights / (weights.sum() or 1)


def _known_classes(images: ImageSet) -> set[int]:
    assert images.labels is not None
    assert images.kind is not None
    values = [np.unique(class_labels(labels, images.kind)).tolist() for labels in images.labels]
    return set().union(*values) - {UNKNOWN}


def evaluate(
    model: Network,
    images: ImageSet,
    *,
    tile: int,
    on_image: Callable[[int, NDArray[np.float32]], None] | None = None,
) -> Scores:
    """Predict labelled images by overlap-tile and compare.

    Parameters
    ----------
    model : Network
    images : ImageSet, with labels
    tile : int
        As in `predict_tiled`.
    on_image : callable, optional
        Called with each image's number and probabilities.
    """
    assert images.labels is not None
    assert images.kind is not None
    errors, ious = [], []
    for number, (image, labels) in enumerate(zip(images.images, images.labels, strict=True)):
        probabilities = predict_tiled(model, normalise(image), tile=tile)
        if on_image:
            on_image(number, probabilities)
        classes, truth = probabilities.argmax(axis=2), class_labels(labels, images.kind)
        errors.append(metrics.pixel_error(classes, truth, ignore_label=UNKNOWN))
        ious.append(metrics.iou(classes, truth, images.num_classes, ignore_label=UNKNOWN))
    iou = np.mean(ious, axis=0)
    return Scores(float(np.mean(errors)), tuple(map(float, iou)), float(iou.mean()))
