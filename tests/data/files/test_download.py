"""Downloads from servers that are slow, cut off, lie about the length, send web pages or wrong bytes, ignore Range, answer 416, redirect."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from metalearn.data.files import download as module
from metalearn.data.files.download import fetch
from metalearn.data.files.published import PublishedFile
from metalearn.errors import UserError

CONTENT = bytes(range(256)) * 64
HALF = len(CONTENT) // 2
PAGE = b"\n<!DOCTYPE html><html>Quota exceeded</html>"


class Handler(BaseHTTPRequestHandler):
    """What a path does stands in its name; `asked` holds what came for each path: its Range and If-Range."""

    asked: ClassVar[dict[str, list[tuple[str | None, str | None]]]] = {}
    etag: ClassVar[str] = '"one"'
    content: ClassVar[bytes] = CONTENT

    def do_GET(self) -> None:
        requests = self.asked.setdefault(self.path, [])
        requests.append((self.headers["Range"], self.headers["If-Range"]))
        name = self.path.strip("/")
        getattr(self, name.partition(".")[0].replace("-", "_"), self.missing)(len(requests))

    def send(self, body: bytes, length: int | None = None, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def ranged(self, cut: int | None = None) -> None:
        """As RFC 9110 has it, with the connection cut after `cut` bytes of the answer."""
        asked, version = self.headers["Range"], self.headers["If-Range"]
        if asked and version in (None, self.etag):
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            if first >= len(self.content):
                return self.send(b"", status=416, Content_Range=f"bytes */{len(self.content)}")
            body = self.content[first:]
            span = f"bytes {first}-{len(self.content) - 1}/{len(self.content)}"
            return self.send(body[:cut], len(body), 206, Content_Range=span, ETag=self.etag)
        return self.send(self.content[:cut], len(self.content), ETag=self.etag)

    def missing(self, number: int) -> None:
        self.send(b"gone", status=404)

    def good(self, number: int) -> None:
        self.ranged()

    def page(self, number: int) -> None:
        self.send(PAGE)

    def half(self, number: int) -> None:
        self.send(CONTENT[:HALF])

    def other(self, number: int) -> None:
        self.send(CONTENT[::-1])

    def announces_more(self, number: int) -> None:
        self.send(CONTENT, 3 * len(CONTENT))

    def announces_nothing(self, number: int) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CONTENT)

    def more(self, number: int) -> None:
        self.send(b"x" + CONTENT)

    def slow(self, number: int) -> None:
        time.sleep(0.3)
        self.ranged()

    def trickles(self, number: int) -> None:
        self.send(b"", len(CONTENT))
        for start in range(0, len(CONTENT), HALF // 4):
            self.wfile.write(CONTENT[start : start + HALF // 4])
            self.wfile.flush()
            time.sleep(0.1)

    def stalls(self, number: int) -> None:
        self.send(CONTENT[:100], len(CONTENT))
        time.sleep(1.5)

    def busy_once(self, number: int) -> None:
        self.ranged() if number > 1 else self.send(b"", status=503)

    def cuts(self, number: int) -> None:
        """One more eighth at each request."""
        self.ranged(cut=len(CONTENT) // 8)

    def cuts_whole(self, number: int) -> None:
        """Ignores Range and cuts the first time."""
        self.send(CONTENT[: HALF if number == 1 else None], len(CONTENT))

    def cuts_always(self, number: int) -> None:
        self.send(CONTENT[:HALF], len(CONTENT))

    def wrong_piece(self, number: int) -> None:
        """Cuts, and answers a Range with another piece than was asked for."""
        if self.headers["Range"]:
            return self.send(CONTENT[:9], status=206, Content_Range=f"bytes 0-8/{len(CONTENT)}")
        return self.send(CONTENT[: HALF if number == 1 else None], len(CONTENT))

    def moved(self, number: int) -> None:
        self.send(b"", status=302, Location="/good.zip")

    def moved_in_circles(self, number: int) -> None:
        self.send(b"", status=302, Location=self.path)

    def moved_to_a_file(self, number: int) -> None:
        self.send(b"", status=302, Location="file:///etc/hostname")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for nothing longer than a test may take."""
    monkeypatch.setattr(module, "_SILENCE", 0.4)
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    monkeypatch.setattr(Handler, "asked", {})


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def wanted(server: str, *names: str, checksum: bool = True, size: int | None = len(CONTENT)) -> PublishedFile:
    md5 = hashlib.md5(CONTENT).hexdigest() if checksum else None
    return PublishedFile("set.zip", tuple(f"{server}/{name}" for name in names), size, md5)


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def part_in(folder: Path) -> Path:
    (part,) = folder.glob(".set.zip.*.part")
    return part


def leave_part(folder: Path, content: bytes, url: str, validator: str | None, machine: str = "") -> Path:
    """What a killed process leaves."""
    part = module._Part(folder / "set.zip", True).path
    part = part.with_name(f".set.zip.{machine}.part") if machine else part
    part.write_bytes(content)
    Path(f"{part}.json").write_text(json.dumps({"url": url, "validator": validator}))
    return part


@pytest.mark.parametrize("name", ["good", "announces-more", "announces-nothing", "moved", "trickles", "busy-once"])
def test_the_right_file_arrives_whole_and_alone(server: str, tmp_path: Path, name: str) -> None:
    """Whatever the server says of its length: size and checksum decide."""
    assert fetch(wanted(server, name), tmp_path / "new") == tmp_path / "new" / "set.zip"
    assert (tmp_path / "new" / "set.zip").read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["set.zip"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("page", "a web page, not the file"),
        ("half", f"it has {HALF} bytes, {len(CONTENT)} were expected"),
        ("more", "its md5 is .* was expected"),
        ("other", "its md5 is .* was expected"),
        ("nowhere", "404"),
        ("moved-in-circles", "redirect"),
        ("moved-to-a-file", "Redirection to url .* not allowed"),
    ],
)
def test_anything_else_is_refused_and_leaves_nothing(server: str, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        fetch(wanted(server, name), tmp_path)
    assert f"put it at {tmp_path / 'set.zip'} (16.4 kB, md5 " in str(error.value)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []
    assert len(Handler.asked[f"/{name}"]) == (5 if "circles" in name else 1), "a final answer is not asked for again"


def test_no_server_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot fetch set\.zip: http://127\.0\.0\.1:9/good: .*refused") as error:
        fetch(wanted("http://127.0.0.1:9", "good"), tmp_path)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_mirrors_are_tried_in_order_until_one_has_the_file(server: str, tmp_path: Path) -> None:
    fetch(wanted(server, "nowhere", "page", "other", "good", "slow"), tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert list(Handler.asked) == ["/nowhere", "/page", "/other", "/good"]
    with pytest.raises(UserError, match=r"/nowhere: .*404.*; .*/page: .*web page.*; by hand"):
        fetch(wanted(server, "nowhere", "page"), tmp_path / "other")


def test_what_no_mirror_has_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no public address; by hand"):
        fetch(wanted(""), tmp_path)


def test_a_connection_that_falls_silent_is_given_up_and_what_came_is_kept(server: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"timed out; the 100 bytes that came are kept, the next try continues them"):
        fetch(wanted(server, "stalls"), tmp_path)
    assert time.monotonic() - started < 5
    assert part_in(tmp_path).read_bytes() == CONTENT[:100]
    fetch(wanted(server, "good"), tmp_path)
    assert Handler.asked["/good"] == [("bytes=100-", None)], "the checksum guards against a mixture of mirrors"
    assert names(tmp_path) == ["set.zip"]


def test_a_connection_that_is_cut_goes_on_as_long_as_bytes_come(server: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(wanted(server, "cuts"), tmp_path, lambda done, whole: seen.append((done, whole)))
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    eighth = len(CONTENT) // 8
    assert Handler.asked["/cuts"] == [(None, None), *((f"bytes={k * eighth}-", '"one"') for k in range(1, 8))]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_a_server_that_ignores_range_is_read_from_the_beginning(server: str, tmp_path: Path) -> None:
    fetch(wanted(server, "cuts-whole"), tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert len(Handler.asked["/cuts-whole"]) == 2


def test_a_server_that_cuts_at_the_same_place_is_given_up(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"the connection was cut after {HALF} of {len(CONTENT)} bytes"):
        fetch(wanted(server, "cuts-always"), tmp_path)
    assert len(Handler.asked["/cuts-always"]) == 3, "they end at the same byte"


def test_another_piece_than_was_asked_for_is_not_taken(server: str, tmp_path: Path) -> None:
    fetch(wanted(server, "wrong-piece"), tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_part_of_an_earlier_version_is_thrown_away(server: str, tmp_path: Path) -> None:
    leave_part(tmp_path, b"old" * 100, f"{server}/good", '"zero"')
    fetch(wanted(server, "good", checksum=False), tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert Handler.asked["/good"] == [("bytes=300-", '"zero"')]


def test_without_mark_and_checksum_nothing_is_continued(server: str, tmp_path: Path) -> None:
    leave_part(tmp_path, CONTENT[:300], f"{server}/elsewhere", '"one"')
    fetch(wanted(server, "good", checksum=False), tmp_path)
    assert Handler.asked["/good"] == [(None, None)]
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_part_that_turns_out_wrong_is_begun_anew_once(server: str, tmp_path: Path) -> None:
    leave_part(tmp_path, b"x" * 300, f"{server}/good", '"one"')
    fetch(wanted(server, "good"), tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert Handler.asked["/good"] == [("bytes=300-", '"one"'), (None, None)]


def test_a_part_that_is_longer_than_the_file_answers_416_and_is_begun_anew(server: str, tmp_path: Path) -> None:
    leave_part(tmp_path, CONTENT + b"more", f"{server}/good", '"one"')
    fetch(wanted(server, "good", size=None), tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert Handler.asked["/good"] == [(f"bytes={len(CONTENT) + 4}-", '"one"'), (None, None)]


def test_a_whole_part_only_gets_its_name(server: str, tmp_path: Path) -> None:
    """Of a process that was killed between the last byte and the renaming."""
    leave_part(tmp_path, CONTENT, f"{server}/good", '"one"')
    fetch(wanted(server, "good"), tmp_path)
    assert names(tmp_path) == ["set.zip"]
    assert not Handler.asked


def test_a_size_that_nobody_publishes_is_the_servers(server: str, tmp_path: Path) -> None:
    fetch(wanted(server, "good", checksum=False, size=None), tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    with pytest.raises(UserError, match="was cut after"):
        fetch(wanted(server, "announces-more", checksum=False, size=None), tmp_path / "other")


def test_another_machines_part_is_left_alone_while_it_grows_and_taken_over_later(server: str, tmp_path: Path) -> None:
    part = leave_part(tmp_path, CONTENT[:300], f"{server}/good", '"one"', machine="elsewhere")
    fetch(wanted(server, "good"), tmp_path)
    assert part.read_bytes() == CONTENT[:300]
    (tmp_path / "set.zip").unlink()
    os.utime(part, (0, 0))
    fetch(wanted(server, "good"), tmp_path)
    assert Handler.asked["/good"] == [(None, None), ("bytes=300-", '"one"')]
    assert names(tmp_path) == ["set.zip"]


def test_a_killed_process_is_continued_by_the_next(server: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from metalearn.data.files.download import fetch;"
        "from metalearn.data.files.published import PublishedFile;"
        f"fetch(PublishedFile('set.zip', (sys.argv[1],), {len(CONTENT)}, sys.argv[2]), Path(sys.argv[3]))"
    )
    file = wanted(server, "trickles")
    process = subprocess.Popen([sys.executable, "-c", code, file.urls[0], str(file.md5), str(tmp_path)])
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not any(part.stat().st_size for part in tmp_path.glob(".set.zip.*.part")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    came = part_in(tmp_path).stat().st_size
    assert 0 < came < len(CONTENT)
    fetch(wanted(server, "good"), tmp_path)
    assert Handler.asked["/good"] == [(f"bytes={came}-", None)]
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_of_several_processes_one_fetches(server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="metalearn")
    at_once = [threading.Thread(target=fetch, args=[wanted(server, "slow"), tmp_path]) for _ in range(3)]
    for thread in at_once:
        thread.start()
    for thread in at_once:
        thread.join()
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert names(tmp_path) == ["set.zip"]
    assert len(Handler.asked["/slow"]) == 1
    assert "another process is fetching" in caplog.text


def test_a_disk_without_room_is_said_before_anything_is_fetched(server: str, tmp_path: Path) -> None:
    enormous = PublishedFile("set.zip", (f"{server}/good",), 10**18, "0" * 32)
    with pytest.raises(UserError, match=r"free, set\.zip needs 1000000000\.0 GB"):
        fetch(enormous, tmp_path)
    assert not (tmp_path / "set.zip").exists()


def test_a_disk_that_fills_keeps_what_came(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files stands for the full disk."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(module, "_PIECE", 1000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"cannot write set\.zip to .*: File too large .*4\.0 kB that came are kept"
        ):
            fetch(wanted(server, "good", "cuts"), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(Handler.asked) == ["/good"], "another mirror would not help"
    fetch(wanted(server, "good"), tmp_path)
    assert Handler.asked["/good"][-1] == ("bytes=4000-", '"one"')
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_one_clear_line(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*set\.zip: "):
        fetch(wanted(server, "good"), tmp_path / "file" / "folder")
