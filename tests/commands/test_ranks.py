"""Training on several processes: the same bits for any number of them, and every end is one for all."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinyunet.errors import OptionError, RunError
from tinyunet.train import Options, _require_work
from tinyunet.training import gpus, mpi
from tinyunet.training.checkpoint import load_checkpoint
from tinyunet.training.config import TrainConfig
from tinyunet.training.ranks import Ranks

MPIEXEC = Path(sys.executable).with_name("mpiexec")
needs_mpi = pytest.mark.skipif(
    not (MPIEXEC.exists() and find_spec("mpi4py")), reason="pip install mpi4py mpich"
)
TIMEOUT = 250


def start(processes, *words, code=None):
    """Start ranks of the training, or of other code, with one thread each."""
    what = ["-c", code] if code else ["-m", "tinyunet.train"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PMI_RANK", "PMI_SIZE")}
    return subprocess.Popen(
        [MPIEXEC, "-n", str(processes), sys.executable, *what, *map(str, words)],
        env={**environment, "NUMBA_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """Exit status, standard output and standard error."""
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def arrays(path):
    checkpoint = load_checkpoint(path)
    parts = {"weight": checkpoint.weights, **checkpoint.optimiser}
    bits = {(part, name): array.tobytes() for part, each in parts.items() for name, array in each.items()}
    return bits, checkpoint.progress, checkpoint.step


# As between machines: gradients travel during the backward pass. In many parts, though the network is small.
BETWEEN_MACHINES = """
import sys
from functools import partialmethod
from tinyunet import train
from tinyunet.training import mpi_ranks
mpi_ranks.PART = 100
mpi_ranks.MpiRanks.__init__ = partialmethod(mpi_ranks.MpiRanks.__init__, background=True)
train.main(sys.argv[1:])
"""


@needs_mpi
def test_any_number_of_processes_gives_the_same_bits(command, data, tiny, tmp_path):
    """Three of them share four tiles for two steps, two go on; and one process makes all steps."""
    words = ["--batch", "4", "--dropout", "0.5", "--normalisation", "batch"]
    assert command("train", "--data", data, "--out", "alone", *tiny, *words)[0] == 0
    two_steps = ["--data", data, "--out", "run", *tiny, *words, "--steps", "2"]
    status, out, err = ended(start(3, *two_steps, code=BETWEEN_MACHINES))
    assert status == 0, err
    assert out.count("finished at step 2") == 1
    status, out, err = ended(start(2, "--resume", "run", "--steps", "4"))
    assert status == 0, err
    for name in ("last.safetensors", "best.safetensors"):
        assert arrays(tmp_path / "run" / name) == arrays(tmp_path / "alone" / name)
    texts = [(tmp_path / run / "log.jsonl").read_text() for run in ("run", "alone")]
    logs = [[json.loads(line) for line in text.splitlines()] for text in texts]
    made = [[(r["step"], r["loss"], r["folded"]) for r in log if r["event"] == "step"] for log in logs]
    assert made[0] == made[1]
    assert [r["processes"] for r in logs[0] if r["event"] == "started"] == [3, 2]


# GPUs are pretended, and so is NCCL. Gradients travel in many parts.
WITH_GPUS = r"""
import sys
import pretended_cuda, pretended_nccl
from tinyunet import train
from tinyunet.training import gpus
gpus.PART = 100
pretended_nccl.install(available=sys.argv[1] == "nccl")
train.main(sys.argv[2:])
used, sent = " ".join(map(str, pretended_cuda.used)), len(pretended_nccl.messages)
sys.__stderr__.write(f"GPUs {used} messages {sent}\n")  # at once: the processes share it
"""


@needs_mpi
def test_each_process_has_a_gpu_and_the_bits_are_those_of_one(data, tiny, tmp_path, emulated, monkeypatch):
    """Also where gradients travel through host memory."""
    pytest.importorskip("cupy", reason="CuPy is not installed: nothing was run on it")
    folders = [str(Path(__file__).parents[1] / "helpers"), *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    words = ["--data", data, *tiny, "--batch", "4", "--normalisation", "batch"]
    words += ["--fixed-statistics", "0.5", "--backend", "cuda"]
    ways = {"alone": (1, "none"), "nccl": (3, "nccl"), "host": (2, "none")}
    for name, (processes, transport) in ways.items():
        status, out, err = ended(start(processes, transport, *words, "--out", name, code=WITH_GPUS))
        assert status == 0, err
        used = sorted(line for line in err.splitlines() if line.startswith("GPUs"))
        if processes == 1:
            continue
        assert [line.split()[1:-1] for line in used] == [[f"{n}", "messages"] for n in range(processes)]
        assert all((int(line.split()[-1]) > 20) == (name == "nccl") for line in used)
        assert "rank 1 is PID" in out
        assert "with GPU 0000:01:00.0" in out
        assert ("between GPUs: NCCL" if name == "nccl" else "between GPUs: host memory") in out
    for name in ("nccl", "host"):
        of_two, of_one = (arrays(tmp_path / run / "last.safetensors") for run in (name, "alone"))
        assert of_two == of_one


class ThreeRanks(Ranks):
    """What three processes say of themselves, the last of which is this one."""

    size, number = 3, 2

    def __init__(self, *others):
        self._others = list(others)

    def from_all(self, value):
        said = self._others.pop(0)
        return [*said, value]


@pytest.mark.parametrize(
    ("gpus_of_others", "versions_of_others", "reason"),
    [
        (["0000:02:00.0", "0000:03:00.0"], [23203, None], "rank 1 has no NCCL"),
        (
            ["0000:02:00.0", "0000:01:00.0"],
            [23203, 23203],
            "2 processes share the GPU 0000:01:00.0",
        ),
        (["0000:02:00.0", "0000:03:00.0"], [23203, 22807], "versions of NCCL differ: 23203, 22807, 23203"),
    ],
)
def test_gradients_go_through_host_memory_where_nccl_cannot(
    monkeypatch, gpus_of_others, versions_of_others, reason
):
    monkeypatch.setattr(gpus, "_nccl", lambda: SimpleNamespace(get_version=lambda: 23203))
    monkeypatch.setattr(gpus, "_machine", lambda: "here")
    ranks = ThreeRanks([("here", gpu) for gpu in gpus_of_others], versions_of_others)
    communicator, transport = gpus.connect(ranks, "0000:01:00.0")
    assert communicator is None
    assert reason in transport


def test_the_gpus_of_each_machine_are_given_to_its_processes_in_their_order(monkeypatch):
    taken = []

    def device(number):
        return SimpleNamespace(use=lambda: taken.append(number), pci_bus_id=f"{number}")

    cuda = SimpleNamespace(Device=device, runtime=SimpleNamespace(getDeviceCount=lambda: 2))
    monkeypatch.setattr(gpus, "array_library", lambda: SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(gpus, "_machine", lambda: "here")
    for machines in (["there", "there"], ["here", "there"], ["here", "here"]):
        gpus.take_one(ThreeRanks(machines))
    assert taken == [0, 1, 0]


@needs_mpi
def test_a_cross_validation_has_the_same_bits(command, data, tiny_fold, tmp_path):
    """Also where the second fold begins anew, and the first is left as it is."""
    words = [*tiny_fold, "--batch", "2", "--folds", "2"]
    status, out, _ = command("train", "--data", data, "--out", "alone", *words)
    assert status == 0
    table = out[out.index("2 folds; each image") :]
    status, out, err = ended(start(2, "--data", data, "--out", "run", *words))
    assert status == 0, err
    assert table in out
    (tmp_path / "run" / "fold-1" / "last.safetensors").unlink()
    status, out, err = ended(start(2, "--resume", "run"))
    assert status == 0, err
    assert out.count("finished at step") == 1
    for fold in ("fold-0", "fold-1"):
        assert arrays(tmp_path / "run" / fold / "last.safetensors") == arrays(
            tmp_path / "alone" / fold / "last.safetensors"
        )


@needs_mpi
def test_ctrl_c_stops_all_after_the_same_step(data, tiny, tmp_path):
    """It reaches mpiexec, which passes it on."""
    process = start(2, "--data", data, "--out", "run", *tiny, "--batch", "2", "--steps", "100000")
    log = tmp_path / "run" / "log.jsonl"
    until = time.monotonic() + TIMEOUT
    while not (log.exists() and '"step": 1,' in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    status, out, err = ended(process)
    assert status == 128 + signal.SIGINT, err
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [record for record in records if record["event"] == "step"]
    assert f"stopped after step {len(steps)}; go on with --resume run" in out
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").step == len(steps)


RAISES = """
import sys
from functools import partialmethod
from tinyunet import train
from tinyunet.training import mpi_ranks
mpi_ranks.MpiRanks.__init__ = partialmethod(mpi_ranks.MpiRanks.__init__, background=True)
from tinyunet.training.trainer import Trainer
prepared = Trainer._prepared
def fail(trainer, sample, step, tile):
    if step == 2 and trainer.ranks.number == 1:
        raise RuntimeError("a broken fan")
    return prepared(trainer, sample, step, tile)
Trainer._prepared = fail
train.main(sys.argv[1:])
"""


@needs_mpi
def test_a_rank_that_fails_is_named_and_ends_the_job(command, data, tiny, tmp_path):
    """The others wait for its gradients; the last checkpoint is there to go on from."""
    words = [*tiny, "--batch", "2", "--validate-every", "1"]
    status, _, err = ended(start(2, "--data", data, "--out", "run", *words, code=RAISES))
    assert status == 1
    assert "error: rank 1 of 2 on " in err
    assert "RuntimeError: a broken fan" in err
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").step == 2
    for _ in range(40):  # the first rank, which has locked the folder, may still be ending
        status, _, err = command("train", "--resume", "run")
        if status == 0:
            break
        time.sleep(0.5)
    assert status == 0, err


class Four(Ranks):
    """What the first of four processes sees; the third has other facts."""

    size = 4

    def __init__(self, others=None):
        self.others = others or {}

    def from_all(self, value):
        host, own = value
        theirs = {name: fact for name, fact in {**own, **self.others}.items() if fact is not None}
        return [value, value, (host, theirs), value]


def test_more_processes_than_tiles_are_refused():
    _require_work(Options(config=TrainConfig(batch=4)), Four())
    with pytest.raises(OptionError, match=r"(?s)--batch +3\n.*processes +4\n.*--batch 4 or more"):
        _require_work(Options(config=TrainConfig(batch=3)), Four())


def test_processes_that_would_round_differently_are_refused():
    facts = mpi.facts({"train": {"a": [1, 2]}, "held out": {}})
    mpi.require_alike(Four(), facts)
    with pytest.raises(RunError, match=r"differ in numba") as error:
        mpi.require_alike(Four({"numba": "0.1"}), facts)
    assert f"  {facts['numba']}\n" in str(error.value)
    assert "rank 2 on " in str(error.value)
    other = {"its instruction sets": frozenset({"sse2"})}
    with pytest.raises(RunError, match=r"(?s)rank 0.*avx.*rank 2.*none besides the common ones"):
        mpi.require_alike(Four(other), {**facts, "its instruction sets": frozenset({"sse2", "avx2"})})
    with_gpu = {"backend": "cuda", "CuPy": "14.2.0", **{n: v for n, v in facts.items() if n != "backend"}}
    with pytest.raises(RunError, match="differ in backend"):
        mpi.require_alike(Four({"backend": "numba", "CuPy": None}), with_gpu)
    with pytest.raises(RunError, match=r"images and labels.*\n.*checksum"):
        mpi.require_alike(Four(mpi.facts({"train": {"a": [1, 3]}})), facts)


def test_a_launcher_without_mpi4py(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(OptionError, match=r"PMI_RANK +1\n(?s:.*)pip install -e '\.\[mpi\]'"), mpi.job():
        pass
