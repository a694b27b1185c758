"""The names of the measures, and their values as text."""

from __future__ import annotations

from tinyunet.data import LabelKind


def lower_is_better(measure: str) -> bool:
    """Return True if 0 is the best value of a measure; otherwise 1 is."""
    return measure.endswith("error")


def headline_measure(kind: LabelKind) -> str:
    """The measure that orders the images, for this kind of labels."""
    return "average_precision" if kind == "instances" else "mean_iou"


def readable_name(measure: str) -> str:
    """A measure's name for people to read.

    >>> readable_name("mean_iou"), readable_name("v_rand"), readable_name("average_precision_0.5")
    ('mean IoU', 'V_Rand', 'average precision 0.5')
    """
    proper = {
        "v_rand": "V_Rand",
        "v_info": "V_Info",
        "v_rand_fine": "V_Rand, finer thresholds",
        "v_info_fine": "V_Info, finer thresholds",
        "rand_error": "Rand error",
        "seg": "SEG",
    }
    return proper.get(measure, measure.replace("_", " ").replace("iou", "IoU").replace("dice", "Dice"))


def format_value(value: float | None) -> str:
    """A measure's value for people to read: four decimals, six if it is small, as warping errors are.

    >>> format_value(0.81234), format_value(0.00123456), format_value(None)
    ('0.8123', '0.001235', '–')
    """
    if value is None:
        return "–"
    return f"{value:.4f}" if value == 0 or value >= 0.01 else f"{value:.6f}"
