"""Who gave each setting of a composition its value: a YAML file, a preference of a choice, or the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from metalearn.config.comments import stated
from metalearn.config.files import conf_dir

By = Literal["file", "preference", "command line"]


class Setter(NamedTuple):
    """One that gave a setting a value, and the value as it was written; the last one of a setting wins.

    `file` and `key` say where: the key as the file writes it, as `prefers.train.lr` or, in a file of its group, `filters`.
    """

    value: Any
    by: By
    choice: str = ""  # such as algorithm=maml; empty for train.yaml and the command line
    file: Path | None = None
    key: str = ""

    @property
    def line(self) -> int | None:
        """The line of the file, counted from 1; None where it does not show, as for the command line."""
        found = stated(self.file).get(self.key) if self.file else None
        return found.line if found else None

    @property
    def place(self) -> str:
        """`conf/train.yaml:37`, `conf/algorithm/maml.yaml:12 (preferred by algorithm=maml)` or `command line`."""
        if self.file is None:
            return self.by
        shown = self.file
        if self.file.is_relative_to(conf_dir()):
            shown = Path("conf") / self.file.relative_to(conf_dir())
        text = f"{shown.as_posix()}:{self.line}" if self.line else shown.as_posix()
        return f"{text} (preferred by {self.choice})" if self.by == "preference" else text
