"""Which jobs a sweep has, from the command line and its file."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from metalearn.compose.mistakes import GROUPS, MISTAKES, explanation, several_values
from metalearn.compose.overrides import text
from metalearn.config.files import slug
from metalearn.errors import UserError, nearest
from metalearn.sweeps.directory import Job, SweepDir, changes
from metalearn.sweeps.effects import refuse_without_effect
from metalearn.sweeps.space import check_search, corners, trial_text

if TYPE_CHECKING:
    from metalearn.compose.composer import Composer

_SETTINGS = ("grid", "zip", "list", "seeds", "jobs", "jobs_per_gpu", "retry_failed", "search")
_OF_SWEEPS = ("sweep", "sweep_name", "hydra")  # settings that are not a run's
_PLAIN = re.compile(r"[A-Za-z_][\w./:@-]*")
_NOT_TEXT = ("null", "true", "false", "nan", "inf")


class Choice(NamedTuple):
    key: str
    value: Any
    override: str


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
        *_parts_of_file(plain),
        *_params(composing, base, given),
        *([[choice] for choice in choices_of(composing, override)] for override in varied),
        *_seeds(plain["seeds"]),
    ]
    single = not (parts or searched)
    fixed = [override for override in parsed if not override.is_sweep_override()]
    _refuse_twice(parts, {override.key_or_group for override in fixed})
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
    of_sweep = override.key_or_group.partition(".")[0].partition("/")[0] in _OF_SWEEPS
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


def composed_jobs(composing: Composer, asked: Sweep) -> list[Job]:
    """Every job of the sweep with its checked configuration."""
    jobs: dict[str, Job] = {}
    for number, choices in enumerate(asked.jobs):
        name = job_name(choices)
        if name in jobs:
            raise UserError(f"the sweep has two jobs {' '.join(choice.override for choice in choices) or name}")
        config = _job_config(composing, asked, number, choices)
        jobs[name] = Job(name, {choice.key: choice.value for choice in choices}, config)
    if asked.single:
        return [_stored_before(asked, job) for job in jobs.values()]
    return list(jobs.values())


def _job_config(composing: Composer, asked: Sweep, number: int, choices: list[Choice]) -> dict[str, Any]:
    """The configuration of one job; a setting that other jobs alone have is explained."""
    own = [choice.override for choice in choices]
    overrides = [*asked.fixed, *own, override_text("sweep_name", asked.sweep_name)]
    try:
        return composing.job(overrides, number)[0]
    except MISTAKES as error:
        said = explanation(error, lambda: composing.known_keys(overrides))
        if len(asked.jobs) > 1 and " here; it belongs to " in said:
            said = said.replace(" here; it belongs to ", f" in job {' '.join(own)}; it belongs to ")
            said += "; what only some jobs have is set in sweep.list, a list of combinations (docs/sweeps.md)"
        raise UserError(said) from error


def _stored_before(asked: Sweep, job: Job) -> Job:
    """The single job of `-m` without several values; one that an earlier version stored is called `default`."""
    sweep, name = SweepDir(asked.directory), job_name([])
    if asked.named and name in sweep.choices() and not changes(sweep.config(name), job.config):
        return job._replace(name=name, choices={})
    return job


def corner_configs(composing: Composer, asked: Sweep) -> list[dict[str, Any]]:
    """Checked configurations at the corners of a search's space."""
    assert asked.search is not None
    return [trial_job(composing, asked, 0, values).config for values in corners(asked.search["space"])]


def trial_job(composing: Composer, asked: Sweep, number: int, values: dict[str, Any]) -> Job:
    """The job of a search's trial with its checked configuration."""
    own = [override_text(key, value) for key, value in values.items()]
    config, _ = composing.job([*asked.fixed, *own, override_text("sweep_name", asked.sweep_name)], number)
    return Job(slug(trial_text(number, values)), values, config)


def single_run(asked: Sweep, flags: list[str], values: dict[str, Any]) -> list[str]:
    """The arguments of `metalearn train` that train a search's trial again, alone."""
    parsed = OverridesParser.create().parse_overrides(asked.fixed)
    own = [text(override) for override in parsed if override.key_or_group.partition(".")[0] not in _OF_SWEEPS]
    by_file = any(override.key_or_group == "sweep" for override in parsed)
    # Where the search is not of a file that is now left out, it may be an experiment's.
    space = [] if by_file else ["sweep.search.space=null"]
    drawn = [override_text(key, value) for key, value in values.items()]
    return [*(flag for flag in flags if flag not in ("-m", "--multirun")), *own, *space, *drawn]


def job_name(choices: list[Choice]) -> str:
    """A directory's name that says what varies: `algorithm=maml-seed=0`; long or strange ones end in a hash."""
    return slug("-".join(f"{choice.key}={_shown(choice.value)}" for choice in choices))


def override_text(key: str, value: Any) -> str:
    """`key=value` as the command line takes it."""
    return f"{key}={_written(value)}"


def _parts_of_file(plain: dict[str, Any]) -> Iterator[list[list[Choice]]]:
    """Yields the parts of a sweep's file, each a list of alternatives, each a list of choices."""
    if plain["list"]:
        if not isinstance(plain["list"], list) or not all(isinstance(one, dict) and one for one in plain["list"]):
            raise UserError("sweep.list is a list of combinations, each of them a mapping from settings to values")
        yield [[_choice(key, value) for key, value in one.items()] for one in plain["list"]]
    for name in ("zip", "grid"):
        for key, values in _axes(plain, name).items():
            if not isinstance(values, list) or not values:
                raise UserError(f"sweep.{name}: {key} needs a list of values")
    if zipped := _axes(plain, "zip"):
        lengths = {key: len(values) for key, values in zipped.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            raise UserError(f"sweep.zip pairs lists of one length, but {counts}")
        rows = zip(*zipped.values(), strict=True)
        yield [[_choice(key, value) for key, value in zip(zipped, row, strict=True)] for row in rows]
    for key, values in _axes(plain, "grid").items():
        yield [[_choice(key, value)] for value in values]


def _axes(plain: dict[str, Any], name: str) -> dict[str, Any]:
    axes = plain[name] or {}
    if not isinstance(axes, dict):
        raise UserError(f"sweep.{name} is a mapping from settings to lists of values")
    return axes


def _params(composing: Composer, base: DictConfig, given: dict[str, str]) -> Iterator[list[list[Choice]]]:
    """Yields the parts in hydra.sweeper.params, Hydra's own way to put a sweep into a file; the command line wins."""
    params = [f"{key}={value}" for key, value in (base.hydra.sweeper.get("params") or {}).items() if key not in given]
    for override in composing.parse(params):
        yield [[choice] for choice in choices_of(composing, override)]


def _seeds(seeds: Any) -> Iterator[list[list[Choice]]]:
    """Innermost, so that the seeds of one setting are run one after the other."""
    if isinstance(seeds, int | list):  # anything else is refused with the jobs' other settings
        yield [[_choice("seed", seed)] for seed in (range(seeds) if isinstance(seeds, int) else seeds)]


def _refuse_twice(parts: list[list[list[Choice]]], fixed: set[str]) -> None:
    seen: set[str] = set()
    for part in parts:
        keys = {choice.key for alternative in part for choice in alternative}
        if again := sorted(keys & seen):
            raise UserError(f"{again[0]} is varied twice in this sweep")
        if again := sorted(keys & fixed):
            raise UserError(f"{again[0]} is varied by the sweep and set on the command line as well")
        seen |= keys


def _check_alone(base: DictConfig, plain: dict[str, Any], parts: list[list[list[Choice]]]) -> None:
    """A search draws its jobs, one after the other, from what the earlier ones came to."""
    if parts:
        raise UserError(f"sweep.search draws all jobs: {parts[0][0][0].key} cannot be varied beside it")
    if plain["retry_failed"]:
        raise UserError("sweep.retry_failed: a search draws other trials instead (sweep.search.trials)")
    if not is_on_this_machine(base):
        raise UserError("sweep.search runs on this machine: it takes sweep.jobs, and no hydra/launcher")


def _choice(key: str, value: Any) -> Choice:
    return Choice(key.lstrip("+"), value, override_text(key, value))


def choices_of(composing: Composer, override: Override) -> list[Choice]:
    """The values of `key=a,b`, or the one of `key=a`."""
    if not override.is_sweep_override():
        return [Choice(override.key_or_group, override.value(), text(override))]
    if not override.is_discrete_sweep():
        raise UserError(f"'{text(override)}': a sweep takes a list of values, choice(...) or range(...)")
    texts = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    if not texts:
        raise UserError(f"'{text(override)}' matches no choice")
    singles = composing.parse(texts)
    return [Choice(override.key_or_group, single.value(), one) for single, one in zip(singles, texts, strict=True)]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def _written(value: Any) -> str:
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
            return value
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(_written(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_written(item)}' for key, item in value.items())}}}"
    return json.dumps(value)


def _resolved(base: DictConfig, key: str) -> str:
    HydraConfig.instance().set_config(base)
    return str(OmegaConf.select(base, key))
