"""What lies in a zip or a tar, one member after another, before anything of it is trusted (archives.py checks it)."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, cast

from metalearn.data.files.forward import ForwardFile

# All that the readers and decompressors raise about a damaged or exotic archive.
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(RuntimeError, NotImplementedError, ValueError, OverflowError, LookupError, TypeError, AttributeError),
)
_LAST_RECORD = 22 + 0xFFFF  # bytes: a zip's last record with the longest comment
_ENCRYPTED = 1  # the bit of a zip's member


class Found(NamedTuple):
    """A member as it announces itself.

    Attributes:
        name: as it stands in the archive.
        size: bytes.
        is_folder: it has no content.
        fault: what is wrong with its kind; empty for a plain file.
        open: opens it.
    """

    name: str
    size: int
    is_folder: bool
    fault: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def in_zip(path: Path, archive: zipfile.ZipFile) -> Iterator[Found]:
    """The members of a zip, sorted by name."""
    found = sorted(archive.infolist(), key=lambda each: each.filename)
    _check_count(path, len(found))
    for member in found:
        is_folder = member.filename.endswith("/")
        fault = "" if is_folder else _fault_in_zip(member)
        yield Found(member.filename, member.file_size, is_folder, fault, partial(archive.open, member))


def in_tar(path: Path, largest_read: int, most: int) -> Iterator[Found]:
    """The members of a tar as they lie there: a compressed one can only be read in one pass.

    Args:
        path: of the archive, packed with gzip, bzip2, xz or not at all.
        largest_read: bytes that one header may ask for.
        most: bytes of the archive when it is decompressed.
    """
    with _decompressed(path) as content:
        forward = ForwardFile(content, largest_read, most)
        with tarfile.open(fileobj=forward, mode="r:") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members.clear()  # tarfile keeps every member, of millions too
                fault = "" if member.isdir() else _fault_in_tar(member)
                yield Found(member.name, member.size, member.isdir(), fault, partial(_content, archive, member))
        # tarfile takes a damaged header for the end; the true end is a block of zeros.
        if not forward.last or forward.last.strip(b"\0"):
            raise tarfile.ReadError("it is cut off or damaged")
        forward.pass_over_rest()  # a packed stream compares its checksum at its end


def _fault_in_zip(member: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the zip was not made on Unix
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG):
        return "is not a plain file"
    return "is encrypted: pack it without a password" if member.flag_bits & _ENCRYPTED else ""


def _check_count(path: Path, members: int) -> None:
    """The zip's last record says how many there are; zipfile does not compare, and a damaged list can swallow its own rest."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LAST_RECORD))
        end = file.read()
    (count,) = struct.unpack_from("<H", end, end.rindex(b"PK\5\6") + 10)
    if count not in (members, 0xFFFF):  # the latter: more than fit into the field
        raise zipfile.BadZipFile(f"{members} of {count} files are listed")


def _decompressed(path: Path) -> AbstractContextManager[IO[bytes]]:
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return cast(AbstractContextManager[IO[bytes]], gzip.open(path))
    if start.startswith(b"BZh"):
        return bz2.open(path)
    if start == b"\xfd7zXZ\x00":
        return lzma.open(path)
    return path.open("rb")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    assert content is not None, "links and devices are refused before"
    return content


def _fault_in_tar(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "is a link"
    if not member.isreg() or member.issparse() or member.size < 0:
        return "is not a plain file"
    return ""
