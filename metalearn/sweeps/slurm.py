"""What a sweep has in Slurm's queue: the ids of its job arrays and where their logs are, as submitit keeps them in SWEEP_DIR/.submitit.

submitit makes a folder for each job as soon as it is submitted: ARRAY_TASK, or JOB for a single one. The folder ARRAY, or JOB, has the script for
`sbatch`; hydra/launcher=local_processes has no such script, and its folders are named after processes.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metalearn.report import terminal

_JOB = re.compile(r"(\d+)(_\d+)?")


def arrays(sweep_dir: Path) -> list[dict[str, Any]]:
    """Every job array (or single job) that was submitted for the sweep, the oldest first.

    Returns:
        id, jobs (their number), logs (a pattern of files), squeue (the command that shows the jobs that wait or run).
    """
    folder = sweep_dir / ".submitit"
    tasks: dict[str, int] = {}
    submitted: set[str] = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        if (found := _JOB.fullmatch(path.name)) is None:
            continue
        tasks[found[1]] = tasks.get(found[1], 0) + bool(found[2])
        if found[2] is None and any("#SBATCH" in _text(script) for script in path.glob("*.sh")):
            submitted.add(found[1])
    return [
        {
            "id": number,
            "jobs": tasks[number] or 1,
            "logs": str(folder / f"{number}{'_*' if tasks[number] else ''}" / "*.out"),
            "squeue": f"squeue -j {number}",
        }
        for number in sorted(submitted, key=int)
    ]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@contextlib.contextmanager
def quiet_submitit() -> Iterator[None]:
    """While the context lasts, submitit says only what is wrong with a job.

    It asks `sacct` for the state of its jobs and warns at each time that this fails. On a cluster without accounting that is every few seconds, so it
    is told once what this means, and `sacct` is not asked.
    """
    submitit = importlib.import_module("submitit")  # sets the level of its log; it is no dependency
    log = logging.getLogger("submitit")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        if (why := _no_accounting()) is None:
            yield
            return
        terminal.say(
            f"Slurm keeps no accounts here ({why}): a job that Slurm ends at once, for its memory say, is not noticed; "
            "metalearn status shows it as interrupted (dead)"
        )
        with _not_asked(submitit.SlurmJob.watcher):
            yield
    finally:
        log.setLevel(before)


def _no_accounting() -> str | None:
    """Why `sacct` does not answer; None where it does."""
    try:
        subprocess.run(["sacct", "-n", "-X", "-j", "1"], capture_output=True, text=True, timeout=60, check=True)
    except subprocess.CalledProcessError as error:
        return " ".join((error.stderr or "").split()) or f"sacct ended with {error.returncode}"
    except subprocess.TimeoutExpired:
        return "sacct does not answer"
    except OSError as error:
        return f"sacct: {error.strerror}"
    return None


@contextlib.contextmanager
def _not_asked(watcher: Any) -> Iterator[None]:
    """Has submitit's watcher make no call; it then takes a job as done when the job's result is there."""
    watcher._make_command = lambda: None
    try:
        yield
    finally:
        del watcher._make_command
