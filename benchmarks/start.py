"""python -m benchmarks.start: from the command to the first finished step, and how long steps wait.

Runs `python -m tinyunet.train` on the synthetic cells at base width 16, twice, because the first start may
compile kernels. The clock runs from the start of the process until its log holds the first step. More steps
follow, and the log says how long each waited for its sample; the first three, whose samples could not be made
ahead, do not count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.step import processor

STEPS, WARMING_UP = 30, 3


def main() -> None:
    """Print both figures."""
    print(processor())
    for start in ("first", "second"):
        with tempfile.TemporaryDirectory() as folder:
            seconds, steps = follow(Path(folder) / "run")
        waited, whole = (sum(step[key] for step in steps[WARMING_UP:]) for key in ("waited", "seconds"))
        print(
            f"{start} start: {seconds:.2f} s to the first step; "
            f"then {whole / (STEPS - WARMING_UP):.3f} s per step, {waited / whole:.1%} of it waiting",
            flush=True,
        )


def follow(run: Path) -> tuple[float, list[dict[str, float]]]:
    """Return the seconds to the first step, and the first steps of the log."""
    command = [sys.executable, "-m", "tinyunet.train", "--base-channels", "16", "--out", str(run)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not logged(run):
            if process.poll() is not None:
                raise SystemExit(f"ended with status {process.returncode}: {' '.join(command)}")
            time.sleep(0.01)
        seconds = time.perf_counter() - begin
        while process.poll() is None and len(logged(run)) < STEPS:
            time.sleep(0.1)
        return seconds, logged(run)[:STEPS]
    finally:
        process.kill()
        process.wait()


def logged(run: Path) -> list[dict[str, float]]:
    """Return the steps in a run's log. A last line without a newline is still being written."""
    path = run / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in events if event["event"] == "step"]


if __name__ == "__main__":
    main()
