"""Where the shipped YAML files lie, and names made from settings."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path
from typing import Any

from metalearn.config.plugins import conf_dirs
from metalearn.config.yaml_text import from_yaml
from metalearn.errors import UserError


def conf_dir() -> Path:
    """The shipped YAML files: inside the package when installed from a wheel, else beside it."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def choices(group: str) -> list[str]:
    """The names that `group=NAME` takes, plug-ins' included, those of `--config-dir` not; `folder/name` for a file in a folder."""
    folders = [conf / group for conf in (conf_dir(), *conf_dirs())]
    return sorted(
        {file.relative_to(folder).with_suffix("").as_posix() for folder in folders for file in folder.rglob("*.yaml")}
    )


def own_choices(group: str, folder: str | None) -> dict[str, Path]:
    """Name -> file of what a folder of the user's own, as of `--config-dir`, adds to a group; empty for None.

    Raises:
        UserError: it is no directory.
    """
    if folder is None:
        return {}
    if not Path(folder).is_dir():
        raise UserError(f"--config-dir: '{folder}' is no directory")
    there = Path(folder) / group
    return {file.relative_to(there).with_suffix("").as_posix(): file for file in sorted(there.rglob("*.yaml"))}


def choice_file(group: str, name: str) -> Path:
    """The YAML file of a choice that `choices` lists."""
    files = (conf / group / f"{name}.yaml" for conf in (conf_dir(), *conf_dirs()))
    return next(file for file in files if file.is_file())


def target_of(group: str, name: str) -> str:
    """The `_target_` of a choice that `choices` lists, its own or that of the file of the group that it is made from."""
    content = content_of(choice_file(group, name))
    node = node_of(group, content)
    if "_target_" in node:
        return str(node["_target_"])
    bases = [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    return target_of(group, bases[0])


def node_of(group: str, content: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group in what stands in a file of it: a file of package _global_ holds its group's node, others are the node."""
    node = content.get(group)
    return node if isinstance(node, dict) else content


def content_of(file: Path) -> dict[str, Any]:
    """What stands in the YAML file of a choice, read anew where the file has changed; nobody may write to it."""
    return _read(file, file.stat().st_mtime_ns)


@functools.cache  # a message that lists choices looks into each file of a group
def _read(file: Path, changed: int) -> dict[str, Any]:
    """What stands in a YAML file that was last changed at `changed`."""
    content: dict[str, Any] = from_yaml(file.read_text(encoding="utf-8"))
    return content


def slug(text: str) -> str:
    """A file name of at most 60 letters, digits and `=._-`; a changed text keeps its hash, to stay distinct."""
    text = re.sub(r"(?<=\de)\+(?=\d)", "", text)  # 3.4e+30 is 3.4e30; a minus in its place would be another number
    safe = re.sub(r"[^A-Za-z0-9=._-]+", "-", text).lstrip(".-")
    if safe == text and len(safe) <= 60:
        return safe or "default"
    return f"{safe[:53]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
