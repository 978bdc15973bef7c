"""Your own texts: a CSV file of text,label[,split], or a folder or archive with a folder of .txt files for each class."""

from __future__ import annotations

import logging
from pathlib import Path

from metalearn.data.cache import Classes, load_or_make
from metalearn.data.files.archives import is_archive
from metalearn.data.files.published import About
from metalearn.data.own.division import divided, merged
from metalearn.data.own.layout import TEXT_FILES, checked_root, short_name, state_of
from metalearn.data.own.texts import labelled_texts
from metalearn.data.text_classes import TextClasses
from metalearn.data.texts import as_bytes, longest
from metalearn.errors import UserError

log = logging.getLogger("metalearn")

ABOUT = About("your own texts, in a CSV file or a folder", "", "yours", by_hand="dataset.root=PATH names your texts")
CONVERSION = 1  # of the cache entries; raise it when the conversion changes
_MOST = 2048  # bytes that length=auto keeps of a text at most


def load(
    root: str | None,
    split: str,
    split_seed: int,
    val_classes: int | str,
    test_classes: int | str,
    class_depth: int,
    length: int | str,
    min_texts: int | None,
    outside: bool,
    origin: str,
    descriptions: str | None,
) -> TextClasses:
    """The texts at `root` as classes, uint8 [length].

    Args:
        root: a CSV or TSV file; a folder, a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz of class folders.
        split: "auto" (the one that folders or the CSV file name, else random), "given" or "random".
        split_seed: of a split that is drawn.
        val_classes: how many classes are drawn for validation; "auto": 16 %, at least 2, where there are enough at least 5.
        test_classes: how many are drawn for test; "auto": 20 %, at least as many as for validation.
        class_depth: how many folders make the name of a class.
        length: bytes that are kept of a text; "auto": those of the longest, at most 2048.
        min_texts: leaves out classes of fewer texts, before a split is drawn.
        outside: whether files outside of `root` are read, through links.
        origin: what the names of the classes belong to; "auto": the name of the folder or file.
        descriptions: what describes the classes: "names", the path of a CSV file (`descriptions.read_descriptions`), or None.

    Raises:
        UserError: there are no such texts, some cannot be read, or there are too few classes.
    """
    place = checked_root(root)
    belongs = f"text-{_name(place)}".replace(":", "-") if origin == "auto" else origin
    if ":" in belongs:
        raise UserError(f"dataset.origin={origin} is not allowed (a name without colon)")
    key = f"{length}-{class_depth}{'o' if outside else ''}-v{CONVERSION}-{state_of(place, outside, TEXT_FILES)}"
    stored = load_or_make("text", key, lambda: _classes(place, class_depth, length, outside))
    texts, names, given = merged(stored)
    least = min_texts or 1
    counts = dict(zip(names, texts.counts.tolist(), strict=True))
    chosen = divided(given, counts, split, {"val": val_classes, "test": test_classes}, split_seed, least)
    whole = TextClasses("text", texts, names, chosen, belongs).without_small_classes(least)
    return whole.with_descriptions(descriptions)


def _name(place: Path) -> str:
    return short_name(place) if place.is_dir() or is_archive(place) else place.stem


def _classes(root: Path, depth: int, length: int | str, outside: bool) -> Classes:
    """The classes as they are stored: `name<tab>split`, as folders may name one class in several splits."""
    found = labelled_texts(root, depth, outside)
    there = max(longest(texts) for texts in found.texts.values())
    kept = min(there, _MOST) if length == "auto" else int(length)
    cut = sum(len(text.encode(errors="replace")) > kept for texts in found.texts.values() for text in texts)
    note = f"; {cut} of more than {kept} bytes lose their end (the longest has {there}: dataset.length)" if cut else ""
    log.log(
        logging.WARNING if cut or found.empty or found.passed_over else logging.INFO,
        "%s: %s%s",
        root,
        found.summary,
        note,
    )
    for place in sorted(found.texts):
        yield f"{place.class_name}\t{place.split}", as_bytes(found.texts[place], kept)
