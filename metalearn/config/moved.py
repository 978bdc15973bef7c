"""What configurations of earlier runs say otherwise than today's: names that moved, and settings that did not exist yet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MOVED = {
    "metalearn.data.glyphs.load": "metalearn.data.sets.glyphs.load",
    "metalearn.data.omniglot.load": "metalearn.data.sets.omniglot.load",
}


def present_name(target: str) -> str:
    """What a `_target_` that was written by an earlier version is called today; today's names are left as they are."""
    return _MOVED.get(target, target)


# Settings of learners that came to use descriptions of classes.
_DESCRIBED = {"class_encoder": "auto", "description_weight": 0.0}
# Data sets whose classes came to be described by their names.
_NAMED = (
    *(
        "aircraft.load",
        "cifar100.cifarfs",
        "cifar100.fc100",
        "clinc150.load",
        "cub.load",
        "dtd.load",
        "emoji.load",
        "eurosat.load",
        "fashionmnist.load",
    ),
    *("flowers.load", "folder.load", "fungi.load", "icons.load", "metaalbum.load", "quickdraw.load", "text.load"),
)

# Settings that a class was given later -> the value that means what it did without them.
_ADDED: dict[str, dict[str, Any]] = {
    "metalearn.algorithms.maml.MAML": {"norm_parameters": "adapted", "head_parameters": "adapted"},
    "metalearn.algorithms.mann.MANN": {
        "order": "read_first",
        "write_vectors": "key",
        "empty_length": 1e-4,
        "initial": "plain",
    },
    "metalearn.algorithms.matching.MatchingNet": {
        "scale": 1.0,
        "learn_scale": False,
        **_DESCRIBED,
        "unit_descriptions": True,
    },
    "metalearn.algorithms.nearest_centroid.NearestCentroid": _DESCRIBED,
    "metalearn.algorithms.protonet.ProtoNet": {
        "scale": 1.0,
        "learn_scale": False,
        **_DESCRIBED,
        "unit_descriptions": True,
    },
    "metalearn.algorithms.relation.RelationNet": {"loss": "squared_error"},
    "metalearn.algorithms.ridge.Ridge": {"errors": "sum"},
    "metalearn.data.sets.glyphs.load": {"channels": 1, "normalize": None},
    **{f"metalearn.data.sets.{name}": {"descriptions": "names"} for name in _NAMED},
    **{
        f"metalearn.data.sets.{name}.load": {"descriptions": None}
        for name in ("emnist", "miniimagenet", "tieredimagenet")
    },
}


def with_added(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node with a `_target_`, and the settings that its class did not have yet when an earlier version wrote the node."""
    added = _ADDED.get(present_name(str(node.get("_target_"))), {})
    return dict(node) | {key: value for key, value in added.items() if key not in node}  # in the order of the node


# The same for settings of no class, by the node that holds them.
_ADDED_TO_AUGMENT = dict.fromkeys(("crop", "flip", "brightness", "contrast", "saturation", "hue"), 0.0)


def with_all_added(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run, each of its parts and what these are made of as `with_added` completes it; and `train.augment`, `eval`."""
    whole = {
        key: with_added(with_all_added(value)) if isinstance(value, Mapping) else value for key, value in config.items()
    }
    train = whole.get("train")
    if isinstance(train, dict) and isinstance(train.get("augment"), dict):
        added = {key: value for key, value in _ADDED_TO_AUGMENT.items() if key not in train["augment"]}
        whole["train"] = train | {"augment": train["augment"] | added}
    if isinstance(whole.get("eval"), dict):
        whole["eval"] = whole["eval"] | {"ensemble": whole["eval"].get("ensemble", 1)}
    return whole


# Experiments lay side by side: `finn2017_omniglot_5w1s`, and `maml_omniglot_5w1s` for the short schedules.
_OF_A_PAPER = re.compile(r"([a-z]+\d{4}(?:fo)?)_(omniglot_\d+w\d+s)")
_SHORT = re.compile(r"(?:maml|mann|matching|protonet|reptile)_omniglot_\d+w\d+s")


def present_experiment(name: str) -> str:
    """What an experiment of an earlier version is called today; today's names are left as they are."""
    if found := _OF_A_PAPER.fullmatch(name):
        return f"{found[1]}/{found[2]}"
    return f"short/{name}" if _SHORT.fullmatch(name) else name
