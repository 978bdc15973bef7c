"""What each value may be: a YAML file states the limits of its own values.

The limits stand under `limits:`, a mapping from dotted paths, relative to that node, to
a rule such as `null or float > 0 <= 1`:

    rule         alternative { " or " alternative }
    alternative  a literal word or number (auto, null, 4) | bool | str | minutes (10min, 0.5min) | choices | number | "list of " alternative
    number       ("int" | "float") { comparison a-number }
    comparison   ">=" | ">" | "<=" | "<"

An int will do for a float; a bool is no number; NaN and infinity are refused; a list must not be empty.
`choices` are names of files of a group, each alone or with settings of its own: [a, {b: {size: 28}}], or a mapping from names to settings.
In a path, `*` stands for every key of a mapping, and what is below a key with a `?` is only looked at where that key's value is not null.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from omegaconf import DictConfig

from metalearn.config.tree import container, leaves, settings
from metalearn.errors import UserError, nearest

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_MINUTES = re.compile(r"\d{1,6}(\.\d+)?min")
_LITERAL = re.compile(r"[\w.+-]+")
# Settings that need no rule here: a directory's name, what a sweep's own code reads, and the `reference` that an experiment of an
# earlier version may hold (runs/reference.py checks it).
_NO_RULE = re.compile(r"sweep_name|sweep\.(grid|list|zip|search)(\..*)?|reference(\..*)?")


def check_limits(cfg: DictConfig) -> dict[str, Any]:
    """Returns the values that it checked, with their `limits`, interpolations resolved.

    Raises:
        UserError: names every mandatory value not set or, when all are, every value outside its limits.
    """
    as_written = dict(leaves(container(cfg, resolve=False)))
    # OmegaConf.missing_keys would raise at the first interpolation that leads to a missing value, and name that one.
    missing = [key for key, value in as_written.items() if value == "???"]
    if missing:
        raise UserError("; ".join(f"{key} must be set" for key in missing))
    values = container(cfg, resolve=True)
    faults = dict(_faults(values))
    # A value taken over from another setting is the user's fault only when nothing else is.
    own = [fault for key, fault in faults.items() if "${" not in str(as_written.get(key))]
    if faults:
        raise UserError("; ".join(own or faults.values()))
    return values


def check_known(cfg: DictConfig, own: Collection[str]) -> None:
    """Raises UserError for a setting that no rule speaks of, outside the groups `own`, whose classes know their settings themselves.

    The command line can only change settings that are there; a YAML file can add any, and a slip in one would go unnoticed.
    """
    plain = container(cfg, resolve=False)
    known = list(rules(plain))
    for key in settings({name: node for name, node in plain.items() if name not in own}):
        if not _NO_RULE.fullmatch(key) and not any(pattern.fullmatch(key) for _, pattern in known):
            raise UserError(f"no setting '{key}'{nearest(key, [path for path, _ in known])}")


def rules(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, re.Pattern[str]]]:
    """The path of every rule, and what it matches; up to a `?` that is the key whose value is null, too."""
    for path in _limits(plain, prefix):
        full = f"{prefix}{path}"
        for part in [*(full[: mark.start()] for mark in re.finditer(r"\?", full)), full]:
            yield full, re.compile(re.escape(part.replace("?", "")).replace(r"\*", "[^.]+"))
    for key, value in plain.items():
        if isinstance(value, dict) and key != "limits":
            yield from rules(value, f"{prefix}{key}.")


def _limits(plain: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The rules of a node; UserError where they were set to something else, as if they were a setting."""
    limits = plain.get("limits") or {}
    if not isinstance(limits, dict):
        raise UserError(
            f"{prefix}limits={limits} is no setting: a YAML file states the limits of its own settings there"
        )
    return limits


def rule_texts(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The path of every rule, and the rule."""
    for path, rule in _limits(plain, prefix).items():
        yield f"{prefix}{path}", str(rule)
    for key, value in plain.items():
        if isinstance(value, dict) and key != "limits":
            yield from rule_texts(value, f"{prefix}{key}.")


def rule_of(plain: dict[str, Any], key: str) -> str | None:
    """The rule that speaks of a setting; None where there is none."""
    texts = dict(rule_texts(plain))
    of_key = (path for path, pattern in rules(plain) if pattern.fullmatch(key) and "?" not in path[-1:])
    return next((texts[path] for path in of_key if path.count(".") == key.count(".")), None)


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
    if kind == "choices":
        return _are_choices(value)
    if kind == "null":
        return value is None
    if isinstance(value, str):
        return value == kind
    return isinstance(value, int) and _shown(value) == kind


def _are_choices(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) > 0 and all(
            isinstance(one, str) or (isinstance(one, dict) and _are_choices(one)) for one in value
        )
    named = isinstance(value, dict) and len(value) > 0
    return named and all(isinstance(name, str) and isinstance(of, dict) for name, of in value.items())


def _faults(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The keys whose values break a rule, each with a sentence that says so."""
    for path, rule in _limits(plain, prefix).items():
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
            yield name, f"{name}={_shown(value)} is not allowed ({explained_rule(rule)}){_hint(rule, value)}"
    elif not isinstance(value, dict):
        yield name, f"{name}={_shown(value)} is not allowed (a group of settings)"
    else:
        wanted, optional = keys[0].removesuffix("?"), keys[0].endswith("?")
        for key in value if wanted == "*" else [wanted]:
            if key not in value:
                yield f"{prefix}{key}", f"{prefix}{key} must be set"
            elif not (optional and value[key] is None):
                yield from _broken(value[key], keys[1:], rule, f"{prefix}{key}.")


def explained_rule(rule: str) -> str:
    """The rule in the words of a message."""
    explained = rule.replace("minutes", "minutes, such as 10min")
    return explained.replace("choices", "a list of names, each alone or with settings: [a, {b: {key: value}}]")


def _hint(rule: str, value: Any) -> str:
    """`; did you mean '10min'?` of `10m`; where tasks of one size are asked to vary, which choice has those that do."""
    if value == "varying" and rule.startswith("int"):
        return "; task=varying draws sizes"
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?m(ins?|inutes?)?", value) if isinstance(value, str) else None
    return f"; did you mean '{found[1]}min'?" if found and "minutes" in rule else ""


def _shown(value: Any) -> str:
    """The value as the command line would take it; a text that looks like a number keeps its quotes."""
    if isinstance(value, str):
        return repr(value) if re.fullmatch(r"\s*|[-+]?[\d.].*|null|true|false", value, re.IGNORECASE) else value
    return json.dumps(value)
