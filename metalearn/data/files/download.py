"""Downloads of published files: continued where they were cut, from the first mirror that has the right bytes, checked before anybody reads them.

What has come lies in a `.part` file beside the target, and a `.part.json` says of which URL and version it is. Both outlive a killed process. The
target gets its name only when size and checksum are right.
"""

from __future__ import annotations

import contextlib
import glob
import http.client
import io
import json
import logging
import os
import re
import shutil
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError

from metalearn import atomic
from metalearn.data.files.alone import alone
from metalearn.data.files.published import PublishedFile, Tally
from metalearn.errors import UserError, one_line
from metalearn.sizes import bytes_text

log = logging.getLogger("metalearn")

# (bytes that are there, bytes of the whole file or None where that is not known)
Progress = Callable[[int, int | None], None]

_SILENCE = 30.0  # seconds without a byte after which the connection counts as lost
_ATTEMPTS = 3  # in a row that end at the same byte
_PAUSE = 2.0  # seconds before the second attempt; twice as long before each further one
_ABANDONED = 3600.0  # seconds without a change after which the part of another machine counts as nobody's
_PIECE = 2**20  # bytes read at a time
_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")
_BUSY = (408, 425, 429)  # answers below 500 after which another attempt may succeed


def fetch(file: PublishedFile, folder: Path, progress: Progress = lambda done, whole: None) -> Path:
    """The file in `folder`: fetched, unless it is there once other processes that fetch it have finished.

    Args:
        progress: called at every piece that came.

    Raises:
        UserError: no mirror has it intact, or it cannot be written; the message says what to put where by hand.
    """
    target = folder / file.name
    by_hand = f"by hand: put it at {target} ({str(file).partition('(')[2]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target, "fetching") as is_alone:
            if target.exists():
                return target
            part = _Part(target, is_alone)
            faults = []
            for url in file.urls:
                log.info("fetching %s%s", url, f", of which {bytes_text(part.size)} are there" if part.size else "")
                fault = _from_mirror(url, file, part, progress)
                if fault is None:
                    part.becomes(target)
                    return target
                faults.append(f"{url}: {fault}")
    except OSError as error:
        raise UserError(f"cannot write {target}: {one_line(error)}") from error
    kept = f"; the {bytes_text(part.size)} that came are kept, the next try continues them" if part.size else ""
    raise UserError(f"cannot fetch {file.name}: {'; '.join(faults) or 'it has no public address'}{kept}; {by_hand}")


class _Part:
    """What has come of a file, and of which version it is.

    Its name holds the machine's: another machine on the same file system may not see the lock. Where there are no locks, it holds the
    process's number too.
    """

    def __init__(self, target: Path, is_alone: bool) -> None:
        own = socket.gethostname() if is_alone else f"{socket.gethostname()}-{os.getpid()}"
        self.path = target.with_name(f".{target.name}.{own}.part")
        self._notes = Path(f"{self.path}.json")
        if is_alone and not self.path.exists():
            self._adopt(target)

    def _adopt(self, target: Path) -> None:
        """Takes over what another machine left unfinished: containers have a new name at each start."""
        for other in sorted(target.parent.glob(f".{glob.escape(target.name)}.*.part")):
            with contextlib.suppress(OSError):  # somebody else took it
                if time.time() - other.stat().st_mtime > _ABANDONED:
                    other.rename(self.path)
                    Path(f"{other}.json").rename(self._notes)
                    return

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self, url: str) -> str | None:
        """What If-Range compares: the server's mark for the version that the part is of; None where it gave none or another URL was asked."""
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
            return str(notes["validator"]) if notes["url"] == url and notes["validator"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, url: str, headers: http.client.HTTPMessage) -> None:
        """Empties it, for another version."""
        self.path.unlink(missing_ok=True)
        etag = headers.get("ETag", "")
        # A weak mark stands for versions that differ in bytes: no part may be continued by it (RFC 9110, 13.1.5).
        validator = etag if etag.startswith('"') else headers.get("Last-Modified")
        atomic.write(self._notes, json.dumps({"url": url, "validator": validator}).encode())

    def becomes(self, target: Path) -> None:
        """Gives the whole file its name."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        self.path.replace(target)
        atomic.sync_directory(target.parent)
        self._notes.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes what has come."""
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)


def _from_mirror(url: str, file: PublishedFile, part: _Part, progress: Progress) -> str | None:
    """Fetches into `part`, again where the connection fails; why this mirror does not have the file, or None. A wrong part is removed."""
    attempt, furthest = 0, part.size
    while True:
        before = part.size
        try:
            fault = _received(url, file, part, progress)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, UserError):
                raise
            if isinstance(error, HTTPError):
                error.close()  # it holds the connection
            attempt = 1 if part.size > furthest else attempt + 1
            furthest = max(furthest, part.size)
            final = isinstance(error, HTTPError) and error.code < 500 and error.code not in _BUSY
            # URLError's own text is an angle bracket around what happened.
            cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
            reason = one_line(cause) or type(cause).__name__
            if final or isinstance(error, ValueError) or attempt == _ATTEMPTS:
                return reason
            log.warning("%s: %s after %s: trying again", url, reason, bytes_text(part.size))
            time.sleep(_PAUSE * 2 ** (attempt - 1))
            continue
        if fault is None:
            return None
        part.discard()
        if not before:
            return fault
        # Perhaps the first bytes were of another version.
        log.warning("%s: continued, but %s: starting anew", url, fault)
        furthest = 0


def _received(url: str, file: PublishedFile, part: _Part, progress: Progress) -> str | None:
    """Fetches what is missing of `part` once; what is wrong with the whole, or None.

    Raises:
        OSError, http.client.HTTPException: the connection failed; `part` holds what came.
        UserError: `part` cannot be written.
    """
    if file.size is not None and part.size == file.size and file.checksum:
        return _fault_of(part, file)  # killed between the last byte and the renaming
    with _asked(url, file, part) as answer:
        offset = part.size
        left = answer.headers.get("Content-Length")
        whole = offset + int(left) if left is not None else None
        tally, beginning = Tally(file), b""
        _check_room(part, file)
        # Without a buffer: what cannot be written must not be tried again when the file is closed.
        with part.path.open("ab+", buffering=0) as opened:
            opened.seek(0)
            for piece in _pieces(opened):
                tally.add(piece)
            while file.size is None or tally.size < file.size:
                piece = answer.read1(_PIECE if file.size is None else min(_PIECE, file.size - tally.size))
                if not piece:
                    break
                if tally.size < len(_WEB_PAGE[0]) + 64:
                    beginning += piece[:128]
                tally.add(piece)
                _write(opened, piece, part, file)
                progress(tally.size, file.size or whole)
    if not offset and beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_WEB_PAGE):
        return "the server answered with a web page, not the file"
    if tally.size < min(whole or 0, file.size or whole or 0):
        raise ConnectionError(f"the connection was cut after {tally.size} of {whole} bytes")
    fault = tally.fault()
    if fault is None and file.checksum is None and whole not in (None, tally.size):
        fault = f"the server sends {whole} bytes, {tally.size} were expected"
    return fault


@contextlib.contextmanager
def _asked(url: str, file: PublishedFile, part: _Part) -> Iterator[http.client.HTTPResponse]:
    """The server's answer with the bytes that `part` lacks; `part` is emptied where the answer holds all bytes."""
    offset, validator = part.size, part.validator(url)
    headers = {"User-Agent": "metalearn", "Accept-Encoding": "identity"}
    # Without the server's mark, only a published checksum would tell a mixture of two versions.
    if offset and (validator or file.checksum):
        headers |= {"Range": f"bytes={offset}-"} | ({"If-Range": validator} if validator else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SILENCE)
    except HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        part.discard()  # it is longer than what the server has
        raise ConnectionError("the server has fewer bytes than had come") from error
    with answer:
        if answer.status == 206:
            begins = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            if not begins or int(begins[1]) != offset:
                part.discard()
                raise ConnectionError("the server sent another piece than was asked for")
        else:
            part.begin(url, answer.headers)
        yield answer


def _check_room(part: _Part, file: PublishedFile) -> None:
    """Before gigabytes are fetched in vain."""
    free = shutil.disk_usage(part.path.parent).free
    if file.size is not None and file.size - part.size > free:
        needed = bytes_text(file.size - part.size)
        raise UserError(f"{part.path.parent} has {bytes_text(free)} free, {file.name} needs {needed}")


def _write(opened: io.FileIO, piece: bytes, part: _Part, file: PublishedFile) -> None:
    """Writes a piece; a disk that is full or refuses is the user's to mend, not a fault of the mirror."""
    try:
        left = memoryview(piece)
        while left:
            left = left[opened.write(left) :]
    except OSError as error:
        free = bytes_text(shutil.disk_usage(part.path.parent).free)
        raise UserError(
            f"cannot write {file.name} to {part.path.parent}: {error.strerror} ({free} free); "
            f"the {bytes_text(part.size)} that came are kept, the next try continues them"
        ) from error


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _fault_of(part: _Part, file: PublishedFile) -> str | None:
    tally = Tally(file)
    with part.path.open("rb") as opened:
        for piece in _pieces(opened):
            tally.add(piece)
    return tally.fault()
