"""Sample data for napari's menu."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyunet.data import synthetic_cells

IMAGES, SIZE = 5, 256


def cells() -> list[tuple[np.ndarray, dict[str, Any], str]]:
    """Return a stack of synthetic cells, and the labels that number the cells of each slice."""
    images = synthetic_cells(n=IMAGES, size=SIZE)
    assert images.labels is not None
    return [
        (np.stack(images.images)[..., 0], {"name": "cells"}, "image"),
        (np.stack(images.labels), {"name": "cells, labelled", "opacity": 0.4}, "labels"),
    ]
