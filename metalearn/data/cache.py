"""Converted datasets on disk: made once, checked at every load, memory-mapped.

An entry is a folder `<name>-<key>-f<FORMAT>/` in the cache directory with `images.npy` (uint8 [M, c, H, W], the images of all classes one after
another) and `index.json` (class names, images per class, a checksum over all of it). It is written under a temporary name and renamed, so a
reader never sees half of one and two writers do no harm.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metalearn.data.container import FlatImages
from metalearn.data.places import cache_dir
from metalearn.errors import UserError

log = logging.getLogger("metalearn")

FORMAT = 3  # of the entries; raise it when what lies in one changes: versions of metalearn may share a cache


_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError)
_ELSEWHERE = "(or set METALEARN_CACHE to a directory of your own)"


class Stored(NamedTuple):
    images: FlatImages  # of C classes
    class_names: tuple[str, ...]  # [C]


def load_or_make(name: str, key: str, make: Callable[[], Stored]) -> Stored:
    """The cache entry of that name and key, made by `make` when it is missing or does not match its checksum.

    Raises:
        UserError: the cache directory cannot be written, or holds an entry of another user that cannot be read.
    """
    folder = cache_dir() / f"{name}-{key}-f{FORMAT}"
    try:
        if folder.is_dir():
            return _read(folder)
    except PermissionError as error:
        raise UserError(f"the cache entry {folder} cannot be read: {error.strerror} {_ELSEWHERE}") from error
    except _DAMAGED as error:
        log.warning("cache entry %s is damaged (%s): making it again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
    _write(folder, make())
    try:
        return _read(folder)
    except _DAMAGED as error:  # another user's, which could not be removed
        raise UserError(f"the cache entry {folder} is damaged ({error}): remove it {_ELSEWHERE}") from error


def _read(folder: Path) -> Stored:
    index = json.loads((folder / "index.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r")
    if _checksum(images, index["classes"], index["counts"]) != index["crc32"]:
        raise ValueError("its content does not match its checksum")
    return Stored(FlatImages(images, np.asarray(index["counts"], dtype=np.int64)), tuple(index["classes"]))


def _write(folder: Path, stored: Stored) -> None:
    images = stored.images.images
    classes, counts = list(stored.class_names), stored.images.counts.tolist()
    index = {"classes": classes, "counts": counts, "crc32": _checksum(images, classes, counts)}
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
        temporary.mkdir()  # not by tempfile, whose directories nobody else may read: a cache may be shared
        np.save(temporary / "images.npy", images)
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
