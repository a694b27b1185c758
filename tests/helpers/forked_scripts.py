"""Scripts in processes that are forked from one which has imported what is slow to import."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path


class ScriptServer:
    """A process that has imported modules, and forks itself for each script that it is asked to run.

    A script finds these modules imported; in everything else it is in a process of its own.
    """

    def __init__(self, modules: list[str], environment: dict[str, str]):
        self.modules, self.environment = modules, environment
        self.process: subprocess.Popen[str] | None = None

    def run(self, script: Path) -> tuple[int, str, str]:
        """Run a script in its folder; return its exit status, and what it wrote to stdout and stderr."""
        outputs = [script.with_suffix(suffix) for suffix in (".stdout", ".stderr")]
        self.process = self.process or self.start()
        try:
            print(json.dumps([str(script), *map(str, outputs)]), file=self.process.stdin, flush=True)
            status = int(self.process.stdout.readline())
        except BaseException:  # the time of a test is over: the next one begins with a new process
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            raise
        return status, *(output.read_text(encoding="utf-8") for output in outputs)

    def start(self) -> subprocess.Popen[str]:
        """Start the process that imports the modules."""
        return subprocess.Popen(
            [sys.executable, __file__, *self.modules],
            env=os.environ | self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def serve(modules: list[str]) -> None:
    """Import modules, then run the script that each line of stdin names, and print its exit status."""
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin:
        job = json.loads(line)
        if not (child := os.fork()):
            become(*job)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(script: str, stdout: str, stderr: str) -> None:
    """Run a script as this process, and exit as `python script` does."""
    os.chdir(Path(script).parent)
    sys.argv, sys.path[0] = [script], str(Path(script).parent)
    for number, (path, mode) in enumerate([(os.devnull, "r"), (stdout, "w"), (stderr, "w")]):
        with open(path, mode) as file:
            os.dup2(file.fileno(), number)
    runpy.run_path(script, run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    serve(sys.argv[1:])
