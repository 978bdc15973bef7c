"""What the module of a data set says about its published files, read without importing torch, which most of these modules need.

Importing them all takes seconds. `metalearn data list` evaluates of each module only `ABOUT` and what that refers to.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from metalearn.data.files.published import About


def about_of(module: str) -> About | None:
    """`ABOUT` of a module, given by its dotted name; None where it has none.

    Raises:
        Whatever the lines of the module raise that `ABOUT` needs.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"), spec.origin)
    of_name = {name: statement for statement in tree.body for name in _defined(statement)}
    if "ABOUT" not in of_name:
        return None
    needed = _needed(of_name)
    tree.body = [each for each in tree.body if each in needed or _is_future(each)]
    namespace: dict[str, Any] = {"__name__": module, "__file__": spec.origin}
    exec(compile(tree, spec.origin, "exec"), namespace)
    about = namespace["ABOUT"]
    return about if isinstance(about, About) else None


def _needed(of_name: dict[str, ast.stmt]) -> set[ast.stmt]:
    """The statements of the module's top level that `ABOUT` depends on."""
    needed: set[ast.stmt] = set()
    waiting = ["ABOUT"]
    while waiting:
        statement = of_name.get(waiting.pop())
        if statement is not None and statement not in needed:
            needed.add(statement)
            waiting += _used(statement)
    return needed


def _defined(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement of the top level gives a value."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
    else:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _used(statement: ast.stmt) -> Iterable[str]:
    """The names that it reads; not those of annotations, which are texts in this package."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            yield node.id
        for key, value in ast.iter_fields(node):
            if key not in ("annotation", "returns"):
                waiting += [
                    each for each in (value if isinstance(value, list) else [value]) if isinstance(each, ast.AST)
                ]


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
