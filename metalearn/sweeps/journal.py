"""The journal of a search's study (SWEEP_DIR/study.journal): a text file to which Optuna appends lines, each a record in JSON.

A full disk, or a machine that crashes while it appends, can leave an incomplete last line. A record appended to that line would make the
whole file unreadable, so the incomplete line is removed before the next record is written. This module does not need Optuna.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Protocol

_START = b'{"op_code":'  # of every record


class Lock(Protocol):
    def acquire(self) -> bool: ...
    def release(self) -> None: ...


class MendingLock:
    """Optuna's lock of a journal; taking it also removes an incomplete last line."""

    def __init__(self, path: Path, lock: Lock) -> None:
        self._path, self._lock = path, lock

    def acquire(self) -> bool:
        """Waits for the lock.

        Raises:
            ValueError: the journal ends in something that is no record.
            OSError: the journal, or its lock, cannot be written.
        """
        self._lock.acquire()
        try:
            remove_incomplete_line(self._path)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def remove_incomplete_line(path: Path) -> None:
    """Cuts off a last line without a line end.

    Raises:
        ValueError: this line is not the beginning of a record. Then the file is not changed.
    """
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        text = file.read()
        end = text.rfind(b"\n") + 1
        line = text[end:].rstrip(b"\0")  # a crash can leave zeros for what was not yet on the disk
        if not (line.startswith(_START) or _START.startswith(line)):
            raise ValueError("the last line is no record")
        file.truncate(end)


def damage(path: Path) -> str:
    """Describes in a few words what is wrong with a journal that Optuna cannot read."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not _is_record(line):
                    return f"line {number} is no record of an Optuna journal"
    except OSError as error:
        return error.strerror or type(error).__name__
    return "its records contradict each other"


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and isinstance(record.get("op_code"), int)
