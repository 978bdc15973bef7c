"""`metalearn train`: one run, or a sweep; composed and checked as a whole before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from metalearn.cli import single, sweep
from metalearn.cli.arguments import Explanation, Resumption, Training, understood
from metalearn.compose.composer import composer, explained
from metalearn.sweeps import ask
from metalearn.sweeps.effects import refuse_without_effect
from metalearn.sweeps.jobs import composed_jobs, corner_configs

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from metalearn.compose.composer import Composer


@dataclass(frozen=True)
class HydraSweep:
    """A sweep whose jobs a plugin of Hydra's chooses."""

    config: dict[str, Any]  # what all jobs share


def train(argv: list[str]) -> None:
    """One run, a sweep, or the configuration of one."""
    match understood(argv):
        case Resumption() as wanted:
            from metalearn.cli.resume import resume

            resume(wanted)
        case Explanation() as wanted:
            from metalearn.cli.application import explain

            explain(wanted)
        case Training() as wanted:
            start(wanted)


def start(wanted: Training) -> None:
    """Composes and checks every job, then runs them."""
    where = (wanted.where.config_dir, wanted.where.config_name)
    with explained(wanted.overrides, *where), composer(*where) as composing:
        asked = composed(composing, wanted)
    match asked:
        case single.SingleRun():
            single.start(asked)
        case sweep.JobSweep():
            sweep.run_jobs(asked, wanted)
        case sweep.SearchSweep():
            sweep.search(asked, wanted)
        case HydraSweep():
            from metalearn.cli.application import call_hydra

            single.preflight([asked.config])
            with explained(wanted.overrides, *where):
                call_hydra([*wanted.flags, *wanted.overrides])


def composed(
    composing: Composer, wanted: Training
) -> single.SingleRun | sweep.JobSweep | sweep.SearchSweep | HydraSweep:
    """What the words ask for, with checked configurations."""
    overrides = wanted.overrides
    base = ask.shared_config(composing, overrides)
    shared = ask.left_to_hydra(composing, base, overrides, wanted.multirun)
    if shared is not None:
        refuse_without_effect("a sweep by a plugin of Hydra's", composing.parse(overrides))
        return HydraSweep(composing.job(shared, 0)[0])
    asked = ask.asked_sweep(composing, base, overrides, wanted.multirun)
    if asked is None:
        return single_run(composing, overrides, base)
    if asked.search is not None:
        return sweep.SearchSweep(asked, corner_configs(composing, asked))
    return sweep.JobSweep(asked, composed_jobs(composing, asked))


def single_run(composing: Composer, overrides: list[str], base: DictConfig) -> single.SingleRun:
    """The run that the overrides ask for, `base` being their shared_config; UserError for a setting that is a sweep's."""
    choices: Any = OmegaConf.to_container(base.hydra.runtime.choices, resolve=False)
    # A choice that is still open is an error here, which composing anew finds; jobs of a sweep might have made it.
    cfg = composing.compose(overrides) if "???" in choices.values() else base
    config, directory, logging = composing.job_of(cfg, 0)
    refuse_without_effect("a single run", composing.parse(overrides))
    named = any(override.startswith("hydra.run.dir=") for override in overrides)
    return single.SingleRun(config, Path(directory), named, logging)
