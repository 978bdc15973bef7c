"""Converted datasets on disk: made once, checked at every load, memory-mapped.

An entry is a folder `<name>-<key>-f<FORMAT>/` in the cache directory with `images.npy` (uint8 [C, M, c, H, W]) and `index.json` (class names,
images per class, a checksum over all of it). It is written under a temporary name and renamed, so a reader never sees half of one and two
writers do no harm.
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

FORMAT = 2  # of the entries; raise it when what lies in one changes: versions of metalearn may share a cache


class Stored(NamedTuple):
    images: np.ndarray  # uint8 [C, M, c, H, W]
    counts: np.ndarray  # int64 [C]
    class_names: tuple[str, ...]  # [C]


def cache_dir() -> Path:
    """`$METALEARN_CACHE`, else `metalearn` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("METALEARN_CACHE") or Path(base) / "metalearn").expanduser()


def load_or_make(name: str, key: str, make: Callable[[], Stored]) -> Stored:
    """The cache entry of that name and key, made by `make` when it is missing or does not match its checksum.

    Raises:
        UserError: the cache directory cannot be written.
    """
    folder = cache_dir() / f"{name}-{key}-f{FORMAT}"
    if folder.is_dir():
        try:
            return _read(folder)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            log.warning("cache entry %s is damaged (%s): making it again", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    _write(folder, make())
    return _read(folder)


def _read(folder: Path) -> Stored:
    index = json.loads((folder / "index.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r")
    if _checksum(images, index["classes"], index["counts"]) != index["crc32"]:
        raise ValueError("its content does not match its checksum")
    return Stored(images, np.asarray(index["counts"], dtype=np.int64), tuple(index["classes"]))


def _write(folder: Path, stored: Stored) -> None:
    classes, counts = list(stored.class_names), stored.counts.tolist()
    index = {"classes": classes, "counts": counts, "crc32": _checksum(stored.images, classes, counts)}
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


def _checksum(images: np.ndarray, classes: list[str], counts: list[int]) -> int:
    described = json.dumps([images.shape, images.dtype.str, classes, counts])
    return zlib.crc32(np.ascontiguousarray(images).reshape(-1).data, zlib.crc32(described.encode()))
