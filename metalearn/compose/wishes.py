"""Wishes: what a file of one group prefers for settings of other groups.

    prefers:                          # in conf/algorithm/maml.yaml
      backbone.running_stats: false
      train.meta_batch_size: 16

A wish replaces the default of a setting. Where the chosen part has no such setting, the wish is ignored: a backbone without normalisation has
no `running_stats`. A later group's wish wins over an earlier one's (task, backbone, dataset, algorithm). What an experiment, a sweep or the
command line states wins over every wish. A file may list settings under `keeps`: no wish of a later group changes those. No configuration has
`prefers` or `keeps`.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra._internal.hydra as hydra_application
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from metalearn.compose.mistakes import GROUPS
from metalearn.compose.setters import Setter
from metalearn.config.comments import stated
from metalearn.config.tree import dotted_keys, leaves
from metalearn.errors import UserError, nearest

FolderState = list[tuple[str, int, int]]  # of each file below a folder: path, time of the last change in ns, bytes

_MOST_COMPOSED = 256  # compositions that a process remembers, of about 60 kB each


@dataclass
class _Read:
    """What was read from the places where a loader looks."""

    files: dict[str, ConfigResult | None] = field(default_factory=dict)
    # defaults list -> its files merged, and what was noted of them; pickled
    composed: dict[tuple[object, ...], bytes] = field(default_factory=dict)


@dataclass
class _Noted:
    """What a composition noted of its files."""

    stated: set[str] = field(default_factory=set)  # the settings of the files read so far
    kept: set[str] = field(default_factory=set)  # of these, those that no wish may change
    setters: dict[str, list[Setter]] = field(default_factory=dict)
    # key -> (value, origin) of the wishes that nothing has replaced
    wishes: dict[str, tuple[Any, str]] = field(default_factory=dict)
    wishing: dict[str, Path] = field(default_factory=dict)  # origin -> its file
    stated_outright: set[str] = field(default_factory=set)  # `key=value` of the wishes that were replaced


# `train.lr=0.002` -> `algorithm=protonet`: the granted wishes of the compositions since `forget`, for error messages.
_origins: dict[str, str] = {}
# Who gave each setting of the last composition its values, in their order.
_setters: dict[str, list[Setter]] = {}
# What loaders of this process read, by the places where they looked, and how the files were then.
_read_before: dict[tuple[str, ...], tuple[list[FolderState], _Read]] = {}


def with_origins(message: str) -> str:
    """The message with ` (preferred by algorithm=maml)` after every `key=value` that was a wish."""
    for setting, origin in _origins.items():
        message = re.sub(rf"{re.escape(setting)}(?![\w.])", rf"\g<0> (preferred by {origin})", message)
    return message


def setters() -> dict[str, tuple[Setter, ...]]:
    """Who gave each setting of the last composition its values, in their order: the last one counts. Hydra's own settings are left out."""
    return {key: tuple(found) for key, found in _setters.items()}


def forget() -> None:
    """Forgets the wishes of earlier compositions, for error messages."""
    _origins.clear()


class WishingLoader(ConfigLoaderImpl):
    """Hydra's loader, which also grants wishes. It reads each file once for all its compositions, and not again where no file changed since another
    loader of this process read it: a third of a composition's time would be the reading. What it merged of a defaults list it takes again for other
    overrides of single settings, as the jobs of a sweep have them: that is half of the rest."""

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed = OverridesParser.create().parse_overrides(overrides=overrides)
        repo = CachingConfigRepository(self.repository)
        repo.cache = self._read_from(repo).files
        self._process_config_searchpath(config_name, parsed, repo)
        repo.cache = self._read_from(repo).files  # hydra.searchpath may have added a place
        self._parsed = parsed
        return parsed, repo

    def _read_from(self, repo: IConfigRepository) -> _Read:
        """What was read from the places where `repo` looks."""
        places = tuple(source.path for source in repo.get_sources())
        own: dict[tuple[str, ...], _Read] = self.__dict__.setdefault("_read", {})
        if places not in own:
            state = [_state(source.path) for source in repo.get_sources() if source.scheme() == "file"]
            before = _read_before.get(places)
            own[places] = before[1] if before is not None and before[0] == state else _Read()
            if len(_read_before) >= 8:  # a process that goes through many --config-dir forgets the first
                _read_before.pop(next(iter(_read_before)))
            _read_before[places] = state, own[places]
        return own[places]

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        cfg = super()._load_configuration_impl(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        for override in self._parsed:
            self._decided(override.key_or_group)
            if override.key_or_group not in (*GROUPS, "experiment", "sweep"):
                self._record(override.key_or_group, Setter(override.value(), "command line"))
        _setters.clear()
        _setters.update(self._noted.setters)
        for setting in self._noted.stated_outright:  # whatever an earlier composition had it from
            _origins.pop(setting, None)
        _origins.update({_text(key, value): origin for key, (value, origin) in self._noted.wishes.items()})
        return cfg

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        known = self._read_from(repo).composed
        which = tuple((one.config_path, one.package, one.is_self, one.primary) for one in defaults)
        cfg: DictConfig
        if which in known:
            cfg, self._noted = pickle.loads(known[which])
            return cfg
        self._noted = _Noted()
        cfg = super()._compose_config_from_defaults_list(defaults, repo)
        if len(known) >= _MOST_COMPOSED:
            known.pop(next(iter(known)))
        known[which] = pickle.dumps((cfg, self._noted))  # a fifth of the time of a deep copy
        return cfg

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        loaded = super()._load_single_config(default, repo)
        path = default.config_path or ""
        if path.startswith("hydra/") or not isinstance(loaded.config, DictConfig):
            return loaded
        group, _, name = path.rpartition("/")
        node = OmegaConf.select(loaded.config, group) if group in GROUPS else None
        wishes = _wishes_of(node, f"{group}={name}") if isinstance(node, DictConfig) else {}
        config, loaded = copy.deepcopy(loaded.config), copy.copy(loaded)
        loaded.config = config
        for key in ("prefers", "keeps"):
            if isinstance(node, DictConfig) and key in node:
                self._noted.kept |= set(node[key]) if key == "keeps" else set()
                config[group].pop(key)
        self._record_file(config, _file(loaded.path, path), group, name)
        if wishes:
            self._noted.wishing[f"{group}={name}"] = _file(loaded.path, path)
        self._grant(config, wishes, f"{group}={name}" if group in GROUPS else None)
        return loaded

    def _record_file(self, config: DictConfig, file: Path, group: str, name: str) -> None:
        """Notes what a file states, `limits` apart."""
        plain: Any = OmegaConf.to_container(config, resolve=False)
        inside = stated(file)
        for key, value in leaves({key: node for key, node in plain.items() if key != "hydra"}):
            if "limits" not in key.split("."):
                as_written = key if key in inside else key.partition(".")[2]  # in a file of a group, or of limits
                self._record(key, Setter(value, "file", f"{group}={name}" if group else "", file, as_written))

    def _record(self, key: str, setter: Setter) -> None:
        for below in [one for one in self._noted.setters if one.startswith(f"{key}.")]:  # a whole node was replaced
            if setter.by == "command line":
                self._noted.setters.setdefault(below, []).append(setter)
        self._noted.setters.setdefault(key, []).append(setter)

    def _grant(self, config: DictConfig, wishes: dict[str, Any], origin: str | None) -> None:
        """Puts this file's wishes, and earlier files' wishes for what this file states, into its settings."""
        plain: Any = OmegaConf.to_container(config, resolve=False)
        here = set(dotted_keys(plain))
        if origin is None:  # train.yaml, an experiment, a sweep: they decide
            for key in here:
                self._decided(key)
        self._noted.stated |= here
        self._noted.wishes |= {
            key: (value, origin or "") for key, value in wishes.items() if key not in self._noted.kept
        }
        for key, (value, by) in self._noted.wishes.items():
            if key not in self._noted.stated:
                if key.partition(".")[0] not in GROUPS:
                    raise UserError(f"{by} prefers {key}: no such setting{nearest(key, self._noted.stated)}")
            elif key in here or key in wishes:
                OmegaConf.update(config, key, value, force_add=True)
                file = self._noted.wishing[by]
                written = next(
                    iter({f"prefers.{key}", f"{by.partition('=')[0]}.prefers.{key}"} & set(stated(file))), ""
                )
                self._record(key, Setter(value, "preference", by, file, written))

    def _decided(self, key: str) -> None:
        """Forgets the wish for a setting that is stated outright."""
        if key in self._noted.wishes:
            value, _ = self._noted.wishes.pop(key)
            self._noted.stated_outright.add(_text(key, value))


def _state(folder: str) -> FolderState:
    """How the YAML files below a folder are now; with os.walk, as pathlib takes three times as long."""
    found = []
    for inside, _, names in os.walk(folder):
        for name in names:
            if name.endswith((".yaml", ".yml")):
                file = os.path.join(inside, name)
                with suppress(OSError):  # gone since
                    stat = os.stat(file)
                    found.append((file, stat.st_mtime_ns, stat.st_size))
    return sorted(found)


def _file(provider: str, path: str) -> Path:
    """The file of a configuration, of the folder that Hydra found it in."""
    return Path(provider.removeprefix("file://")) / f"{path.removesuffix('.yaml')}.yaml"


def _text(key: str, value: Any) -> str:
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def _wishes_of(node: DictConfig, origin: str) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(node, resolve=False)
    wishes = plain.get("prefers") or {}
    if not isinstance(wishes, dict):
        raise UserError(f"{origin}: prefers is a mapping from settings of other groups to values")
    return {str(key): value for key, value in wishes.items()}


# Hydra makes its loader itself, for the composer and for its own application; launchers send it to other processes.
setattr(hydra_application, ConfigLoaderImpl.__name__, WishingLoader)
