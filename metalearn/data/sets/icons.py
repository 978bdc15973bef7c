"""Icons of 111 design families: a class is a concept (`bell`, `shopping-cart`), an example is how one family draws it.

They come from the npm package @iconify/json. A family draws a concept once: in several styles and sizes, and in several sets (mdi, mdi-light), the
shortest name wins, then the first in the file. The style at the end of a name (`-outline`, `-16-filled`) does not belong to the concept.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from metalearn.data.cache import load_or_make
from metalearn.data.classes import SPLITS, random_split, read_split
from metalearn.data.files.published import About
from metalearn.data.images import ImageClasses
from metalearn.data.pictures import iconify
from metalearn.data.pictures.iconify import Credit, Icon, IconSet
from metalearn.data.pictures.svg import DRAWING, drawn

_LICENCES = frozenset({"MIT", "Apache-2.0", "CC0-1.0", "CC-BY-4.0", "ISC", "OFL-1.1"})  # SPDX
_STYLES = (
    *("fill", "filled", "solid", "bold", "line", "linear", "outline", "outlined", "light", "thin", "regular"),
    *("duotone", "twotone", "broken", "alt", "sharp", "rounded", "round", "circle", "square", "o", "stroke"),
    *("mini", "micro", "1", "2", "12", "16", "20", "24", "28", "32", "48"),
)
_NAME = re.compile(rf"(.+?)(?:-(?:{'|'.join(_STYLES)})){{0,3}}")
_FAMILIES = Path(__file__).with_name("icons_families.txt")
_VAL, _TEST = 83, 160  # concepts of split=random

ABOUT = About(
    title="icons of 111 design families, which draw the same concepts",
    homepage="https://icon-sets.iconify.design",
    licence="each set's own: MIT, Apache 2.0, CC0, CC BY 4.0, ISC or OFL",
    files=(iconify.PACKAGE,),
    place=partial(iconify.find_package, "icons"),
)


def load(
    root: str | None, split: str, split_seed: int, size: int, min_images: int | None, descriptions: str | None
) -> ImageClasses:
    """643 concepts, drawn by 15 to 89 families each: images [1, size, size], 255 = ink, one for each family.

    Args:
        root: the package @iconify/json, as npm packs it or unpacked, or a folder that holds it.
        split: a shipped list, or `random`.
        split_seed: of split=random.
        size: pixels.
        min_images: leaves out concepts that fewer families draw.
        descriptions: what describes the classes: "names", the path of a CSV file (`descriptions.read_descriptions`), or None.

    Raises:
        UserError: there is no package at `root`, it is damaged, it lacks a concept, or resvg-py is not installed.
    """
    package = iconify.find_package("icons", root)
    key = f"{size}-v{DRAWING}-{iconify.state(package)}"
    stored = load_or_make("icons", key, lambda: drawn(_icons(package), size, colour=False))
    chosen = read_split("icons", "concepts" if split == "random" else split)
    if split == "random":
        chosen = random_split(concepts(), _VAL, _TEST, split_seed)
    whole = ImageClasses("icons", stored.images, stored.class_names, chosen, dict.fromkeys(SPLITS, 1))
    kept = whole if min_images is None else whole.without_small_classes(min_images)
    return kept.with_descriptions(descriptions)


def concepts() -> tuple[str, ...]:
    """The 643 concepts in alphabetical order."""
    return tuple(sorted(name for names in read_split("icons", "concepts").classes.values() for name in names))


def concept(name: str) -> str:
    """What an icon's name says without up to three words of style at its end: `bell-16-filled` -> `bell`."""
    match = _NAME.fullmatch(name)
    return match[1] if match else name


def families() -> dict[str, tuple[str, int]]:
    """Prefix of a set -> its family and its rank in it: of two sets of a family, the first that has a concept draws it."""
    lines = _FAMILIES.read_text(encoding="utf-8").splitlines()
    return {
        prefix: (family, rank)
        for family, prefixes in (line.split(": ") for line in lines)
        for rank, prefix in enumerate(prefixes.split())
    }


def credits(root: str | None) -> list[Credit]:
    """Who drew the sets of the package at `root` that are used, in the order of their prefixes.

    Raises:
        UserError: there is no package, or it is damaged.
    """
    return iconify.credits(iconify.find_package("icons", root), families(), _LICENCES)


def _icons(package: Path) -> dict[str, list[Icon]]:
    """Concept -> the icons of the families that draw it, both in alphabetical order."""
    wanted, of_set = frozenset(concepts()), families()
    chosen: dict[str, dict[str, tuple[int, Icon]]] = {}
    prefixes = [credit.prefix for credit in iconify.credits(package, of_set, _LICENCES)]
    for prefix, icons in iconify.read_sets(package, prefixes):
        family, rank = of_set[prefix]
        for name, shortest in _shortest(icons, wanted).items():
            of_concept = chosen.setdefault(name, {})
            icon = icons.icon(shortest)
            if icon is not None and (family not in of_concept or rank < of_concept[family][0]):
                of_concept[family] = rank, icon
    iconify.check_complete(package, wanted, chosen)
    return {name: [icon for _, (_, icon) in sorted(chosen[name].items())] for name in sorted(wanted)}


def _shortest(icons: IconSet, wanted: frozenset[str]) -> dict[str, str]:
    """Concept -> the shortest of the set's names for it, the first of those."""
    found: dict[str, str] = {}
    for name in icons.names:
        of = concept(name)
        if of in wanted and (of not in found or len(name) < len(found[of])):
            found[of] = name
    return found
