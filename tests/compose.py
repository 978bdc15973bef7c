"""Configurations for tests, composed as the command line composes them."""

from __future__ import annotations

import copy
import functools
import importlib
from typing import Any

from metalearn.compose.composer import composer
from metalearn.config.files import target_of

# Small enough for a step in milliseconds.
SMALL = ("backbone.filters=8", "task.queries=5", "task.train.queries=5", "task.train.ways=5")
# Few drawn classes, of small images.
FEW_GLYPHS = (
    *("dataset.classes=40", "dataset.val_classes=8", "dataset.test_classes=12"),
    *("dataset.size=16", "task.train.ways=5"),
)


def compose(*overrides: str) -> dict[str, Any]:
    return copy.deepcopy(_composed(*overrides))


@functools.lru_cache(maxsize=1024)  # a composition takes 0.15 s, and many tests want the same
def _composed(*overrides: str) -> dict[str, Any]:
    with composer() as composing:
        config, _ = composing.job(list(overrides), 0)
    return config


def steps_of(name: str, wanted: str) -> str:
    """`wanted`, such as "train.steps=2"; without outer steps where algorithm NAME says that they cannot change it."""
    module, _, made = target_of("algorithm", name).rpartition(".")
    return wanted if getattr(importlib.import_module(module), made).trains else "train.steps=0"
