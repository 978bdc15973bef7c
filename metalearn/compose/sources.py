"""Choices inside of other choices: `dataset.sources`, the data sets that one is made of, and `algorithm.class_encoder`, a backbone for descriptions.

Their names become a mapping from names to all their settings. So a stored configuration holds everything, and what a file says later does not
change it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ConfigTypeError

from metalearn.compose.mistakes import no_such_setting
from metalearn.config.files import choices
from metalearn.config.limits import allows
from metalearn.config.tree import dotted_keys, leaves, without_limits
from metalearn.errors import UserError, nearest

# (group, choice) -> its settings with their limits; None: there is none of that name.
NodeOf = Callable[[str, str], DictConfig | None]
_NO_CHOICE = ("auto", "linear", None)  # of class_encoder


def resolve_sources(cfg: DictConfig, node_of: NodeOf) -> None:
    """Puts the settings of each source into `cfg.dataset.sources`, and those of the backbone into `cfg.algorithm.class_encoder`.

    Raises:
        UserError: a name that is no choice, stands there twice or is made of sources itself, or a setting that it does not have.
    """
    asked = _asked(cfg, "dataset", "sources")
    if asked is not None and allows("choices", asked):  # else `check_limits` says so
        _put(cfg, "dataset", "sources", _resolved(asked, "dataset.sources", "dataset", node_of))
    asked = _asked(cfg, "algorithm", "class_encoder")
    if asked not in _NO_CHOICE and (isinstance(asked, str) or allows("choices", asked)):
        key = "algorithm.class_encoder"
        resolved = _resolved([asked] if isinstance(asked, str) else asked, key, "backbone", node_of)
        if len(resolved) > 1:
            raise UserError(f"{key}: {' and '.join(resolved)} are two backbones (allowed: one)")
        _put(cfg, "algorithm", "class_encoder", resolved)


def _asked(cfg: DictConfig, group: str, name: str) -> Any:
    """The value of a setting; None where there is none."""
    node = cfg.get(group)
    if not OmegaConf.is_dict(node) or name not in node:
        return None
    return OmegaConf.to_container(node[name], resolve=True) if OmegaConf.is_config(node[name]) else node[name]


def _put(cfg: DictConfig, group: str, name: str, resolved: dict[str, DictConfig]) -> None:
    with read_write(cfg), open_dict(cfg):
        cfg[group][name] = resolved


def _resolved(asked: Any, key: str, group: str, node_of: NodeOf) -> dict[str, DictConfig]:
    resolved: dict[str, DictConfig] = {}
    for name, changes in _pairs(asked):
        if name in resolved:
            raise UserError(f"{key}: {name} stands there twice")
        resolved[name] = _source(name, changes, node_of(group, name), key, group)
    return resolved


def _pairs(asked: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names and what is changed of each: of [a, {b: {size: 28}}], or of what was resolved before."""
    if isinstance(asked, dict):
        return list(asked.items())
    return [pair for entry in asked for pair in (entry.items() if isinstance(entry, dict) else [(entry, {})])]


def _source(name: str, changes: dict[str, Any], node: DictConfig | None, key: str, group: str) -> DictConfig:
    if node is not None and "sources" in node:
        raise UserError(f"{key}: {name} is made of sources itself")
    if "_target_" in changes:  # resolved before: of a stored run
        stored = OmegaConf.create(changes)
        if node is not None:
            rules = node.get("limits") or {}
            stored.limits = {path: rule for path, rule in rules.items() if path in set(dotted_keys(changes))}
        return stored
    if node is None:
        names = choices(group)
        raise UserError(f"{key}: no {group} named '{name}'{nearest(name, names)} (available: {', '.join(names)})")
    OmegaConf.set_struct(node, True)
    for path, value in leaves(changes):
        try:
            OmegaConf.update(node, path, value)
        except (ConfigAttributeError, ConfigKeyError, ConfigTypeError):
            known = [f"{key}.{name}.{one}" for one in dotted_keys(without_limits(node))]
            raise UserError(no_such_setting(f"{key}.{name}.{path}", known)) from None
    return node
