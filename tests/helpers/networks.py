"""Networks in all their forms, with weights of which none can be forgotten unnoticed."""

import numpy as np
from oracle import randomised

import tinyunet as tu

UNETS = [
    # variant, padding, normalisation, depth
    ("paper", "valid", "none", 0),
    ("paper", "valid", "none", 1),
    ("release", "valid", "none", 2),
    ("paper", "valid", "batch", 2),
    ("release", "same", "batch", 2),
    ("paper", "same", "none", 3),
    ("release", "valid", "batch", 3),
    ("paper", "valid", "none", 4),
    ("paper", "same", "batch", 5),
]
MODELS = {
    **{
        f"{variant}-{padding}-{normalisation}-{depth}": {
            "variant": variant, "padding": padding, "normalisation": normalisation, "depth": depth
        }
        for variant, padding, normalisation, depth in UNETS
    },
    "fcn-3": {"model": "fcn", "depth": 3},
    "fcn-5": {"model": "fcn", "depth": 5},
}  # fmt: skip


def with_statistics(model, seed=0):
    """Random biases, scales and statistics; scores well below 1, so that those of other images are, too."""
    rng = np.random.default_rng(seed)
    randomised(model, seed)
    for name, array in model.state_dict().items():
        if name.endswith((".scale", ".variance")):
            array[...] = rng.uniform(0.5, 2, array.shape)
        elif name.endswith((".shift", ".mean")):
            array[...] = 0.3 * rng.standard_normal(array.shape)
    model.eval()
    side = model.geometry.smallest
    with tu.no_grad():
        scores = model(tu.Tensor(rng.standard_normal((1, side, side, model.in_channels), dtype=np.float32)))
    largest = np.abs(scores.numpy()).max()
    for layer in model.scores if isinstance(model.scores, list) else [model.scores]:
        for parameter in layer.parameters():
            parameter.data /= 8 * largest
    return model
