"""Hyperparameter search: the trials of an Optuna study, each of them a job of a sweep. The only module that knows Optuna.

The study holds each trial's values, its validations as they come, and how it ended; everything else is the job's. It lies in
SWEEP_DIR/study.journal, a file that also works over NFS and from several machines. A search that an earlier version began in
SWEEP_DIR/study.db (SQLite) continues there.

One process at a time draws a trial or records its end (a lock beside those of the jobs), so that no trial is drawn twice. A process may be killed
at any point; the next one completes what it left.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metalearn.errors import UserError
from metalearn.kinds import CLASSIFICATION, Scale, scale_of
from metalearn.status import Status
from metalearn.sweeps.directory import Job, SweepDir
from metalearn.sweeps.journal import MendingLock, damage
from metalearn.sweeps.queue import Queue

_JOB = "job"  # the trial's attribute that names its job


def optuna() -> Any:
    """Optuna, which says nothing but warnings; UserError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError("sweep.search needs Optuna: pip install '.[optuna]' in the checkout") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Trials(Queue):
    """The trials of a search, new ones until there are as many as asked for.

    Args:
        make: the job of a trial, from its number and the values drawn for it.
        kind: of the tasks, which says whether the largest or the smallest validation score is the best.

    Raises:
        UserError: the study cannot be read; or the first trial would now be configured otherwise, and so would all that follow.
    """

    def __init__(
        self,
        sweep: SweepDir,
        settings: dict[str, Any],
        make: Callable[[int, dict[str, Any]], Job],
        kind: Scale = CLASSIFICATION,
    ) -> None:
        self._sweep, self._settings, self._make = sweep, settings, make
        self._given: set[str] = set()
        with self._alone():
            self._study = _study(sweep, settings["pruner"], kind)
            self._check_unchanged()

    def __len__(self) -> int:
        trials, wanted = self._trials(), int(self._settings["trials"])
        begun = [trial for trial in trials if _is_open(trial) and trial.user_attrs.get(_JOB) not in self._given]
        return len(begun) + max(0, wanted - len(trials))

    @property
    def total(self) -> int:
        return int(self._settings["trials"])

    def next(self) -> str | None:
        with self._alone():
            self._tell()
            for trial in self._trials():
                if _is_open(trial):
                    # One without a job was being drawn when its process was killed.
                    name = trial.user_attrs.get(_JOB) or self._draw(trial.number)
                    if name not in self._given and self._sweep.status(name) != Status.RUNNING:
                        self._given.add(name)
                        return name
            if len(self._trials()) >= self._settings["trials"]:
                return None
            self._check_unchanged()
            name = self._draw(None)
            self._given.add(name)
            return name

    def put_back(self, name: str) -> None:
        self._given.discard(name)

    def close(self) -> None:
        """Tells the study what it has not been told yet."""
        with self._alone():
            self._tell()

    def _alone(self) -> Any:
        return self._sweep.exclusive("search-")

    def _trials(self) -> list[Any]:
        return list(self._study.get_trials(deepcopy=False))

    def _draw(self, number: int | None) -> str:
        """Draws the values of a trial, or the rest of them, and stores its job."""
        library, settings = optuna(), self._settings
        fresh = len(self._trials()) if number is None else number
        # A generator for every trial: a search that is resumed draws what it would have drawn.
        seed = int(np.random.SeedSequence([settings["seed"], fresh]).generate_state(1)[0])
        self._study.sampler = library.samplers.TPESampler(seed=seed, n_startup_trials=settings["startup_trials"])
        trial = self._study.ask() if number is None else _trial(self._study, number)
        values = {key: _suggested(trial, key, axis) for key, axis in settings["space"].items()}
        job = self._make(trial.number, values)
        self._sweep.store([job], None, kept(settings))
        trial.set_user_attr(_JOB, job.name)
        return job.name

    def _tell(self) -> None:
        """Tells the study of trials that have ended."""
        states = optuna().trial.TrialState
        for trial in self._trials():
            name = trial.user_attrs.get(_JOB)
            if not _is_open(trial) or name is None or not (status := self._sweep.status(name)).finished:
                continue
            results = self._sweep.results(name) or {}
            best = results.get("val")
            if status == Status.DONE and best:
                self._study.tell(trial.number, best[scale_of(results).score])
            elif status in (Status.PRUNED, Status.DIVERGED):  # both say something about the values
                self._study.tell(trial.number, state=states.PRUNED)
            else:
                self._study.tell(trial.number, state=states.FAIL)

    def _check_unchanged(self) -> None:
        first = next((trial for trial in self._trials() if _JOB in trial.user_attrs), None)
        if first is not None:
            values = {key: _value(axis, first.params[key]) for key, axis in self._settings["space"].items()}
            self._sweep.check([self._make(first.number, values)], kept(self._settings))


def should_prune(sweep: SweepDir, name: str) -> Callable[[int, float], bool]:
    """Tells the study of the job's validations, and says whether to stop it."""
    study = _study(sweep, (sweep.search() or {})["pruner"])
    (number,) = [trial.number for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(_JOB) == name]
    trial = _trial(study, number)
    known = max(study.get_trials(deepcopy=False)[number].intermediate_values, default=0)

    def asked(step: int, accuracy: float) -> bool:
        if step < known:  # reported before the process was killed; the run was resumed from there
            return False
        if step > known:
            trial.report(accuracy, step)
        return bool(trial.should_prune())

    return asked


def kind_of_tasks(config: dict[str, Any]) -> Scale:
    """The kind of the tasks that a configuration's dataset gives."""
    from metalearn.engine.build import build_dataset

    return build_dataset(config).kind


def _study(sweep: SweepDir, pruner: dict[str, Any] | None, kind: Scale = CLASSIFICATION) -> Any:
    """The study in the sweep's directory; `kind` counts where there is none yet."""
    library, journal, database = optuna(), sweep.path / "study.journal", sweep.path / "study.db"
    settings = {
        "study_name": "search",
        "direction": "maximize" if kind.higher_is_better else "minimize",
        "load_if_exists": True,
        "pruner": _pruner(library, pruner),
    }
    earlier = database.exists() and not journal.exists()
    return _in_database(library, database, settings) if earlier else _in_journal(library, journal, settings)


def _in_journal(library: Any, path: Path, settings: dict[str, Any]) -> Any:
    backend = library.storages.journal
    try:
        # The lock is a file made with O_EXCL, which NFS (version 3 and later) and Windows have; symbolic links need rights on Windows.
        lock = MendingLock(path, backend.JournalFileOpenLock(str(path)))
        storage = library.storages.JournalStorage(backend.JournalFileBackend(str(path), lock))
        return library.create_study(storage=storage, **settings)
    except OSError as error:
        raise UserError(f"{path} cannot be used as an Optuna study: {error.strerror}") from error
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError, RuntimeError) as error:
        raise UserError(f"{path} cannot be used as an Optuna study: {damage(path)}") from error


def _in_database(library: Any, path: Path, settings: dict[str, Any]) -> Any:
    # Not in the URL, where a path's own `?` or `%` would mean something else.
    connect = functools.partial(sqlite3.connect, path, timeout=60, check_same_thread=False)
    from sqlalchemy.exc import DatabaseError

    try:
        storage = library.storages.RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect})
        return library.create_study(storage=storage, **settings)
    except (DatabaseError, library.exceptions.StorageInternalError, RuntimeError) as error:
        raise UserError(f"{path} cannot be used as an Optuna study: {str(error).partition(chr(10))[0]}") from error


def _pruner(library: Any, settings: dict[str, Any] | None) -> Any:
    if settings is None:
        return library.pruners.NopPruner()
    return library.pruners.PercentilePruner(
        float(settings["keep_percent"]),
        n_startup_trials=settings["startup_trials"],
        n_warmup_steps=settings["warmup_steps"],
    )


def _trial(study: Any, number: int) -> Any:
    return optuna().trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def _is_open(trial: Any) -> bool:
    return not trial.state.is_finished()


def _suggested(trial: Any, key: str, axis: dict[str, Any]) -> Any:
    if "choices" in axis:
        return _value(axis, trial.suggest_categorical(key, [json.dumps(choice) for choice in axis["choices"]]))
    low, high, log, step = (axis.get(name) for name in ("low", "high", "log", "step"))
    if all(isinstance(bound, int) for bound in (low, high, step or 1)):
        return trial.suggest_int(key, low, high, log=bool(log), step=step or 1)
    return trial.suggest_float(key, low, high, log=bool(log), step=step)


def _value(axis: dict[str, Any], stored: Any) -> Any:
    """What the study holds of a choice is its text: a choice may be a list."""
    return json.loads(stored) if "choices" in axis else stored


def kept(settings: dict[str, Any]) -> dict[str, Any]:
    """What must not change while a search goes on; the number of trials may."""
    return {key: value for key, value in settings.items() if key != "trials"}
