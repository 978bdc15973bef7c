"""From a node of the configuration to the object that its `_target_` names."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any, get_type_hints

from metalearn.config.moved import present_name, with_added
from metalearn.config.plugins import trusted
from metalearn.errors import UserError


def build(
    node: dict[str, Any],
    kind: str,
    made_of: type,
    within: str,
    optional: dict[str, Any] | None = None,
    check: Callable[[Any], None] = lambda made: None,
    **extra: Any,
) -> Any:
    """Calls what `node["_target_"]` names (see `named`) with the node's other keys, `extra`, and those of `optional` it has parameters for.

    A parameter whose type is a NamedTuple takes the keys that are its fields. `check` may refuse the class or function before it is called.
    """
    made = named(node, kind, made_of, within)
    check(made)
    signature = inspect.signature(made)
    extra |= {key: value for key, value in (optional or {}).items() if key in signature.parameters}
    arguments = {key: value for key, value in with_added(node).items() if key != "_target_"}
    try:
        arguments = _gathered(made, arguments)
        signature.bind(**arguments, **extra)
    except TypeError as error:
        raise UserError(f"{kind}: {present_name(str(node['_target_']))}: {error}") from error
    return made(**arguments, **extra)


def named(node: dict[str, Any], kind: str, made_of: type, within: str) -> Any:
    """What `node["_target_"]` names: a subclass of `made_of` or a function annotated to return one.

    A configuration may come from a stranger's run directory, so only definitions of the module or package `within`, or of a plug-in that the user
    trusts (metalearn.config.plugins), can be named: not what its
    modules merely import, and nothing that does something else, such as writing a file.

    Raises:
        UserError: it names nothing of the kind.
    """
    target = present_name(str(node.get("_target_")))
    module_name, _, name = target.rpartition(".")
    allowed = f"{_article(made_of.__name__)} {made_of.__name__} of {within}"
    refused = UserError(f"{kind}._target_={target} is not allowed (needed: {allowed})")
    home = next((name for name in (within, *trusted()) if f"{module_name}.".startswith(f"{name}.")), None)
    if home is None:
        raise (
            refused if target.startswith("metalearn.") else UserError(f"{refused}; code of your own: --plugins PACKAGE")
        )
    try:
        made = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there and imports something that is not
        raise UserError(f"{kind}._target_={target}: there is no module '{error.name}'") from error
    except AttributeError as error:
        if module_name not in sys.modules:
            raise  # a fault inside the module
        raise UserError(f"{kind}._target_={target}: '{module_name}' has no '{name}'") from error
    if not ((inspect.isclass(made) or inspect.isfunction(made)) and f"{made.__module__}.".startswith(f"{home}.")):
        raise refused
    comes_back = made if inspect.isclass(made) else get_type_hints(made).get("return")
    if not (inspect.isclass(comes_back) and issubclass(comes_back, made_of)) or inspect.isabstract(made):
        raise refused
    return made


def _gathered(made: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with those in one that a NamedTuple among the parameters has as its fields: what many take alike is written once.

    Raises:
        TypeError: such a parameter is given by its own name, or lacks a field.
    """
    try:
        hints = get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except NameError:  # of a plug-in: what it imports for a type checker alone is no NamedTuple that could be filled
        return arguments
    for name, hint in hints.items():
        if name == "return" or not (inspect.isclass(hint) and issubclass(hint, tuple) and hasattr(hint, "_fields")):
            continue
        if name in arguments:
            raise TypeError(f"got an unexpected keyword argument '{name}'")
        fields = {key: arguments[key] for key in hint._fields if key in arguments}
        inspect.signature(hint).bind(**fields)
        arguments = {key: value for key, value in arguments.items() if key not in fields} | {name: hint(**fields)}
    return arguments


def _article(noun: str) -> str:
    return "an" if noun[0] in "AEIOUaeiou" else "a"
