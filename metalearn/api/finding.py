"""What there is to choose and to set, and whether the installation is whole: `explain`, `choices`, `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metalearn.api.composing import settings_composer
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


def choices(kind: str) -> list[dict[str, str]]:
    """Name and summary of each choice, as `metalearn list` shows them; `kind` is algorithms, datasets, backbones, tasks, experiments or sweeps.

    Raises:
        UserError: `kind` is none of these.
    """
    from metalearn.config.offer import KINDS, listed

    if kind not in KINDS:
        raise UserError(f"nothing to list named '{kind}' (available: {', '.join(KINDS)})")
    return listed(KINDS[kind])


def doctor() -> list[Check]:
    """What `metalearn doctor` reports: (name, state, found, mend) of each check."""
    from metalearn.runs.doctor import checks

    return checks()
