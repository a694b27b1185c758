"""python -m tinyunet.watch: a page in the browser that shows trainings while they run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from tinyunet import command_line
from tinyunet.errors import OptionError


@dataclass(frozen=True)
class Options:
    """Show runs on a page in the browser that renews itself: curves, scores, predictions, the time left.

    It reads the runs' folders and writes nothing. Several runs are compared in the same charts. They may be
    running, finished, or not begun. Only this machine can open the page; from another one, through
    ssh -L 8572:localhost:8572 THIS-MACHINE. Ctrl-C ends it; trainings go on.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or a folder that holds several."""
    port: int = 8572
    """The page's port; 0 for any that is free."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise OptionError("no run is given", remedy="give its folder, such as runs/mine, or runs for all")
        if not 0 <= self.port < 2**16:
            raise OptionError(f"port is {self.port}, expected 0 to 65535")


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and run the command."""
    command_line.run(lambda: watch(tyro.cli(Options, prog="python -m tinyunet.watch", args=arguments)))


def watch(options: Options) -> None:
    """Serve the page until Ctrl-C."""
    from tinyunet.reporting.server import WatchServer  # here, because Matplotlib takes long to import

    with WatchServer(options.runs, options.port) as server:
        try:
            print(f"watching at {server.url} (Ctrl-C ends it)", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nno longer watching")


if __name__ == "__main__":
    main()
