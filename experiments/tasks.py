"""The comparisons of the results page: images, training, and the differences between the variants."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Variant:
    """One way to train and to evaluate.

    Attributes
    ----------
    name, title : str
        One for files, one for people.
    train, evaluate : tuple of str
        Options beyond those that all variants share. Variants with the same `train` share the training.
    """

    name: str
    title: str
    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One set of images and its variants; the others are compared with the first.

    Attributes
    ----------
    name, title : str
    file : str
        Its name in the folder of the data.
    holdout : str
        As tinyunet.train takes it: a fixed split, the same for all seeds.
    train : tuple of str
        Options that all variants share.
    steps : int
        Steps of each training.
    measures : tuple of str
        Measures of tinyunet.evaluate on the page; the first decides what "better" means.
    variants : tuple of Variant
    """

    name: str
    title: str
    file: str
    holdout: str
    train: tuple[str, ...]
    steps: int
    measures: tuple[str, ...]
    variants: tuple[Variant, ...]


NO_WEIGHTS = ("--weights.w0", "0", "--weights.no-class-balance")
RIGID = ("--augmentation.elastic-sigma", "0")
SAME = ("--padding", "same")
EIGHT = ("--symmetries", "8")
UNCUT = ("--no-split",)
MOMENTUM = ("--momentum", "0.9")  # with ten times the learning rate its steps are as long as with 0.99

COMPARE = "compare"  # besides the tasks: the three networks, on the images of the first task
TASKS = {
    task.name: task
    for task in (
        Task(
            "isbi",
            "ISBI 2012: membranes in electron micrographs",
            "isbi2012_em_train.npz",
            "24-29",
            ("--base-channels", "16", "--tile", "196", "--lr", "0.002"),
            1000,
            ("v_rand", "v_info", "pixel_error", "mean_iou", "split_merge_error"),
            (
                Variant("plain", "valid, elastic, no weight map", NO_WEIGHTS),
                Variant("weights", "with the weight map"),
                Variant("rigid", "without elastic deformation", (*NO_WEIGHTS, *RIGID)),
                Variant("same", "same padding", (*NO_WEIGHTS, *SAME)),
                Variant("eight", "eight symmetries at prediction", NO_WEIGHTS, EIGHT),
                Variant(
                    "momentum",
                    "momentum 0.9, ten times the learning rate",
                    (*NO_WEIGHTS, "--lr", "0.02", *MOMENTUM),
                ),
            ),
        ),
        Task(
            "nuclei",
            "Touching nuclei in fluorescence",
            "dsb2018_fluo_360x360.npz",
            "20%",
            ("--base-channels", "8", "--tile", "196"),
            600,
            ("average_precision", "average_precision_0.5", "seg", "mean_iou", "pixel_error"),
            (
                Variant("weights", "valid, elastic, weight map"),
                Variant("balance", "without the border term", ("--weights.w0", "0")),
                Variant("plain", "without any weight map", NO_WEIGHTS),
                Variant("uncut", "weight map, objects not cut at necks", (), UNCUT),
                Variant("plain-uncut", "no weight map, objects not cut at necks", NO_WEIGHTS, UNCUT),
                Variant("rigid", "without elastic deformation", RIGID),
                Variant("same", "same padding", SAME),
                Variant("eight", "eight symmetries at prediction", (), EIGHT),
                Variant("momentum", "momentum 0.9, ten times the learning rate", ("--lr", "0.03", *MOMENTUM)),
            ),
        ),
    )
}


@dataclass(frozen=True)
class Run:
    """One variant with one seed: where it is stored, and its two commands.

    The first command trains; the second scores the weights after the last step. So the held-out images, which
    are predicted only once, in the end, play no part in choosing the weights.
    """

    task: Task
    variant: Variant
    seed: int
    steps: int
    data: Path
    runs: Path

    @property
    def name(self) -> str:
        """The name for people."""
        return f"{self.task.title}; {self.variant.title}; seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The training's folder, the same for all variants that train alike."""
        first = next(other for other in self.task.variants if other.train == self.variant.train)
        return self.runs / f"{self.task.name}-{first.name}-{self.steps}-{self.seed}"

    @property
    def scores(self) -> Path:
        """The folder that tinyunet.evaluate writes."""
        return self.runs / f"{self.task.name}-{self.variant.name}-{self.steps}-{self.seed}-scores"

    @property
    def options(self) -> tuple[str, ...]:
        """Everything that decides the scores: the options of both commands, without names of files."""
        return (*self._training, *self.variant.evaluate)

    @property
    def _training(self) -> tuple[str, ...]:
        length = ("--steps", str(self.steps), "--validate-every", str(self.steps), "--seed", str(self.seed))
        # The parts of the paper's recipe are taken away; with the default recipe, other parts are there.
        recipe = ("--recipe", "paper")
        return (*recipe, "--holdout", self.task.holdout, *self.task.train, *self.variant.train, *length)

    @property
    def train(self) -> tuple[str, ...]:
        """Arguments of tinyunet.train."""
        return ("--data", str(self.data / self.task.file), *self._training, "--out", str(self.folder))

    @property
    def evaluate(self) -> tuple[str, ...]:
        """Arguments of tinyunet.evaluate."""
        checkpoint = str(self.folder / "last.safetensors")
        return (checkpoint, *self.variant.evaluate, "--out", str(self.scores), "--pictures", "0")

    @property
    def commands(self) -> tuple[str, str]:
        """Both commands as they are typed."""
        return (
            shlex.join(("python", "-m", "tinyunet.train", *self.train)),
            shlex.join(("python", "-m", "tinyunet.evaluate", *self.evaluate)),
        )


@dataclass(frozen=True)
class Comparison:
    """A run of tinyunet.compare: the three networks with one seed, on the images of a task."""

    task: Task
    seed: int
    minutes: float
    data: Path
    runs: Path

    @property
    def name(self) -> str:
        """The name for people."""
        return f"U-Net, FCN and sliding window; seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The folder that tinyunet.compare writes."""
        return self.runs / f"compare-{self.minutes:g}-{self.seed}"

    @property
    def options(self) -> tuple[str, ...]:
        """Everything that decides the scores, except the machine's speed."""
        where = ("--holdout", self.task.holdout, *self.task.variants[0].train)
        return (*where, "--minutes", f"{self.minutes:g}", "--seed", str(self.seed))

    @property
    def compare(self) -> tuple[str, ...]:
        """Arguments of tinyunet.compare."""
        return ("--data", str(self.data / self.task.file), *self.options, "--out", str(self.folder))

    @property
    def commands(self) -> tuple[str]:
        """The command as it is typed."""
        return (shlex.join(("python", "-m", "tinyunet.compare", *self.compare)),)
