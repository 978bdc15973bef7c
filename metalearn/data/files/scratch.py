"""Images that come in any order, put together by class in a temporary file; and how long that takes."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray

from metalearn.errors import UserError
from metalearn.places import cache_dir

log = logging.getLogger("metalearn")

_SECONDS = 30.0  # between two lines about a long conversion

Item = TypeVar("Item")


def by_class(images: Iterable[tuple[str, str, NDArray[np.uint8]]]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Puts (class, path, pixels [c, H, W]) that come in any order together: (class, [n, c, H, W]), by the names of classes, then by paths.

    Pixels wait in a temporary file in the cache directory, so memory holds one class at a time.

    Raises:
        UserError: that file cannot be written.
    """
    places: dict[str, list[tuple[str, int]]] = {}
    shape: tuple[int, ...] = ()
    count = 0
    with _scratch() as file:
        for count, (name, path, pixels) in enumerate(counted(images, "images"), 1):
            shape = shape or pixels.shape
            assert pixels.shape == shape, path
            _write(file, pixels)
            places.setdefault(name, []).append((path, count - 1))
        if not count:
            return
        _write(file, None)
        whole = np.memmap(file, np.uint8, "r", shape=(count, *shape))
        for name in sorted(places):
            yield name, np.asarray(whole[[number for _, number in sorted(places[name])]])


def counted(items: Iterable[Item], what: str) -> Iterator[Item]:
    """The same items; of a long conversion, a line every half minute says how many have come."""
    due = time.monotonic() + _SECONDS
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() > due:
            log.info("%d %s are converted so far", count, what)
            due = time.monotonic() + _SECONDS


def _scratch() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=cache_dir())
    except OSError as error:
        raise _unwritable(error) from error


def _write(file: IO[bytes], pixels: NDArray[np.uint8] | None) -> None:
    """Adds pixels; None: all that was added reaches the file."""
    try:
        if pixels is None:
            file.flush()
        else:
            file.write(np.ascontiguousarray(pixels).data)
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: OSError) -> UserError:
    return UserError(
        f"cannot write to the cache directory {cache_dir()}: {error} (set METALEARN_CACHE to a directory with enough space)"
    )
