"""Plug-ins: packages of the user's own that bring algorithms, backbones and datasets.

Python code runs with the user's rights, so a package is trusted only where the user says so: by `--plugins PACKAGE`, by the environment variable
METALEARN_PLUGINS (which the flag sets, so that worker processes know it too), or by installing a package with an entry point in the group
`metalearn.plugins` that names it. A configuration, perhaps from a stranger's run directory, makes no package trusted.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metalearn.errors import UserError, nearest

VARIABLE = "METALEARN_PLUGINS"  # names of packages, separated by commas
GROUP = "metalearn.plugins"  # of entry points
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def trust(names: Iterable[str]) -> None:
    """Trusts these packages, in this process and in those that it starts.

    Raises:
        UserError: there is no package of that name.
    """
    for name in names:
        _folder(name)
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*_from_environment(), *names]))


def with_plugins(command: list[str]) -> str:
    """The command as the user would type it again, with a flag for the packages that the next process would not trust by itself."""
    names = [name for name in _from_environment() if name not in _installed()]
    return shlex.join([*command, *(["--plugins", ",".join(names)] if names else [])])


def trusted() -> tuple[str, ...]:
    """The names of the packages that may bring parts, in the order in which their YAML files are looked for."""
    return tuple(dict.fromkeys([*_from_environment(), *_installed()]))


def conf_dirs() -> list[Path]:
    """The folders `conf` of the trusted packages."""
    return [folder for name in trusted() if (folder := _folder(name) / "conf").is_dir()]


def used_by(config: dict[str, Any]) -> list[str]:
    """The trusted packages that a configuration's `_target_`s name."""
    from metalearn.config.tree import leaves  # not for `metalearn --help`, which lists choices

    targets = [str(value) for key, value in leaves(config) if key.rpartition(".")[2] == "_target_"]
    return [name for name in trusted() if any(target.startswith(f"{name}.") for target in targets)]


def refuse_untrusted(config: dict[str, Any], whose: str) -> None:
    """Raises UserError, naming the flag to give, where a stored configuration needs a plug-in that is not trusted."""
    needed = config.get("plugins") or []
    unknown = sorted({str(name) for name in needed} - set(trusted())) if isinstance(needed, list) else [str(needed)]
    if unknown:
        raise UserError(
            f"{whose} was made with code of the package '{unknown[0]}'; if you trust that package, give --plugins {','.join(unknown)}"
        )


def _from_environment() -> list[str]:
    return [name for name in re.split(r"[,\s]+", os.environ.get(VARIABLE, "")) if name]


@functools.cache
def _installed() -> tuple[str, ...]:
    return tuple(sorted({entry.module for entry in importlib.metadata.entry_points(group=GROUP)}))


def _folder(name: str) -> Path:
    """The package's folder; the package is not imported."""
    if name.partition(".")[0] == "metalearn":
        raise UserError(f"--plugins: '{name}' is metalearn itself")
    try:
        spec = importlib.util.find_spec(name) if _NAME.fullmatch(name) else None
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        packages = [] if spec else _importable()
        raise UserError(
            f"--plugins: there is no package '{name}' that Python can import{nearest(name, packages)} "
            "(install it, or name the folder that holds it in PYTHONPATH)"
        )
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def _importable() -> list[str]:
    return list(importlib.metadata.packages_distributions())
