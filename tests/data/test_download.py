"""Downloads from a server that serves the file, a web page, half the file, or nothing."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from metalearn.data import download as module
from metalearn.data.download import Download, fetch
from metalearn.errors import UserError

CONTENT = bytes(range(256)) * 64


class Handler(BaseHTTPRequestHandler):
    answers: ClassVar = {
        "/good.zip": (200, CONTENT),
        "/page.zip": (200, b"<!DOCTYPE html><html>Quota exceeded</html>"),
        "/half.zip": (200, CONTENT[: len(CONTENT) // 2]),
        "/other.zip": (200, CONTENT[::-1]),
        "/more.zip": (200, CONTENT * 2),
        "/slow.zip": (200, CONTENT),
        "/twice-busy.zip": (200, CONTENT),
    }

    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path == "/stalls.zip":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:100])
            time.sleep(1.5)
            return
        if self.path == "/cut.zip":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT if self.requests.count(self.path) > 1 else CONTENT[:100])
            return
        if self.path == "/slow.zip":
            time.sleep(0.3)
        if self.path.startswith("/twice-") and self.requests.count(self.path) < 2:
            self.send_response(503)
            self.end_headers()
            return
        status, body = self.answers.get(self.path, (404, b"gone"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for nothing longer than a test may take."""
    monkeypatch.setattr(module, "_SILENCE", 0.4)
    monkeypatch.setattr(module, "_PAUSE", 0.01)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def wanted(server: str, name: str, folder: Path) -> Download:
    return Download(f"{server}/{name}", folder / "set.zip", len(CONTENT), hashlib.md5(CONTENT).hexdigest())


def test_the_right_file_arrives_whole_and_alone(server: str, tmp_path: Path) -> None:
    fetch(wanted(server, "good.zip", tmp_path / "new"))
    assert (tmp_path / "new" / "set.zip").read_bytes() == CONTENT
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["set.zip"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("page.zip", "a web page, not the file"),
        ("half.zip", f"{len(CONTENT) // 2} bytes came, {len(CONTENT)} were expected"),
        ("more.zip", "bytes or more came"),
        ("other.zip", "its md5 is .* was expected"),
        ("nowhere.zip", "404"),
    ],
)
def test_anything_else_is_refused_and_leaves_nothing(server: str, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        fetch(wanted(server, name, tmp_path))
    assert f"put it at {tmp_path / 'set.zip'}" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot fetch") as error:
        fetch(wanted("http://127.0.0.1:9", "good.zip", tmp_path))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_falls_silent_is_given_up(server: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match="timed out"):
        fetch(wanted(server, "stalls.zip", tmp_path))
    assert time.monotonic() - started < 5
    assert Handler.requests.count("/stalls.zip") == 3
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_busy_is_asked_again(server: str, tmp_path: Path) -> None:
    fetch(wanted(server, "twice-busy.zip", tmp_path))
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_connection_that_is_cut_is_made_again(server: str, tmp_path: Path) -> None:
    fetch(wanted(server, "cut.zip", tmp_path))
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert Handler.requests.count("/cut.zip") == 2


def test_a_file_that_is_not_there_is_asked_for_once(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="404"):
        fetch(wanted(server, "missing.zip", tmp_path))
    assert Handler.requests.count("/missing.zip") == 1


def test_of_several_processes_one_fetches(server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="metalearn")
    at_once = [threading.Thread(target=fetch, args=[wanted(server, "slow.zip", tmp_path)]) for _ in range(3)]
    for thread in at_once:
        thread.start()
    for thread in at_once:
        thread.join()
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["set.zip"]
    assert Handler.requests.count("/slow.zip") == 1
    assert "another process is fetching" in caplog.text
