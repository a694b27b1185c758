"""python -m tinyunet COMMAND, or tinyunet COMMAND; the commands are below."""

from __future__ import annotations

import importlib
import sys

COMMANDS = ("doctor", "train", "predict", "evaluate", "compare", "report", "compile")


def main() -> None:
    """Hand over to a command, which has its own --help."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        asked_for = sys.argv[1:] in (["-h"], ["--help"])
        print(
            f"usage: tinyunet {{{','.join(COMMANDS)}}} ...\n\ntinyunet COMMAND --help says more.",
            file=sys.stdout if asked_for else sys.stderr,
        )
        sys.exit(0 if asked_for else 2)
    command = sys.argv.pop(1)
    sys.argv[0] = f"tinyunet {command}"
    importlib.import_module(f"tinyunet.{command}").main()  # only one: each takes its time to import


if __name__ == "__main__":
    main()
