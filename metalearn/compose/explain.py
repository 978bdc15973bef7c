"""A setting in a composition: what it means, what it may be, its value, and who gave it that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from metalearn.compose.composer import Composer, Described
from metalearn.compose.mistakes import GROUPS, no_such_setting
from metalearn.compose.setters import Setter
from metalearn.config.comments import stated
from metalearn.config.files import choice_file, choices, conf_dir
from metalearn.config.limits import explained_rule, rule_of
from metalearn.config.tree import dotted_keys, leaves
from metalearn.errors import UserError


class Setting(NamedTuple):
    """One setting. `interpolation` is how a value is written that is taken over from another setting, else None.

    `setters` are all that gave it a value, in their order: the first is the default, the last one counts.
    """

    key: str
    value: Any
    interpolation: str | None
    meaning: str
    allowed: str | None
    setters: tuple[Setter, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        setters = [{"value": one.value, "by": one.by, "place": one.place} for one in self.setters]
        return self._asdict() | {"default": self.setters[0].value if self.setters else None, "setters": setters}


def explain(composing: Composer, key: str, overrides: list[str]) -> list[Setting]:
    """The setting of that dotted path, or all settings below it.

    Raises:
        UserError: there is none in this composition; the message says which choice has it, or what was meant.
    """
    described = composing.described(overrides)
    found = below(described, key)
    if not found:
        raise UserError(no_such_setting(key, [*dotted_keys(described.values), *dotted_keys(described.written)]))
    return found


def below(described: Described, key: str) -> list[Setting]:
    """The setting of that dotted path, or all settings below it; none where the composition has no such key."""
    found = (one for one in _keys(described) if one == key or one.startswith(f"{key}."))
    return [_setting(described, one) for one in found]


def every_setting(composing: Composer, overrides: list[str]) -> list[Setting]:
    """All settings of a run, in the order of its config.yaml; those of sweeps are left out.

    Raises:
        UserError: a value is missing or outside its limits.
    """
    config, _ = composing.job(overrides, 0)
    described = composing.described(overrides)
    there = dict(leaves(config))
    return [_setting(described, key)._replace(value=value) for key, value in there.items()]


def _keys(described: Described) -> list[str]:
    """Every setting; also those whose value is an empty mapping."""
    values = described.values
    below = {key.rpartition(".")[0] for key in dotted_keys(values)}
    return [key for key in dotted_keys(values) if key not in below]


def _setting(described: Described, key: str) -> Setting:
    value, written = _at(described.values, key), _at(described.written, key)
    rule = rule_of(described.written, key)
    setters = described.setters.get(key, ())
    interpolation = written if isinstance(written, str) and "${" in written else None
    return Setting(key, value, interpolation, _meaning(key, setters), explained_rule(rule) if rule else None, setters)


def _meaning(key: str, setters: tuple[Setter, ...]) -> str:
    """The comment of the file that states the setting; of a source's setting, that in the file of the source."""
    if key.rpartition(".")[2] == "_target_":
        return "the class or function that is built from the settings beside it"
    for one in setters:
        if one.by == "file" and one.file is not None and one.choice.partition("=")[0] in ("", *GROUPS):
            said = _comment(one.file, one.key)
            if said:
                return said
    file, name = conf_dir() / "train.yaml", key
    if (source := re.fullmatch(r"dataset\.sources\.([^.]+)\.(.+)", key)) and source[1] in choices("dataset"):
        file, name = choice_file("dataset", source[1]), source[2]
    return _comment(file, name)


def _comment(file: Path, key: str) -> str:
    """The comment beside a setting, else that of the node that holds it: `rotations:` speaks for `rotations.train`."""
    there = stated(file)
    said = (there[one].comment for one in (key, key.rpartition(".")[0]) if one in there)
    return next((text for text in said if text), "")


def _at(plain: dict[str, Any], key: str) -> Any:
    node: Any = plain
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    return node
