"""The engine needs NumPy, SciPy and Numba only: files, plots and command lines are imported when used."""

import os
import subprocess
import sys

BLOCKED = [
    "tifffile",
    "imagecodecs",
    "PIL",
    "matplotlib",
    "skimage",
    "tyro",
    "tqdm",
    "jinja2",
    "safetensors",
    "threadpoolctl",
    "zarr",
    "distributed",
    "mpi4py",
]

TRAIN_AND_PREDICT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())

import numpy as np
import tinyunet as tu

model = tu.UNet(base_channels=2, depth=1, seed=0)
optimiser = tu.SGD(model.parameters(), lr=0.01)
image = np.random.default_rng(0).standard_normal((1, 44, 44, 1)).astype(np.float32)
loss = tu.softmax_cross_entropy(model(tu.Tensor(image)), np.zeros((1, 28, 28), int))
loss.backward()
optimiser.step()
scores = tu.predict_tiled(model, image[0], tile=28)
assert scores.shape == (44, 44, 2), scores.shape
assert not set(sys.argv[1:]) & set(sys.modules)
"""


def test_training_and_prediction_import_nothing_else():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", TRAIN_AND_PREDICT, *BLOCKED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
