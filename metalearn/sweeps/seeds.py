"""The runs that a user names for `metalearn reproduce --run`: single ones, or a sweep over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metalearn.errors import UserError
from metalearn.status import Status
from metalearn.sweeps.directory import SweepDir


def finished_runs(paths: Sequence[Path]) -> list[Path]:
    """The run directories that the paths name, each once; a sweep stands for its jobs that are done.

    Raises:
        UserError: no job of a sweep is done.
    """
    runs: dict[Path, None] = {}
    for path in (path.expanduser() for path in paths):
        if not (path / "sweep.json").is_file():
            runs[path] = None
            continue
        sweep = SweepDir(path)
        done = [name for name in sweep.choices() if sweep.status(name) == Status.DONE]
        if not done:
            raise UserError(f"'{path}' is a sweep of which no job is done")
        runs |= dict.fromkeys(sweep.run_dir(name) for name in done)
    return list(runs)


def common_sweep(paths: Sequence[Path]) -> Path | None:
    """The sweep whose runs these are, where the only path is one."""
    folders = {path.expanduser() for path in paths}
    return next(iter(folders)) if len(folders) == 1 and (next(iter(folders)) / "sweep.json").is_file() else None
