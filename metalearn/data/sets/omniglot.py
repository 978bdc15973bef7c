"""Omniglot (Lake, Salakhutdinov and Tenenbaum 2015): 1623 characters of 50 alphabets, 20 drawings each.

The images come from a folder that holds `images_background` and `images_evaluation`, as zips or unpacked; where they are missing they are
fetched. Zips are read in memory, never unpacked, so no member can land outside its folder.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from metalearn.data.cache import Classes, load_or_make
from metalearn.data.classes import ClassSplit, random_split, read_split
from metalearn.data.files.archives import LIMITS, fingerprint, members
from metalearn.data.files.download import fetch
from metalearn.data.files.published import About, PublishedFile, find, folder_of, found, has_some
from metalearn.data.images import ImageClasses
from metalearn.data.pictures.pixels import opened_image
from metalearn.errors import UserError

CONVERSION = 1  # of the cache entries; raise it when the conversion changes
PARTS = ("images_background", "images_evaluation")
_MEMBER = re.compile(r"(?:^|/)(?:images_background|images_evaluation)/([^/]+)/(character\d+)/([^/]+)\.png$")
_VAL, _TEST = 100, 423  # characters of split=random, as in Finn et al.'s code, which shuffles characters
_LIMITS = LIMITS._replace(member=1 << 24)  # bytes of one drawing, far above any real one
_LARGEST_SIDE = 4096  # pixels, also far above
_AT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
ABOUT = About(
    "handwritten characters of 50 alphabets",
    "https://github.com/brendenlake/omniglot",
    "MIT",
    (
        PublishedFile(
            "images_background.zip",
            (f"{_AT}images_background.zip",),
            9_464_212,
            md5="68d2efa1b9178cc56df9314c21c6e718",
            sha256="ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
            unpacked="images_background",
        ),
        PublishedFile(
            "images_evaluation.zip",
            (f"{_AT}images_evaluation.zip",),
            6_462_886,
            md5="6b91aef0f799c5bb55b94e3f2daec811",
            sha256="1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
            unpacked="images_evaluation",
        ),
    ),
    inner=("omniglot-py",),
)


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
    parts = _find_parts(root, download)
    key = f"{size}-{resize}-v{CONVERSION}-{fingerprint(parts, _is_png)}"
    stored = load_or_make("omniglot", key, lambda: _convert(parts, size, resize))
    chosen = _split(stored.class_names, split, split_seed)
    whole = ImageClasses("omniglot", stored.images, stored.class_names, chosen, rotations)
    return whole if min_images is None else whole.without_small_classes(min_images)


def _find_parts(root: str | None, download: bool) -> list[Path]:
    """The two parts, unpacked or as zips; fetched where they are missing and `download` allows it."""
    folder = folder_of("omniglot", ABOUT, root)
    if folder.name in PARTS and not has_some(folder, ABOUT) and has_some(folder.parent, ABOUT):
        raise UserError(f"dataset.root={folder} is one of the two parts: dataset.root={folder.parent} holds both")
    for file in ABOUT.files if download else ():
        if found(folder, file) is None:
            fetch(file, folder)
    return list(find("omniglot", ABOUT, folder))


def image_files(root: str | None) -> Iterator[tuple[str, bytes]]:
    """(class name, content) of every image file at `root`, or where they are looked for without one.

    Raises:
        UserError: they are not there.
    """
    return ((name, content) for name, _, content in _drawings(_find_parts(root, download=False)))


def _drawings(parts: list[Path]) -> Iterator[tuple[str, str, bytes]]:
    """(class name, path, content) of every image file."""
    for part in parts:
        above = f"{part.name}/" if part.is_dir() else ""
        for member, content in members(part, _is_png, _LIMITS):
            if match := _MEMBER.search(above + member):
                yield f"{match[1]}/{match[2]}", above + member, content


def _is_png(name: str) -> bool:
    return name.endswith(".png")


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


def _pixels(content: bytes, member: str, size: int, resize: str) -> np.ndarray:
    image = opened_image(content, member, largest=_LARGEST_SIDE**2)
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
