"""How reports mark a score of classes that are not new to the model: a score of such classes says little about new ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def marks(row: Mapping[str, Any]) -> str:
    """For a cell of a table, behind the score; empty where all classes were new.

    Args:
        row: `seen_classes` and `seen_in_pretraining`, as the `test` entry of results.json has them.
    """
    texts = []
    if trained := row.get("seen_classes"):
        texts.append(f"{trained} CLASSES SEEN")
    if mark := pretraining_mark(row.get("seen_in_pretraining")):
        texts.append(mark)
    return "".join(f" ({text})" for text in texts)


def pretraining_mark(entry: Mapping[str, Any] | None) -> str:
    """`64 of 100 classes in pre-training`; empty where the backbone was not pre-trained, or saw none of them."""
    if entry is None or entry["classes"] == 0:
        return ""
    if entry["classes"] is None:
        return "pre-training data unknown"
    named = " by name" if entry["by"] == "name" else ""
    return f"{entry['classes']} of {entry['of']} classes in pre-training{named}"


def pretraining_text(entry: Mapping[str, Any]) -> str:
    """The same as a sentence."""
    data, classes, of = entry["data"], entry["classes"], entry["of"]
    if classes is None:
        return f"the backbone was pre-trained on {data}: the {of} test classes may have been in it"
    if entry["by"] == "name":
        return f"{classes or 'none'} of {of} test classes {'has' if classes == 1 else 'have'} the name of a class of the pre-training data ({data})"
    return f"{classes or 'none'} of {of} test classes {'was' if classes == 1 else 'were'} in the pre-training data ({data})"
