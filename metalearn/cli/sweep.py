"""Sweeps and searches of `metalearn train`: stored, run where it was asked for, reported."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metalearn.cli.single import preflight
from metalearn.compose.composer import composer, explained
from metalearn.config.plugins import with_plugins
from metalearn.errors import RunFailed, UserError
from metalearn.report import terminal
from metalearn.runs.directory import make_directory
from metalearn.sizes import count_text
from metalearn.status import Status
from metalearn.sweeps import ask
from metalearn.sweeps.directory import Job, SweepDir
from metalearn.sweeps.jobs import single_run, trial_job

if TYPE_CHECKING:
    from metalearn.cli.arguments import Training


@dataclass(frozen=True)
class JobSweep:
    """A sweep with its jobs."""

    asked: ask.Sweep
    jobs: list[Job]


@dataclass(frozen=True)
class SearchSweep:
    """A search, with the configurations at the corners of its space."""

    asked: ask.Sweep
    corners: list[dict[str, Any]]


def run_jobs(wanted: JobSweep, training: Training) -> SweepDir:
    """Stores the jobs and runs those that are missing; returns the sweep's directory.

    Raises:
        RunFailed: not all of them are done; the console said which.
    """
    _refuse_torchrun()
    asked, jobs = wanted.asked, wanted.jobs
    sweep = SweepDir(asked.directory)
    sweep.check(jobs)
    missing = [job.config for job in jobs if sweep.status(job.name) != Status.DONE]
    if missing:
        from metalearn.sweeps.launchers import runner

        preflight(missing)
        run = runner(asked)
    sweep, command = _named(asked, training)
    sweep.store(jobs, command)
    names = [job.name for job in jobs]
    done = [sweep.status(name) for name in names].count(Status.DONE)
    terminal.say(f"sweep directory: {sweep.path}; {count_text(len(names), 'job')}, {done} of them done")
    rows = _reported(sweep, command, lambda: run(sweep, names) if missing else None)
    if any(row["status"] != Status.DONE for row in rows if row["job"] in names):
        retry = "" if asked.settings["retry_failed"] else "; with sweep.retry_failed=true to run failed jobs once more"
        terminal.error_line(f"not all jobs are done; the same command runs what is missing{retry}: {command}")
        raise RunFailed
    return sweep


def search(wanted: SearchSweep, training: Training) -> None:
    """Draws and runs the trials that are missing."""
    from metalearn.sweeps.launchers import places
    from metalearn.sweeps.search import Trials, kept, kind_of_tasks, optuna

    _refuse_torchrun()
    asked, settings = wanted.asked, wanted.asked.search
    assert settings is not None
    optuna()
    SweepDir(asked.directory).check([], kept(settings))
    preflight(wanted.corners)
    slots = places(asked.settings)
    sweep, command = _named(asked, training)
    sweep.store([], command, kept(settings))
    trials = Trials(sweep, settings, _maker(asked, training), kind_of_tasks(wanted.corners[0]))
    terminal.say(f"sweep directory: {sweep.path}; {len(trials)} of {settings['trials']} trials are left")

    def go() -> None:
        from metalearn.sweeps.pool import run_queue

        try:
            run_queue(sweep, trials, slots)
        finally:
            trials.close()

    rows = _reported(sweep, command, go)
    if rows and rows[0]["status"] == Status.DONE:
        best = with_plugins(["metalearn", "train", *single_run(asked, training.flags, rows[0]["choices"])])
        terminal.say(f"best: {rows[0]['job']}; to train it again: {best}")
    if any(row["status"] not in (Status.DONE, Status.PRUNED, Status.DIVERGED) for row in rows):
        terminal.error_line(
            f"not all trials have an outcome; the same command continues what was interrupted: {command}"
        )
        raise RunFailed


def _maker(asked: ask.Sweep, training: Training) -> Callable[[int, dict[str, Any]], Job]:
    """Makes the job of a trial from its number and values."""
    where = (training.where.config_dir, training.where.config_name)

    def make(number: int, values: dict[str, Any]) -> Job:
        with explained(training.overrides, *where), composer(*where) as composing:
            return trial_job(composing, asked, number, values)

    return make


def _refuse_torchrun() -> None:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("torchrun starts the processes of one run: a sweep's jobs want a torchrun each")


def _named(asked: ask.Sweep, training: Training) -> tuple[SweepDir, str]:
    """The sweep's directory, a new one where the user named none, and the command that continues it."""
    command = with_plugins(["metalearn", training.command, *training.argv])
    if asked.named:
        return SweepDir(asked.directory), command
    sweep = SweepDir(make_directory(asked.directory, named=False))
    return sweep, f"{command} sweep_name={sweep.path.name}"


def _reported(sweep: SweepDir, command: str, go: Callable[[], None]) -> list[dict[str, Any]]:
    """Runs jobs and reports, whatever happens meanwhile; returns the rows of the table."""
    from metalearn.sweeps.summary import report

    try:
        go()
    except BaseException as error:
        if not isinstance(error, UserError):
            report(sweep)
            terminal.error_line(f"to go on: {command}")
        raise
    return report(sweep)
