"""Runs the jobs of a sweep on this machine: one after another in this process, or several at once, each in a process of its own.

A process per job, and not joblib's pool: when one of the pool's processes is killed, the pool kills the others and gives up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from metalearn.report import terminal
from metalearn.runs.log import log_to
from metalearn.sizes import count_text
from metalearn.status import Status
from metalearn.sweeps import job as worker
from metalearn.sweeps.directory import SweepDir
from metalearn.sweeps.queue import Queue, StoredJobs
from metalearn.sweeps.slots import Slot
from metalearn.sweeps.status import Watcher
from metalearn.sweeps.summary import score_text, seconds_text, write_summary
from metalearn.sweeps.view import SweepView

_WORKER = (sys.executable, "-m", "metalearn.sweeps.job")
_POLL = 0.1  # seconds between two looks at the workers
# Somebody, or the machine, ended the process: the job is not to blame, and continues the next time.
_ENDED_FROM_OUTSIDE = tuple(
    getattr(signal, name)
    for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP") if hasattr(signal, name))


def run_jobs(sweep: SweepDir, names: list[str], places: list[Slot], retry_failed: bool) -> None:
    """Runs those of the named jobs that are not finished; waits for those that another runner has, and takes over those whose runner dies.

    Raises:
        KeyboardInterrupt, SystemExit: the sweep was interrupted; the jobs that ran have been told to save first, and have ended.
    """
    run_queue(sweep, StoredJobs(sweep, names, retry_failed), places)


def run_queue(sweep: SweepDir, queue: Queue, places: list[Slot]) -> None:
    """Runs the jobs that the queue gives, until it is empty; raises what `run_jobs` raises."""
    with _sigterm_raises():
        here = len(places) == 1 and places[0].gpu is None
        if here and len(queue) == 1:
            _one_by_one(sweep, queue, None)
            return
        terminal.say(
            f"{count_text(len(queue), 'job')}, up to {len(places)} at once; what each does: {sweep.path}/*/run.log"
        )
        with SweepView(Watcher(sweep, queue.names(), len(places), queue.total)) as view:
            if here:
                _one_by_one(sweep, queue, view)
            else:
                _Pool(sweep, queue, places, view).run()


def _one_by_one(sweep: SweepDir, queue: Queue, view: SweepView | None) -> None:
    """In this process; without a view the console shows the run as that of a single one."""
    total, begun = len(queue), 0
    while queue:
        if (name := queue.next()) is None:
            queue.wait()
            continue
        with sweep.lock(name) as mine:
            if not mine:
                queue.put_back(name)
                continue
            if sweep.status(name) in (Status.DONE, Status.PRUNED):  # between the queue's look at it and now
                continue
            begun += 1
            log_to(sweep.run_dir(name), on_console=view is None)
            which = f"job {begun} of {total}: {name}"
            terminal.log.info("%s", which)
            try:
                if view is None:
                    worker.run_job(sweep, name)
                else:
                    view.started(which)
                    with terminal.quiet():
                        worker.run_job(sweep, name)
            finally:
                terminal.close_log()
        rows = write_summary(sweep)
        if view is not None:
            _say_end(sweep, rows, name, f"job {begun} of {total}")


def _say_end(sweep: SweepDir, rows: list[dict[str, Any]], name: str, which: str, killed: str | None = None) -> None:
    """One line about a job that has ended, from the row of the summary."""
    row = next(row for row in rows if row["job"] == name)
    said = f"{which}: {name}: {row['status']}"
    if row["status"] == Status.PRUNED:
        terminal.say(said)
    elif row["status"] == Status.DONE:
        terminal.say("  ".join(filter(None, (said, score_text(row), seconds_text(row)))))
    else:
        why = row["error"] or (f"its process was ended by {killed}" if killed else "")
        terminal.error_line(f"{said}: {why} ({sweep.run_dir(name)})")


class _Pool:
    """A worker process for every job, in the slot that it was given."""

    def __init__(self, sweep: SweepDir, queue: Queue, places: list[Slot], view: SweepView) -> None:
        self._sweep = sweep
        self._queue = queue
        self._view = view
        self._free = list(places)
        self._running: dict[str, tuple[subprocess.Popen[bytes], Slot]] = {}
        self._total = len(queue)
        self._numbers: dict[str, int] = {}  # job -> which of this command's it is, in the order of their starts

    def run(self) -> None:
        try:
            while self._queue or self._running:
                started = self._start()
                if not started and not self._running:
                    self._queue.wait()
                self._collect()
                time.sleep(_POLL)
        except BaseException:
            self._stop()
            raise

    def _start(self) -> bool:
        """Gives a job to every free slot; whether there was any to give."""
        started = False
        while self._free and (name := self._queue.next()) is not None:
            slot = self._free.pop(0)
            self._numbers.setdefault(name, len(self._numbers) + 1)
            self._view.started(f"{self._which(name)}: {name}")
            self._running[name] = (self._spawn(name, slot), slot)
            started = True
        return started

    def _which(self, name: str) -> str:
        return f"job {self._numbers[name]} of {self._total}"

    def _spawn(self, name: str, slot: Slot) -> subprocess.Popen[bytes]:
        package = str(Path(__file__).resolve().parents[2])
        environment = os.environ | {
            "OMP_NUM_THREADS": str(slot.threads),
            "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
        }
        if slot.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slot.gpu
        run_dir = self._sweep.run_dir(name)
        run_dir.mkdir(parents=True, exist_ok=True)
        with (run_dir / "run.log").open("ab") as log:
            return subprocess.Popen(
                [*_WORKER, str(self._sweep.path), name],
                env=environment,
                stdin=subprocess.PIPE,  # its end tells the worker that this process has died
                stdout=subprocess.DEVNULL,
                stderr=log,  # what Python and native code say when they die
                start_new_session=True,  # Ctrl-C reaches this process alone, which tells the workers once
            )

    def _collect(self) -> None:
        for name, (process, slot) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[name]
            self._free.append(slot)
            _let_go(process)
            if code == worker.LOCKED:
                self._queue.put_back(name)
            else:
                self._report(name, code)

    def _report(self, name: str, code: int) -> None:
        killed = _signal_name(code)
        if not self._sweep.status(name).finished:
            if killed is None and code != worker.INTERRUPTED:
                self._sweep.write_error(name, f"its process exited with {code}")
            elif killed is not None and -code not in _ENDED_FROM_OUTSIDE:
                self._sweep.write_error(name, f"its process died of {killed}")
        _say_end(self._sweep, write_summary(self._sweep), name, self._which(name), killed)

    def _stop(self) -> None:
        """Has the workers save and end; a second Ctrl-C kills them."""
        processes = [process for process, _ in self._running.values()]
        if processes:
            terminal.error_line(f"interrupted: {len(processes)} running jobs save and end (once more: at once)")
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            for process in processes:
                _let_go(process)


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """Waits for the end of a worker and closes the pipe to it."""
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _signal_name(code: int) -> str | None:
    """The name of the signal that ended a process with this exit code; None where none did."""
    if code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """The signals of `_ENDING` end the sweep like Ctrl-C, unless they are ignored; a job that runs in this process handles them itself."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    taken = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
