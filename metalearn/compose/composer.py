"""Hydra's composition without Hydra's application: every job's checked configuration before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from metalearn.compose import plugins, wishes  # noqa: F401  # make Hydra grant wishes and find plug-ins' files
from metalearn.compose.mistakes import GROUPS, MISTAKES, explanation, no_such_setting
from metalearn.compose.overrides import check_evaluated, for_evaluation
from metalearn.compose.setters import Setter
from metalearn.compose.sources import resolve_sources
from metalearn.config.files import conf_dir, slug
from metalearn.config.limits import check_known, check_limits
from metalearn.config.moved import with_all_added
from metalearn.config.plugins import refuse_untrusted, used_by
from metalearn.config.resume import refuse_changes
from metalearn.config.tree import container, dotted_keys, plain_without_limits, without_limits
from metalearn.config.yaml_text import from_yaml
from metalearn.errors import UserError


class Described(NamedTuple):
    """A composition: its values as a run gets them, the same as written, with `limits`, and who gave each setting its values."""

    values: dict[str, Any]
    written: dict[str, Any]
    setters: dict[str, tuple[Setter, ...]]


class Composer:
    """Composes configurations from the shipped YAML files and the user's `--config-dir`, in Hydra's order of search."""

    def __init__(self, hydra: Hydra, config_name: str) -> None:
        self._hydra = hydra
        self._config_name = config_name
        self._parsed: dict[tuple[str, ...], list[Override]] = {}

    def compose(self, overrides: list[str], mode: RunMode = RunMode.RUN, sweeps: bool = False) -> DictConfig:
        """With `sweeps`, values that are lists of values for a sweep are let through."""
        try:
            cfg = self._hydra.compose_config(
                self._config_name,
                list(overrides),
                mode,
                with_log_configuration=False,
                from_shell=False,
                validate_sweep_overrides=not sweeps,
            )
        except MISTAKES:
            raise
        except ValueError as error:  # Hydra's word for `algorithm=null`
            raise UserError(f"cannot compose {' '.join(overrides)}: {error}") from error
        _check_groups(cfg)
        return cfg

    def parse(self, overrides: list[str]) -> list[Override]:
        """The overrides as Hydra reads them; `glob(...)` knows the choices of its group."""
        parsed = self._parsed.get(tuple(overrides))
        if parsed is None:  # a millisecond for each override, and several ask for the same ones
            parser = OverridesParser.create(config_loader=self._hydra.config_loader)
            parsed = self._parsed[tuple(overrides)] = parser.parse_overrides(overrides)
        return list(parsed)

    def described(self, overrides: list[str]) -> Described:
        """The composition as `explain` and `config` tell it: unchecked, with the rules and with who set what."""
        cfg = self.compose(overrides)
        setters = wishes.setters()
        HydraConfig.instance().set_config(cfg)
        own = _without_hydra(cfg)
        resolve_sources(own, self._node)
        written = container(own, resolve=False)
        try:
            values = without_limits(own)
        except OmegaConfBaseException:  # an interpolation leads to a setting that is not set yet
            values = plain_without_limits(written)
        return Described(values, written, setters)

    def job(self, overrides: list[str], number: int) -> tuple[dict[str, Any], str]:
        """The checked configuration of one job as the job will see it, and its hydra.run.dir."""
        return self.job_of(self.compose(overrides), number)[:2]

    def job_of(self, cfg: DictConfig, number: int) -> tuple[dict[str, Any], str, dict[str, Any]]:
        """What `job` returns, and the chosen hydra/job_logging, with the run directory still an interpolation. The composition is used up."""
        logging: Any = OmegaConf.to_container(cfg.hydra.job_logging, resolve=False)
        cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)  # as a launcher would
        HydraConfig.instance().set_config(cfg)  # so that ${hydra:...} resolves
        run_dir = str(cfg.hydra.run.dir)
        own = _without_hydra(cfg)
        resolve_sources(own, self._node)
        values = check_limits(own)
        check_known(own, GROUPS[:3])
        return _with_home(run_configuration(values)), str(Path(run_dir).expanduser()), dict(logging)

    def resumption(self, saved: DictConfig, overrides: list[str], whose: str) -> dict[str, Any]:
        """A run's configuration with the few overrides that let it go on as before."""
        config = self.evaluation(saved, overrides, "--resume")
        refuse_changes(without_limits(saved), config, whose)
        return config

    def evaluation(self, saved: DictConfig, overrides: list[str], command: str = "eval") -> dict[str, Any]:
        """A run's configuration with overrides: first whole groups, then single settings, all checked."""
        config = with_all_added(without_limits(saved))
        refuse_untrusted(config, "this run")
        chosen, settings = for_evaluation(self.parse(overrides), command)
        names = {group: config.get("names", {}).get(group) for group in GROUPS} | chosen
        # A choice that the run was trained with may be gone by now, or have been in a --config-dir.
        there = {
            group: name
            for group, name in names.items()
            if group in chosen or name in self._hydra.config_loader.get_group_options(group)
        }
        if "task" not in chosen and (like := self._task_like(config["task"])) is not None:
            there["task"] = like
        fresh = self.compose([f"{group}={name}" for group, name in there.items()])
        HydraConfig.instance().set_config(fresh)
        nodes = run_configuration(container(_without_hydra(fresh), resolve=True))
        # A run older than a setting was made as that setting's default is, or as `with_all_added` said.
        _fill_in(config, {key: node for key, node in nodes.items() if key not in GROUPS or key in there})
        for group, name in chosen.items():
            kept = {"train": config["task"]["train"]} if group == "task" else {}  # what the run was trained on
            config[group] = nodes[group] | kept
            if group in config.get("names", {}):
                config["names"][group] = name
        checked = OmegaConf.create(config)
        OmegaConf.set_struct(checked, True)
        for override in settings:
            try:
                value = override.value()
                OmegaConf.update(checked, override.key_or_group, value, merge=not isinstance(value, list))
            except (ConfigAttributeError, ConfigKeyError):
                raise UserError(no_such_setting(override.key_or_group, list(dotted_keys(config)))) from None
        resolve_sources(checked, self._node)
        for prefix in ["", *(group for group in GROUPS if group in there or group == "task")]:
            _adopt_limits(checked, fresh, prefix)
        if "task" in chosen:  # task.train is of another choice, whose limits it was checked by
            with open_dict(checked):
                checked.task.limits = {key: rule for key, rule in checked.task.limits.items() if "train." not in key}
        return _with_home(run_configuration(check_evaluated(checked, chosen, settings)))

    def _node(self, group: str, name: str) -> DictConfig | None:
        """The settings of a choice of a group with their limits; None where there is none of that name."""
        if name not in self._hydra.config_loader.get_group_options(group):
            return None
        node = OmegaConf.to_container(self.compose([f"{group}={name}"])[group], resolve=True)
        return OmegaConf.create(node)  # type: ignore[return-value]  # a mapping, as it was

    def _task_like(self, node: dict[str, Any]) -> str | None:
        """The choice of `task` that has the settings of a run's task, of whose choice the run keeps no name; None where the default has them."""
        wanted = set(dotted_keys(node))
        if wanted <= set(dotted_keys(without_limits(self.compose([]).task))):
            return None
        options = self._hydra.config_loader.get_group_options("task")
        settings = ((name, without_limits(self.compose([f"task={name}"]).task)) for name in options)
        return next((name for name, of_choice in settings if wanted <= set(dotted_keys(of_choice))), None)

    def known_keys(self, overrides: list[str]) -> list[str]:
        """Every setting and group there is, given the choices among `overrides`."""
        chosen = [text for text in overrides if text.partition("=")[0] in (*GROUPS, "experiment") and "," not in text]
        try:
            cfg = self.compose(chosen)
        except (UserError, *MISTAKES):  # a choice is wrong too; the default choices' settings will do for a hint
            cfg = self.compose([])
        plain: Any = OmegaConf.to_container(cfg, resolve=False)
        return [*dict.fromkeys([*dotted_keys(plain), "experiment"])]


@contextmanager
def composer(config_dir: str | None = None, config_name: str | None = None) -> Iterator[Composer]:
    """A Composer; Hydra's global state is its own while it lives."""
    version.setbase("1.3")
    wishes.forget()
    GlobalHydra.instance().clear()
    search_path = create_config_search_path(str(conf_dir()))
    if config_dir is not None:
        directory = Path(config_dir).resolve()
        if not directory.is_dir():
            raise UserError(f"--config-dir: '{config_dir}' is no directory")
        _check_files(directory)
        search_path.prepend("command-line", f"file://{directory}", SearchPathQuery(provider="schema"))
    try:
        yield Composer(Hydra.create_main_hydra2("metalearn", search_path), config_name or "train")
    finally:
        GlobalHydra.instance().clear()


def _check_files(directory: Path) -> None:
    """Hydra reads a file that holds no mapping as if it were empty."""
    for file in sorted(
        path for group in (*GROUPS, "experiment", "sweep") for path in (directory / group).glob("*.yaml")
    ):
        try:
            content = from_yaml(file.read_bytes())
        except (yaml.YAMLError, OSError, ValueError, RecursionError):
            continue  # not of interest unless it is chosen: then Hydra says what is wrong
        if content is not None and not isinstance(content, dict):
            raise UserError(f"{file} holds no mapping from settings to values")


def _without_hydra(cfg: DictConfig) -> DictConfig:
    """The same node, without Hydra's own settings."""
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    return cfg


def _check_groups(cfg: DictConfig) -> None:
    """Raises UserError where a file sets a group to a value, or its settings stand in the wrong place."""
    for group in GROUPS:
        if group in cfg and not OmegaConf.is_dict(cfg._get_node(group)) and cfg._get_node(group) is not None:
            value = OmegaConf.to_container(cfg, resolve=False)[group]  # type: ignore[call-overload, index]
            if isinstance(value, str) and value != "???":
                raise UserError(
                    f"{group}: {value} sets the whole group to a text; a file chooses under defaults: - override /{group}: {value}"
                )
    if "experiment" in cfg and OmegaConf.is_dict(cfg._get_node("experiment")):
        inner = ", ".join(map(str, cfg.experiment))
        raise UserError(
            f"the settings of the experiment's file ({inner}) end up below 'experiment': its first line must be '# @package _global_'"
        )


def _with_home(config: dict[str, Any]) -> dict[str, Any]:
    """`~` in dataset.root and dataset.file stands for the home directory, also in those of a source."""
    dataset = config.get("dataset")
    return config | {"dataset": _expanded(dataset)} if isinstance(dataset, dict) else config


def _expanded(dataset: dict[str, Any]) -> dict[str, Any]:
    sources = dataset.get("sources")
    if isinstance(sources, dict):
        dataset = dataset | {"sources": {name: _expanded(source) for name, source in sources.items()}}
    places = {key: dataset[key] for key in ("root", "file") if str(dataset.get(key)).startswith("~")}
    return dataset | {key: str(Path(place).expanduser()) for key, place in places.items()}


@contextmanager
def explained(overrides: list[str], config_dir: str | None, config_name: str | None) -> Iterator[None]:
    """Turns what Hydra and OmegaConf raise about the user's input into UserError."""

    def known_keys() -> list[str]:
        with composer(config_dir, config_name) as again:
            return again.known_keys(overrides)

    try:
        yield
    except MISTAKES as error:
        raise UserError(explanation(error, known_keys)) from error


def run_configuration(values: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run, of composed values: without limits, and without what says how a sweep is to be run and what it is called.

    `plugins` names the packages of the user's own that its parts come from.
    """
    plain = {
        key: value
        for key, value in plain_without_limits(values).items()
        if key not in ("sweep", "sweep_name", "plugins")
    }
    used = used_by(plain)
    return plain | ({"plugins": used} if used else {})


def _fill_in(config: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Adds what `config` lacks, at any depth."""
    for key, default in defaults.items():
        if isinstance(config.setdefault(key, default), dict) and isinstance(default, dict):
            _fill_in(config[key], default)


def _adopt_limits(checked: DictConfig, fresh: DictConfig, group: str) -> None:
    """Gives `checked` today's rules for the settings it has; an older run may lack some."""
    rules = (fresh[group] if group else fresh).get("limits") or {}
    node = checked[group] if group else checked
    present = set(dotted_keys(without_limits(node)))
    with open_dict(node):
        node.limits = {path: rule for path, rule in rules.items() if path in present}


def _size(ways: object, shots: object) -> str:
    """`5w1s`; `10shot` where there are no classes; `varying` where that is what both of them say."""
    if ways == 1:
        return f"{shots}shot"
    return ways if isinstance(ways, str) and ways == shots else f"{ways}w{shots}s"


OmegaConf.register_new_resolver("metalearn.size", _size, replace=True)
OmegaConf.register_new_resolver("metalearn.slug", lambda text: slug(str(text)), replace=True)
