"""Names that configurations of earlier runs hold, and where what they name lives now."""

from __future__ import annotations

import re

_MOVED = {
    "metalearn.data.glyphs.load": "metalearn.data.sets.glyphs.load",
    "metalearn.data.omniglot.load": "metalearn.data.sets.omniglot.load",
}


def present_name(target: str) -> str:
    """What a `_target_` that was written by an earlier version is called today; today's names are left as they are."""
    return _MOVED.get(target, target)


# Experiments lay side by side: `finn2017_omniglot_5w1s`, and `maml_omniglot_5w1s` for the short schedules.
_OF_A_PAPER = re.compile(r"([a-z]+\d{4}(?:fo)?)_(omniglot_\d+w\d+s)")
_SHORT = re.compile(r"(?:maml|mann|matching|protonet|reptile)_omniglot_\d+w\d+s")


def present_experiment(name: str) -> str:
    """What an experiment of an earlier version is called today; today's names are left as they are."""
    if found := _OF_A_PAPER.fullmatch(name):
        return f"{found[1]}/{found[2]}"
    return f"short/{name}" if _SHORT.fullmatch(name) else name
