"""Which choices of a group can do what a configuration asks for: what messages offer."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from metalearn.config.files import choices, target_of
from metalearn.data.base import IMAGES, NUMBERS, TEXTS
from metalearn.kinds import Kind


def able(group: str, is_able: Callable[[Any], bool]) -> list[str]:
    """The choices of a group, plug-ins' included, whose class is able."""
    found = []
    for name in choices(group):
        module, _, made = target_of(group, name).rpartition(".")
        if is_able(getattr(importlib.import_module(module), made)):
            found.append(name)
    return found


def taken(backbone: Any) -> tuple[str, ...]:
    """What examples a backbone, a class, takes: what its parameters ask for."""
    parameters = inspect.signature(backbone).parameters
    if "text_length" in parameters:
        return (TEXTS,)
    return (IMAGES,) if "image_shape" in parameters else (IMAGES, NUMBERS)


def learners(kind: Kind) -> list[str]:
    """The choices of `algorithm`, plug-ins' included, that can learn tasks of a kind."""
    return able("algorithm", lambda made: made.learns(kind))
