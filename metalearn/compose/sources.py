"""A data set that is made of others: `dataset.sources`, a list of choices, becomes a mapping from their names to all their settings.

So a stored configuration holds everything, and what a file says later does not change it.
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

NodeOf = Callable[
    [str], DictConfig | None
]  # of a choice of `dataset`, with its limits; None: there is none of that name


def resolve_sources(cfg: DictConfig, node_of: NodeOf) -> None:
    """Puts the settings of each source into `cfg.dataset.sources`, where there is such a setting.

    Raises:
        UserError: a name that is no data set, stands there twice or is made of sources itself, or a setting that its source does not have.
    """
    dataset = cfg.get("dataset")
    if not OmegaConf.is_dict(dataset) or "sources" not in dataset:
        return
    asked = (
        OmegaConf.to_container(dataset.sources, resolve=True)
        if OmegaConf.is_config(dataset.sources)
        else dataset.sources
    )
    if not allows("choices", asked):
        return  # `check_limits` says so
    resolved: dict[str, DictConfig] = {}
    for name, changes in _pairs(asked):
        if name in resolved:
            raise UserError(f"dataset.sources: {name} stands there twice")
        resolved[name] = _source(name, changes, node_of(name))
    with read_write(cfg), open_dict(cfg):
        cfg.dataset.sources = resolved


def _pairs(asked: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names and what is changed of each: of [a, {b: {size: 28}}], or of what was resolved before."""
    if isinstance(asked, dict):
        return list(asked.items())
    return [pair for entry in asked for pair in (entry.items() if isinstance(entry, dict) else [(entry, {})])]


def _source(name: str, changes: dict[str, Any], node: DictConfig | None) -> DictConfig:
    if node is not None and "sources" in node:
        raise UserError(f"dataset.sources: {name} is made of sources itself")
    if "_target_" in changes:  # resolved before: of a stored run
        stored = OmegaConf.create(changes)
        if node is not None:
            rules = node.get("limits") or {}
            stored.limits = {key: rule for key, rule in rules.items() if key in set(dotted_keys(changes))}
        return stored
    if node is None:
        names = choices("dataset")
        raise UserError(
            f"dataset.sources: no dataset named '{name}'{nearest(name, names)} (available: {', '.join(names)})"
        )
    OmegaConf.set_struct(node, True)
    for key, value in leaves(changes):
        try:
            OmegaConf.update(node, key, value)
        except (ConfigAttributeError, ConfigKeyError, ConfigTypeError):
            known = [f"dataset.sources.{name}.{one}" for one in dotted_keys(without_limits(node))]
            raise UserError(no_such_setting(f"dataset.sources.{name}.{key}", known)) from None
    return node
