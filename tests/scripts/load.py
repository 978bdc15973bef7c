"""The programs in scripts/, as modules for their tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def load_script(name: str) -> ModuleType:
    """scripts/NAME.py, made anew."""
    # Not under its own name: a package that is installed may be called so, as coverage is.
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    if str(ROOT / "scripts") not in sys.path:  # one program may use another; last, so that no package is hidden
        sys.path.append(str(ROOT / "scripts"))
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
