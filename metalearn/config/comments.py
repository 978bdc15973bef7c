"""What the YAML files say of their settings: the comment beside each of them, and the line where it stands."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from metalearn.config.files import choice_file
from metalearn.config.yaml_text import nodes_of


class Stated(NamedTuple):
    """Where a file states a setting: the line, counted from 1, and the comment behind it or else above it."""

    line: int
    comment: str


@functools.cache
def stated(file: Path) -> dict[str, Stated]:
    """Dotted path, relative to the file, of every key in it; an empty mapping for a file that cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
        root = nodes_of(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return dict(_keys(root, text.splitlines(), "")) if isinstance(root, yaml.MappingNode) else {}


def _keys(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[tuple[str, Stated]]:
    for key, value in node.value:
        path, number = f"{prefix}{key.value}", key.start_mark.line
        inner = isinstance(value, yaml.CollectionNode) and not value.flow_style
        end = key.end_mark if inner else value.end_mark
        yield path, Stated(number + 1, _behind(lines[end.line][end.column :]) or _above(lines, number))
        if isinstance(value, yaml.MappingNode):
            yield from _keys(value, lines, f"{path}.")


def _behind(rest: str) -> str:
    """The comment in what follows a value, or the colon of a key, on its line."""
    rest = rest.lstrip(": \t")
    return rest.lstrip("# ").rstrip() if rest.startswith("#") else ""


def _above(lines: list[str], number: int) -> str:
    """The comment lines right above a line, unless they begin the file."""
    indent = len(lines[number]) - len(lines[number].lstrip())
    first = number
    while first and lines[first - 1].startswith(f"{' ' * indent}#"):
        first -= 1
    return " ".join(line.strip().lstrip("# ") for line in lines[first:number]) if first else ""


def summary(group: str, name: str) -> str:
    """What the comment at the head of a choice's file says, up to the end of a line that ends a sentence; empty where there is none."""
    return summary_of(choice_file(group, name))


def summary_of(file: Path) -> str:
    """As `summary`, of any file."""
    said: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#") or (said and said[-1].endswith((".", ":"))) or line.startswith("#   "):
            break
        said.append(line.lstrip("# ").strip())
    return " ".join(said)
