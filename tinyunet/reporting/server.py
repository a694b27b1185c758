"""The server of the watching page: for this machine only, and without any way to change something.

It listens on 127.0.0.1. A page of the internet that is open in the same browser can still send requests
there, and by DNS rebinding under a name of its own, by which it may read the answers. So a request is
answered only if its Host is a name of this machine.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from tinyunet.errors import RunError
from tinyunet.reporting import watch_page
from tinyunet.reporting.follow import Follower, Snapshot
from tinyunet.training.run_folder import RunFolder

ADDRESS = "127.0.0.1"
NAMES = {"127.0.0.1", "localhost", "::1"}  # of this machine, with any port: an SSH tunnel may have another
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class WatchServer(ThreadingHTTPServer):
    """Serves the page of runs until it is shut down.

    Parameters
    ----------
    paths : sequence of Path
        Runs, or folders of runs; they need not exist yet.
    port : int
        0 for any that is free.

    Raises
    ------
    RunError
        The port is taken, or not for users.
    """

    daemon_threads = True  # a browser that keeps a connection open does not keep the command from ending
    allow_reuse_address = os.name == "posix"  # on Windows it would allow two servers on one port

    def __init__(self, paths: Sequence[Path], port: int):
        self._paths, self._follower = paths, Follower(paths)
        self._lock = threading.Lock()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise RunError(
                f"port {port} of this machine {'is taken' if taken else 'cannot be used'}",
                {"reason": error.strerror or error},
                "give another with --port, or --port 0 for any that is free",
            ) from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def page(self) -> str:
        """The page as it is now."""
        with self._lock:  # each request has a thread of its own, and the logs are read once
            return watch_page.render(self._follower.snapshots(time.time()), self._paths)

    def examples(self, key: str) -> bytes | None:
        """The picture of a run's predictions; None if there is none."""
        with self._lock:
            runs: list[Snapshot] = self._follower.snapshots(time.time())
        for run in runs:
            if run.key == key:
                try:
                    return RunFolder(run.path).examples.read_bytes()
                except OSError:
                    return None
        return None


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer
    server_version, sys_version = "tinyunet", ""
    timeout = 60  # s, for a connection on which nothing comes

    def do_GET(self) -> None:
        """Answer with the page, its script or a picture."""
        if _name_of(self.headers.get("Host", "")) not in NAMES:
            self._send(403, b"Open this page as localhost or 127.0.0.1.\n", "text/plain")
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._send(200, self.server.page().encode(errors="replace"), "text/html")
        elif path == "/watch.js":
            self._send(200, _script(), "text/javascript")
        elif path.startswith("/examples/") and (picture := self.server.examples(Path(path).stem)):
            self._send(200, picture, "image/png")
        else:
            self._send(404, b"There is no such page.\n", "text/plain")

    do_HEAD = do_GET

    def _send(self, status: int, content: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            charset = "; charset=utf-8" if kind.startswith("text/") else ""
            for name, value in {**HEADERS, "Content-Type": kind + charset}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except ConnectionError:  # the browser has gone on to something else
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: a page that renews itself makes requests all the time."""


def _name_of(host: str) -> str:
    """The name in a Host header, without its port.

    >>> _name_of("localhost:8572"), _name_of("[::1]:80"), _name_of("evil.example:8572")
    ('localhost', '::1', 'evil.example')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


@cache
def _script() -> bytes:
    return (resources.files("tinyunet.reporting") / "templates" / "watch.js").read_bytes()
