"""What `auto` stands for where that follows from other settings alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST, _LEAST = 200, 20  # validation tasks


def validation_tasks(train: Mapping[str, Any]) -> int:
    """`train.val_tasks` of a configuration's `train`.

    `auto` is 200; in a short run fewer, down to 20: at most a tenth of the training tasks between two validations.
    """
    if train["val_tasks"] != "auto":
        return int(train["val_tasks"])
    between = min(train["val_every"], train["steps"]) * train["meta_batch_size"]
    return int(max(_LEAST, min(_MOST, between // 10)))


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with such an `auto` replaced by its number, so that it compares equal to it."""
    train = config.get("train")
    needed = {"val_tasks", "val_every", "steps", "meta_batch_size"}
    if not isinstance(train, Mapping) or not needed <= set(train):
        return dict(config)
    return {**config, "train": {**train, "val_tasks": validation_tasks(train)}}
