"""Where the shipped YAML files lie, and names made from settings."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path


def conf_dir() -> Path:
    """The shipped YAML files: inside the package when installed from a wheel, else beside it."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def choices(group: str) -> list[str]:
    """The names that `group=NAME` takes, without those of the user's own `--config-dir`."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def slug(text: str) -> str:
    """A file name of at most 60 letters, digits and `=._-`; a changed text keeps its hash, to stay distinct."""
    safe = re.sub(r"[^A-Za-z0-9=._-]+", "-", text).lstrip(".-")
    if safe == text and len(safe) <= 60:
        return safe or "default"
    return f"{safe[:53]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
