"""Child processes of the tests."""

import os
import signal


def default_signals():
    """Restore in a child the signals that its shell ignores: SIGINT after `&`, SIGHUP under nohup."""
    if os.name != "nt":
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
