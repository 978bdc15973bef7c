"""Locks between processes that end with their process, however that ends.

On POSIX they are flock's, which can ask whether a lock is held without taking it; on Windows they are filelock's.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class NoLocksError(OSError):
    """The file system has no locks."""


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Holds the lock file `path` exclusively while the context lasts, and says whether it could be had.

    Args:
        path: made where it is missing.
        wait: until whoever holds it lets go.

    Raises:
        NoLocksError: the file system has no locks.
        OSError: the file cannot be opened.
    """
    if fcntl is None:
        with _by_filelock(path, wait) as held:
            yield held
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield _flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether another process, or another context of this one, holds the lock file; nobody is kept from taking it by the question.

    Raises:
        NoLocksError, OSError: as `locked`.
    """
    if not path.exists():
        return False
    if fcntl is None:
        with _by_filelock(path, wait=False) as held:
            return not held
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return not _flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def folder_locked(folder: Path) -> Iterator[bool]:
    """Holds `folder` itself, without a file where the system can do that, and says whether it could be had.

    Raises:
        NoLocksError: the file system cannot lock a folder.
    """
    if fcntl is None:
        with _by_filelock(folder / ".lock", wait=False) as held:
            yield held
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def is_folder_locked(folder: Path) -> bool:
    """Whether another process, or another context of this one, holds `folder` by `folder_locked`.

    Raises:
        NoLocksError, OSError: as `locked`.
    """
    if fcntl is None:
        return is_locked(folder / ".lock")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return not _flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int) -> bool:
    """Whether the lock could be had; it goes with the descriptor."""
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise NoLocksError(*error.args) from error
        raise
    return True


@contextlib.contextmanager
def _by_filelock(path: Path, wait: bool) -> Iterator[bool]:
    from filelock import FileLock, Timeout

    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    except NotImplementedError as error:
        raise NoLocksError(errno.ENOSYS, str(error)) from error
    try:
        yield True
    finally:
        lock.release()
