"""Names that configurations of earlier runs hold, and where what they name lives now."""

from __future__ import annotations

_MOVED = {
    "metalearn.data.glyphs.load": "metalearn.data.sets.glyphs.load",
    "metalearn.data.omniglot.load": "metalearn.data.sets.omniglot.load",
}


def present_name(target: str) -> str:
    """What a `_target_` that was written by an earlier version is called today; today's names are left as they are."""
    return _MOVED.get(target, target)
