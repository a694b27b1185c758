"""python -m tinyunet COMMAND, or tinyunet COMMAND: run one of the commands."""

from __future__ import annotations

import importlib
import sys

COMMANDS = ("doctor", "train", "predict", "evaluate", "compare", "report", "watch", "export", "compile")


def main() -> None:
    """Run a command, which has its own --help."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        asked = sys.argv[1:] in (["-h"], ["--help"])
        print(
            f"usage: tinyunet {{{','.join(COMMANDS)}}} ...\n\ntinyunet COMMAND --help describes a command.",
            file=sys.stdout if asked else sys.stderr,
        )
        sys.exit(0 if asked else 2)
    command = sys.argv.pop(1)
    sys.argv[0] = f"tinyunet {command}"
    importlib.import_module(f"tinyunet.{command}").main()  # only this one: importing takes time


if __name__ == "__main__":
    main()
