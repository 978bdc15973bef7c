"""What a run is called by in TensorBoard's table of hyperparameters, and its configuration as a text there."""

from __future__ import annotations

from typing import Any

import yaml

from metalearn.config.files import conf_dir
from metalearn.config.identity import QUESTION, kind_of
from metalearn.config.tree import leaves
from metalearn.config.yaml_text import from_yaml

_GROUPS = ("algorithm", "backbone", "dataset")


def hparams(config: dict[str, Any]) -> dict[str, object]:
    """The choices behind the run, the algorithm's own settings, and every setting that was chosen.

    Few, so that the table stays readable; yet two jobs of a sweep never have equal ones, since what differs between them is chosen in one at least.
    """
    names, task = config["names"], config["task"]
    always = {
        **{group: names[group] for group in _GROUPS},
        "ways": task["ways"],
        "shots": task["shots"],
        "seed": config["seed"],
        "train.lr": config["train"]["lr"],
        "train.meta_batch_size": config["train"]["meta_batch_size"],
    }
    own = {f"algorithm.{key}": value for key, value in config["algorithm"].items() if key != "_target_"}
    return (
        always | own | {key: value for key, value in chosen(config).items() if key not in ("task.ways", "task.shots")}
    )


def described(config: dict[str, Any]) -> str:
    """The configuration as Markdown: first what was chosen, then all of it."""
    names = config["names"]
    rows = [(group, names[group]) for group in (*_GROUPS, "experiment") if names.get(group) is not None]
    rows += list(chosen(config).items())
    table = "".join(f"| {key} | {_cell(value)} |\n" for key, value in rows)
    whole = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None)
    code = "".join(f"    {line}\n" for line in whole.splitlines())  # a block of code; fences would have to be escaped
    return f"### Chosen\n\n| setting | value |\n|---|---|\n{table}\n### All settings\n\n{code}"


def _cell(value: object) -> str:
    text = str(value).lower() if value is None or isinstance(value, bool) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def chosen(config: dict[str, Any]) -> dict[str, object]:
    """Dotted path -> value of the settings whose value is not that of the YAML file that introduces them.

    The command line, an experiment, a sweep, or another part's YAML file chose those. Settings that no result depends on are left out.
    """
    defaults = _defaults(config)
    return {
        key: value
        for key, value in leaves(config)
        if kind_of(key) in QUESTION
        and not key.endswith("._target_")
        and not (key in defaults and defaults[key] == value)
        and not _follows(key, value, config)
    }


def _follows(key: str, value: object, config: dict[str, Any]) -> bool:
    """Whether a training task's shape is the test task's, as it is unless somebody says otherwise."""
    _, _, name = key.partition("task.train.")
    return bool(name) and value == config["task"].get(name)


def _defaults(config: dict[str, Any]) -> dict[str, object]:
    """Of the shipped YAML files behind a configuration; a user's own files are not looked at, so that all that they set counts as chosen."""
    names = config["names"]
    found = dict(leaves(_read("train")))
    found.pop("sweep_name", None)
    for group in _GROUPS:
        node = _read(f"{group}/{names[group]}")
        found |= {
            (key if key.startswith(f"{group}.") else f"{group}.{key}"): value
            for key, value in leaves(node)
            if key.startswith(f"{group}.") or group not in node
        }
    sources = config["dataset"].get("sources")
    for name in sources if isinstance(sources, dict) else ():
        found |= {f"dataset.sources.{name}.{key}": value for key, value in leaves(_read(f"dataset/{name}"))}
    return found


def _read(name: str) -> dict[str, Any]:
    file = conf_dir() / f"{name}.yaml"
    node = from_yaml(file.read_text(encoding="utf-8")) if file.is_file() else None
    return node if isinstance(node, dict) else {}
