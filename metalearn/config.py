"""What every module may know about the configuration: where it lies, what its values may be, how to build from it.

A YAML file states the limits of its own values under `limits:`, a mapping from dotted paths, relative to that node, to
a rule such as `null or float > 0 <= 1`:

    rule         alternative { " or " alternative }
    alternative  a literal word or number (auto, null, 4) | bool | str | minutes (10min, 0.5min) | number | "list of " alternative
    number       ("int" | "float") { comparison a-number }
    comparison   ">=" | ">" | "<=" | "<"

An int will do for a float; a bool is no number; NaN and infinity are refused; a list must not be empty.
In a path, `*` stands for every key of a mapping, and what is below a key with a `?` is only looked at where that key's value is not null.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from metalearn.errors import UserError, nearest

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_MINUTES = re.compile(r"\d{1,6}(\.\d+)?min")
_LITERAL = re.compile(r"[\w.+-]+")
# Settings that no rule need bound: a directory's name, and what cli_sweep and search_space read.
_NO_RULE = re.compile(r"sweep_name|sweep\.(grid|list|zip|search)(\..*)?")


def conf_dir() -> Path:
    """The shipped YAML files: inside the package when installed from a wheel, else beside it."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def choices(group: str) -> list[str]:
    """The names that `group=NAME` takes, without those of the user's own `--config-dir`."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def dotted_keys(plain: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of a nested mapping as a dotted path, inner nodes too, `limits` left out."""
    for key, value in plain.items():
        if key != "limits":
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from dotted_keys(value, f"{prefix}{key}.")


def leaves(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested mapping, under its dotted path."""
    for key, value in plain.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_limits(cfg: DictConfig) -> None:
    """Raises one UserError naming every mandatory value not set or, when all are, every value outside its limits."""
    as_written = dict(leaves(_container(cfg, resolve=False)))
    # OmegaConf.missing_keys would raise at the first interpolation that leads to a missing value, and name that one.
    missing = [key for key, value in as_written.items() if value == "???"]
    if missing:
        raise UserError("; ".join(f"{key} must be set" for key in missing))
    faults = dict(_faults(_container(cfg, resolve=True)))
    # A value taken over from another setting is the user's fault only when nothing else is.
    own = [fault for key, fault in faults.items() if "${" not in str(as_written.get(key))]
    if faults:
        raise UserError("; ".join(own or faults.values()))


def check_known(cfg: DictConfig, own: Collection[str]) -> None:
    """Raises UserError for a setting that no rule speaks of, outside the groups `own`, whose classes know their settings themselves.

    The command line can only change settings that are there; a YAML file can add any, and a slip in one would go unnoticed.
    """
    plain = _container(cfg, resolve=False)
    known = list(rules(plain))
    for key in settings({name: node for name, node in plain.items() if name not in own}):
        if not _NO_RULE.fullmatch(key) and not any(pattern.fullmatch(key) for _, pattern in known):
            raise UserError(f"no setting '{key}'{nearest(key, [path for path, _ in known])}")


def settings(plain: dict[str, Any]) -> Iterator[str]:
    """The dotted path of every value that is no limit."""
    return (key for key, _ in leaves(plain) if "limits" not in key.split("."))


def rules(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, re.Pattern[str]]]:
    """The path of every rule, and what it matches; up to a `?` that is the key whose value is null, too."""
    for path in plain.get("limits") or {}:
        full = f"{prefix}{path}"
        for part in [*(full[: mark.start()] for mark in re.finditer(r"\?", full)), full]:
            yield full, re.compile(re.escape(part.replace("?", "")).replace(r"\*", "[^.]+"))
    for key, value in plain.items():
        if isinstance(value, dict) and key != "limits":
            yield from rules(value, f"{prefix}{key}.")


def without_limits(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as a plain mapping, interpolations resolved, without its `limits` nodes."""
    return _drop_limits(_container(cfg, resolve=True))


def config_hash(plain: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that depend on the keys and values of the configuration, not on their order."""
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def build(
    node: dict[str, Any], kind: str, made_of: type, within: str, optional: dict[str, Any] | None = None, **extra: Any
) -> Any:
    """Calls what `node["_target_"]` names, a subclass of `made_of` or a function annotated to return one, with the node's other keys, `extra`,
    and those of `optional` it has parameters for.

    A configuration may come from a stranger's run directory, so only definitions of the module or package `within` can be named: not what its
    modules merely import, and nothing that does something else, such as writing a file.
    """
    target = str(node.get("_target_"))
    module_name, _, name = target.rpartition(".")
    refused = UserError(f"{kind}._target_={target} is not allowed (a {made_of.__name__} of {within})")
    if not f"{module_name}.".startswith(f"{within}."):
        raise refused
    try:
        made = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{kind}._target_={target} cannot be imported: {error}") from error
    if not ((inspect.isclass(made) or inspect.isfunction(made)) and f"{made.__module__}.".startswith(f"{within}.")):
        raise refused
    comes_back = made if inspect.isclass(made) else get_type_hints(made).get("return")
    if not (inspect.isclass(comes_back) and issubclass(comes_back, made_of)):
        raise refused
    signature = inspect.signature(made)
    extra |= {key: value for key, value in (optional or {}).items() if key in signature.parameters}
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    try:
        signature.bind(**arguments, **extra)
    except TypeError as error:
        raise UserError(f"{kind}: {target}: {error}") from error
    return made(**arguments, **extra)


def slug(text: str) -> str:
    """A file name of at most 60 letters, digits and `=._-`; a changed text keeps its hash, to stay distinct."""
    safe = re.sub(r"[^A-Za-z0-9=._-]+", "-", text).lstrip(".-")
    if safe == text and len(safe) <= 60:
        return safe or "default"
    return f"{safe[:53]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def allows(rule: str, value: Any) -> bool:
    """Whether `value` keeps to `rule`; ValueError for a rule that is none."""
    # Every alternative is read, so that a slip in a YAML file shows whatever the value.
    verdicts = [_allows(alternative.strip(), value) for alternative in rule.split(" or ")]
    return any(verdicts)


def minutes(text: str) -> float:
    """`10min` -> 10.0"""
    return float(text.removesuffix("min"))


def _allows(alternative: str, value: Any) -> bool:
    if alternative.startswith("list of "):
        inner = alternative.removeprefix("list of ")
        _allows(inner, None)
        return isinstance(value, list) and len(value) > 0 and all(_allows(inner, item) for item in value)
    kind, *rest = alternative.split() or [""]
    if kind in ("int", "float"):
        bounds = list(zip(rest[::2], rest[1::2], strict=False))
        if len(rest) % 2 or not all(sign in _COMPARISONS for sign, _ in bounds):
            raise ValueError(f"'{alternative}' is no rule")
        is_number = isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
        holds = [is_number and _COMPARISONS[sign](value, float(bound)) for sign, bound in bounds]
        return is_number and math.isfinite(value) and all(holds)
    if rest or not _LITERAL.fullmatch(kind):
        raise ValueError(f"'{alternative}' is no rule")
    if kind in ("bool", "str"):
        return isinstance(value, bool if kind == "bool" else str)
    if kind == "minutes":
        return isinstance(value, str) and _MINUTES.fullmatch(value) is not None and minutes(value) > 0
    if kind == "null":
        return value is None
    if isinstance(value, str):
        return value == kind
    return isinstance(value, int) and _shown(value) == kind


def _faults(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The keys whose values break a rule, each with a sentence that says so."""
    for path, rule in (plain.get("limits") or {}).items():
        try:
            yield from _broken(plain, path.split("."), str(rule), prefix)
        except ValueError as error:
            raise UserError(f"{prefix}limits.{path}: {error}") from error
    for key, value in plain.items():
        if isinstance(value, dict) and key != "limits":
            yield from _faults(value, f"{prefix}{key}.")


def _broken(value: Any, keys: list[str], rule: str, prefix: str) -> Iterator[tuple[str, str]]:
    """The same for one rule, on what `keys` lead to from `value`, the node under `prefix`."""
    name = prefix[:-1]
    if not keys:
        if not allows(rule, value):
            yield name, f"{name}={_shown(value)} is not allowed ({rule})"
    elif not isinstance(value, dict):
        yield name, f"{name}={_shown(value)} is not allowed (a group of settings)"
    else:
        wanted, optional = keys[0].removesuffix("?"), keys[0].endswith("?")
        for key in value if wanted == "*" else [wanted]:
            if key not in value:
                yield f"{prefix}{key}", f"{prefix}{key} must be set"
            elif not (optional and value[key] is None):
                yield from _broken(value[key], keys[1:], rule, f"{prefix}{key}.")


def _shown(value: Any) -> str:
    """The value as the command line would take it; a text that looks like a number keeps its quotes."""
    if isinstance(value, str):
        return repr(value) if re.fullmatch(r"\s*|[-+]?[\d.].*|null|true|false", value, re.IGNORECASE) else value
    return json.dumps(value)


def _drop_limits(plain: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in plain.items() if key != "limits"}
    return {key: _drop_limits(value) if isinstance(value, dict) else value for key, value in kept.items()}


def _container(cfg: DictConfig, resolve: bool) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]  # our YAML keys are texts


OmegaConf.register_new_resolver("metalearn.slug", lambda text: slug(str(text)), replace=True)
