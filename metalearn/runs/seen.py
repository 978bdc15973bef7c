"""Test classes that a model was trained on, or its backbone pre-trained: a number measured on them says nothing about new classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from metalearn.backbones.base import PretrainedOn
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


def seen_in_pretraining(data: PretrainedOn | None, tested: Sequence[str]) -> dict[str, Any] | None:
    """The `seen_in_pretraining` entry of results.json: which upright test classes the backbone's pre-training saw.

    Classes of the same images are known by identity; those of other images by name, where a class's name is one of those of a class of the
    pre-training data. Another picture of the same thing counts: the features were learned to tell that thing from others.

    Args:
        data: what the backbone was pre-trained on; None: it was not.
        tested: the test classes as checkpoints store them.

    Returns:
        data (its name), classes (how many; None where nobody knows), of (how many there are), by ("identity" or "name") and, up to five, such_as;
        None where there was no pre-training, or tasks have no classes.
    """
    classes = sorted({ClassId.parse(name).upright for name in tested})
    if data is None or not classes:
        return None
    if data.classes is None:
        return {"data": data.name, "classes": None, "of": len(classes), "by": None, "such_as": []}
    same_images = all(one.origin == data.origin for one in classes)
    if same_images:
        found = [one.name for one in classes if one.name in data.classes]
    else:
        names = {_plain(name) for of_class in data.classes.values() for name in of_class}
        found = [one.name for one in classes if _plain(one.name) in names]
    by = "identity" if same_images else "name"
    return {"data": data.name, "classes": len(found), "of": len(classes), "by": by, "such_as": found[:5]}


def _plain(name: str) -> str:
    """`014.Indigo_Bunting` and `indigo bunting` are the same; of a path its last part counts."""
    last = name.rpartition("/")[2].rpartition(":")[2]
    return re.sub(r"[\W_]+", " ", re.sub(r"^\d+[.\-_ ]+", "", last)).strip().casefold()
