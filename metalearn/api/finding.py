"""What there is to choose and to set, and whether the installation is whole: `explain`, `configuration`, `schema`, `choices`, `copy`, `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalearn.api.composing import settings_composer, written
from metalearn.errors import UserError

if TYPE_CHECKING:
    from metalearn.compose.explain import Setting
    from metalearn.runs.doctor import Check


def explain(key: str, *overrides: str, config_dir: str | None = None) -> list[Setting]:
    """What `metalearn explain` says of a setting, or of all settings below `key`: value, meaning, rule, and who set it.

    Raises:
        UserError: there is no such setting, or the overrides cannot be composed.
    """
    from metalearn.compose.explain import explain as of_key

    with settings_composer(list(overrides), config_dir, ()) as composing:
        return of_key(composing, key, list(overrides))


def configuration(
    *overrides: str, config_dir: str | None = None, plugins: tuple[str, ...] = (), **settings: Any
) -> dict[str, Any]:
    """The composed and checked configuration of a run, as `metalearn config` shows it: a nested mapping, like config.yaml.

    Arguments as for `train`. `explain` says who set a value.

    Raises:
        UserError: a setting is wrong.
    """
    asked = [*overrides, *written(settings)]
    with settings_composer(asked, config_dir, plugins) as composing:
        return composing.job(asked, 0)[0]


def schema() -> dict[str, Any]:
    """The JSON schema of all settings, as `metalearn config --schema` prints it."""
    from metalearn.compose.mistakes import GROUPS
    from metalearn.config.schema import schema as of_groups

    return of_groups(GROUPS)


def copy(choice: str, file: str | Path) -> Path:
    """Writes a copy of a choice's YAML file to edit, as `metalearn copy` does: `copy("experiment/finn2017/omniglot_5w1s", "mine/experiment/a.yaml")`.

    Raises:
        UserError: there is no such choice, or the file does not end in .yaml, is there already or cannot be written.
    """
    from metalearn.config.offer import copy_choice

    copy_choice(choice, Path(file))
    return Path(file)


def choices(kind: str, config_dir: str | None = None) -> list[dict[str, str]]:
    """Name and summary of each choice, as `metalearn list` shows them; `kind` is algorithms, datasets, backbones, tasks, experiments or sweeps.

    Args:
        config_dir: a folder with YAML files of your own, which are listed too.

    Raises:
        UserError: `kind` is none of these, or the folder is no directory.
    """
    from metalearn.config.offer import KINDS, listed

    if kind not in KINDS:
        raise UserError(f"nothing to list named '{kind}' (available: {', '.join(KINDS)})")
    return listed(KINDS[kind], config_dir)


def doctor() -> list[Check]:
    """What `metalearn doctor` reports: (name, state, found, mend) of each check."""
    from metalearn.runs.doctor import checks

    return checks()
