"""The directory of a sweep: its jobs, as they were composed before the first started, and how far each of them is.

SWEEP_DIR/sweep.json          the jobs in their order, each with the values that tell it from the others, the commands that asked, a search's settings
SWEEP_DIR/study.journal       of a search: what Optuna knows of its trials, each of which is a job (study.db in a search of an earlier version)
SWEEP_DIR/study.journal.lock  exists while a process appends to the journal; one that a killed process left is removed after 30 seconds
SWEEP_DIR/jobs/JOB.yaml       the whole configuration of a job; the job is run from it, whatever becomes of the files it was composed from
SWEEP_DIR/jobs/JOB.lock       held (flock) by the process that runs the job; the kernel releases it when that process dies
SWEEP_DIR/jobs/JOB.error      why a job failed that could not say so in its results.json
SWEEP_DIR/JOB/                the job's run directory
SWEEP_DIR/summary.*           written after every job
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf

from metalearn.config.identity import differences
from metalearn.config.yaml_text import from_yaml
from metalearn.errors import UserError, one_line
from metalearn.locks import NoLocksError, is_locked, locked
from metalearn.runs import directory as files
from metalearn.runs.record import read_results
from metalearn.status import Status


class Job(NamedTuple):
    name: str
    choices: dict[str, Any]  # what was varied -> this job's value
    config: dict[str, Any]


class SweepDir:
    def __init__(self, path: Path) -> None:
        self.path = path

    def run_dir(self, name: str) -> Path:
        return self.path / name

    def choices(self) -> dict[str, dict[str, Any]]:
        """Every job's name and what tells it from the others, in the order in which they were asked for."""
        jobs: dict[str, dict[str, Any]] = self._record()["jobs"]
        return jobs

    def config(self, name: str) -> dict[str, Any]:
        """The stored configuration of a job."""
        path = self._file(name, "yaml")
        try:
            config = from_yaml(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read: {one_line(error)}") from error
        if not isinstance(config, dict):
            raise UserError(f"{path} is not the configuration of a job")
        return config

    def search(self) -> dict[str, Any] | None:
        """The settings of the search whose trials the jobs are, if they are that."""
        search: dict[str, Any] | None = self._record()["search"]
        return search

    def check(self, jobs: list[Job], search: dict[str, Any] | None = None) -> None:
        """Raises UserError naming the keys in which the search, or a stored job of the same name, is configured otherwise."""
        if (self.path / "sweep.json").exists() and self.search() != search:
            changed = [f"sweep.search.{text}" for text in changes(self.search() or {}, search or {})]
            raise UserError(f"{self.path} was begun with {'; '.join(changed)}: take another sweep_name")
        for job in jobs:
            if self._file(job.name, "yaml").exists():
                changed = changes(self.config(job.name), job.config)
                if changed:
                    raise UserError(
                        f"job '{job.name}' of {self.path} was stored with {'; '.join(changed)}: "
                        "take another sweep_name, or make the change part of the sweep"
                    )

    def store(self, jobs: list[Job], command: str | None, search: dict[str, Any] | None = None) -> None:
        """Adds the jobs that are not there yet, and the command that asks for them.

        Raises:
            UserError: one of them, or the search, is there, configured otherwise; or the directory cannot be written.
        """
        try:
            (self.path / "jobs").mkdir(parents=True, exist_ok=True)
            with self.exclusive():
                self.check(jobs, search)
                for job in jobs:
                    if self.status(job.name) != Status.DONE:  # a job to be run takes the data from where they are now
                        text = OmegaConf.to_yaml(OmegaConf.create(job.config))
                        files.write_text(self._file(job.name, "yaml"), text)
                record = self._record()
                record["jobs"] |= {job.name: job.choices for job in jobs if job.name not in record["jobs"]}
                record["commands"] += [] if command is None or command in record["commands"] else [command]
                record["search"] = search
                files.write_json(self.path / "sweep.json", record)
        except OSError as error:
            raise UserError(f"the sweep directory '{self.path}' cannot be written: {error.strerror}") from error

    def status(self, name: str) -> Status:
        """How far the job has got; a job that was begun and that nobody runs counts as interrupted."""
        if self._file(name, "error").exists():
            return Status.FAILED
        recorded = (self.results(name) or {}).get("status")
        if ended := [status for status in Status if status == recorded and status.finished]:
            return ended[0]
        if self._is_locked(name):
            return Status.RUNNING
        return Status.INTERRUPTED if (self.run_dir(name) / "config.yaml").exists() else Status.PENDING

    def results(self, name: str) -> dict[str, Any] | None:
        """What the job's results.json holds, if it can be read."""
        try:
            return read_results(self.run_dir(name))
        except UserError:
            return None

    def error(self, name: str) -> str | None:
        """Why the job failed, if it did."""
        try:
            return self._file(name, "error").read_text(encoding="utf-8")
        except OSError:
            return (self.results(name) or {}).get("error")

    def write_error(self, name: str, error: str) -> None:
        files.write_text(self._file(name, "error"), error)

    def forget_outcome(self, name: str) -> None:
        """Before a job starts: if its process is killed, the job must not seem to have ended as it did the last time."""
        self._file(name, "error").unlink(missing_ok=True)
        (self.run_dir(name) / "results.json").unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Whether the job is this process's to run, while the context lasts."""
        with _locked(self._file(name, "lock")) as held:
            yield held

    @contextmanager
    def exclusive(self, what: str = "") -> Iterator[None]:
        """One process at a time writes the files that belong to the whole sweep, or is at `what`."""
        with _locked(self.path / "jobs" / f".{what}lock", wait=True):
            yield

    def commands(self) -> list[str]:
        """The commands that asked for jobs, the first one first."""
        return list(self._record()["commands"])

    def _is_locked(self, name: str) -> bool:
        path = self._file(name, "lock")
        try:
            return is_locked(path)
        except NoLocksError as error:
            raise _no_locks(path) from error

    def _record(self) -> dict[str, Any]:
        path = self.path / "sweep.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return {
                "jobs": dict(record["jobs"]),
                "commands": list(record["commands"]),
                "search": record.get("search"),
            }
        except FileNotFoundError:
            return {"jobs": {}, "commands": [], "search": None}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not the record of a sweep ({error})") from error

    def _file(self, name: str, kind: str) -> Path:
        return self.path / "jobs" / f"{name}.{kind}"


def unfinished(sweep: SweepDir, names: list[str], retry_failed: bool) -> list[str]:
    """Those of the named jobs that are still to be run; with `retry_failed`, also those that failed or diverged."""
    again = (Status.FAILED, Status.DIVERGED) if retry_failed else ()
    statuses = {name: sweep.status(name) for name in names}
    return [name for name, status in statuses.items() if not status.finished or status in again]


def changes(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings that make a stored job, or a search, another one now, in words."""
    absent = "(none)"
    return [
        f"{key}={absent if before is None else before}, now {absent if after is None else after}"
        for key, (before, after) in differences(stored, now).items()
        if not _is_new(key, before, after)
    ]


def _is_new(key: str, before: Any, after: Any) -> bool:
    """Whether an older version stored the job without this setting, which now has the value that means what that version did."""
    from metalearn.engine.settings import TrainSettings  # late: it imports torch

    group, _, name = key.partition(".")
    return before is None and group == "train" and TrainSettings.earlier().get(name) == after


@contextmanager
def _locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """As `locks.locked`; UserError where the file system has no locks."""
    with ExitStack() as stack:
        try:
            held = stack.enter_context(locked(path, wait))
        except NoLocksError as error:
            raise _no_locks(path) from error
        yield held


def _no_locks(path: Path) -> UserError:
    return UserError(f"the file system of {path} has no locks (flock): put the sweep elsewhere")
