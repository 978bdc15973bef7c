"""Somebody's own images: which file belongs to which class, in a folder, an archive or beside a CSV file.

Layouts: one folder for each class; `train/`, `val/` and `test/` that hold such folders; a CSV file of paths and labels.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from metalearn.data.files.archives import ARCHIVES, fingerprint, folders, is_archive, listed, members, opened
from metalearn.data.own.labels import SPLIT_NAMES, is_labels, read_labels
from metalearn.errors import UserError, one_line
from metalearn.places import expanded
from metalearn.sizes import count_text

# What Pillow reads, and HEIC, which it may read with an addition and whose files are photographs in any case.
_IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".jpx", ".ico", ".icns", ".psd", ".pcx", ".sgi", ".qoi"),
    *(".dds", ".mpo", ".heic", ".heif"),
)


class Sought(NamedTuple):
    """Which files are examples."""

    noun: str
    is_one: Callable[[str], bool]  # of a file's name


class Place(NamedTuple):
    """The class of an image and the split that its folder or row names; empty where none is named."""

    class_name: str
    split: str


@dataclass
class Layout:
    """Which images there are.

    Attributes:
        root: the folder, archive or CSV file.
        kind: the layout, in words.
        images: path within the folder or archive -> place.
        empty: classes without an image.
        others: files that are no images by their name.
        stray: images that lie in no class folder.
        missing: files that the CSV file lists and that are not there.
    """

    root: Path
    kind: str
    images: dict[str, Place]
    empty: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    outside: bool = False

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """(path, content) of every image.

        Raises:
            UserError: a file or the archive cannot be read.
        """
        if self.root.is_dir() or is_archive(self.root):
            yield from members(self.root, self.images.__contains__, links_out=self.outside)
            return
        for path in sorted(self.images):
            try:
                content = (self.root.parent / path).read_bytes()
            except OSError as error:
                raise UserError(f"{self.root.parent / path} cannot be read ({one_line(error)})") from error
            yield path, content


def checked_root(root: str | None, setting: str = "dataset.root") -> Path:
    """The folder, archive or CSV file; UserError naming `setting` where it is none of these."""
    if root is None:
        raise UserError(f"{setting} must be set: a folder, an archive or a CSV file of your own (docs/data/folder.md)")
    if not root:  # of an unset shell variable; as a path it would stand for all that lies here
        raise UserError(f"{setting}='' is no path")
    path = expanded(Path(root), setting)
    try:
        there = path.exists()
    except OSError as error:
        raise UserError(f"{setting}={root} cannot be read ({one_line(error)})") from error
    if not there:
        raise UserError(f"{setting}={root} is not there")
    if not path.is_dir() and not (path.is_file() and (is_archive(path) or is_csv(path.name))):
        raise UserError(f"{setting}={root} is no folder, no archive ({' '.join(ARCHIVES)}) and no .csv file")
    return path


def short_name(root: Path) -> str:
    """What a folder or archive is called wherever it lies; a CSV file like the folder that it lies in."""
    whole = Path(os.path.abspath(root))  # not resolved: a link's own name counts
    name = whole.parent.name if is_csv(whole.name) and not whole.is_dir() else whole.name
    ending = next((each for each in sorted(ARCHIVES, key=len, reverse=True) if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)] or "root"


def state_of(root: Path, outside: bool, sought: Sought | None = None) -> str:
    """Changes when an image, the archive or the CSV file does; or a text, where `sought` are TEXT_FILES, which a CSV file holds itself."""
    is_one = is_image if sought is None else sought.is_one
    if root.is_dir():
        return fingerprint([root], lambda name: not _hidden(name) and (is_one(name) or is_csv(name)))
    lists_files = sought is None and not is_archive(root)
    files = [root.parent / path for path in _of_table(root, outside).images] if lists_files else []
    return fingerprint([root, *files], lambda name: True)


def layout_of(root: Path, depth: int = 1, outside: bool = False, sought: Sought | None = None) -> Layout:
    """Which image belongs to which class.

    Args:
        root: from `checked_root`.
        depth: how many folders make the name of a class: 1 for `cat/1.jpg`, 2 for `Greek/alpha/1.png`. Not of a CSV file.
        outside: whether files outside of `root` are read, through links of a folder or by paths of a CSV file.
        sought: which files are examples; None: IMAGES.

    Raises:
        UserError: there is no image, or it cannot be told what belongs to which class.
    """
    if not root.is_dir() and not is_archive(root):
        return _of_table(root, outside)
    noun, is_one = sought or IMAGES
    names = [each.name for each in listed(root, lambda name: not _hidden(name), links_out=outside)]
    images = [name for name in names if is_one(name)]
    others = [name for name in names if not is_one(name)]
    if not images:
        raise UserError(f"dataset.root={root} holds no {noun}")
    top = _common_folder(images, depth)
    if (table := _table_within(root, [name for name in others if name.startswith(top)], top)) is not None:
        return _of_table_within(root, table, images, others, outside)
    layout = _of_folders(root, top, images, others, depth, outside)
    if not layout.images:
        raise UserError(
            f"dataset.root={root}: its {count_text(len(images), noun)} {'lies' if len(images) == 1 else 'lie'} "
            f"in no class folder, '{images[0]}' for one"
        )
    return layout


def _of_folders(root: Path, top: str, images: list[str], others: list[str], depth: int, outside: bool) -> Layout:
    inside = {name: name[len(top) :].split("/") for name in images if name.startswith(top)}
    divided = [parts for parts in inside.values() if len(parts) > depth + 1]
    divides = bool(divided) and all(parts[0].lower() in SPLIT_NAMES for parts in inside.values() if len(parts) > 1)
    kind = "train, val and test folders of classes" if divides else "one folder for each class"
    layout = Layout(root, kind, {}, others=others, outside=outside)
    for name in images:
        parts = inside.get(name, [])
        place = _place(parts[:-1], depth, divides)
        if place is None:
            layout.stray.append(name)
        else:
            layout.images[name] = place
    filled = set(layout.images.values())
    there = (folder[len(top) :].split("/") for folder in folders(root, links_out=outside) if folder.startswith(top))
    named = {_place(parts, depth, divides) for parts in there if not _hidden("/".join(parts))}
    named |= {_place(name[len(top) :].split("/")[:-1], depth, divides) for name in others if name.startswith(top)}
    layout.empty = sorted(
        f"{place.split}/{place.class_name}".lstrip("/") for place in named if place and place not in filled
    )
    return layout


def _place(folders: list[str], depth: int, divides: bool) -> Place | None:
    """The class of what lies in these folders; None where they are too few."""
    split = SPLIT_NAMES.get(folders[0].lower(), "") if divides and folders else ""
    inner = folders[1:] if divides else folders
    return Place(class_name("/".join(inner[:depth])), split) if len(inner) >= depth else None


def class_name(text: str) -> str:
    """The name in one form, whichever system wrote it; UserError where it could not be stored in a line of a list."""
    name = unicodedata.normalize("NFC", text)
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name):
        raise UserError(f"the class {name!r} has a control character in its name")
    return name


def _common_folder(images: Iterable[str], depth: int) -> str:
    """The folders, with a `/` at the end, that hold all images and name neither a class nor a split."""
    paths = [name.split("/")[:-1] for name in images]
    top: list[str] = []
    while all(paths) and any(len(path) > depth for path in paths) and len({path[0] for path in paths}) == 1:
        if paths[0][0].lower() in SPLIT_NAMES:
            break
        top.append(paths[0][0])
        paths = [path[1:] for path in paths]
    return "".join(f"{folder}/" for folder in top)


def _table_within(root: Path, others: list[str], top: str) -> str | None:
    """The one CSV file at the top of a folder or archive that lists images and labels."""
    found = []
    for name in others:
        if is_csv(name) and "/" not in name[len(top) :]:
            with opened(root, name) as file:
                if is_labels(file.read(1 << 16)):
                    found.append(name)
    if len(found) > 1:
        raise UserError(
            f"dataset.root={root} holds {len(found)} lists of images ({', '.join(found[:4])}): keep one of them"
        )
    return found[0] if found else None


def _of_table_within(root: Path, table: str, images: list[str], others: list[str], outside: bool) -> Layout:
    with opened(root, table) as file:
        rows = read_labels(file.read(), f"{root}: {table}")
    base, there = table.rpartition("/")[0], set(images) | set(others)
    layout = Layout(root, f"the list {table}", {}, others=[name for name in others if name != table], outside=outside)
    for row in rows:
        path = os.path.normpath(f"{base}/{row.path}".lstrip("/") if base else row.path).replace(os.sep, "/")
        if path in there:
            layout.images[path] = Place(class_name(row.label), row.split)
        else:
            layout.missing.append(row.path)
    layout.stray = [name for name in images if name not in layout.images]
    layout.others = [name for name in layout.others if name not in layout.images]
    if not layout.images:
        raise UserError(f"{root}: none of the files that {table} lists is there, '{rows[0].path}' for one")
    return layout


def _of_table(root: Path, outside: bool) -> Layout:
    try:
        rows = read_labels(root.read_bytes(), str(root))
    except OSError as error:
        raise UserError(f"{root} cannot be read ({one_line(error)})") from error
    layout = Layout(root, f"the list {root.name}", {}, outside=outside)
    folder = root.parent.resolve()
    for row in rows:
        file = root.parent / row.path
        if not outside and not file.resolve().is_relative_to(folder):
            raise UserError(f"{root}: '{row.path}' lies outside of {folder} (dataset.outside=true reads it)")
        if file.is_file():
            layout.images[row.path] = Place(class_name(row.label), row.split)
        else:
            layout.missing.append(row.path)
    if not layout.images:
        raise UserError(f"{root}: none of the files that it lists is there, '{rows[0].path}' for one")
    return layout


def is_image(name: str) -> bool:
    return name.lower().endswith(_IMAGES)


def is_csv(name: str) -> bool:
    return name.lower().endswith((".csv", ".tsv"))


IMAGES = Sought("image", is_image)
TEXT_FILES = Sought("text", lambda name: name.lower().endswith(".txt"))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
