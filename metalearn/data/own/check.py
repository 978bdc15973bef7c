"""What `metalearn data check PATH` finds in somebody's own images: what is there, what is wrong with it, and which tasks fit."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metalearn.data.classes import SPLITS, ClassSplit
from metalearn.data.own.division import divided
from metalearn.data.own.layout import Layout, checked_root, layout_of
from metalearn.data.pictures.pixels import UnreadableImage, header, in_channels, opened_image, resized
from metalearn.data.pictures.sheet import COLUMNS, ROWS, SIDE, write_sheet
from metalearn.errors import UserError
from metalearn.sizes import count_text

_QUERIES, _WAYS = 15, 5  # of the default task


class Asked(NamedTuple):
    """The settings of `dataset=folder` that decide what belongs to which class and split; see its YAML file."""

    class_depth: int = 1
    outside: bool = False
    split: str = "auto"
    split_seed: int = 0
    val_classes: int | str = "auto"
    test_classes: int | str = "auto"


USUAL = Asked()


@dataclass
class Report:
    """What was found.

    Attributes:
        facts: lines about what is there.
        faults: lines about what is wrong; none where all is well.
        tasks: lines about the tasks that fit, and a command.
    """

    facts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All lines, as they are printed."""
        faults = ["", "wrong:", *(f"  {line}" for line in self.faults)] if self.faults else ["", "nothing is wrong"]
        return "\n".join([*self.facts, *faults, "", *self.tasks])


@dataclass
class _Seen:
    """What the images themselves say."""

    unreadable: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # of readable images, by class
    sizes: list[tuple[int, int]] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    grey: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    same_bytes: dict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))
    same_pixels: dict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))
    small: dict[str, list[NDArray[np.uint8]]] = field(default_factory=dict)  # of the classes on the sheet


def check_images(
    root: str, asked: Asked = USUAL, sheet: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Reads every image at `root` and says what is there, what is wrong and which tasks fit.

    Wrong are: files that cannot be read or are missing, classes without an image or with a single one, images that are there twice (byte for byte,
    or pixel for pixel), and classes that cannot be divided.

    Args:
        root: a folder, an archive or a CSV file.
        asked: what belongs to which class and split.
        sheet: where a contact sheet is written; None: nowhere.
        progress: told how many of how many images were read.

    Raises:
        UserError: there is nothing that could be checked, or the sheet cannot be written.
    """
    place = checked_root(root, "PATH")
    layout = layout_of(place, asked.class_depth, asked.outside)
    names = sorted({each.class_name for each in layout.images.values()})
    seen = _Seen(small={name: [] for name in _shown(names) if sheet is not None})
    for number, (path, content) in enumerate(layout.contents(), 1):
        _look(path, content, layout.images[path].class_name, seen)
        if progress is not None:
            progress(number, len(layout.images))
    report = Report(facts=_facts(layout, seen))
    split = _split(layout, seen, asked, report)
    report.faults += _faults(layout, seen, split)
    if split is not None:
        report.tasks = _tasks(root, asked, seen, split, skip=bool(seen.unreadable or layout.missing))
    if sheet is not None and seen.counts:
        write_sheet(sheet, _rows(seen, split))
        some = "" if len(seen.small) == len(names) else f" ({len(seen.small)} of {len(names)} classes)"
        report.tasks.append(f"contact sheet: {sheet}{some}")
    return report


def _shown(names: Sequence[str]) -> list[str]:
    """The classes on the sheet: all, or evenly chosen ones."""
    rows = min(len(names), ROWS)
    return [names[number * len(names) // rows] for number in range(rows)]


def _rows(seen: _Seen, split: ClassSplit | None) -> dict[str, list[NDArray[np.uint8]]]:
    """What stands beside each row of the sheet, and its images."""
    of_class = _split_by_class(split)
    return {
        f"{name} ({', '.join([*of_class.get(name, []), str(seen.counts[name])])})": images
        for name, images in seen.small.items()
        if images
    }


def _look(path: str, content: bytes, name: str, seen: _Seen) -> None:
    try:
        image = opened_image(content, path, draft=2 * SIDE, notes=seen.notes)
    except UnreadableImage as error:
        seen.unreadable.append(str(error))
        return
    small = np.asarray(resized(in_channels(image, 3), SIDE, "pad")).transpose(2, 0, 1)
    head = header(content)  # the image itself may be decoded at a lower resolution
    assert head is not None
    seen.counts[name] += 1
    seen.sizes.append(head.size)
    seen.formats[head.format] += 1
    seen.grey += head.grey
    seen.same_bytes[_digest(content)].append(path)
    seen.same_pixels[_digest(repr(head.size).encode() + small.tobytes())].append(path)
    if len(seen.small.get(name, range(COLUMNS))) < COLUMNS:
        seen.small[name].append(small)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _facts(layout: Layout, seen: _Seen) -> list[str]:
    classes = {place.class_name for place in layout.images.values()}
    lines = [
        f"{layout.root}: {count_text(len(layout.images), 'image')} of {count_text(len(classes), 'class', 'classes')}, {layout.kind}"
    ]
    if seen.counts:
        by_area = sorted(seen.sizes, key=lambda size: size[0] * size[1])
        least, middle, most = (f"{w}x{h}" for w, h in (by_area[0], by_area[len(by_area) // 2], by_area[-1]))
        fewest, largest = min(seen.counts.values()), max(seen.counts.values())
        coloured = len(seen.sizes) - seen.grey
        lines += [
            f"  images per class   {fewest} to {largest}",
            f"  pixels             {least} to {most}, half of them at least {middle}",
            f"  channels           {coloured} in colour, {seen.grey} grey: dataset.channels=auto is {3 if coloured else 1}",
            f"  formats            {_counted(seen.formats)}",
        ]
    if seen.notes:
        lines.append(f"  unusual            {_counted(seen.notes)}")
    for what, names in (("no images", layout.others), ("images in no class", layout.stray)):
        if names:
            more = f" and {len(names) - 3} more" if names[3:] else ""
            lines.append(f"  passed over        {what}: {', '.join(names[:3])}{more}")
    return lines


def _counted(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counter.items(), key=lambda each: -each[1]))


def _split(layout: Layout, seen: _Seen, asked: Asked, report: Report) -> ClassSplit | None:
    """How the classes with readable images are divided; None, and a fault, where they cannot be."""
    given: dict[str, list[str]] = {}
    for place in layout.images.values():
        splits = given.setdefault(place.class_name, [])
        if place.split not in splits:
            splits.append(place.split)
    given = {name: sorted(given[name]) for name in sorted(given) if seen.counts[name]}
    amounts = {"val": asked.val_classes, "test": asked.test_classes}
    try:
        return divided(given, seen.counts, asked.split, amounts, asked.split_seed, _least(seen))
    except UserError as error:
        report.faults.append(str(error))
        return None


def _least(seen: _Seen) -> int:
    """What `dataset.min_images` has to be for tasks to be possible."""
    return 2 if min(seen.counts.values(), default=2) < 2 else 1


def _split_by_class(split: ClassSplit | None) -> dict[str, list[str]]:
    return {} if split is None else {name: [part] for part in SPLITS for name in split.classes[part]}


def _faults(layout: Layout, seen: _Seen, split: ClassSplit | None) -> list[str]:
    lines = [*seen.unreadable]
    lines += [f"{path} is listed and not there" for path in layout.missing]
    lines += [f"the class '{name}' has no image" for name in layout.empty]
    for name in sorted({place.class_name for place in layout.images.values()}):
        if seen.counts[name] == 0:
            lines.append(f"the class '{name}' has no image that can be read")
        elif seen.counts[name] == 1:
            lines.append(f"the class '{name}' has a single image (dataset.min_images=2 leaves such classes out)")
    of_class = _split_by_class(split)
    bytewise = {tuple(paths) for paths in seen.same_bytes.values() if len(paths) > 1}
    lines += [_double(paths, "byte for byte", layout, of_class) for paths in sorted(bytewise)]
    for paths in sorted(tuple(paths) for paths in seen.same_pixels.values() if len(paths) > 1):
        if paths not in bytewise:
            lines.append(_double(paths, "pixel for pixel", layout, of_class))
    return lines


def _double(paths: Sequence[str], how: str, layout: Layout, of_class: Mapping[str, list[str]]) -> str:
    classes = sorted({layout.images[path].class_name for path in paths})
    splits = {layout.images[path].split for path in paths} - {""} or {
        part for name in classes for part in of_class.get(name, [])
    }
    where = f"in the class '{classes[0]}'" if len(classes) == 1 else f"in {len(classes)} classes"
    if len(splits) > 1:
        where += f" and in the splits {' and '.join(part for part in SPLITS if part in splits)}"
    return f"the same {how} {where}: {', '.join(paths)}"


def _tasks(root: str, asked: Asked, seen: _Seen, split: ClassSplit, skip: bool) -> list[str]:
    """The largest tasks of each split, and a command that trains."""
    least = _least(seen)
    kept = {part: [name for name in split.classes[part] if seen.counts[name] >= least] for part in SPLITS}
    lines = [f"split {split.name}; the largest tasks that fit:"]
    for part in SPLITS:
        counts = [seen.counts[name] for name in kept[part]]
        if len(counts) < 2 or min(counts) < 2:
            lines.append(f"  {part:5}  none: {count_text(len(counts), 'class', 'classes')} of two images or more")
        else:
            lines.append(f"  {part:5}  {len(counts)} ways, shots + queries = {min(counts)}")
    ways = {part: min(_WAYS, len(names)) for part, names in kept.items()}
    fewest = min((seen.counts[name] for names in kept.values() for name in names), default=0)
    if min(ways.values()) < 2 or fewest < 2:
        return lines
    test_ways, queries = min(ways["val"], ways["test"]), min(_QUERIES, fewest - 1)
    words = ["metalearn", "train", "dataset=folder", f"dataset.root={_quoted(root)}"]
    changed = {key: value for key, value in asked._asdict().items() if value != Asked._field_defaults[key]}
    words += [f"dataset.{key}={str(value).lower()}" for key, value in changed.items()]  # Hydra writes true
    words += ["dataset.min_images=2"] if least > 1 else []
    words += ["dataset.skip_unreadable=true"] if skip else []
    words += [f"task.ways={test_ways}", f"task.train.ways={ways['train']}"]
    words += [f"task.queries={queries}", f"task.train.queries={queries}"]
    return [*lines, f"try: {shlex.join(words)}"]


def _quoted(root: str) -> str:
    """As Hydra reads it."""
    escaped = root.replace("\\", "\\\\").replace('"', '\\"')
    return root if re.fullmatch(r"[\w./-]+", root) else f'"{escaped}"'
