"""Files of a folder or an archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz), read in place.

Nothing is unpacked, so nothing can land outside its folder. An archive may come from anywhere: what only somebody who means harm would write is
refused in one line, before it takes memory: names that lead out of the archive, links, devices, and more content than an honest archive holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from metalearn.data.files.packed import DAMAGED, Found, in_tar, in_zip
from metalearn.errors import UserError, one_line

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_DRIVE = re.compile(r"[A-Za-z]:")
_ADDED = {"__MACOSX", ".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "@eaDir"}


class Limits(NamedTuple):
    """What an archive may hold.

    Attributes:
        member: bytes of one member that is read.
        members: how many there are, read or not.
        ratio: how many times as large as the archive all members together may be.
        free: bytes that all members together may always have, whatever the ratio.
    """

    member: int = 1 << 28
    members: int = 5_000_000
    ratio: int = 200
    free: int = 1 << 28


LIMITS = Limits()


class Member(NamedTuple):
    """A file of a folder or an archive: its path within, with `/`, its bytes, and how to open it."""

    name: str
    size: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive that can be read here."""
    return path.name.lower().endswith(ARCHIVES)


def members(
    path: Path, wanted: Callable[[str], bool], limits: Limits = LIMITS, links_out: bool = True
) -> Iterator[tuple[str, bytes]]:
    """(path within, content) of the wanted files. Those of folders and zips come sorted by name, those of tars as they lie there.

    Args:
        path: a folder or an archive.
        wanted: of a path within `path`, with `/`; what macOS, Windows and Synology add is passed over without asking.
        limits: of an archive.
        links_out: whether links of a folder that lead out of it are followed; else they are an error. Links of an archive always are.

    Raises:
        UserError: the archive is damaged, encrypted or hostile, or a file cannot be read.
    """
    for member in listed(path, wanted, limits, links_out):
        with _faults_named(path, member.name), member.open() as file:
            # Not more than announced: a zip may announce a few bytes and hold gigabytes.
            content = file.read(member.size)
        yield member.name, content


def listed(
    path: Path, wanted: Callable[[str], bool], limits: Limits = LIMITS, links_out: bool = True
) -> Iterator[Member]:
    """The wanted files, as `members`, without reading them. A member can be opened until the next one is asked for."""
    if path.is_dir():
        for name, file in _walk(path, links_out).files:
            if not _added(name) and wanted(_readable(path, name)):
                with _faults_named(path, name):
                    size = file.stat().st_size
                yield Member(name, size, partial(_plain, file))
        return
    if not path.is_file():
        raise UserError(f"{path} is not there")
    if path.name.lower().endswith(".zip"):
        for _ in _safe(path, _found(path, limits), wanted, limits):
            pass  # its list says all: what is wrong with any is said before the first is read
    yield from _safe(path, _found(path, limits), wanted, limits)


def folders(path: Path, limits: Limits = LIMITS, links_out: bool = True) -> list[str]:
    """The paths within of all folders, empty ones too; of an archive those that it names on their own.

    Raises:
        UserError: as `members`.
    """
    packed = () if path.is_dir() else _found(path, limits)
    found = [_inside(path, member.name) for member in packed if member.is_folder]
    if path.is_dir():
        found = _walk(path, links_out).folders
    return sorted(name for name in found if name and not _added(name))


@contextlib.contextmanager
def opened(path: Path, name: str, limits: Limits = LIMITS) -> Iterator[IO[bytes]]:
    """One file of a folder or an archive as a stream, for a file that is too large to hold twice.

    Raises:
        UserError: as `members`; or there is no such file.
    """
    for member in listed(path, lambda other: other == name, limits):
        with _faults_named(path, name), member.open() as file:
            yield file
        return
    raise UserError(f"{path} has no file '{name}'")


def fingerprint(places: Iterable[Path], wanted: Callable[[str], bool]) -> str:
    """Changes when a wanted file does, without reading any: names, sizes and times of change of files and of those in folders."""
    files = [
        file
        for place in (each.resolve() for each in places)
        for file in (
            [place] if place.is_file() else sorted(file for name, file in _walk(place, True).files if wanted(name))
        )
    ]
    stats = [(str(file), (of := file.stat()).st_size, of.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:12]


def _plain(file: Path) -> IO[bytes]:
    return file.open("rb")


def _found(path: Path, limits: Limits) -> Iterator[Found]:
    """The members of an archive as they announce themselves."""
    with _faults_named(path):
        if path.name.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                yield from in_zip(path, archive)
        else:
            yield from in_tar(path, limits.member, _most(path, limits) + (1 << 20))  # its headers take room too


def _most(path: Path, limits: Limits) -> int:
    return max(limits.free, limits.ratio * path.stat().st_size)


def _safe(path: Path, found: Iterable[Found], wanted: Callable[[str], bool], limits: Limits) -> Iterator[Member]:
    """The wanted members, checked; what leads out of the archive is refused, wanted or not."""
    total, names, most = 0, set(), _most(path, limits)
    for count, member in enumerate(found, 1):
        name = _inside(path, member.name)
        total += max(0, member.size)
        if count > limits.members:
            raise UserError(f"{path} has more than {limits.members} members")
        if total > most:
            raise UserError(f"{path} is refused as a bomb: its members have more than {limits.ratio} times its size")
        if member.is_folder or _added(name) or not wanted(name):
            continue
        if member.fault:
            raise UserError(f"{path}: '{name}' {member.fault}")
        if member.size > limits.member:
            raise UserError(f"{path}: '{name}' has {member.size >> 20} MiB (at most {limits.member >> 20})")
        if name in names:
            raise UserError(f"{path} has two members named '{name}'")
        names.add(name)
        yield Member(name, member.size, member.open)


def _inside(path: Path, name: str) -> str:
    """The member's name in its plain form."""
    parts = _readable(path, name).split("/")
    if name.startswith("/") or "\\" in name or ".." in parts or _DRIVE.match(name):
        raise UserError(f"{path}: {name!r} leads out of the archive")
    return "/".join(part for part in parts if part not in ("", "."))


def _readable(path: Path, name: str) -> str:
    """The name, where it can be stored and printed."""
    if any(0xD800 <= ord(letter) < 0xE000 for letter in name):  # what stands for bytes that are no UTF-8
        raise UserError(f"{path}: the name {name!r} is not UTF-8: rename it")
    return name


def _added(name: str) -> bool:
    """Whether a file manager put it there."""
    return any(part in _ADDED or part.startswith("._") for part in name.split("/"))


class _Walked(NamedTuple):
    files: list[tuple[str, Path]]  # path within, file; sorted by the former
    folders: list[str]  # paths within


def _walk(folder: Path, links_out: bool) -> _Walked:
    """All below the folder. Devices and pipes are passed over, and links that lead to nothing."""
    root = folder.resolve()
    # A link may lead to a folder that holds it: those on the way are not entered again.
    waiting: list[tuple[str, Path, tuple[Path, ...]]] = [("", folder, (root,))]
    walked = _Walked([], [])
    while waiting:
        prefix, here, way = waiting.pop()
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            raise UserError(f"{here} cannot be read ({error.strerror})") from error
        for entry in entries:
            name, file, is_link = prefix + entry.name, Path(entry.path), entry.is_symlink()
            try:
                place = file.resolve() if is_link else way[-1] / entry.name
                is_dir, is_file = entry.is_dir(), entry.is_file()
            except (OSError, RuntimeError):  # a link that leads to itself
                continue
            if is_link and not links_out and not place.is_relative_to(root):
                raise UserError(f"{file} is a link that leads out of {folder} (dataset.outside=true reads it)")
            if is_dir and place not in way:
                walked.folders.append(name)
                waiting.append((f"{name}/", file, (*way, place)))
            elif is_file:
                walked.files.append((name, file))
    walked.files.sort()
    return walked


@contextlib.contextmanager
def _faults_named(path: Path, name: str = "") -> Iterator[None]:
    """Says in one line which archive, or which file of a folder, cannot be read."""
    try:
        yield
    except UserError:
        raise
    except DAMAGED as error:
        reason = one_line(error) or type(error).__name__
        if path.is_dir():
            raise UserError(f"{path / name} cannot be read ({reason})") from error
        what = "zip" if path.name.lower().endswith(".zip") else "tar"
        raise UserError(f"{path} is not an intact {what} file ({reason}): delete it and fetch it again") from error
