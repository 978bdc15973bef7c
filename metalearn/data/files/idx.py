"""Labelled images in the files of MNIST and its successors: an idx3 file of images and an idx1 file of labels, plain or in gzip."""

from __future__ import annotations

import contextlib
import gzip
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metalearn.data.files.scratch import by_class
from metalearn.errors import UserError, one_line

_UINT8 = 8  # the code of the type
_BLOCK = 4096  # images read at a time
_LARGEST_SIDE = 4096  # pixels, far above any real one


Opens = Callable[[], AbstractContextManager[IO[bytes]]]


class Pair(NamedTuple):
    """An idx3 file and the idx1 file with its labels.

    Attributes:
        name: of the images' file, for messages; one that ends with .gz is in gzip, and its labels too.
        images, labels: open the files.
    """

    name: str
    images: Opens
    labels: Opens

    @classmethod
    def of_files(cls, images: Path, labels: Path) -> Pair:
        """Two files on disk."""

        def opens(file: Path) -> Opens:
            return lambda: file.open("rb")

        return cls(images.name, opens(images), opens(labels))


def labelled(
    pairs: Sequence[Pair], class_names: Mapping[int, str], size: int, transposed: bool = False
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(class, images [n, 1, size, size]) of all pairs together, in the order of the names.

    Memory holds one class at a time. Images of another size are resized with Lanczos' filter.

    Args:
        pairs: files, one after another.
        class_names: of the labels.
        size: height and width in pixels.
        transposed: the files hold columns where they should hold rows.

    Raises:
        UserError: a file is damaged, is no such file, or has a label without a name.
    """

    def images() -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
        for number, pair in enumerate(pairs):
            labels = _labels(pair)
            for k, pixels in enumerate(_images(pair, len(labels))):
                label = int(labels[k])
                if label not in class_names:
                    raise UserError(
                        f"{pair.name}: image {k} has the label {label} (known: {min(class_names)} to {max(class_names)})"
                    )
                yield class_names[label], f"{number}-{k:08d}", resized((pixels.T if transposed else pixels)[None], size)

    return by_class(images())


def _labels(pair: Pair) -> NDArray[np.uint8]:
    with _opened(pair.labels, pair.name) as file:
        (count,) = _head(file, 1, f"the labels of {pair.name}")
        labels = np.frombuffer(file.read(count), np.uint8)
    if len(labels) != count:
        raise UserError(f"{pair.name}: {count} labels are announced, {len(labels)} are there")
    return labels


def _images(pair: Pair, expected: int) -> Iterator[NDArray[np.uint8]]:
    """[rows, columns] of each image."""
    with _opened(pair.images, pair.name) as file:
        count, rows, columns = _head(file, 3, pair.name)
        if count != expected:
            raise UserError(f"{pair.name} has {count} images and {expected} labels")
        if not 0 < max(rows, columns) <= _LARGEST_SIDE or not min(rows, columns):
            raise UserError(f"{pair.name}: images of {columns}x{rows} pixels (at most {_LARGEST_SIDE} a side)")
        for start in range(0, count, _BLOCK):
            wanted = min(_BLOCK, count - start)
            content = file.read(wanted * rows * columns)
            if len(content) != wanted * rows * columns:
                raise UserError(f"{pair.name} is cut off: {count} images are announced")
            yield from np.frombuffer(content, np.uint8).reshape(wanted, rows, columns)


def _head(file: IO[bytes], axes: int, name: str) -> tuple[int, ...]:
    """The length of each axis."""
    head = file.read(4 + 4 * axes)
    if len(head) < 4 + 4 * axes or head[:4] != bytes((0, 0, _UINT8, axes)):
        raise UserError(f"{name}: it is no idx{axes} file of bytes")
    return struct.unpack(f">{axes}I", head[4:])


@contextlib.contextmanager
def _opened(file: Opens, name: str) -> Iterator[IO[bytes]]:
    try:
        with file() as plain:
            if name.endswith(".gz"):
                with gzip.GzipFile(fileobj=plain) as unpacked:
                    yield unpacked  # type: ignore[misc]
            else:
                yield plain
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name} cannot be read ({one_line(error)}): delete it and fetch it again") from error


def resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Grey images [n, H, W] as [n, size, size], with Lanczos' filter; those that have the size are returned as they are."""
    if images.shape[1:] == (size, size):
        return images
    made = np.empty((len(images), size, size), np.uint8)
    for k, pixels in enumerate(images):
        image = Image.fromarray(np.ascontiguousarray(pixels))
        made[k] = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
    return made
