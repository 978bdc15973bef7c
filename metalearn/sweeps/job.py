"""One stored job of a sweep, run in this process; `python -m metalearn.sweeps.job SWEEP_DIR JOB` is a worker of a parallel sweep."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from metalearn.errors import UserError
from metalearn.report import terminal
from metalearn.runs.log import log_to
from metalearn.status import Status
from metalearn.sweeps.directory import SweepDir

LOCKED = 75  # exit code of a worker whose job another process runs (EX_TEMPFAIL)
INTERRUPTED = 130


def run_job(sweep: SweepDir, name: str) -> None:
    """Runs the job from its stored configuration, or continues it; the caller holds its lock.

    Whatever goes wrong is this job's failure alone, and is said in its run.log, on stderr, and in results.json (or, where there is none, in the
    job's error file).

    Raises:
        what an interrupted run raises: the user, or the machine, wants the sweep to stop.
    """
    run_dir = sweep.run_dir(name)
    begun = (run_dir / "config.yaml").exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        sweep.forget_outcome(name)
        from metalearn.runs.run import run

        config = sweep.config(name)
        options: dict[str, Any] = {"resume": True} if begun else {}
        if sweep.search() is not None:
            from metalearn.sweeps.search import should_prune

            options["should_prune"] = should_prune(sweep, name)
        run(config, run_dir, **options)
    except BaseException as error:
        results = sweep.results(name)
        stopped = (
            isinstance(error, KeyboardInterrupt) if results is None else results.get("status") == Status.INTERRUPTED
        )
        if stopped:
            raise
        if results is None:  # the run could not say it itself
            text = f"{type(error).__name__}: {error}"
            sweep.write_error(name, text)
            terminal.file_log.error("failed: %s", text, exc_info=error)
            terminal.error_line(f"failed: {text} ({run_dir})")


def main(sweep_dir: str, name: str) -> int:
    """A worker: the exit code says 0 (the job has ended, see its status), LOCKED or INTERRUPTED."""
    sweep = SweepDir(Path(sweep_dir))
    with sweep.lock(name) as mine:
        if not mine:
            return LOCKED
        if sweep.status(name) in (Status.DONE, Status.PRUNED):  # between the runner's look at it and now
            return 0
        log_to(sweep.run_dir(name), on_console=False)
        try:
            run_job(sweep, name)
        except (KeyboardInterrupt, SystemExit):
            return INTERRUPTED
    return 0


def _stop_when_the_runner_dies() -> None:
    """Standard input is a pipe that the runner holds open: at its end this process is asked to save and stop."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # not through sys.stdin, which a thread that waits in it keeps from being closed
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    faulthandler.enable()  # a crash of native code leaves its stack in run.log
    _stop_when_the_runner_dies()
    try:
        sys.exit(main(*sys.argv[1:]))
    except UserError as wrong:
        sys.exit(f"metalearn: error: {wrong}")
