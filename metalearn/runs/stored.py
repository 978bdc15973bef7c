"""What an algorithm adapted, as tensors and plain containers that a file can hold, and made of them again."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalearn.algorithms.base import Algorithm
from metalearn.errors import UserError
from metalearn.runs import checkpoint


class Unstorable(TypeError):
    """What an algorithm adapted holds something else than tensors, numbers, texts and containers of them."""


def modules_of(algorithm: Algorithm) -> set[str]:
    """The modules whose named tuples a file may hold: those of the algorithm and of its bases."""
    return {base.__module__ for base in type(algorithm).__mro__}


def plain(value: Any, modules: set[str]) -> Any:
    """Tensors and plain containers, from which `built` makes the value again.

    Args:
        modules: from `modules_of`.

    Raises:
        Unstorable: there is something else in it.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {"dict": {key: plain(item, modules) for key, item in value.items()}}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        kind = type(value)
        if kind.__module__ not in modules:
            raise Unstorable(f"it keeps a {kind.__qualname__} of {kind.__module__}")
        return {"named": [kind.__module__, kind.__qualname__], "fields": [plain(item, modules) for item in value]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [plain(item, modules) for item in value]}
    raise Unstorable(f"it keeps a {type(value).__qualname__}")


def built(value: Any, modules: set[str], device: torch.device) -> Any:
    """What `plain` was given, on a device.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the file was written by another version, or by somebody else.
    """
    if isinstance(value, Tensor):
        return value.to(device)
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {key: built(item, modules, device) for key, item in value["dict"].items()}
    if "named" in value:
        module, name = value["named"]
        if module not in modules:  # nobody's file names what is imported here
            raise ValueError(f"{module} is no module of this algorithm")
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")):
            raise ValueError(f"{name} is no named tuple")
        return kind(*(built(item, modules, device) for item in value["fields"]))
    name = "list" if "list" in value else "tuple"
    items = [built(item, modules, device) for item in value[name]]
    return items if name == "list" else tuple(items)


def save_adapted(path: Path, algorithm: Algorithm, adapted: Any, config: dict[str, Any], own: dict[str, Any]) -> None:
    """Writes the file of `metalearn predict --save`: tensors and plain values.

    Args:
        algorithm: whose weights go into it.
        adapted: what it learned of a task.
        config: of the run.
        own: what else the file holds.

    Raises:
        UserError: it cannot be written, or the algorithm keeps what such a file cannot hold.
    """
    try:
        kept = plain(adapted, modules_of(algorithm))
    except Unstorable as error:
        raise UserError(f"--save: {config['names']['algorithm']} cannot be stored: {error}") from error
    state = {
        "model": {name: value.cpu() for name, value in algorithm.state_dict().items()},
        "config": config,
        "train_classes": [],
        "adapted": kept,
        **own,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, state)
    except OSError as error:
        raise UserError(f"--save {path} cannot be written ({error.strerror or error})") from error
