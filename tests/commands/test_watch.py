"""python -m tinyunet.watch: a page on this machine that renews itself, and that changes nothing."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from urllib.parse import urljoin

import browser
import html5lib
import pytest
from children import default_signals

from tinyunet.metrics.naming import format_value
from tinyunet.reporting.server import WatchServer
from tinyunet.training.run_folder import RunFolder


@contextmanager
def serving(*paths):
    with WatchServer(paths, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path="/", method="GET", host=None):
    """The status, the headers and the content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def parsed(content):
    """The page's elements; anything that HTML does not allow is an error."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(content.decode())


def text_of(element):
    return " ".join("".join(element.itertext()).split())


def tiles(content):
    """The values at the top of the page of one run."""
    return {
        text_of(tile.find("dt")): text_of(tile.find("dd")) for tile in parsed(content).findall(".//dl/div")
    }


def rows_of(content):
    """The table of several runs."""
    return [[text_of(cell) for cell in row] for row in parsed(content).findall(".//tbody/tr")]


def test_a_finished_run(trained, unchanged):
    with unchanged(trained), serving(trained) as server:
        status, headers, content = ask(server)
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        log = RunFolder(trained).read_log()
        best = max(record["mean_iou"] for record in log if record["event"] == "validation")
        shown = tiles(content)
        assert shown["state"] == "finished"
        assert shown["step"] == "4 of 4"
        assert shown["best mean IoU"].startswith(format_value(best))
        document = parsed(content)
        assert text_of(document.find(".//h1")) == "trained"
        assert len(document.findall(".//figure")) == 3 + 1
        command = next(record["command"] for record in log if record["event"] == "started")
        assert text_of(document.find(".//pre")) == command
        (picture,) = (image.attrib["src"] for image in document.iter("img"))
        status, headers, content = ask(server, "/" + picture)
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert content == RunFolder(trained).examples.read_bytes()


def test_the_page_grows_with_the_log(trained):
    run = RunFolder(trained)
    lines = run.log.read_text().splitlines(keepends=True)
    run.log.write_text("".join(lines[:2]) + lines[2][:30])
    with serving(trained) as server:
        assert tiles(ask(server)[2])["step"] == "1 of 4"
        with run.log.open("a") as file:
            file.write(lines[2][30:])
        assert tiles(ask(server)[2])["step"] == "2 of 4"
        assert "best mean IoU" not in tiles(ask(server)[2])
        run.log.write_text("".join(lines))
        assert "best mean IoU" in tiles(ask(server)[2])


def test_all_it_needs_is_on_this_server(trained):
    """So it works without a network; and by relative addresses, through a tunnel or under another path."""
    with serving(trained) as server:
        content = ask(server)[2].decode() + ask(server, "/watch.js")[2].decode()
        links = re.findall(r'(?:src|href|srcset)="([^"]*)"', content)
        assert len(links) >= 3
        for link in links:
            assert link == "data:," or not re.match(r"/|\w+:", link), link
            if link != "data:,":
                assert ask(server, urljoin("/", link))[0] == 200
        assert "http://" not in content
        assert "https://" not in content


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{}", "127.0.0.1.evil.example", "", "[", "0.0.0.0"]
)
def test_other_names_of_this_machine_are_refused(trained, host):
    """By DNS rebinding, a page of the internet gets a name of its own for 127.0.0.1."""
    with serving(trained) as server:
        for path in ("/", "/watch.js", f"/examples/{'0' * 12}.png"):
            status, _, content = ask(server, path, host=host.format(server.server_port))
            assert status == 403
            assert b"trained" not in content


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1", "LOCALHOST", "[::1]:80"])
def test_a_tunnel_may_have_another_port(trained, host):
    with serving(trained) as server:
        assert ask(server, host=host)[0] == 200


def test_it_listens_to_this_machine_alone(trained):
    with serving(trained) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"
        policy = ask(server)[1]["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    "path",
    ["/log.jsonl", "/examples/", "/examples/../config.json", "/../config.json", "/examples/%2e%2e.png"],
)
def test_no_other_file_is_served(trained, path):
    with serving(trained) as server:
        assert ask(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_only_answers_questions(trained, method):
    with serving(trained) as server:
        assert ask(server, method=method)[0] == 501
        assert ask(server, method="HEAD")[2] == b""


def test_several_runs_and_one_that_begins_later(trained, folds, tmp_path):
    later = tmp_path / "later"
    with serving(trained, folds, later) as server:
        rows = rows_of(ask(server)[2])
        assert [row[0] for row in rows] == ["trained", "fold-0", "fold-1", "fold-2", "later"]
        assert rows[-1][1:4] == ["has not begun", "0", "–"]
        RunFolder(later).create({"steps": 9})
        assert rows_of(ask(server)[2])[-1][1:4] == ["has not begun", "0", "9"]


def test_names_that_look_like_markup(trained):
    odd = trained.rename(trained.parent / """<b>"it's" & <i>x""")
    with serving(odd) as server:
        document = parsed(ask(server)[2])
        assert text_of(document.find(".//h1")) == odd.name
        assert not list(document.iter("i"))


def test_a_port_that_is_taken(refused, trained):
    with serving(trained) as server:
        message = refused("watch", trained, "--port", server.server_port)
        assert f"port {server.server_port}" in message
        assert "--port 0" in message


def test_what_cannot_be_watched(refused):
    assert "runs/mine" in refused("watch")
    assert "65536" in refused("watch", "run", "--port", 65536)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_it(trained):
    command = [sys.executable, "-m", "tinyunet.watch", str(trained), "--port", "0"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **piped, preexec_fn=default_signals) as process:
        assert process.stdout is not None
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=60)
    assert (process.returncode, message) == (0, "")


def test_in_a_browser(trained, tmp_path):
    """It renews itself, fits on a phone, and says when nobody answers any more."""
    browser.chromium()
    from selenium.webdriver.support.wait import WebDriverWait

    run = RunFolder(trained)
    with browser.opened(tmp_path / "profile") as driver:
        until = WebDriverWait(driver, 60).until
        with serving(trained) as server:
            driver.get(server.url)
            driver.execute_script("window.same = true")
            with run.log.open("a") as file:
                step = {"event": "step", "step": 77, "loss": 0.1, "seconds": 0.1, "waited": 0.0}
                file.write(json.dumps(step) + "\n")
            until(lambda d: "77" in d.find_element("id", "tiles").text)
            assert driver.execute_script("return window.same"), "the page was loaded anew"
            assert driver.execute_script("return document.querySelector('img').naturalWidth") > 0
            for width in (1400, 390):
                browser.set_width(driver, width)
                assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            assert not driver.get_log("browser")
        until(lambda d: "No answer since" in d.find_element("id", "seen").text)
