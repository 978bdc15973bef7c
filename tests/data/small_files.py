"""Small files in exactly the layouts of published data sets, for the tests of their converters."""

from __future__ import annotations

import io
import re
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metalearn.data.classes import SPLITS, read_split
from metalearn.data.images import ImageClasses
from metalearn.data.listed import Asked

ONE_EACH = {"train": 1, "val": 1, "test": 1}


def picture(seed: int, width: int = 24, height: int = 16, format: str = "JPEG") -> bytes:
    """Coarse patches of colour, other ones for every seed."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(patches).resize((width, height), Image.Resampling.NEAREST).save(content, format)
    return content.getvalue()


def pixels(content: bytes, size: int, box: tuple[int, int, int, int] | None = None) -> NDArray[np.uint8]:
    """What Pillow makes of an image file by itself: [3, size, size]."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image = image if box is None else image.crop(box)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1)


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    """A .tar, or compressed as its name says."""
    compression = {".tgz": "gz", ".gz": "gz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{compression}", compresslevel=1) if compression else tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_folder(root: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def python_2_pickle(held: Any) -> bytes:
    """What cPickle of Python 2 writes with protocol 2: texts are bytes, arrays as numpy of those days pickled them, nothing refers back."""
    return b"\x80\x02" + _python_2(held) + b"."


def _python_2(held: Any) -> bytes:
    if isinstance(held, dict):
        return b"}(" + b"".join(_python_2(key) + _python_2(value) for key, value in held.items()) + b"u"
    if isinstance(held, list):
        return b"](" + b"".join(map(_python_2, held)) + b"e"
    if isinstance(held, str):
        text = held.encode("latin-1")
        return b"T" + struct.pack("<i", len(text)) + text
    if isinstance(held, int):
        return b"J" + struct.pack("<i", held)
    assert isinstance(held, np.ndarray), held
    code = held.dtype.str[1:].encode()
    order = b"|" if held.dtype.itemsize == 1 else b"<"
    dtype = (
        b"cnumpy\ndtype\nU\x02"
        + code
        + b"K\x00K\x01\x87R(K\x03U\x01"
        + order
        + b"NNN"
        + b"J\xff\xff\xff\xff" * 2
        + b"K\x00tb"
    )
    shape = b"(" + b"".join(map(_python_2, held.shape)) + b"t"
    content = held.tobytes()
    state = b"(K\x01" + shape + dtype + b"\x89" + b"T" + struct.pack("<i", len(content)) + content + b"tb"
    return b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R" + state


def settings(root: Path | None, **changes: Any) -> dict[str, Any]:
    """What a loader takes, with `dataset.root` there or null: `asked`, and its own settings."""
    given = {"root": root and str(root), "split_seed": 0, "size": 12, "rotations": ONE_EACH} | changes
    own = {key: given.pop(key) for key in list(given) if key not in Asked._fields}
    return {"asked": Asked(**given), **own}


def unpacked(root: Path, files: Mapping[str, bytes]) -> Path:
    """The folder, with the files in it."""
    write_folder(root, files)
    return root


def classes_of(dataset: str, split: str = "metadataset") -> list[str]:
    """All classes of a shipped split, by their names."""
    found = read_split(dataset, split)
    return sorted(name for part in SPLITS for name in found.classes[part])


def image(dataset: ImageClasses, name: str, number: int) -> NDArray[np.uint8]:
    """One image of a class."""
    return dataset.images.of_class(dataset.class_names.index(name))[number]


def section(dataset: str) -> str:
    """What docs/data says of a data set."""
    pages = sorted((Path(__file__).parent.parent.parent / "docs" / "data").glob("*.md"))
    texts = [page.read_text(encoding="utf-8") for page in pages]
    (found,) = [own for text in texts for own in re.findall(rf"^## `{dataset}`\n(.*?)(?=^##? |\Z)", text, re.M | re.S)]
    return str(found)


def idx(values: NDArray[np.uint8]) -> bytes:
    """The file that MNIST and its successors have for such an array."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
