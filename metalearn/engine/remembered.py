"""What was measured once on this machine, kept in the cache directory: a later run with the same setting takes it again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metalearn.places import cache_dir

log = logging.getLogger("metalearn")


class Remembered:
    """One measured value, in a file of its own.

    Args:
        what: its name, such as task_chunk.
        setting: names everything that the measurement depended on.
        valid: whether a value read from the file can be one.
    """

    def __init__(self, what: str, setting: str, valid: Callable[[Any], bool]) -> None:
        self._what, self._valid = what, valid
        self._file: Path = cache_dir() / what / f"{setting}.json"

    def read(self) -> Any:
        """The value; None where it was not measured yet, or the file is damaged."""
        try:
            value = json.loads(self._file.read_text())[self._what]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return value if self._valid(value) else None

    def write(self, value: Any) -> Any:
        """Keeps the value unless another run was first: then that one's is returned, so that both compute alike."""
        file = self._file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{os.getpid()}")
            temporary.write_text(json.dumps({self._what: value}))
            try:
                os.link(temporary, file)  # fails where the file exists, atomically
            except FileExistsError:
                if (theirs := self.read()) is not None:
                    return theirs
                temporary.replace(file)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot remember %s=%s in %s: %s", self._what, value, file.parent, error)
        return value
