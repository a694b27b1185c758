"""What may be different when a run is resumed."""

from dataclasses import replace

import pytest

from tinyunet.errors import RunError
from tinyunet.training.config import TrainConfig
from tinyunet.training.resume import require_same_run

CONSTANT = {"schedule": "constant"}
BATCH = CONSTANT | {"normalisation": "batch"}


@pytest.mark.parametrize(
    "changes", [{"schedule": "poly"}, {"schedule": "cosine"}, BATCH | {"fixed_statistics": 0.5}], ids=str
)
def test_steps_on_which_earlier_ones_depend_cannot_change(changes):
    stored = TrainConfig(steps=100, **changes)
    require_same_run(stored, stored)
    with pytest.raises(RunError) as caught:
        require_same_run(stored, replace(stored, steps=200))
    assert "--steps 100" in str(caught.value)
    assert "--steps 200" in str(caught.value)


@pytest.mark.parametrize("changes", [CONSTANT, BATCH, CONSTANT | {"fixed_statistics": 0.25}], ids=str)
def test_other_runs_can_be_prolonged(changes):
    stored = TrainConfig(steps=100, **changes)
    require_same_run(stored, replace(stored, steps=200))
