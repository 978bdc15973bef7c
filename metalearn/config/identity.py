"""Which settings make two configurations the same: one table for everything that compares runs.

A run that goes on, a sweep that finds a stored job, a reproduction and the hash in results.json each ask a different question. Each
question is a set of kinds of settings, and each setting has one kind.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import re
from typing import Any

from metalearn.config.automatic import resolved
from metalearn.config.moved import present_name, with_all_added
from metalearn.config.tree import leaves


class Kind(enum.Enum):
    """What a change of a setting means for a run."""

    PLACE = "where files lie"
    LABEL = "what something is called, or what a paper says of it"
    RECORD = "what is written down, and how often"
    SPEED = "where and how fast it is computed; results change by rounding at most"
    LENGTH = "how long training goes on"
    SEED = "which random numbers are drawn"
    PROTOCOL = "what is computed"


# The first pattern that matches the whole dotted path decides; everything else belongs to the protocol. Every dataset calls its folder
# `root` or its one file `file`, and `download` whether missing files are fetched.
_KINDS: tuple[tuple[re.Pattern[str], Kind], ...] = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"dataset\.(sources\.[^.]+\.)?(root|file|download)|hydra(\..*)?", Kind.PLACE),
        (r"sweep_name|(names|reference|sweep|plugins)(\..*)?", Kind.LABEL),
        (
            r"train\.(log_every|log_seconds|checkpoint_every|keep|snapshots|max_loss)|eval\.(allow_seen|pictures)",
            Kind.RECORD,
        ),
        (r"device|images|features|(train|eval)\.task_chunk|train\.cuda_graph", Kind.SPEED),
        (r"train\.steps", Kind.LENGTH),
        (r"seed", Kind.SEED),
    )
)

# Two runs with these equal should come to the same number.
QUESTION = frozenset({Kind.PROTOCOL, Kind.LENGTH, Kind.SEED})
SAME_PROTOCOL = frozenset({Kind.PROTOCOL, Kind.LENGTH})  # the same up to the seed
MUST_STAY = frozenset({Kind.PROTOCOL, Kind.SEED})  # of a run that is resumed


@functools.cache
def kind_of(key: str) -> Kind:
    """The kind of the setting with this dotted path, such as `train.lr`."""
    return next((kind for pattern, kind in _KINDS if pattern.fullmatch(key)), Kind.PROTOCOL)


def compared(config: dict[str, Any], kinds: frozenset[Kind] = QUESTION) -> dict[str, Any]:
    """Dotted path -> value of the settings of these kinds; classes that have moved since are called by their present name.

    A setting that a class was given later has the value there that means what the class did without it.
    """
    return {
        key: present_name(value) if key.endswith("._target_") else value
        for key, value in leaves(with_all_added(resolved(config)))
        if kind_of(key) in kinds
    }


def differences(
    before: dict[str, Any], now: dict[str, Any], kinds: frozenset[Kind] = QUESTION
) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (value before, value now) where they differ; a setting that one of them lacks is None there."""
    old, new = compared(before, kinds), compared(now, kinds)
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


def config_hash(plain: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that depend on the keys and values of the configuration, not on their order."""
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
