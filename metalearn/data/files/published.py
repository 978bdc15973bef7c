"""The files of a data set as its authors publish them: name, size, checksum, where from; found on disk, or said to be missing.

A data set's module declares them once, as `ABOUT`. Its loader, `metalearn data` and the error about a missing file read them there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalearn.errors import UserError
from metalearn.places import data_dir, expanded
from metalearn.sizes import bytes_text

_PIECE = 2**20  # bytes read at a time


@dataclass(frozen=True)
class PublishedFile:
    """One file of a data set.

    Attributes:
        name: its path below the data set's folder, with `/`.
        urls: where it can be fetched, in the order in which they are tried; empty where that takes a form or a login.
        size: bytes; None where nobody publishes it.
        md5, sha256: hexadecimal; the second counts where both are known. Both None where nobody publishes one.
        unpacked: what an archive unpacks to, a folder or file below the data set's folder; it counts as the file wherever that is read.
        repacked: (size, md5) of other packings of the same content, which count as the file too.
    """

    name: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None
    unpacked: str | None = None
    repacked: tuple[tuple[int, str], ...] = ()

    @property
    def checksum(self) -> tuple[str, str] | None:
        """("sha256" or "md5", its hexadecimal digits); None where none is published."""
        if self.sha256 is not None:
            return "sha256", self.sha256
        return None if self.md5 is None else ("md5", self.md5)

    def __str__(self) -> str:
        """`EuroSAT.zip (94.3 MB, md5 c8fa...)`."""
        known = [] if self.size is None else [bytes_text(self.size)]
        known += [" ".join(self.checksum)] if self.checksum else []
        return f"{self.name} ({', '.join(known) or 'no size or checksum is published'})"


def _all_files(settings: Mapping[str, Any], files: tuple[PublishedFile, ...]) -> tuple[PublishedFile, ...]:
    return files


@dataclass(frozen=True)
class About:
    """What `metalearn data` says about a data set.

    Attributes:
        title: one line, without the authors' names.
        homepage: where its authors describe it.
        licence: of the images; `not stated` where the authors state none.
        files: all that are published; empty where the data set needs no file of its own.
        folder: its name in the data directory and of its cache entries; None: the data set's. Two data sets made from the same files share one.
        cache: the name of its cache entries; None: the data set's. Two data sets of the same images share them.
        inner: folders inside of it where torchvision, or another program that fetches them, puts the files.
        system: the folder where a package of the operating system installs the files; it is used where there is none else.
        by_hand: how the user gets files that no address here has, as a sentence without a full stop; None: from the homepage.
        place: for files that have several names, as versions of a package: where they lie, from `dataset.root`; UserError where they are
            missing, which says how to get them. Of `files` the one of that name is compared.
        choose: picks the files that `dataset.*` settings need, from the settings and `files`; by default all.
    """

    title: str
    homepage: str
    licence: str
    files: tuple[PublishedFile, ...] = ()
    folder: str | None = None
    cache: str | None = None
    inner: tuple[str, ...] = ()
    system: str | None = None
    by_hand: str | None = None
    place: Callable[[str | None], Path] | None = None
    choose: Callable[[Mapping[str, Any], tuple[PublishedFile, ...]], tuple[PublishedFile, ...]] = _all_files


def folder_of(dataset: str, about: About, root: str | None) -> Path:
    """Where the files of a data set lie: `dataset.root`, or without one `$METALEARN_DATA/<folder>` or the user's data directory.

    Where that holds none of the files, and a folder `about.inner` of it or, without a root, `about.system` does, it is that one.

    Raises:
        UserError: the path begins with `~` and the user has no home directory.
    """
    outer = data_dir(about.folder or dataset) if root is None else expanded(Path(root), "dataset.root")
    further = [Path(about.system)] if about.system and root is None else []
    places = (outer, *(outer / name for name in about.inner), *further)
    return next((folder for folder in places if has_some(folder, about)), outer)


def has_some(folder: Path, about: About) -> bool:
    """Whether any file of the data set is there, packed or unpacked."""
    return any(found(folder, file) is not None for file in about.files)


def found(folder: Path, file: PublishedFile) -> Path | None:
    """The file in `folder`, or the folder that it was unpacked to; None where neither is there."""
    places = [folder / file.name, *([folder / file.unpacked] if file.unpacked else [])]
    return next((place for place in places if place.exists()), None)


def is_unpacked(place: Path, file: PublishedFile) -> bool:
    """Whether `place`, which `found` returned, is what the file unpacks to: the published checksum says nothing about it."""
    return place.is_dir() or place.name != Path(file.name).name


def find(dataset: str, about: About, folder: Path, files: Sequence[PublishedFile] | None = None) -> tuple[Path, ...]:
    """Where each file lies, packed or unpacked, in the order of `files` (None: all that `about` lists).

    Raises:
        UserError: one is missing. The message says which, its size and checksum, where to put it and which command fetches it.
    """
    wanted = about.files if files is None else tuple(files)
    places = [(file, found(folder, file)) for file in wanted]
    missing = [file for file, place in places if place is None]
    if missing:
        raise UserError(missing_text(dataset, about, folder, missing))
    return tuple(place for _, place in places if place is not None)


def missing_text(dataset: str, about: About, folder: Path, missing: Sequence[PublishedFile]) -> str:
    """The sentence about missing files: the first by name, the others by their number."""
    first, more = missing[0], len(missing) - 1
    others = f" and {more} more file{'s' if more > 1 else ''}" if more else ""
    unpacked = f" (or {first.unpacked}, which it unpacks to)" if first.unpacked else ""
    listed = "" if not more else f" (metalearn data check {dataset} lists all)"
    if first.urls:
        way = f"metalearn data fetch {dataset} fetches {'them' if more else 'it'} from {first.urls[0]}"
    else:
        way = f"it has to be fetched by hand: {about.by_hand or about.homepage}"
    return (
        f"dataset={dataset}: {first}{unpacked}{others} {'are' if more else 'is'} missing in {folder}{listed}: {way}; "
        "dataset.root=DIR names another folder"
    )


class Tally:
    """Counts and hashes a file's bytes as they come, so that no file is held in memory."""

    def __init__(self, file: PublishedFile) -> None:
        self.size = 0
        self._file = file
        # The strongest that is known is enough. md5 is published for many files: against accidents, not against attackers.
        self._digest = hashlib.new(file.checksum[0], usedforsecurity=False) if file.checksum else None

    def add(self, piece: bytes) -> None:
        """Takes the next bytes."""
        self.size += len(piece)
        if self._digest is not None:
            self._digest.update(piece)

    def fault(self) -> str | None:
        """What is wrong with all bytes that came: their number or their checksum; None where they are the published file."""
        if self._file.size is not None and self.size != self._file.size:
            return f"it has {self.size} bytes, {self._file.size} were expected"
        if self._digest is not None and self._file.checksum is not None:
            kind, expected = self._file.checksum
            if self._digest.hexdigest() != expected:
                return f"its {kind} is {self._digest.hexdigest()}, {expected} was expected"
        return None


def verify(path: Path, file: PublishedFile, progress: Callable[[int], None] = lambda size: None) -> str | None:
    """What is wrong with the file at `path`, read piece by piece; None where size and checksum are the published ones.

    Args:
        progress: called with the number of bytes read so far.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    other = next((md5 for length, md5 in file.repacked if length == size), None)
    expected = file if other is None else PublishedFile(file.name, size=size, md5=other)
    if expected.size is not None and size != expected.size:  # known without reading gigabytes
        return f"it has {size} bytes, {expected.size} were expected"
    tally = Tally(expected)
    with path.open("rb") as opened:
        while piece := opened.read(_PIECE):
            tally.add(piece)
            progress(tally.size)
    return tally.fault()


def total_text(files: Sequence[PublishedFile]) -> str:
    """The size of several files together: `15.9 MB`, `at least 15.9 MB` where some sizes are not published, `size not published` where none is."""
    known = [file.size for file in files if file.size is not None]
    if not known:
        return "size not published"
    return f"{'' if len(known) == len(files) else 'at least '}{bytes_text(sum(known))}"
