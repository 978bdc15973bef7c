"""CLINC150 (Larson et al. 2019, https://aclanthology.org/D19-1131): 150 sentences for each of 150 intents of ten domains, put to an assistant."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from metalearn.data.cache import Classes, load_or_make
from metalearn.data.files.archives import fingerprint
from metalearn.data.files.published import About, PublishedFile, find, folder_of
from metalearn.data.listed import chosen_split
from metalearn.data.text_classes import TextClasses
from metalearn.data.texts import as_bytes, longest
from metalearn.errors import UserError

log = logging.getLogger("metalearn")

CONVERSION = 1  # of the cache entries; raise it when the conversion changes
INTENTS, SENTENCES = 150, 22_500
_PARTS = ("train", "val", "test")  # of the file; those that begin with oos_ hold what belongs to no intent
ABOUT = About(
    "sentences of 150 intents, put to an assistant",
    homepage="https://github.com/clinc/oos-eval",
    licence="CC BY 3.0",
    files=(
        PublishedFile(
            "data_full.json",
            ("https://raw.githubusercontent.com/clinc/oos-eval/master/data/data_full.json",),
            2_495_390,
            sha256="36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
        ),
    ),
    inner=("oos-eval/data", "data"),
)


def load(root: str | None, split: str, split_seed: int, min_texts: int | None, descriptions: str | None) -> TextClasses:
    """150 classes of 150 texts each: the sentences of an intent from all parts of the file, as a split here divides the intents. Those that belong to
    no intent are left out.

    Args:
        root: the folder with the file.
        split: "intents", "domains", "random" or "test_only" (docs/data/texts.md).
        split_seed: of split="random".
        min_texts: leaves out intents of fewer sentences.
        descriptions: what describes the classes: "names", the path of a CSV file (`descriptions.read_descriptions`), or None.

    Raises:
        UserError: the file is missing, or is another one.
    """
    (place,) = find("clinc150", ABOUT, folder_of("clinc150", ABOUT, root))
    key = f"v{CONVERSION}-{fingerprint([place], lambda name: True)}"
    stored = load_or_make("clinc150", key, lambda: _classes(place))
    if (found := (len(stored.class_names), len(stored.images.images))) != (INTENTS, SENTENCES):
        log.warning(
            "clinc150 has %d intents and %d sentences in %s: %d and %d are published", *found, place, INTENTS, SENTENCES
        )
    chosen = chosen_split("clinc150", stored.class_names, split, split_seed, (30, 30), root, examples_are="texts")
    whole = TextClasses("clinc150", stored.images, stored.class_names, chosen)
    kept = whole if min_texts is None else whole.without_small_classes(min_texts)
    return kept.with_descriptions(descriptions)


def _classes(place: Path) -> Classes:
    """By name; the sentences of each in the order of the file."""
    by_intent: dict[str, list[str]] = {}
    for sentence, intent in _pairs(place):
        by_intent.setdefault(intent, []).append(sentence)
    length = max(map(longest, by_intent.values()))
    for intent in sorted(by_intent):
        yield intent, as_bytes(by_intent[intent], length)


def _pairs(place: Path) -> list[tuple[str, str]]:
    try:
        content: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        pairs = [(str(sentence), str(intent)) for part in _PARTS for sentence, intent in content[part]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{place} is not the published file: pairs of a sentence and an intent under {', '.join(_PARTS)} are needed"
        ) from error
    if not pairs:
        raise UserError(f"{place} holds no sentence")
    return pairs
