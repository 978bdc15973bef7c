"""A verified download: fetched under a name of its own, checked, then renamed; nothing is left behind when it is not what it should be."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple
from urllib.error import HTTPError

from metalearn.errors import UserError, one_line
from metalearn.locks import NoLocksError, locked

log = logging.getLogger("metalearn")

_SILENCE = 30.0  # seconds without a byte after which the connection counts as lost
_ATTEMPTS = 3
_PAUSE = 2.0  # seconds before the second attempt; twice as long before each further one
_PIECE = 2**20  # bytes read at a time
_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")


class Download(NamedTuple):
    url: str
    file: Path  # where it goes
    size: int  # bytes
    md5: str


def fetch(download: Download) -> None:
    """Fetches the file, unless it is there once other processes that fetch it have finished.

    Raises:
        UserError: the file cannot be had intact; the message says what to put where by hand.
    """
    # A name of its own: another machine on the same file system may not see the lock.
    part = download.file.with_name(f".{download.file.name}.{socket.gethostname()}-{os.getpid()}.part")
    try:
        download.file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(download.file):
            if download.file.exists():
                return
            log.info("fetching %s (%.1f MB)", download.url, download.size / 1e6)
            if fault := _attempt(download, part):
                raise UserError(f"{download.url}: {fault}; {_by_hand(download)}")
            part.replace(download.file)
    except OSError as error:  # urllib's URLError is one
        raise UserError(f"cannot fetch {download.url}: {one_line(error)}; {_by_hand(download)}") from error
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One process at a time fetches `file`; the others wait and say so."""
    path = file.with_name(f".{file.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            if not stack.enter_context(locked(path)):
                log.info("another process is fetching %s: waiting for it", file)
                stack.enter_context(locked(path, wait=True))
        except NoLocksError as error:
            log.debug("%s is not locked: %s", file, error)
        try:
            yield
        finally:
            with contextlib.suppress(PermissionError):  # on Windows while somebody waits for it
                path.unlink(missing_ok=True)  # who waits looks whether the file is there now


def _attempt(download: Download, part: Path) -> str | None:
    """Fetches into `part`, again where the connection fails; what is wrong with what came, or None.

    Raises:
        OSError: the last attempt failed.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _received(download, part)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()  # it holds the connection
            final = isinstance(error, HTTPError) and error.code < 500
            if final or attempt == _ATTEMPTS:
                raise error if isinstance(error, OSError) else OSError(one_line(error)) from error
            log.warning("%s: %s: attempt %d of %d failed", download.url, one_line(error), attempt, _ATTEMPTS)
            time.sleep(_PAUSE * 2 ** (attempt - 1))
    raise AssertionError("no attempt was made")


def _received(download: Download, part: Path) -> str | None:
    """Fetches into `part` once, hashing as it comes; what is wrong with it, or None."""
    request = urllib.request.Request(download.url, headers={"User-Agent": "metalearn"})
    digest, size, beginning = hashlib.md5(usedforsecurity=False), 0, b""
    with urllib.request.urlopen(request, timeout=_SILENCE) as answer, part.open("wb") as file:
        for piece in _pieces(answer):
            beginning = beginning or piece[:64]
            digest.update(piece)
            size += file.write(piece)
            if size > download.size:
                break
        announced = int(answer.headers.get("Content-Length") or 0)
    if size < min(announced, download.size):
        raise ConnectionError(f"the connection was cut after {size} of {announced} bytes")
    if beginning.lstrip().lower().startswith(_WEB_PAGE):
        return "the server answered with a web page, not the file"
    if size != download.size:
        more = " or more" if size > download.size else ""
        return f"{size} bytes{more} came, {download.size} were expected"
    if digest.hexdigest() != download.md5:
        return f"its md5 is {digest.hexdigest()}, {download.md5} was expected"
    return None


def _pieces(answer: IO[bytes]) -> Iterator[bytes]:
    while piece := answer.read(_PIECE):
        yield piece


def _by_hand(download: Download) -> str:
    return f"by hand: put it at {download.file} ({download.size} bytes, md5 {download.md5})"
