"""The jobs of a sweep with their checked configurations, composed from what a command asks for; the trials of a search likewise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from metalearn.compose.mistakes import MISTAKES, explanation
from metalearn.compose.overrides import text
from metalearn.config.files import slug
from metalearn.errors import UserError
from metalearn.sweeps.ask import OF_SWEEPS, Sweep
from metalearn.sweeps.choices import Choice, job_name, override_text
from metalearn.sweeps.directory import Job, SweepDir, changes
from metalearn.sweeps.space import corners, trial_text

if TYPE_CHECKING:
    from metalearn.compose.composer import Composer


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
    own = [text(override) for override in parsed if override.key_or_group.partition(".")[0] not in OF_SWEEPS]
    by_file = any(override.key_or_group == "sweep" for override in parsed)
    # Where the search is not of a file that is now left out, it may be an experiment's.
    space = [] if by_file else ["sweep.search.space=null"]
    drawn = [override_text(key, value) for key, value in values.items()]
    return [*(flag for flag in flags if flag not in ("-m", "--multirun")), *own, *space, *drawn]
