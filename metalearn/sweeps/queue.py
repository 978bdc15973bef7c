"""The jobs of a sweep that are still to be run, by this runner or another."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from metalearn.report import terminal
from metalearn.status import Status
from metalearn.sweeps.directory import SweepDir, unfinished

_WAIT = 1.0  # seconds between two looks at jobs that another runner has


class Queue(ABC):
    """The jobs that are still to be run, by this runner or another."""

    _told = False

    @abstractmethod
    def __len__(self) -> int:
        """How many are left: to be given, or another runner's."""

    def names(self) -> list[str] | None:
        """All jobs that it is about, those that are finished already included; None: all of the sweep, as they come."""
        return None

    @property
    @abstractmethod
    def total(self) -> int:
        """How many jobs it is about in the end."""

    @abstractmethod
    def next(self) -> str | None:
        """A job that nobody runs; None where all that are left are another runner's."""

    @abstractmethod
    def put_back(self, name: str) -> None:
        """The job turned out to be another runner's."""

    def wait(self) -> None:
        if not self._told:
            terminal.log.info("waiting for %d jobs that another runner has", len(self))
        self._told = True
        time.sleep(_WAIT)


class StoredJobs(Queue):
    """Those of the named jobs that are not finished, or are to be run once more."""

    def __init__(self, sweep: SweepDir, names: list[str], retry_failed: bool) -> None:
        self._sweep, self._names = sweep, names
        self._waiting = unfinished(sweep, names, retry_failed)
        self._retry = {name for name in self._waiting if sweep.status(name).finished}

    def names(self) -> list[str]:
        return self._names

    @property
    def total(self) -> int:
        return len(self._names)

    def __len__(self) -> int:
        return len(self._waiting)

    def next(self) -> str | None:
        for name in list(self._waiting):
            status = self._sweep.status(name)
            if status != Status.RUNNING:
                self._waiting.remove(name)
                if not status.finished or name in self._retry:
                    return name
        return None

    def put_back(self, name: str) -> None:
        self._waiting.append(name)
        self._retry.discard(name)
