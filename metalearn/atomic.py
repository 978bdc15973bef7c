"""Files that are whole at every moment, whenever the process or the machine dies."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Writes `content` so that `path` holds the old content or the new; when this returns, the new is on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Puts the names of a directory's files on the disk, where its file system can."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError:  # Windows opens no directories
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse, and do so for every directory
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory: Path) -> None:
    """Removes what a process that was killed while it wrote has left."""
    for file in directory.glob(".*.*"):
        if file.suffix[1:].isdigit():
            file.unlink(missing_ok=True)
