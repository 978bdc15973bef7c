"""Omniglot (Lake, Salakhutdinov and Tenenbaum 2015): 1623 characters of 50 alphabets, 20 drawings each.

The images come from a folder that holds `images_background` and `images_evaluation`, as zips or unpacked; where they are missing they are
fetched through torchvision. Zips are read in memory, never unpacked, so no member can land outside its folder.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from metalearn.data.cache import Classes, load_or_make
from metalearn.data.classes import ClassSplit, random_split, read_split
from metalearn.data.download import Download, fetch
from metalearn.data.images import ImageClasses
from metalearn.data.places import data_dir, expanded
from metalearn.errors import UserError, one_line

CONVERSION = 1  # of the cache entries; raise it when the conversion changes
PARTS = ("images_background", "images_evaluation")
_MEMBER = re.compile(r"(?:^|/)(?:images_background|images_evaluation)/([^/]+)/(character\d+)/([^/]+)\.png$")
_OF_THE_FINDER = re.compile(r"(?:^|/)(?:__MACOSX/|\._)")  # what macOS adds to folders and zips
_TORCHVISIONS = "omniglot-py"  # the folder that torchvision makes in its root
_VAL, _TEST = 100, 423  # characters of split=random, as in Finn et al.'s code, which shuffles characters
_LARGEST_FILE, _LARGEST_SIDE = 1 << 24, 4096  # bytes, pixels: of one image, far above any real one
_LAST_RECORD = 22 + 0xFFFF  # bytes: a zip's last record with the longest comment
# All that zipfile and the decompressors raise about a damaged, encrypted or exotic file.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(RuntimeError, NotImplementedError, ValueError, OverflowError),
)
_SIZES = {"images_background": 9_464_212, "images_evaluation": 6_462_886}  # bytes of the published zips


def load(
    root: str | None,
    download: bool,
    split: str,
    split_seed: int,
    size: int,
    resize: str,
    rotations: dict[str, int],
    min_images: int | None = None,  # runs of version 0.1.0 do not know it
) -> ImageClasses:
    """Omniglot: 20 images [1, size, size] of each class, 255 = ink, classes named `Alphabet/characterNN`.

    Raises:
        UserError: no images at `root` and none could be fetched, or what is there is damaged.
    """
    folder = _folder(root)
    if download and folder.name not in PARTS:
        _fetch_missing(folder)
    parts = _find_parts(folder)
    key = f"{size}-{resize}-v{CONVERSION}-{_fingerprint(parts)}"
    stored = load_or_make("omniglot", key, lambda: _convert(parts, size, resize))
    chosen = _split(stored.class_names, split, split_seed)
    whole = ImageClasses("omniglot", stored.images, stored.class_names, chosen, rotations)
    return whole if min_images is None else whole.without_small_classes(min_images)


def _folder(root: str | None) -> Path:
    """`root`, or where it is looked for without one; a folder inside that torchvision or learn2learn made counts as well."""
    folder = data_dir("omniglot") if root is None else expanded(Path(root), "dataset.root")
    inner = folder / _TORCHVISIONS
    return inner if not _has_parts(folder) and _has_parts(inner) else folder


def _has_parts(folder: Path) -> bool:
    return any((folder / name).exists() for part in PARTS for name in (part, f"{part}.zip"))


def _find_parts(folder: Path) -> list[Path]:
    """The two parts, unpacked or as zips."""
    if folder.name in PARTS and not _has_parts(folder) and _has_parts(folder.parent):
        raise UserError(f"dataset.root={folder} is one of the two parts: dataset.root={folder.parent} holds both")
    parts = []
    for part in PARTS:
        found = [path for path in (folder / part, folder / f"{part}.zip") if path.exists()]
        if not found:
            raise UserError(
                f"dataset.root={folder}: no {part}.zip and no {part}/ there "
                "(dataset.download=true fetches both, dataset.root=DIR names another folder)"
            )
        parts.append(found[0])
    return parts


def _fetch_missing(folder: Path) -> None:
    missing = [part for part in PARTS if not (folder / part).is_dir() and not (folder / f"{part}.zip").exists()]
    if not missing:
        return
    from torchvision.datasets import Omniglot as Published  # late: a second of import that only a download needs

    for part in missing:
        fetch(
            Download(
                url=f"{Published.download_url_prefix}/{part}.zip",
                file=folder / f"{part}.zip",
                size=_SIZES[part],
                md5=Published.zips_md5[part],
            )
        )


def _fingerprint(parts: list[Path]) -> str:
    """Changes when any file of the parts does, without reading them: names, sizes and times of change."""
    places = [part.resolve() for part in parts]
    files = [file for part in places for file in ([part] if part.is_file() else sorted(part.rglob("*.png")))]
    stats = [(str(file), (of := file.stat()).st_size, of.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:12]


def image_files(root: str | None) -> Iterator[tuple[str, bytes]]:
    """(class name, content) of every image file at `root`, or where they are looked for without one.

    Raises:
        UserError: they are not there.
    """
    return ((name, content) for name, _, content in _drawings(_find_parts(_folder(root))))


def _drawings(parts: list[Path]) -> Iterator[tuple[str, str, bytes]]:
    """(class name, path, content) of every image file."""
    for part in parts:
        for member, content in _members(part):
            if (match := _MEMBER.search(member)) and not _OF_THE_FINDER.search(member):
                yield f"{match[1]}/{match[2]}", member, content


def _convert(parts: list[Path], size: int, resize: str) -> Classes:
    drawings: dict[str, list[np.ndarray]] = defaultdict(list)
    for name, member, content in _drawings(parts):
        drawings[name].append(_pixels(content, member, size, resize))
    if not drawings:
        raise UserError(
            f"dataset.root={parts[0].parent}: no Omniglot images (Alphabet/characterNN/*.png) in {parts[0].name}"
        )
    for name in sorted(drawings):
        yield name, np.stack(drawings[name])[:, None]


def _members(part: Path) -> Iterator[tuple[str, bytes]]:
    """(path below the folder that holds the part, content) of every file, in path order."""
    if part.is_dir():
        for file in sorted(part.rglob("*.png")):
            yield file.relative_to(part.parent).as_posix(), file.read_bytes()
        return
    try:
        with zipfile.ZipFile(part) as archive:
            members = sorted(archive.infolist(), key=lambda each: each.filename)
            _check_count(part, len(members))
            for member in members:
                if member.filename.endswith(".png"):
                    _check_member(part, member)
                    yield member.filename, archive.read(member)
    except UserError:
        raise
    except _ZIP_ERRORS as error:
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{part} is not an intact zip file ({reason}): delete it and fetch it again") from error


def _check_count(part: Path, members: int) -> None:
    """The zip's last record says how many there are; zipfile does not compare, and a damaged list can swallow its own rest."""
    with part.open("rb") as file:
        file.seek(max(0, part.stat().st_size - _LAST_RECORD))
        end = file.read()
    (count,) = struct.unpack_from("<H", end, end.rindex(b"PK\5\6") + 10)
    if count not in (members, 0xFFFF):  # the latter: more than fit into the field
        raise zipfile.BadZipFile(f"{members} of {count} files are listed")


def _check_member(part: Path, member: zipfile.ZipInfo) -> None:
    """Refuses what only somebody who means harm would write."""
    name = member.filename
    if name.startswith(("/", "\\")) or ".." in name.split("/"):
        raise UserError(f"{part}: {name!r} leads out of the zip file")
    if member.file_size > _LARGEST_FILE:
        raise UserError(f"{part}: {name!r} has {member.file_size >> 20} MiB; a drawing has a few hundred bytes")


def _pixels(content: bytes, member: str, size: int, resize: str) -> np.ndarray:
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        if max(image.size) > _LARGEST_SIDE:  # known before any memory is taken for it
            raise UserError(f"{member} has {image.width}x{image.height} pixels (at most {_LARGEST_SIDE} a side)")
        image.load()
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, zlib.error, struct.error, Image.DecompressionBombError) as error:
        raise UserError(f"{member} is not a readable image ({one_line(error)})") from error
    if image.size != (size, size):
        # Pillow resizes 1-bit images (which these are) with NEAREST, whatever filter is asked for; anti-aliasing needs grey levels first.
        if resize == "antialias":
            image = image.convert("L").resize((size, size), Image.Resampling.LANCZOS)
        else:
            image = image.resize((size, size), Image.Resampling.NEAREST)
    return 255 - np.asarray(image.convert("L"))  # drawn black on white: ink becomes 255


def _split(class_names: tuple[str, ...], split: str, seed: int) -> ClassSplit:
    if split == "random":
        if len(class_names) <= _VAL + _TEST:
            raise UserError(
                f"dataset.split=random needs {_VAL + _TEST + 1} characters or more, there are {len(class_names)} (complete Omniglot has 1623)"
            )
        return random_split(class_names, _VAL, _TEST, seed)
    chosen = read_split("omniglot", split)
    missing = {name for names in chosen.classes.values() for name in names} - set(class_names)
    if missing:
        raise UserError(
            f"dataset.split={split}: the images lack {len(missing)} of its classes, '{min(missing)}' for one"
        )
    return chosen
