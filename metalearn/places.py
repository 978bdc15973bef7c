"""Where data and converted data lie on a user's machine."""

from __future__ import annotations

import os
from pathlib import Path

from metalearn.errors import UserError


def cache_dir() -> Path:
    """`$METALEARN_CACHE`, else `metalearn` in the user's cache directory.

    Raises:
        UserError: neither is set and the user has no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(Path(os.environ.get("METALEARN_CACHE") or Path(base) / "metalearn"), "METALEARN_CACHE")


def data_dir(dataset: str) -> Path:
    """Where the files of a data set are looked for without `dataset.root`: `$METALEARN_DATA/<dataset>`, else in the user's data directory.

    Raises:
        UserError: neither is set and the user has no home directory.
    """
    if data := os.environ.get("METALEARN_DATA"):
        return expanded(Path(data), "METALEARN_DATA") / dataset
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return expanded(Path(base), "METALEARN_DATA") / "metalearn" / dataset


def expanded(path: Path, setting: str) -> Path:
    """`path` with `~` replaced by the home directory; UserError naming `setting` where there is none, as in some containers."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: this user has no home directory: set {setting} to a directory") from error
