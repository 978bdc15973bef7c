"""Configurations for tests, composed as the command line composes them."""

from __future__ import annotations

from typing import Any

from metalearn.compose.composer import composer

# Small enough for a step in milliseconds.
SMALL = ("backbone.filters=8", "task.queries=5", "task.train.queries=5", "task.train.ways=5")


def compose(*overrides: str) -> dict[str, Any]:
    with composer() as composing:
        config, _ = composing.job(list(overrides), 0)
    return config
