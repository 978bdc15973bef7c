"""Converted data sets on disk: made once, checked at every load, memory-mapped.

An entry is a folder `<name>-<key>-f<FORMAT>/` in the cache directory with `images.npy` (uint8 [M, c, H, W], the images of all classes one after
another, or their texts, uint8 [M, length]) and `index.json` (class names, images per class, checksums). It is written class by class under a
temporary name and renamed, so that a reader never sees half of one, two writers do no harm, and no data set has to fit into memory.

What is checked: an entry of up to `WHOLE_BYTES` is read whole at every load. Of a larger one, whose reading would take longer than the work on it, a
load checks the size, the index and `_BLOCKS` blocks spread evenly over the images; `damage` reads all of it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metalearn.data.classes import TURNED
from metalearn.data.container import FlatImages
from metalearn.data.files.alone import alone
from metalearn.errors import UserError
from metalearn.places import cache_dir

log = logging.getLogger("metalearn")

FORMAT = 3  # of the entries; raise it when what lies in one changes: versions of metalearn may share a cache
WHOLE_BYTES = 2**28  # of images; a quarter of a second to read and check
_BLOCK, _BLOCKS = 2**16, 64  # bytes of one, and how many are checked of a larger entry
_HEADER = 128  # bytes of the head of an .npy file

# The name of each class and its images, uint8 [n, c, H, W], or texts uint8 [n, length].
Classes = Iterable[tuple[str, NDArray[np.uint8]]]

_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError)
_NO_ROOM = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_ELSEWHERE = "(or set METALEARN_CACHE to a directory of your own)"


class Stored(NamedTuple):
    images: FlatImages  # of C classes, mapped from the file
    class_names: tuple[str, ...]  # [C]


def load_or_make(name: str, key: str, make: Callable[[], Classes]) -> Stored:
    """The cache entry of that name and key, made by `make` when it is missing or does not match its checksum.

    Args:
        name: of the data set.
        key: changes with everything that the images depend on: settings, version of the conversion, state of the files it reads.
        make: yields one class after another, at least one; all images have one shape, each class has an image and a name of its own.

    Raises:
        UserError: the cache directory cannot be written or is full, or holds an entry of another user that cannot be read.
        Whatever `make` raises: no part of an entry is left behind.
    """
    folder = cache_dir() / f"{name}-{key}-f{FORMAT}"
    if stored := _found(folder):
        return stored
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if stored := _found(folder):  # by now: another process made it
            return stored
        _write(folder, make())
    try:
        return _read(folder)
    except _DAMAGED as error:  # another user's, which could not be removed
        raise UserError(f"the cache entry {folder} is damaged ({error}): remove it {_ELSEWHERE}") from error


def entries(name: str) -> list[Path]:
    """The folders of all cache entries of the data set `name`, in the order of their names."""
    return sorted(folder for folder in cache_dir().glob(f"{name}-*-f{FORMAT}") if folder.is_dir())


def size_of(folder: Path) -> tuple[int, int] | None:
    """(number of classes, number of images) of the cache entry `folder`, without turned copies; None where its index cannot be read."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        pairs = zip(index["classes"], index["counts"], strict=True)
        counts = [count for name, count in pairs if not name.startswith(TURNED)]
        return len(counts), sum(counts)
    except _DAMAGED:
        return None


def damage(folder: Path) -> str | None:
    """What is wrong with the cache entry `folder`, of which all is read; None where it is intact."""
    try:
        _read(folder, whole=True)
    except _DAMAGED as error:
        return f"{error}"
    return None


def _found(folder: Path) -> Stored | None:
    try:
        return _read(folder) if folder.is_dir() else None
    except PermissionError as error:
        raise UserError(f"the cache entry {folder} cannot be read: {error.strerror} {_ELSEWHERE}") from error
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:  # nothing is wrong with the entry
            raise UserError(
                f"the cache entry {folder} cannot be mapped: {error.strerror} (ulimit -v, if set, must leave room for its file)"
            ) from error
        log.warning("cache entry %s is damaged (%s): making it again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _read(folder: Path, whole: bool = False) -> Stored:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    images = np.load(folder / "images.npy", mmap_mode="r")
    if images.offset + images.nbytes != (folder / "images.npy").stat().st_size:
        raise ValueError("its file is longer than its images")
    described = _described(images.shape, images.dtype, index["classes"], index["counts"])
    # An entry of an earlier version has no sampled checksum.
    of_a_part = images.nbytes > WHOLE_BYTES and "sampled_crc32" in index and not whole
    expected = index["sampled_crc32" if of_a_part else "crc32"]
    if (_sampled(images, described) if of_a_part else zlib.crc32(_bytes(images), described)) != expected:
        raise ValueError("its content does not match its checksum")
    return Stored(FlatImages(images, np.asarray(index["counts"], dtype=np.int64)), tuple(index["classes"]))


def _write(folder: Path, classes: Classes) -> None:
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with _writing(folder):
            temporary.mkdir()  # not by tempfile, whose directories nobody else may read: a cache may be shared
            file = (temporary / "images.npy").open("wb", buffering=0)  # nothing is left to be written when it is closed
        with file:
            index = _streamed(file, folder, classes)
        with _writing(folder):
            images = np.load(temporary / "images.npy", mmap_mode="r")
            if images.nbytes > WHOLE_BYTES:
                described = _described(images.shape, images.dtype, index["classes"], index["counts"])
                index["sampled_crc32"] = _sampled(images, described)
            del images  # some systems rename no folder whose files are mapped
            (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.is_dir():  # else somebody made the same entry meanwhile: theirs is as good
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _streamed(file: IO[bytes], folder: Path, classes: Classes) -> dict[str, Any]:
    """Writes images.npy class by class; the content of index.json."""
    names: list[str] = []
    counts: list[int] = []
    shape: tuple[int, ...] = ()
    crc = 0
    with _writing(folder):
        _put(file, bytes(_HEADER))
    for name, images in classes:
        shape = shape or images.shape[1:]
        assert images.dtype == np.uint8, name
        assert images.ndim in (2, 4), name
        assert images.shape[1:] == shape, name
        assert len(images), name
        names.append(name)
        counts.append(len(images))
        content = _bytes(images)
        crc = zlib.crc32(content, crc)
        with _writing(folder):
            _put(file, content)
    assert names, "no class"
    assert len(set(names)) == len(names), "two classes of one name"
    whole = (sum(counts), *shape)
    with _writing(folder):
        file.seek(0)
        _put(file, _head(whole))
    # How many images there are is known only now, and the checksum begins with it.
    crc = _after(_described(whole, np.dtype(np.uint8), names, counts), crc, int(np.prod(whole)))
    return {"classes": names, "counts": counts, "crc32": crc}


def _head(shape: tuple[int, ...]) -> bytes:
    """The first `_HEADER` bytes of an .npy file (format 1.0) of uint8 in C order."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape})
    length = _HEADER - 10  # of the text; before it stand the magic string, the version and this length
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + f"{text:<{length - 1}}\n".encode("ascii")


def _put(file: IO[bytes], content: bytes | memoryview) -> None:
    """Writes all of it: an unbuffered file may take a part at a time."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _bytes(images: NDArray[np.uint8]) -> memoryview:
    return np.ascontiguousarray(images).reshape(-1).data


def _described(shape: tuple[int, ...], dtype: np.dtype[Any], classes: list[str], counts: list[int]) -> int:
    """The checksum of what the images are, with which that of the images begins."""
    return zlib.crc32(json.dumps([shape, dtype.str, classes, counts]).encode())


def _sampled(images: NDArray[np.uint8], described: int) -> int:
    """The checksum of blocks from the first to the last byte of the images."""
    flat, crc = images.reshape(-1), described
    for start in np.linspace(0, len(flat) - _BLOCK, _BLOCKS).astype(np.int64).tolist():
        crc = zlib.crc32(flat[start : start + _BLOCK].data, crc)
    return crc


def _after(first: int, second: int, length: int) -> int:
    """The CRC-32 of two texts from that of each, the second of `length` bytes: `first` times x^(8 * length), plus `second`.

    In polynomials with coefficients 0 and 1, modulo that of CRC-32; bit 31 is the constant term.
    """
    power, square, left = 1 << 31, 1 << 30, 8 * length  # 1, x
    while left:
        if left & 1:
            power = _times(power, square)
        square, left = _times(square, square), left >> 1
    return _times(first, power) ^ second


def _times(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (0xEDB88320 if b & 1 else 0)
    return product


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What goes wrong with writing the entry is one line for the user; what its maker reads stays outside."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the dataset cache {folder}: {error} (set METALEARN_CACHE to a writable directory with enough space)"
        ) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time makes the entry; the others wait and say so."""
    with contextlib.ExitStack() as stack:
        with _writing(folder):
            stack.enter_context(alone(folder, "making the cache entry"))
        yield
