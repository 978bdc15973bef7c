"""One process at a time does what several would do alike, such as fetching a file; the others wait and find it done."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from metalearn.locks import NoLocksError, locked

log = logging.getLogger("metalearn")


@contextlib.contextmanager
def alone(target: Path, doing: str) -> Iterator[bool]:
    """Holds the lock of `target`, which the work makes; whoever had to wait looks whether it is there now.

    Args:
        target: a file or folder; the lock lies beside it, under a hidden name, while it is held.
        doing: for the line about waiting, such as `fetching`.

    Yields:
        Whether no other process does it: False where the file system has no locks.

    Raises:
        OSError: the lock cannot be written.
    """
    path = target.with_name(f".{target.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            if not stack.enter_context(locked(path)):
                log.info("another process is %s %s: waiting for it", doing, target)
                stack.enter_context(locked(path, wait=True))
            is_alone = True
        except NoLocksError as error:
            log.debug("%s is not locked: %s", target, error)
            is_alone = False
        try:
            yield is_alone
        finally:
            with contextlib.suppress(OSError):  # on Windows while somebody waits for it
                path.unlink(missing_ok=True)
