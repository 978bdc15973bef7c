"""What `auto` stands for where that follows from other settings alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

_MOST, _LEAST = 200, 20  # validation tasks
_PACKED = re.compile(r"(.+?)\.(zip|tar|tar\.\w+|tgz|tbz2|txz)", re.IGNORECASE)


def validation_tasks(train: Mapping[str, Any]) -> int:
    """`train.val_tasks` of a configuration's `train`.

    `auto` is 200, also without outer steps; in a short run fewer, down to 20: at most a tenth of the training tasks between two validations.
    """
    if train["val_tasks"] != "auto":
        return int(train["val_tasks"])
    if train["steps"] == 0:
        return _MOST
    between = min(train["val_every"], train["steps"]) * train["meta_batch_size"]
    return int(max(_LEAST, min(_MOST, between // 10)))


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with such an `auto` replaced by its number or name, so that it compares equal to it."""
    dataset = config.get("dataset")
    if isinstance(dataset, Mapping) and "origin" in dataset:
        # The images or the table are the user's own. Wherever they lie, the name of their folder or file says which they are.
        root, file = dataset.get("root"), dataset.get("file")
        name = _name_of(root) if isinstance(root, str) else PurePath(file).stem if isinstance(file, str) else None
        if name is not None:
            config = {**config, "dataset": {**dataset, "origin": f"{dataset['origin']}: {name}"}}
    train = config.get("train")
    needed = {"val_tasks", "val_every", "steps", "meta_batch_size"}
    if not isinstance(train, Mapping) or not needed <= set(train):
        return dict(config)
    return {**config, "train": {**train, "val_tasks": validation_tasks(train)}}


def _name_of(root: str) -> str:
    """The last part of a path, with that of an archive as of a folder; of a file with paths and labels the last two."""
    path = PurePath(root)
    if path.suffix.lower() == ".csv":
        return "/".join(path.parts[-2:])
    packed = _PACKED.fullmatch(path.name)
    return packed[1] if packed else path.name
