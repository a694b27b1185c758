"""The machine and the versions, as a record of a result has them."""

import json
import os
import platform

import numba
import numpy as np

import tinyunet
from tinyunet.reporting import environment


def test_the_record_is_of_this_process():
    machine = environment.machine()
    assert 1 <= machine["cores"] <= os.cpu_count()
    assert machine["threads"] == numba.get_num_threads()
    assert machine["processor"]
    assert platform.system() in machine["system"] or platform.system() == "Darwin"
    versions = environment.versions()
    assert (versions["tinyunet"], versions["numpy"]) == (tinyunet.__version__, np.__version__)
    assert json.loads(json.dumps({**machine, **versions})) == {**machine, **versions}


def test_a_processor_without_proc(monkeypatch):
    """As on macOS and Windows."""

    def missing(self):
        raise FileNotFoundError

    monkeypatch.setattr(environment.Path, "read_text", missing)
    assert environment.processor() == (platform.processor() or platform.machine())
