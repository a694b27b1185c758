"""Networks in all their forms."""

import pytest
from networks import MODELS


@pytest.fixture(params=MODELS)
def options(request):
    """The options of a network, as `make_network` takes them."""
    return {"in_channels": 2, "num_classes": 3, "base_channels": 2, "seed": 3, **MODELS[request.param]}
