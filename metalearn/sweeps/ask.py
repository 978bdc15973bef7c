"""What a command asks for: a single run, a sweep and the choices of its jobs, or a search; from the command line and a sweep's file."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from metalearn.compose.mistakes import GROUPS, several_values
from metalearn.compose.overrides import text
from metalearn.errors import UserError, nearest
from metalearn.sweeps.choices import Choice, choices_of
from metalearn.sweeps.effects import refuse_without_effect
from metalearn.sweeps.parts import parts_of_file, parts_of_params, parts_of_seeds, refuse_twice
from metalearn.sweeps.space import check_search

if TYPE_CHECKING:
    from metalearn.compose.composer import Composer

OF_SWEEPS = ("sweep", "sweep_name", "hydra")  # settings that are not a run's
_SETTINGS = ("grid", "zip", "list", "seeds", "jobs", "jobs_per_gpu", "retry_failed", "search")


class Sweep(NamedTuple):
    """What a command asks for, before any job is composed."""

    directory: Path
    sweep_name: str
    named: bool  # by the user, who may have been there before; else it is a new directory
    jobs: list[list[Choice]]
    single: bool  # -m alone: one job, without anything that varies
    fixed: list[str]  # the overrides that all jobs share
    settings: dict[str, Any]  # the configuration's `sweep`
    base: DictConfig  # the configuration of the whole, as Hydra's launchers want it
    search: dict[str, Any] | None  # the configuration's `sweep.search`, where that draws the jobs


def shared_config(composing: Composer, overrides: list[str]) -> DictConfig:
    """What the command line composes to, several values still together: the settings of the sweep and of its launcher stand in it.

    A group with several choices stands at its first one, which has the settings that are set for all.
    """
    firsts = [
        f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()), '')}"
        if override.key_or_group in GROUPS and override.is_discrete_sweep()
        else text(override)
        for override in composing.parse(overrides)
    ]
    return composing.compose(firsts, RunMode.MULTIRUN, sweeps=True)


def asked_sweep(composing: Composer, base: DictConfig, overrides: list[str], multirun: bool) -> Sweep | None:
    """The sweep that a command asks for, `base` being its shared_config; None where it asks for a single run.

    It is the product of its parts: `sweep.list`, `sweep.zip`, `sweep.grid`, what the command line gives several values, seeds.
    """
    plain: Any = OmegaConf.to_container(base.sweep, resolve=False)
    for key in plain:
        if key not in _SETTINGS:
            raise UserError(f"no setting 'sweep.{key}'{nearest(key, _SETTINGS)}")
    parsed = composing.parse(overrides)
    varied = [override for override in parsed if override.is_sweep_override()]
    of_file = any(plain[part] for part in ("grid", "zip", "list", "seeds"))
    searched = bool((plain["search"] or {}).get("space"))
    if not (searched or multirun or of_file or base.hydra.mode == RunMode.MULTIRUN):
        if varied:
            raise UserError(several_values(text(varied[0])))
        return None
    _check_overrides(base, parsed, searched)
    given = {override.key_or_group: text(override) for override in parsed}
    parts = [
        *parts_of_file(plain),
        *parts_of_params(composing, base, given),
        *([[choice] for choice in choices_of(composing, override)] for override in varied),
        *parts_of_seeds(plain["seeds"]),
    ]
    single = not (parts or searched)
    fixed = [override for override in parsed if not override.is_sweep_override()]
    refuse_twice(parts, {override.key_or_group for override in fixed})
    if single:  # -m with one value for each setting: the job is called after them
        parts = [
            [choice] for override in fixed if _is_of_runs(override) for choice in [choices_of(composing, override)]
        ]
        fixed = [override for override in fixed if not _is_of_runs(override)]
    if searched:
        _check_alone(base, plain, parts)
        check_search(plain["search"], {override.key_or_group for override in fixed})
    return Sweep(
        directory=Path(_resolved(base, "hydra.sweep.dir")).expanduser(),
        sweep_name=_checked_name(_resolved(base, "sweep_name")),
        named="${now:" not in str(OmegaConf.to_container(base, resolve=False)["sweep_name"])  # type: ignore[call-overload, index]
        or "hydra.sweep.dir" in given,
        jobs=[list(itertools.chain(*job)) for job in itertools.product(*parts)],
        single=single,
        fixed=[text(override) for override in fixed],
        settings=plain,
        base=base,
        search=plain["search"] if searched else None,
    )


def _check_overrides(base: DictConfig, parsed: list[Override], searched: bool) -> None:
    """Raises UserError for an override that a sweep cannot take."""
    for override in parsed:
        if override.is_sweep_override() and override.is_hydra_override():
            raise UserError(several_values(text(override)))
        if override.is_sweep_override() and override.key_or_group.partition(".")[0] in ("sweep", "sweep_name"):
            raise UserError(f"'{text(override)}': a sweep's own settings take one value")
    if any(override.key_or_group == "hydra.sweep.subdir" for override in parsed):
        raise UserError("hydra.sweep.subdir: the jobs of a sweep are named by what varies")
    refuse_without_effect("a search" if searched else "a sweep", parsed, launched=not is_on_this_machine(base))


def is_on_this_machine(base: DictConfig) -> bool:
    """Whether no launcher of Hydra's was chosen."""
    return str(base.hydra.launcher._target_).endswith(".BasicLauncher")


def _is_of_runs(override: Override) -> bool:
    """Whether the override sets a value of the runs: it can be part of a job's name."""
    of_sweep = override.key_or_group.partition(".")[0].partition("/")[0] in OF_SWEEPS
    return not of_sweep and not (override.is_add() or override.is_force_add() or override.is_delete())


def _checked_name(name: str) -> str:
    """`sweep_name`, which becomes the name of a directory."""
    if name in ("", ".", "..", "None") or "/" in name or "\\" in name:
        raise UserError(
            f"sweep_name='{name}' is not allowed (the name of a directory, without '/'); hydra.sweep.dir takes a path"
        )
    return name


def left_to_hydra(composing: Composer, base: DictConfig, overrides: list[str], multirun: bool) -> list[str] | None:
    """The overrides that all jobs share, where a plugin of Hydra's chooses the rest (hydra/sweeper=...); else None."""
    of_plugin = not base.hydra.sweeper._target_.endswith(".BasicSweeper")
    if not (of_plugin and (multirun or base.hydra.mode == RunMode.MULTIRUN)):
        return None
    return [text(override) for override in composing.parse(overrides) if not override.is_sweep_override()]


def _check_alone(base: DictConfig, plain: dict[str, Any], parts: list[list[list[Choice]]]) -> None:
    """A search draws its jobs, one after the other, from what the earlier ones came to."""
    if parts:
        raise UserError(f"sweep.search draws all jobs: {parts[0][0][0].key} cannot be varied beside it")
    if plain["retry_failed"]:
        raise UserError("sweep.retry_failed: a search draws other trials instead (sweep.search.trials)")
    if not is_on_this_machine(base):
        raise UserError("sweep.search runs on this machine: it takes sweep.jobs, and no hydra/launcher")


def _resolved(base: DictConfig, key: str) -> str:
    HydraConfig.instance().set_config(base)
    return str(OmegaConf.select(base, key))
