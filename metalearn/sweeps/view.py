"""What the console shows while a sweep runs: a live view on a terminal; elsewhere a line when a job starts or ends, and one now and then."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

from metalearn.kinds import scale_of
from metalearn.report import terminal
from metalearn.report.jobs import LiveJobs, array_line, progress_line
from metalearn.report.progress import LOG_SECONDS
from metalearn.report.text import duration
from metalearn.status import Status
from metalearn.sweeps.status import Watcher

_SECONDS = 1.0  # between two looks at the jobs' files


class SweepView:
    """Looks at the jobs' files from a thread of its own while the context lasts: jobs run in other processes, or in the main thread of this one.

    Args:
        watcher: of the jobs.
        tells: whether it also says when a job starts and ends, where nobody else here knows: a launcher runs the jobs.
    """

    def __init__(self, watcher: Watcher, tells: bool = False) -> None:
        self._watcher = watcher
        self._statuses: dict[str, str] | None = {} if tells else None
        self._live = LiveJobs()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._arrays = watcher.arrays()
        self._line = time.monotonic()
        self._looked = False

    def __enter__(self) -> SweepView:
        self._live.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._live.__exit__()

    def started(self, line: str) -> None:
        """A job starts; the live view shows that by itself."""
        if not self._live.is_open:
            terminal.say(line)

    def _watch(self) -> None:
        last = False
        while not last:
            last = self._over.wait(_SECONDS if self._looked else 0)
            self._looked = True
            try:
                self._look(self._watcher.record())
            except Exception as error:  # a view must not end a sweep; the next look may find the file whole
                terminal.file_log.debug("the state of the sweep cannot be read: %s", error)

    def _look(self, record: dict[str, Any]) -> None:
        for array in record["slurm"]:
            if array["id"] not in self._arrays:
                self._arrays.add(array["id"])
                terminal.say(array_line(array))
        if self._statuses is not None:
            self._tell_changes(self._statuses, record["jobs"])
        self._live.show(record)
        now = time.monotonic()
        if not self._live.is_open and now - self._line >= LOG_SECONDS:
            self._line = now
            terminal.say(progress_line(record))

    def _tell_changes(self, before: dict[str, str], rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows, 1):
            name, status = row["job"], row["status"]
            known, before[name] = before.get(name), status
            which = f"job {number} of {len(rows)}: {name}"
            if known in (None, status) and not (known is None and status == Status.RUNNING):
                continue  # at the first look, what ended before is no news
            if status == Status.RUNNING:
                self.started(which)
            elif status == Status.DONE:
                score = "" if row["score"] is None else scale_of(row).text(row["score"], row["ci95"])
                terminal.say("  ".join(filter(None, (f"{which}: {status}", score, duration(row["seconds"] or 0.0)))))
            elif status != Status.PENDING:
                dead = " (dead)" if row["dead"] else ""
                terminal.error_line(
                    f"{which}: {status}{dead}: {row['error'] or 'its process is gone'} ({row['directory']})"
                )
