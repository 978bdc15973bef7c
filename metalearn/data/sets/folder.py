"""Your own images: a folder, an archive or a CSV file (layout.py says what may lie there), converted once and noticed when it changes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metalearn.data.cache import Classes, load_or_make
from metalearn.data.files.published import About
from metalearn.data.files.scratch import by_class
from metalearn.data.images import ImageClasses
from metalearn.data.normalize import Normalize
from metalearn.data.own.division import divided, merged
from metalearn.data.own.layout import Layout, checked_root, layout_of, short_name, state_of
from metalearn.data.pictures.pixels import UnreadableImage, decode, header
from metalearn.errors import UserError
from metalearn.sizes import count_text

log = logging.getLogger("metalearn")

ABOUT = About("your own images, in a folder or an archive", "", "yours", by_hand="dataset.root=PATH names your images")
CONVERSION = 1  # of the cache entries; raise it when the conversion changes
_BACKGROUNDS = {"white": 255, "black": 0}


def load(
    root: str | None,
    split: str,
    split_seed: int,
    val_classes: int | str,
    test_classes: int | str,
    class_depth: int,
    size: int,
    channels: int | str,
    fit: str,
    background: str,
    rotations: Mapping[str, int],
    min_images: int | None,
    normalize: Mapping[str, Sequence[float]] | None,
    skip_unreadable: bool,
    outside: bool,
    origin: str,
    descriptions: str | None,
) -> ImageClasses:
    """The images at `root` as classes, uint8 [channels, size, size].

    Args:
        root: a folder, a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz, or a CSV file.
        split: "auto" (the one that folders or the CSV file name, else random), "given" or "random".
        split_seed: of a split that is drawn.
        val_classes: how many classes are drawn for validation; "auto": 16 %, at least 2, where there are enough at least 5.
        test_classes: how many are drawn for test; "auto": 20 %, at least as many as for validation.
        class_depth: how many folders make the name of a class.
        size: pixels.
        channels: 1, 3, or "auto": 1 where every image is grey.
        fit: how an image becomes a square: "crop", "squash" or "pad".
        background: "white" or "black", behind transparent pixels and beside padded images.
        rotations: split -> 1, 2 or 4.
        min_images: leaves out classes of fewer images, before a split is drawn.
        normalize: see ImageClasses.
        skip_unreadable: leaves out files that cannot be read; else they are an error.
        outside: whether files outside of `root` are read, through links or by paths of a CSV file.
        origin: what the names of the classes belong to; "auto": the name of the folder.
        descriptions: what describes the classes: "names", the path of a CSV file (`descriptions.read_descriptions`), or None.

    Raises:
        UserError: there are no such images, some cannot be read, or there are too few classes.
    """
    place = checked_root(root)
    belongs = f"folder-{short_name(place)}".replace(":", "-") if origin == "auto" else origin
    if ":" in belongs:
        raise UserError(f"dataset.origin={origin} is not allowed (a name without colon)")
    way = _Way(size, channels, fit, background, class_depth, skip_unreadable, outside)
    stored = load_or_make("folder", f"{way.key}-v{CONVERSION}-{state_of(place, outside)}", lambda: way.converted(place))
    images, names, given = merged(stored)
    least = min_images or 1
    counts = dict(zip(names, images.counts.tolist(), strict=True))
    chosen = divided(given, counts, split, {"val": val_classes, "test": test_classes}, split_seed, least)
    whole = ImageClasses("folder", images, names, chosen, rotations, belongs, Normalize.of(normalize))
    return whole.without_small_classes(least).with_descriptions(descriptions)


@dataclass(frozen=True)
class _Way:
    """How files become pixels; the settings that a cache entry depends on, as `load` has them."""

    size: int
    channels: int | str
    fit: str
    background: str
    class_depth: int
    skip_unreadable: bool
    outside: bool

    @property
    def key(self) -> str:
        marks = f"{'s' if self.skip_unreadable else ''}{'o' if self.outside else ''}"
        return f"{self.size}-{self.channels}-{self.fit}-{self.background}-{self.class_depth}{marks}"

    def converted(self, root: Path) -> Classes:
        """The classes as they are stored: `name<tab>split`, as folders may name one class in several splits."""
        layout = layout_of(root, self.class_depth, self.outside)
        channels = _channels(layout) if self.channels == "auto" else int(self.channels)
        notes: Counter[str] = Counter()
        unreadable: list[str] = []
        found = False
        for name, images in by_class(self._pixels(layout, channels, notes, unreadable)):
            found = True
            yield name, images
        if unreadable or layout.missing:
            self._unread(root, unreadable, layout.missing)
        if not found:
            raise UserError(f"dataset.root={root}: none of its {count_text(len(layout.images), 'image')} can be read")
        # What was done to images or passed over is news to the user, and seen before a run has a log.
        unusual = notes or layout.empty or layout.others or layout.stray
        log.log(logging.WARNING if unusual else logging.INFO, "%s", summary(layout, notes))

    def _pixels(
        self, layout: Layout, channels: int, notes: Counter[str], unreadable: list[str]
    ) -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
        for path, content in layout.contents():
            place = layout.images[path]
            try:
                pixels = decode(content, path, self.size, channels, self.fit, _BACKGROUNDS[self.background], notes)
            except UnreadableImage as error:
                unreadable.append(str(error))
                continue
            yield f"{place.class_name}\t{place.split}", path, pixels

    def _unread(self, root: Path, unreadable: list[str], missing: list[str]) -> None:
        """Says which files could not be read: as an error, or in a warning where the user wants to go on."""
        parts = []
        if unreadable:
            parts.append(f"{count_text(len(unreadable), 'file')} cannot be read as images: {unreadable[0]}")
        if missing:
            parts.append(f"{count_text(len(missing), 'listed file')} cannot be found, '{missing[0]}' for one")
        if self.skip_unreadable:
            log.warning("%s: %s: left out", root, "; ".join(parts))
            return
        raise UserError(
            f"dataset.root={root}: {'; '.join(parts)} (metalearn data check {root} names all; dataset.skip_unreadable=true leaves them out)"
        )


def summary(layout: Layout, notes: Mapping[str, int]) -> str:
    """One line on what was found: counts, what was out of the ordinary about images, what was passed over."""
    classes = {place.class_name for place in layout.images.values()}
    parts = [
        f"{layout.root.name}: {count_text(len(layout.images), 'image')} of {count_text(len(classes), 'class', 'classes')}, {layout.kind}"
    ]
    if notes:
        parts.append(", ".join(f"{count} {what}" for what, count in sorted(notes.items())))
    passed = [
        count_text(len(names), what, many)
        for what, many, names in (
            ("empty class", "empty classes", layout.empty),
            ("file that is no image", "files that are no images", layout.others),
            ("image of no class", "images of no class", layout.stray),
        )
        if names
    ]
    return "; ".join([*parts, *([f"passed over: {', '.join(passed)}"] if passed else [])])


def _channels(layout: Layout) -> int:
    heads = (header(content) for _, content in layout.contents())
    return 1 if all(head is None or head.grey for head in heads) else 3
