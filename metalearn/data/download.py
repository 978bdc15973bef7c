"""A verified download: fetched as `.part`, checked, then renamed; nothing is left behind when it is not what it should be."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

from metalearn.errors import UserError

log = logging.getLogger("metalearn")


class Download(NamedTuple):
    url: str
    file: Path  # where it goes
    size: int  # bytes
    md5: str


def fetch(download: Download) -> None:
    """Raises UserError, saying what to put where by hand, when the file cannot be had intact."""
    from torchvision.datasets.utils import download_url

    part = download.file.with_name(download.file.name + ".part")
    log.info("fetching %s", download.url)
    try:
        download.file.parent.mkdir(parents=True, exist_ok=True)
        # md5 is checked below, by us: torchvision's own check says only 'not found or corrupted'.
        download_url(download.url, str(part.parent), filename=part.name)
        if fault := _fault(part, download):
            raise UserError(f"{download.url}: {fault}; {_by_hand(download)}")
        part.replace(download.file)
    except (OSError, RuntimeError) as error:  # urllib's URLError is an OSError
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        raise UserError(f"cannot fetch {download.url}: {error}; {_by_hand(download)}") from error
    finally:
        part.unlink(missing_ok=True)


def _fault(part: Path, download: Download) -> str | None:
    content = part.read_bytes()
    if content[:64].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "the server answered with a web page, not the file"
    if len(content) != download.size:
        return f"{len(content)} bytes came, {download.size} were expected"
    if (md5 := hashlib.md5(content, usedforsecurity=False).hexdigest()) != download.md5:
        return f"its md5 is {md5}, {download.md5} was expected"
    return None


def _by_hand(download: Download) -> str:
    return f"by hand: put it at {download.file} ({download.size} bytes, md5 {download.md5})"
