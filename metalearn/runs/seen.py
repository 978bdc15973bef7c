"""Test classes that a model was trained on: a number measured on them says nothing about new classes."""

from __future__ import annotations

from collections.abc import Sequence

from metalearn.data.classes import ClassId
from metalearn.errors import UserError


def seen_classes(trained: Sequence[str], tested: Sequence[str]) -> list[ClassId]:
    """The upright test classes that were training classes, turned or not, in order; classes as checkpoints store them.

    Data sets made of the same images share the origin of their classes, so a class is recognised in another data set too.
    """
    before, now = ({ClassId.parse(name).upright for name in names} for names in (trained, tested))
    return sorted(before & now)


def refuse_seen_classes(trained: Sequence[str], tested: Sequence[str], allow: bool) -> int:
    """How many of the upright test classes were training classes.

    Raises:
        UserError: there are some, and `allow` (`eval.allow_seen`) is false.
    """
    seen = seen_classes(trained, tested)
    if seen and not allow:
        raise UserError(
            f"dataset.split: {len(seen)} of these test classes were training classes of this run, '{seen[0]}' for one; a number "
            "measured on them would say nothing about new classes (eval.allow_seen=true measures it and marks it in every report)"
        )
    return len(seen)
