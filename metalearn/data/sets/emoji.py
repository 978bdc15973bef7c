"""Emoji in colour: a class is what an emoji shows (`broken-heart`), an example is how one set draws it.

They come from the npm package @iconify/json, as `dataset=icons` does. Two of the eleven sets draw in black alone.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from metalearn.data.cache import load_or_make
from metalearn.data.classes import SPLITS, read_split
from metalearn.data.files.published import About
from metalearn.data.images import ImageClasses
from metalearn.data.pictures import iconify
from metalearn.data.pictures.iconify import Credit, Icon
from metalearn.data.pictures.svg import DRAWING, drawn

_COLOURED = (
    *("emojione", "emojione-v1", "fluent-emoji-flat", "fxemoji", "noto", "noto-v1", "openmoji", "streamline-emojis"),
    "twemoji",
)
_BLACK = ("emojione-monotone", "fluent-emoji-high-contrast")
# SPDX. With CC BY-SA, as the drawings are learned from and not passed on: without its two sets nine would be left.
_LICENCES = frozenset({"MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0"})

ABOUT = About(
    title="emoji of eleven sets, nine of them in colour",
    homepage="https://icon-sets.iconify.design",
    licence="each set's own: MIT, Apache 2.0, CC BY 4.0 or CC BY-SA 4.0",
    files=(iconify.PACKAGE,),
    place=partial(iconify.find_package, "emoji"),
)


def load(
    root: str | None, split: str, size: int, black: bool, min_images: int | None, descriptions: str | None
) -> ImageClasses:
    """Emoji that 9 to 11 sets draw: images [3, size, size] on white, one of each set, classes named as Iconify names them.

    Args:
        root: the package @iconify/json, as npm packs it or unpacked, or a folder that holds it.
        split: a shipped list.
        size: pixels.
        black: whether the two sets that draw in black alone are among them.
        min_images: leaves out emoji that fewer sets draw.
        descriptions: what describes the classes: "names", the path of a CSV file (`descriptions.read_descriptions`), or None.

    Raises:
        UserError: there is no package at `root`, it is damaged, it lacks an emoji of the split, or resvg-py is not installed.
    """
    package = iconify.find_package("emoji", root)
    chosen = read_split("emoji", split)
    prefixes = _COLOURED + (_BLACK if black else ())

    def icons() -> dict[str, list[Icon]]:
        return _icons(package, sorted(name for names in chosen.classes.values() for name in names), prefixes)

    key = f"{split}-{'all' if black else 'coloured'}-{size}-v{DRAWING}-{iconify.state(package)}"
    stored = load_or_make("emoji", key, lambda: drawn(icons(), size, colour=True))
    whole = ImageClasses("emoji", stored.images, stored.class_names, chosen, dict.fromkeys(SPLITS, 1))
    kept = whole if min_images is None else whole.without_small_classes(min_images)
    return kept.with_descriptions(descriptions)


def credits(root: str | None) -> list[Credit]:
    """Who drew the sets of the package at `root` that are used, in the order of their prefixes.

    Raises:
        UserError: there is no package, or it is damaged.
    """
    return iconify.credits(iconify.find_package("emoji", root), _COLOURED + _BLACK, _LICENCES)


def _icons(package: Path, names: list[str], prefixes: tuple[str, ...]) -> dict[str, list[Icon]]:
    """Emoji -> the icons of the sets that draw it, in the order of their prefixes."""
    used = [credit.prefix for credit in iconify.credits(package, prefixes, _LICENCES)]
    sets = sorted(iconify.read_sets(package, used), key=lambda each: each[0])
    chosen = {name: [icon for _, icons in sets if (icon := icons.icon(name))] for name in names}
    iconify.check_complete(package, names, [name for name in names if chosen[name]])
    return chosen
