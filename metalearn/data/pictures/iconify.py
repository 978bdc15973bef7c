"""Icons as the npm package @iconify/json carries them: `json/<set>.json`, one file for each set, and `collections.json`, which says who drew it.

The format is Iconify's (https://iconify.design/docs/types/iconify-json.html): a set has icons, each with the body of an SVG, and aliases, which are
icons of the set under another name, perhaps turned or mirrored. `metalearn/data/pictures/svg.py` draws them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from metalearn.data.files.archives import fingerprint, is_archive, members
from metalearn.data.files.published import PublishedFile
from metalearn.errors import UserError, one_line
from metalearn.places import data_dir, expanded

log = logging.getLogger("metalearn")

FOLDER = "icons"  # in the data directory, for every data set that is made from the package
PACKAGE = PublishedFile(
    "iconify-json-2.2.535.tgz",
    size=104_043_282,
    sha256="1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91",
)
_MEMBER = re.compile(r"(?:.*/)?(?:json/[\w-]+|collections)\.json")
_SIDE, _LONGEST = 16, 1 << 14  # Iconify's default width and height; the longest side that makes sense
_DEPTH = 16  # aliases of aliases


@dataclass(frozen=True)
class Icon:
    """One icon: what is drawn, the part of the plane that is looked at, and how the result is turned.

    Attributes:
        body: what stands inside the `svg` element.
        left, top, width, height: of the view box.
        rotate: quarter turns clockwise, made after the mirroring.
        h_flip, v_flip: whether left and right, top and bottom are exchanged.
    """

    body: str
    left: float
    top: float
    width: float
    height: float
    rotate: int = 0
    h_flip: bool = False
    v_flip: bool = False


class IconSet:
    """The icons of one set, from its JSON.

    Raises:
        UserError: it is not in Iconify's format.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._name = name
        try:
            self._whole = json.loads(content)
            self._icons: Mapping[str, Any] = self._whole["icons"]
            self._aliases: Mapping[str, Any] = self._whole.get("aliases") or {}
            if not isinstance(self._icons, dict) or not isinstance(self._aliases, dict):
                raise TypeError("its icons are no mapping")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{name} is not a set of icons in Iconify's format ({one_line(error)})") from error

    @property
    def names(self) -> tuple[str, ...]:
        """The set's icons in the order of its file, without the aliases: those are the same drawings under further names."""
        return tuple(self._icons)

    def icon(self, name: str) -> Icon | None:
        """The icon of that name, or what the alias of that name stands for; None where the set has neither.

        Raises:
            UserError: an alias leads nowhere or in a circle, or a value is not what the format allows.
        """
        asked, way = name, list[Mapping[str, Any]]()
        try:
            while name not in self._icons:
                if name not in self._aliases and not way:
                    return None
                if len(way) == _DEPTH:
                    raise ValueError("its aliases lead in a circle")
                way.append(self._aliases[name])
                name = way[-1]["parent"]
            own = self._icons[name]
            icon = self._placed(Icon(str(own["body"]), 0, 0, _SIDE, _SIDE), self._whole)
            for values in (own, *reversed(way)):
                icon = _transformed(self._placed(icon, values), values)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{self._name}: the icon '{asked}' is not in Iconify's format ({one_line(error)})"
            ) from error
        return icon

    @staticmethod
    def _placed(icon: Icon, values: Mapping[str, Any]) -> Icon:
        def side(key: str, present: float) -> float:
            return present if values.get(key) is None else float(values[key])

        placed = replace(
            icon,
            left=side("left", icon.left),
            top=side("top", icon.top),
            width=side("width", icon.width),
            height=side("height", icon.height),
        )
        if not 1 / _LONGEST < min(placed.width, placed.height) <= max(placed.width, placed.height) < _LONGEST:
            raise ValueError(f"it is {placed.width:g} wide and {placed.height:g} high")
        if not max(abs(placed.left), abs(placed.top)) < _LONGEST:
            raise ValueError(f"it begins at {placed.left:g}, {placed.top:g}")
        return placed


def _transformed(icon: Icon, values: Mapping[str, Any]) -> Icon:
    """With the turns and mirrorings of `values` on top: they add up along a chain of aliases."""
    return replace(
        icon,
        rotate=(icon.rotate + int(values.get("rotate") or 0)) % 4,
        h_flip=icon.h_flip != bool(values.get("hFlip")),
        v_flip=icon.v_flip != bool(values.get("vFlip")),
    )


class Credit(NamedTuple):
    """Who drew a set, and under which licence it may be used."""

    prefix: str
    title: str
    author: str
    licence: str  # SPDX
    url: str  # of the licence, or of the author where none is given

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.prefix}: {self.title} by {self.author}, {self.licence}" + (f", {self.url}" if self.url else "")


def find_package(dataset: str, root: str | None) -> Path:
    """The package: an archive as npm packs it, or the folder that it unpacks to.

    Args:
        dataset: for messages.
        root: `dataset.root`, one of them, or a folder that holds one; None: the data directory's folder `icons`.

    Raises:
        UserError: there is none, or more than one.
    """
    place = data_dir(FOLDER) if root is None else expanded(Path(root), "dataset.root")
    if place.is_file() and is_archive(place):
        return place
    for folder in (place, place / "package", place / "node_modules" / "@iconify" / "json"):
        if (folder / "collections.json").is_file() and (folder / "json").is_dir():
            return folder
    packed = sorted(path for path in place.glob("iconify-json-*") if is_archive(path)) if place.is_dir() else []
    if len(packed) > 1:
        raise UserError(f"dataset.root={place} holds {packed[0].name} and {packed[1].name}: name one of them")
    if not packed:
        raise UserError(
            f"dataset={dataset}: dataset.root={place} is not the npm package @iconify/json and does not hold it. "
            f"`npm pack @iconify/json`, called in that folder, fetches it: {PACKAGE}, or a later version"
        )
    return packed[0]


def state(package: Path) -> str:
    """Changes when a file of the package does."""
    return fingerprint([package], lambda name: _MEMBER.fullmatch(name) is not None)


def read_credits(package: Path) -> dict[str, Credit]:
    """Prefix -> who drew that set, for every set of the package.

    Raises:
        UserError: the package has no collections.json, or it is damaged.
    """
    for name, content in _files(package, {"collections"}):
        try:
            return {prefix: _credit(prefix, info) for prefix, info in json.loads(content).items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{package}: {name} is not Iconify's list of sets ({one_line(error)})") from error
    raise UserError(f"{package} has no collections.json: it is not the npm package @iconify/json")


def _credit(prefix: str, info: Mapping[str, Any]) -> Credit:
    licence, author = info["license"], info.get("author") or {}
    return Credit(
        prefix,
        str(info.get("name", prefix)),
        str(author.get("name", "an unnamed author")),
        str(licence.get("spdx") or licence.get("title") or "no licence"),
        str(licence.get("url") or author.get("url") or ""),
    )


def credits(package: Path, prefixes: Collection[str], licences: Collection[str]) -> list[Credit]:
    """Who drew those of the wanted sets that the package has, in the order of their prefixes, without those under other licences.

    Raises:
        UserError: as `read_credits`.
    """
    of_package = read_credits(package)
    there = [of_package[prefix] for prefix in sorted(prefixes) if prefix in of_package]
    for credit in there:
        if credit.licence not in licences:
            log.info("the icons of %s are left out: their licence is %s", credit.prefix, credit.licence)
    return [credit for credit in there if credit.licence in licences]


def check_complete(package: Path, wanted: Collection[str], found: Collection[str]) -> None:
    """Raises UserError where the package has no icon of some of the wanted classes."""
    if missing := sorted(set(wanted) - set(found)):
        raise UserError(
            f"dataset.root={package} lacks {len(missing)} of {len(wanted)} classes, '{missing[0]}' for one: it is not the npm package "
            f"@iconify/json, or a version that differs too much from {PACKAGE.name}"
        )


def read_sets(package: Path, prefixes: Collection[str]) -> Iterator[tuple[str, IconSet]]:
    """(prefix, set) of those of the wanted sets that the package has, one at a time, in the order of its files.

    Raises:
        UserError: the package or a set in it is damaged.
    """
    for name, content in _files(package, set(prefixes)):
        yield _stem(name), IconSet(content, f"{package.name}: {name}")


def _files(package: Path, stems: set[str]) -> Iterator[tuple[str, bytes]]:
    return members(package, lambda name: _MEMBER.fullmatch(name) is not None and _stem(name) in stems)


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".json")
