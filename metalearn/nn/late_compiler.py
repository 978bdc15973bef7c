"""Imports of libraries that would import torch's compiler, more than a second, for what may never be asked."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

# torchvision's roi_align asks it, for the detection of objects alone.
_COMPILER, _ASKED = ("torch._dynamo", "is_compile_supported")


@contextmanager
def without_compiler() -> Iterator[None]:
    """While it lasts, the compiler can be imported for one function alone, which imports the whole when it is called.

    Whoever imports the compiler afterwards gets it as it is.
    """
    if _COMPILER in sys.modules:
        yield
        return
    stand_ins = {name: ModuleType(name) for name in (_COMPILER, f"{_COMPILER}.utils")}
    setattr(stand_ins[f"{_COMPILER}.utils"], _ASKED, _is_compile_supported)
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


def _is_compile_supported(device_type: Any) -> Any:
    return getattr(importlib.import_module(f"{_COMPILER}.utils"), _ASKED)(device_type)
