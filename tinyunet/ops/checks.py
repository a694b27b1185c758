"""Checks that ops share: the axes, dtypes and channels of their inputs, before a kernel sees them."""

from __future__ import annotations

from tinyunet.autograd import Tensor
from tinyunet.errors import DtypeError, ShapeError, describe

AXES = {
    "x": "N H W C",
    "upsampled": "N H W C",
    "skip": "N H W C",
    "logits": "N H W K",
    "weight": "K K C F",
    "bias": "F",
    "scale": "C",
    "shift": "C",
}


def require_axes(op: str, **tensors: Tensor) -> None:
    """Raise a ShapeError unless each tensor has the number of axes that belongs to its name."""
    for name, tensor in tensors.items():
        axes = AXES[name]
        if len(tensor.shape) != len(axes.split()):
            raise ShapeError(
                f"{op}: {name} has {len(tensor.shape)} axes, expected {len(axes.split())}: {axes}",
                {name: describe(tensor)},
                f"give {name} the axes {axes}, for instance with numpy.newaxis",
            )


def require_one_dtype(op: str, **tensors: Tensor | None) -> None:
    """Raise a DtypeError unless all tensors that are not None have the same dtype."""
    dtypes = {name: tensor.dtype for name, tensor in tensors.items() if tensor is not None}
    if len(set(dtypes.values())) > 1:
        raise DtypeError(f"{op}: the inputs have different types", dtypes, "convert them with .astype()")


def require_channels(op: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise a ShapeError unless weight (…, C, F) fits the channels of x, and bias those of weight."""
    if weight.shape[2] != x.shape[3]:
        raise ShapeError(
            f"{op}: weight expects {weight.shape[2]} input channels, x has {x.shape[3]}",
            {"x": describe(x, AXES["x"]), "weight": describe(weight, AXES["weight"])},
            "make weight.shape[2] equal x.shape[3]",
        )
    if bias is not None and bias.shape != weight.shape[3:]:
        raise ShapeError(
            f"{op}: bias must have one value for each of the {weight.shape[3]} output channels",
            {"weight": describe(weight, AXES["weight"]), "bias": describe(bias, AXES["bias"])},
            "make bias.shape equal weight.shape[3:]",
        )
