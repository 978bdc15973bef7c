"""Settings that cannot have an effect in a command are refused, with what has one."""

from __future__ import annotations

import re
from typing import NamedTuple

from hydra.core.override_parser.types import Override

from metalearn.compose.overrides import text
from metalearn.errors import UserError


class _Rule(NamedTuple):
    commands: tuple[str, ...]
    keys: re.Pattern[str]
    why: str


_SINGLE, _SWEEP, _SEARCH, _PLUGIN = "a single run", "a sweep", "a search", "a sweep by a plugin of Hydra's"
_VARY = "a sweep needs -m with several values, sweep.seeds=... or sweep=FILE"
_RULES = tuple(
    _Rule(commands, re.compile(keys), why)
    for commands, keys, why in (
        ((_SINGLE,), r"hydra[/.](launcher|sweeper|sweep)(\..*)?|sweep\..*", _VARY),
        ((_SINGLE,), r"sweep_name", f"{_VARY}; a run's directory is hydra.run.dir"),
        (
            (_SINGLE,),
            r"hydra\.(?!run\.dir$|mode$|job\.(name|config)|job_logging|verbose).*",
            "of Hydra's settings a run takes hydra.run.dir and hydra/job_logging",
        ),
        (
            (_SWEEP, _SEARCH, _PLUGIN),
            r"hydra\.run\.dir",
            "a sweep's directory is outputs/multirun/SWEEP_NAME (sweep_name) or hydra.sweep.dir",
        ),
        ((_SWEEP,), r"sweep\.search\..*", "there is no sweep.search.space to search"),
        ((_PLUGIN,), r"sweep\..*", "hydra/sweeper chooses and runs the jobs"),
    )
)
_OF_THIS_MACHINE = re.compile(r"sweep\.(jobs|jobs_per_gpu)")


def refuse_without_effect(command: str, overrides: list[Override], launched: bool = False) -> None:
    """Raises UserError for the first override that cannot have an effect in `command`.

    Args:
        command: one of the four that are named above.
        launched: whether a launcher of Hydra's runs the jobs.
    """
    for override in overrides:
        key = override.key_or_group
        if key.startswith(("sweep.", "hydra.")) and not override.is_sweep_override() and _is_nothing(override):
            continue  # switches off what a file asks for
        for rule in _RULES:
            if command in rule.commands and rule.keys.fullmatch(key):
                raise UserError(f"'{text(override)}' has no effect on {command}: {rule.why}")
        if launched and _OF_THIS_MACHINE.fullmatch(key):
            raise UserError(
                f"'{text(override)}' has no effect with hydra/launcher, which decides how many jobs run at once"
            )


def _is_nothing(override: Override) -> bool:
    return override.is_delete() or override.value() in (None, {}, [], False)
