"""What all checks together say of a set, and what a diagnosis needs for it."""

import numpy as np
import pytest
from findings import TINY, setup, textures

from tinyunet import diagnosis
from tinyunet.diagnosis import CHECKS
from tinyunet.models import MODELS, make_network
from tinyunet.nn import Parameter
from tinyunet.sampling.augment import Augmentation


def test_a_sound_set_gives_notes_only():
    findings = diagnosis.diagnose(setup())
    assert {finding.severity for finding in findings} == {"note"}
    assert diagnosis.warnings(setup()) == []


def test_gravest_first_and_printed_as_errors_are():
    images = textures(4)
    images[3], images[1] = images[0], np.full_like(images[1], 7)
    findings = diagnosis.diagnose(setup(images, tile=100))
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities, key=["problem", "warning", "note"].index)
    assert set(severities) == {"problem", "warning", "note"}
    assert diagnosis.warnings(setup(images, tile=100)) == findings[: -severities.count("note")]
    assert str(findings[0]).splitlines()[:2] == [
        "problem: 1 image with a single grey value",
        "  images  1: i1",
    ]


def test_the_example_is_the_sample_with_the_most_border():
    samples = diagnosis.example_samples(setup())
    as_filed = setup(augmentation=Augmentation.off()).sampler
    weights = [as_filed.sample(step).weight.sum() for step in range(3)]
    assert samples["as in the file"].weight.sum() == max(weights) > min(weights)
    assert samples["augmented"].name == samples["as in the file"].name


def test_no_network_is_made(monkeypatch):
    """Looking at images needs no weights, of which the paper's network has 31 million."""

    def fail(self, *arguments, **options):
        raise AssertionError("a weight was made")

    monkeypatch.setattr(Parameter, "__init__", fail)
    for model in MODELS:
        small = setup(model=model, depth=3 if model == "fcn" else 1)
        assert diagnosis.diagnose(small)
        assert diagnosis.example_samples(small)


@pytest.mark.parametrize("model", MODELS)
def test_tiles_are_those_of_the_network(model):
    small = setup(model=model, depth=3)
    network = make_network(**small.model_options)
    assert small.geometry == network.geometry
    assert small.output_size == network.geometry.output_size(small.input_size) >= TINY["tile"]


def test_every_check_is_in_the_list():
    assert set(CHECKS) == {value for name, value in vars(diagnosis).items() if name.startswith("check_")}
