"""Reads the config.yaml of hundreds of runs fast: plain lines without a YAML parser."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from metalearn.config.yaml_text import from_yaml
from metalearn.errors import UserError, one_line
from metalearn.runs.directory import mapping, read_text

_LINE = re.compile(r"( *)([A-Za-z_][\w./-]*):(?: (.*))?")
# Texts that end with their line.
_VALUE = re.compile(r"[\w./~][\w./~+=@,%-]*( [\w./~+=@,%()-]+)*|-[\d.]\S*|\[[\w., -]*\]|'[^']*'")


def quick_config(path: Path) -> dict[str, Any]:
    """What `read_config` reads, for hundreds of them: lines that repeat from run to run are read once.

    Raises:
        UserError: it cannot be read, or it is not a mapping.
    """
    text = read_text(path)
    try:
        quick = _by_lines(text)
        return quick if quick is not None else mapping(path, from_yaml(text))
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error


def _by_lines(text: str) -> dict[str, Any] | None:
    """Nested mappings of plain values, as config.yaml is written; None where a line says more than that."""
    top: dict[str, Any] = {}
    stack = [(-2, top)]  # (indentation of the key, the mapping under it)
    for line in text.splitlines():
        said = _LINE.fullmatch(line)
        if said is None:
            return None
        indent, key, value = len(said[1]), _plain(said[2]), said[3]
        while stack[-1][0] >= indent:
            stack.pop()
        above, node = stack[-1]
        if indent != above + 2:
            return None
        if not value:
            node[key] = {}
            stack.append((indent, node[key]))
            continue
        node[key] = _plain(value)
        if node[key] is _NOT_PLAIN:
            return None
    return None if _holds_nothing(top) else top


def _holds_nothing(node: Mapping[str, Any]) -> bool:
    """Whether a key has neither a value nor keys below it, which means null."""
    return not node or any(isinstance(value, dict) and _holds_nothing(value) for value in node.values())


_NOT_PLAIN = object()


@functools.lru_cache(maxsize=100_000)
def _plain(value: str) -> Any:
    if _VALUE.fullmatch(value) is None:
        return _NOT_PLAIN
    return from_yaml(value)


def scalar(text: str) -> Any:
    try:
        return from_yaml(text)
    except yaml.YAMLError:
        return text
