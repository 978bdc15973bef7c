"""Downloads from a server that serves the file, a web page, half the file, or nothing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from metalearn.data.download import Download, fetch
from metalearn.errors import UserError

CONTENT = bytes(range(256)) * 64


class Handler(BaseHTTPRequestHandler):
    answers: ClassVar = {
        "/good.zip": (200, CONTENT),
        "/page.zip": (200, b"<!DOCTYPE html><html>Quota exceeded</html>"),
        "/half.zip": (200, CONTENT[: len(CONTENT) // 2]),
        "/other.zip": (200, CONTENT[::-1]),
    }

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path, (404, b"gone"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def download(server: str, name: str, folder: Path) -> Download:
    return Download(f"{server}/{name}", folder / "set.zip", len(CONTENT), hashlib.md5(CONTENT).hexdigest())


def test_the_right_file_arrives_whole_and_alone(server: str, tmp_path: Path) -> None:
    fetch(download(server, "good.zip", tmp_path / "new"))
    assert (tmp_path / "new" / "set.zip").read_bytes() == CONTENT
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["set.zip"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("page.zip", "a web page, not the file"),
        ("half.zip", f"{len(CONTENT) // 2} bytes came, {len(CONTENT)} were expected"),
        ("other.zip", "its md5 is .* was expected"),
        ("nowhere.zip", "404"),
    ],
)
def test_anything_else_is_refused_and_leaves_nothing(server: str, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        fetch(download(server, name, tmp_path))
    assert f"put it at {tmp_path / 'set.zip'}" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot fetch") as error:
        fetch(download("http://127.0.0.1:9", "good.zip", tmp_path))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
