"""A JSON schema of all settings, made from the rules under `limits:`, so that editors complete and check YAML files of experiments.

The settings of all choices of a group stand together: a file says by its `defaults` which of them it means, and a schema cannot follow that. Where
two choices have different rules for a setting of one name, a value may keep to either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from metalearn.config.comments import stated
from metalearn.config.files import choice_file, choices, conf_dir, node_of
from metalearn.config.limits import rule_texts
from metalearn.config.yaml_text import from_yaml

_BOUNDS = {">=": "minimum", ">": "exclusiveMinimum", "<=": "maximum", "<": "exclusiveMaximum"}
_INTERPOLATION = {"type": "string", "pattern": r"^\$\{.*\}$"}
Schema = dict[str, Any]


def schema(groups: tuple[str, ...]) -> Schema:
    """The schema of a file of settings, such as an experiment's; `groups` have a node of their own each."""
    root: Schema = _node()
    root["properties"] |= {"defaults": {"type": "array"}, "hydra": {"type": "object"}}
    _add_file(root, conf_dir() / "train.yaml", "")
    for group in groups:
        for name in choices(group):
            _add_file(root, choice_file(group, name), group)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Settings of metalearn", **root}


def of_rule(rule: str) -> Schema:
    """The schema of the values that keep to a rule (config/limits.py has the grammar); NaN and infinity do not exist in JSON."""
    literals: list[Any] = []
    kinds: list[Schema] = []
    for alternative in (part.strip() for part in rule.split(" or ")):
        found = _of_alternative(alternative)
        if "const" in found:
            literals.append(found["const"])
        else:
            kinds.append(found)
    if literals:
        kinds.insert(0, {"enum": literals})
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _of_alternative(alternative: str) -> Schema:
    if alternative.startswith("list of "):
        return {"type": "array", "minItems": 1, "items": _of_alternative(alternative.removeprefix("list of "))}
    kind, *rest = alternative.split()
    if kind in ("int", "float"):
        bounds = zip(rest[::2], rest[1::2], strict=True)
        return {"type": "integer" if kind == "int" else "number"} | {
            _BOUNDS[sign]: int(bound) if re.fullmatch(r"-?\d+", bound) else float(bound) for sign, bound in bounds
        }
    plain: dict[str, Schema] = {
        "bool": {"type": "boolean"},
        "str": {"type": "string"},
        "null": {"const": None},
        "minutes": {"type": "string", "pattern": r"^\d{1,6}(\.\d+)?min$"},
        "choices": {"type": ["array", "object"]},
    }
    return plain.get(kind) or {"const": int(kind) if re.fullmatch(r"-?\d+", kind) else kind}


def _node() -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _add_file(root: Schema, file: Any, group: str) -> None:
    """Adds the settings of one YAML file; `group` is empty for the file of the whole configuration."""
    content = from_yaml(file.read_text(encoding="utf-8")) or {}
    for included in _included(content):
        content["limits"] = included.get("limits", {}) | content.get("limits", {})
    whole = {group: node_of(group, content)} if group else content
    comments = stated(file)
    values = dict(_values(whole))
    for path, rule in rule_texts(whole):
        key = path.replace("?", "")
        said = next((comments[one].comment for one in (key, key.removeprefix(f"{group}.")) if one in comments), "")
        _add(root, path.split("."), rule, said, values.get(key) if not group else None)
    for key, value in values.items():  # what no rule speaks of: `_target_`, and what a sweep's own code reads
        parts = key.split(".")
        if parts[0] not in ("defaults", "hydra", "limits", "keeps"):
            _add(root, parts, None, "", None if group or isinstance(value, dict) else value)
    if group:
        root["properties"][group]["properties"].setdefault("limits", {"type": "object"})
        root["properties"][group]["properties"].setdefault("prefers", {"type": "object"})
        root["properties"][group]["properties"].setdefault("defaults", {"type": "array"})


def _included(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The files that a file takes into its own node by its `defaults`: `/limits/NAME@_here_`."""
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry.startswith("/") and entry.endswith("@_here_"):
            file = conf_dir() / f"{entry.removeprefix('/').removesuffix('@_here_')}.yaml"
            yield from_yaml(file.read_text(encoding="utf-8"))


def _values(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value, empty mappings among them, `limits` and the like left out."""
    for key, value in plain.items():
        if key in ("limits", "prefers", "keeps", "defaults", "hydra"):
            continue
        if isinstance(value, dict) and value:
            yield from _values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _add(root: Schema, parts: list[str], rule: str | None, comment: str, default: Any) -> None:
    """Puts a setting into the tree of nodes: `*` is every key, and a node with a `?` may be null."""
    node = root
    for part in parts[:-1]:
        inner = _child(node, part)
        if "properties" not in inner:  # nothing is known of it yet
            inner.clear()
            inner |= _node()
        if part.endswith("?"):
            inner["type"] = ["object", "null"]
        node = inner
    leaf = _child(node, parts[-1])
    if rule is None:
        return
    if comment:
        leaf.setdefault("description", comment)
    if default is not None and not (isinstance(default, str) and "${" in default):
        leaf["default"] = default
    rules = leaf.setdefault("anyOf", [_INTERPOLATION])
    if (found := of_rule(rule)) not in rules:
        rules.insert(0, found)


def _child(node: Schema, part: str) -> Schema:
    name = part.removesuffix("?")
    if name == "*":
        if not isinstance(node.get("additionalProperties"), dict):
            node["additionalProperties"] = {}
        child: Schema = node["additionalProperties"]
        return child
    properties: dict[str, Schema] = node["properties"]
    return properties.setdefault(name, {})
