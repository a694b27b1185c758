"""What all commands share: names, exit status, Ctrl-C, and text that the terminal cannot show."""

import io
import os
import subprocess
import sys

import pytest
from children import default_signals
from messages import says

from tinyunet import command_line


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["tarin"], 2), ([], 2), (["--help"], 0), (["-h"], 0), (["train", "--stepps"], 2)],
)
def test_the_command_of_commands(arguments, status, monkeypatch, capsys):
    from tinyunet.__main__ import main

    monkeypatch.setattr(sys, "argv", ["tinyunet", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == status
    said, silent = (err, out) if status else (out, err)
    assert not silent
    assert ("train" in said and "predict" in said) or "stepps" in said


def test_as_a_module():
    """With the exit status and without a traceback, as the shell sees it."""
    for module, arguments in (
        ("tinyunet", ["train", "--data", "celsl"]),
        ("tinyunet.train", ["--data", "celsl"]),
    ):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 2
        says(done.stderr, "celsl")
        assert "Traceback" not in done.stderr


STUB = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to a process on Windows")
@pytest.mark.parametrize(
    "arguments", [["-m", "tinyunet.train"], ["-m", "tinyunet", "train"], ["-c", "import tinyunet"]]
)
def test_ctrl_c_while_packages_are_imported(tmp_path, arguments):
    """A command ends without a traceback; a program that imports tinyunet gets its KeyboardInterrupt."""
    (tmp_path / "numba.py").write_text(STUB)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
        preexec_fn=default_signals,
    )
    if arguments[0] == "-m":
        assert (done.returncode, done.stderr) == (130, "")
    else:
        assert "KeyboardInterrupt" in done.stderr


def test_text_that_the_terminal_cannot_show(monkeypatch):
    """Results are worth more than an arrow or a name that is no UTF-8."""
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="ascii"))
    command_line.run(lambda: print("iou \N{DOWNWARDS ARROW} \udcff.png", flush=True))
    assert shown.getvalue().split() == [b"iou", b"v", rb"\udcff.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes names that are not UTF-8")
def test_names_that_are_not_utf_8(command, data, tiny, tmp_path):
    name = os.fsdecode(b"a\xff")
    for part in ("images", "labels"):
        (data / part / "1.png").rename(data / part / f"{name}.png")
    run = tmp_path / os.fsdecode(b"run\xfe")
    for arguments in (
        ("train", "--data", data, "--out", run, *tiny, "--holdout", "1-2"),
        ("train", "--resume", run),
        ("doctor", data, "--tile", "16", "--depth", "1"),
        ("predict", run, data, "--out", "results"),
        ("evaluate", run, "--out", "scores"),
        ("evaluate", "results", data, "--kind", "binary"),
        ("report", run),
    ):
        status, _, message = command(*arguments)
        assert status == 0, message
    assert (tmp_path / "results" / f"{name}_overlay.png").is_file()
    assert "a?" in (run / "report.html").read_text(encoding="utf-8")
