"""What the commands share: how an error ends them."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tinyunet.errors import TinyUNetError


def run(command: Callable[[], None]) -> None:
    """Run a command. A user's mistake is told on stderr, without a traceback, and the exit status is 2."""
    try:
        command()
    except TinyUNetError as error:
        sys.exit(_told(str(error)))
    except OSError as error:
        sys.exit(
            _told(f"{error.filename or 'a file'} could not be read or written: {error.strerror or error}")
        )
    except KeyboardInterrupt:
        sys.exit(130)


def _told(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
