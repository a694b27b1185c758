"""Propose recipe, depth, tile, steps and border weight for a set of images, each with its reason.

The rules are few, and each says where it comes from. Where the images do not decide, the default stays, and
the reason says so. A rule looks at `Measures` of the images to train on: those held out decide nothing.

The classes are never balanced by a proposal, however rare one is: on the results page the balance doubled the
pixel error on membranes and was not better on nuclei, and it has no comparison on a set with a rare class.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from tinyunet.data import ImageSet
from tinyunet.diagnosis.labels import RARE
from tinyunet.diagnosis.measures import Measures, measure
from tinyunet.diagnosis.walls import BORDER_WEIGHT, find_walls
from tinyunet.models import MODELS
from tinyunet.models.geometry import Geometry
from tinyunet.sampling import WeightMap
from tinyunet.training import recipes
from tinyunet.training.config import TrainConfig, network_options

DECIDED = ("depth", "tile", "steps", "validate_every")  # the options that a proposal gives values
DEEPEST = 4  # poolings, the paper's: more of them were not measured
SHALLOWEST = 2  # poolings, unless the images are too small
READABLE = 0.2  # contrast at which the means of two equal classes are one standard deviation of noise apart
PASSES = 10  # over the area of the training images
FEWEST_STEPS, MOST_STEPS = 300, 3000
VALIDATIONS = 10


@dataclass(frozen=True)
class Proposal:
    """Options for a set of images, and why.

    Attributes
    ----------
    config : TrainConfig
        With values for all of `DECIDED`, but for the steps where minutes decide them.
    options : mapping of str to str
        What the proposal decided, as it is typed: "--tile" and its value.
    reasons : mapping of str to str
        A line for each of these, for options that were given, and for what was left as it is.
    """

    config: TrainConfig
    options: Mapping[str, str]
    reasons: Mapping[str, str]

    def __str__(self) -> str:
        heads = [f"{name} {self.options.get(name, '')}".strip() for name in self.reasons]
        width = max(map(len, heads))
        lines = [f"  {head:<{width}}  {why}" for head, why in zip(heads, self.reasons.values(), strict=True)]
        return "\n".join(["proposed for these images:", *lines])

    def command(self, basis: TrainConfig) -> str:
        """The command that trains with these options; the others are those in which `basis` has values."""
        defaults = replace(recipes.recipe(model=basis.model), model=TrainConfig.model)
        words = words_of(basis, defaults)
        for name, value in self.options.items():
            words += [name, value]
        return shlex.join(["python", "-m", "tinyunet.train", *words])


def propose(
    images: ImageSet,
    config: TrainConfig,
    undecided: Collection[str] = (*DECIDED, BORDER_WEIGHT),
    *,
    minutes: float | None = None,
) -> Proposal:
    """Propose the options of a training on these images.

    Parameters
    ----------
    images : ImageSet, with labels
        Those to train on.
    config : TrainConfig
        Of the default recipe, with the options that were given.
    undecided : collection of str
        Which of `DECIDED` and `BORDER_WEIGHT` were not given. Those that were keep the values of `config`.
    minutes : float, optional
        How long to train: a trial then decides the steps, and not the images.
    """
    found = measure(images)
    options: dict[str, str] = {"--recipe": "default"}
    reasons = {"--recipe": _why_this_recipe(config)}
    if minutes is not None:
        reasons["--minutes"] = f"{minutes:g}, as given: a trial finds how many steps fit"
    for name in DECIDED if minutes is None else ("depth", "tile"):
        option = f"--{name.replace('_', '-')}"
        if name not in undecided:
            if name != "validate_every":
                reasons[option] = f"{getattr(config, name)}, as given"
            continue
        value, reason = RULES[name](found, config)
        if value is not None:
            decided: dict[str, Any] = {name: value}
            config = replace(config, **decided)
            options[option] = str(value)
        reasons[option] = reason
    weight, reasons[f"--{BORDER_WEIGHT}"] = _border_weight(images, config, BORDER_WEIGHT in undecided)
    if weight:
        config = replace(config, weights=replace(config.weights, w0=weight))
        options[f"--{BORDER_WEIGHT}"] = f"{weight:g}"
    reasons["class balance"] = _why_no_balance(found, config)
    return Proposal(config, options, reasons)


def _why_this_recipe(config: TrainConfig) -> str:
    if config.model != "unet":
        return f"the paper's values are the only ones measured with the network {config.model}"
    return "learned fastest on most sets measured; nothing in the images speaks for another"


def _depth(found: Measures, config: TrainConfig) -> tuple[int | None, str]:
    """Choose the poolings: the fewest whose field of view holds the objects and their surroundings.

    From the rim of an object the network is to see all of it, with as much again beyond: twice the width to
    each side. It is the half of this view near its centre that counts most (Luo et al., Understanding the
    effective receptive field, NeurIPS 2016). Fewer poolings lose less of a tile's border and have a quarter
    of the weights each. Where a pixel's grey value says little about its class, as in noise or in
    interference contrast, only the surroundings can, and the paper's depth stays.

    An image that is not larger than the view to each side would mostly be seen mirrored: the depth then falls
    until it is, down to 0.
    """
    if config.model != "unet":
        return None, f"the default of the network {config.model}: others were not measured"
    views = {depth: geometry_of(config, depth).halo for depth in range(DEEPEST + 1)}
    needed = 2 * found.width
    enough = [depth for depth in range(SHALLOWEST, DEEPEST + 1) if views[depth] >= needed]
    objects = f"objects up to {found.width:.0f} px wide"
    if not found.width:
        depth, why = DEEPEST, "the paper's: no object was found to measure"
    elif found.contrast < READABLE:
        depth = DEEPEST
        why = f"the paper's: grey values explain only {100 * found.contrast:.0f} % of the classes"
    elif not enough:
        depth, why = DEEPEST, f"the paper's, for {objects}; a deeper one was not measured"
    else:
        depth, why = min(enough), f"sees {views[min(enough)]} px to each side, for {objects}"
    fitting = max((d for d, view in views.items() if view < found.side), default=0)
    if fitting < depth:
        return fitting, f"with more, images of {found.side} px would be seen mirrored for the most part"
    return depth, why


def _tile(found: Measures, config: TrainConfig) -> tuple[int, str]:
    """Choose the tile: the default, or the largest that fits into nine of ten images.

    What reaches beyond an image is mirrored, and teaches little. Below that the images do not decide: a
    larger tile takes longer, and less of its input is lost at the border of valid convolutions (54 % at the
    paper's 572 → 388).
    """
    geometry = geometry_of(config, config.depth)
    default = TrainConfig.tile
    below, above = geometry.nearest_inputs(min(default, found.side) + geometry.shrink)
    size = below if below and below > geometry.shrink else above
    tile = size - geometry.shrink
    used = f"{100 * tile**2 / size**2:.0f} % of its input are predicted"
    if found.side < default:
        return tile, f"the largest that fits into images of {found.side} px; {used}"
    return tile, f"the default: the images, from {found.side} px, do not decide; {used}"


def _steps(found: Measures, config: TrainConfig) -> tuple[int, str]:
    """Choose the steps: ten passes over the images' area in tiles, within limits.

    A step sees `batch` tiles, so this is how many differ before augmentation. On the sets of the results page
    the default recipe needs some 300 steps however few the images are, and goes on getting better, more and
    more slowly, for thousands; the upper limit only bounds the time. How long is enough they do not say.
    """
    tiles = max(1, math.ceil(found.pixels / config.tile**2))
    passes = math.ceil(PASSES * tiles / config.batch)
    steps = min(max(passes, FEWEST_STEPS), MOST_STEPS)
    area = f"{found.images} image{'s' if found.images > 1 else ''} with the area of {tiles} "
    area += "tiles" if tiles > 1 else "tile"
    if steps == passes:
        why = f"{PASSES} passes over {area}"
    else:
        why = f"the {'fewest' if steps == FEWEST_STEPS else 'most'} ever proposed, for {area}"
    return steps, f"{why}; longer is better, say --minutes 10"


def _validate_every(found: Measures, config: TrainConfig) -> tuple[int, str]:
    """Validate ten times, as with --minutes: enough to see the curve."""
    return math.ceil(config.steps / VALIDATIONS), f"{VALIDATIONS} validations"


RULES = {"depth": _depth, "tile": _tile, "steps": _steps, "validate_every": _validate_every}


def _border_weight(images: ImageSet, config: TrainConfig, is_undecided: bool) -> tuple[float, str]:
    """Choose the paper's weight of the borders for objects that walls part, and 0 for others."""
    given = config.weights.w0
    if config.model != "unet" or given or not is_undecided:
        return 0.0, f"{given:g}, as {'given' if config.model == 'unet' else 'in the paper'}"
    if walls := find_walls(images):
        return WeightMap().w0, f"{walls}, which a gap would join"
    return 0.0, "off: no thin walls part the objects; compare 10 where objects that touch are joined"


def _why_no_balance(found: Measures, config: TrainConfig) -> str:
    """Say that the classes are not balanced: see the module's text."""
    if config.weights.class_balance:
        return "on, as given" if config.model == "unet" else "on, as in the paper"
    rarest = f"the rarest class has {100 * found.rarest:.2g} %"
    if found.rarest < RARE:
        return f"off: {rarest}, but no measurement shows that balance helps; compare --weights.class-balance"
    return f"off: {rarest}; on the sets measured, balance did not raise the mean IoU"


def geometry_of(config: TrainConfig, depth: int | None) -> Geometry:
    """The geometry of the configuration's network at another depth; None is the network's default."""
    return MODELS[config.model].geometry_of(network_options(replace(config, depth=depth)))


def words_of(options: Any, defaults: Any, prefix: str = "--") -> list[str]:
    """The options that differ from the defaults, as they are typed."""
    words: list[str] = []
    for f in fields(options):
        value, name = getattr(options, f.name), f.name.replace("_", "-")
        default = getattr(defaults, f.name)
        if value == default:
            continue
        if is_dataclass(value):
            words += words_of(value, default, f"{prefix}{name}.")
        elif isinstance(value, bool):
            words.append(f"{prefix}{name}" if value else f"{prefix}no-{name}")
        elif isinstance(value, tuple):
            words += [word for item in value for word in (f"{prefix}{name}", str(item))]
        else:
            words += [f"{prefix}{name}", str(value)]
    return words
