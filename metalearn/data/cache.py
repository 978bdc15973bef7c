"""Converted datasets on disk: made once, checked at every load, memory-mapped.

An entry is a folder `<name>-<key>/` in the cache directory with `images.npy` (uint8 [C, M, c, H, W]) and `index.json` (class names, images per
class, checksum). It is written under a temporary name and renamed, so a reader never sees half of one and two writers do no harm.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metalearn.errors import UserError

log = logging.getLogger("metalearn")


class Stored(NamedTuple):
    images: np.ndarray  # uint8 [C, M, c, H, W]
    counts: np.ndarray  # int64 [C]
    class_names: tuple[str, ...]  # [C]


def cache_dir() -> Path:
    """`$METALEARN_CACHE`, else `metalearn` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("METALEARN_CACHE") or Path(base) / "metalearn").expanduser()


def load_or_make(name: str, key: str, make: Callable[[], Stored]) -> Stored:
    """The cache entry `<name>-<key>`, made by `make` when it is missing or does not match its checksum.

    Raises:
        UserError: the cache directory cannot be written.
    """
    folder = cache_dir() / f"{name}-{key}"
    if folder.is_dir():
        try:
            return _read(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("cache entry %s is damaged (%s): making it again", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    _write(folder, make())
    return _read(folder)


def _read(folder: Path) -> Stored:
    index = json.loads((folder / "index.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r")
    if zlib.crc32(images.reshape(-1).data) != index["crc32"]:
        raise ValueError("images.npy does not match its checksum")
    return Stored(images, np.asarray(index["counts"], dtype=np.int64), tuple(index["classes"]))


def _write(folder: Path, stored: Stored) -> None:
    index = {
        "classes": list(stored.class_names),
        "counts": stored.counts.tolist(),
        "crc32": zlib.crc32(np.ascontiguousarray(stored.images).reshape(-1).data),
    }
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        np.save(temporary / "images.npy", stored.images)
        (temporary / "index.json").write_text(json.dumps(index))
        temporary.rename(folder)
    except OSError as error:
        if folder.is_dir():  # somebody else made the same entry meanwhile: theirs is as good
            return
        raise UserError(
            f"cannot write the dataset cache {folder}: {error} (set METALEARN_CACHE to a writable directory)"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
