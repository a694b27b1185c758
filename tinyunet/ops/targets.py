"""The target class and weight of each pixel in the form that both losses take, checked once in host memory.

A loss is "sum" or "mean", and pixels may be ignored. Both are folded into the weights before a kernel sees
them, so that every loss is the energy, the sum over the pixels of w · -log p: for the mean the weights are
divided by their sum, and an ignored pixel has weight 0. A training step that is captured as a CUDA graph gets
new arrays at each launch, and nothing in it depends on the weights at the time of its capture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinyunet.autograd import Tensor
from tinyunet.backend import to_backend, to_host
from tinyunet.errors import DataError, DtypeError, OptionError, ShapeError, describe
from tinyunet.ops.checks import AXES

NO_LABEL = -1  # the target of an ignored pixel, as kernels see it


def checked_pixels(
    op: str,
    target: NDArray[Any],
    weight: NDArray[Any] | None,
    classes: int,
    *,
    reduction: str = "mean",
    ignore_label: int | None = None,
    dtype: DTypeLike = np.float32,
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Check target and weight, and fold the reduction and ignored pixels into the weight.

    The result is for an op's `loss_of_checked` and a network's `loss`.

    Parameters
    ----------
    op : str
        The name of the op, for errors.
    target : integer array, shape (N, H, W)
    weight : array, shape (N, H, W), or None
    classes : int
    reduction, ignore_label
        As in `softmax_cross_entropy`.
    dtype : dtype
        The dtype of the scores, and so of the weights.

    Returns
    -------
    target : int32 array
        -1 for an ignored pixel.
    weight : array of dtype
        0 for an ignored pixel; for the mean, divided by the sum of all, or 0 if that is 0.

    Raises
    ------
    ShapeError
        The weights do not have the shape of the target.
    OptionError
        The reduction is unknown.
    DtypeError
        The target is not of an integer type.
    DataError
        A target is not a class: the first such pixel is named.
    """
    target = to_host(target)
    weight = np.ones(target.shape) if weight is None else to_host(weight)
    if weight.shape != target.shape:
        raise ShapeError(
            f"{op}: the pixels' weights must have the N, H and W of the target",
            {"target": describe(target, "N H W"), "weights": describe(weight, "N H W")},
            "give each pixel of the target one weight",
        )
    if reduction not in ("mean", "sum"):
        raise OptionError(f"{op}: unknown reduction {reduction!r}", remedy="use 'mean' or 'sum'")
    target = _checked_target(op, target, classes, ignore_label)
    weight = np.where(target == NO_LABEL, 0, weight)
    total = weight.sum(dtype=np.float64) if reduction == "mean" else 1.0
    return target, np.multiply(weight, 1 / total if total else 0.0, dtype=dtype, order="C")


def _checked_target(
    op: str, target: NDArray[Any], classes: int, ignore_label: int | None
) -> NDArray[np.int32]:
    if not np.issubdtype(target.dtype, np.integer):
        raise DtypeError(
            f"{op}: target is {target.dtype}, expected an integer type",
            remedy="give class indices, not probabilities or one-hot vectors",
        )
    ignored = np.zeros(target.shape, bool) if ignore_label is None else target == ignore_label
    wrong = ((target < 0) | (target >= classes)) & ~ignored
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"{op}: target {target[place]} at {place} (n, row, column) is not a class",
            {
                "classes": f"0 to {classes - 1}",
                "wrong pixels": int(wrong.sum()),
                "ignore_label": ignore_label,
            },
            "map the labels to class indices, or name the value as ignore_label",
        )
    checked = np.array(target, np.int32, order="C")  # signed before -1 is written: masks are often uint8
    checked[ignored] = NO_LABEL
    return checked


def pixels_on_backend(op: str, target: Any, weight: Any, **scored: Tensor) -> tuple[Any, Any]:
    """Move checked pixels to where the backend computes. Nothing is read back.

    Parameters
    ----------
    op : str
    target, weight : array, shape (N, H, W)
        From `checked_pixels`.
    **scored : Tensor, shape (N, H, W, any)
        The map that the pixels belong to, under its name: logits=logits.

    Raises
    ------
    ShapeError
        Target or weight do not have the N, H, W of the map.
    """
    ((name_of_map, scores),) = scored.items()
    for name, array in (("target", target), ("the pixels' weights", weight)):
        if array.shape != scores.shape[:3]:
            raise ShapeError(
                f"{op}: {name} must have the N, H and W of the {name_of_map}",
                {name_of_map: describe(scores, AXES[name_of_map]), name: describe(array, "N H W")},
                f"crop {name} to the network's output: a valid network's is smaller than its input",
            )
    return to_backend(target), to_backend(weight, scores.dtype)
