"""`train` and `sweep`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalearn.api.composing import errors_name_wishes, settings_composer, written
from metalearn.api.run import Run
from metalearn.errors import RunFailed, UserError
from metalearn.runs.directory import make_directory
from metalearn.status import Status

if TYPE_CHECKING:
    from metalearn.sweeps.directory import SweepDir


def train(*overrides: str, config_dir: str | None = None, plugins: tuple[str, ...] = (), **settings: Any) -> Run:
    """Trains and tests one run, as `metalearn train` does; the console shows the same.

    Args:
        overrides: as on the command line: `"train.steps=500"`.
        config_dir: a folder with YAML files of your own.
        plugins: packages of your own to trust (docs/extending.md).
        settings: top-level choices and settings: `algorithm="maml"`, `seed=1`; also `**{"train.lr": 0.1}`.

    Raises:
        UserError: a setting is wrong; nothing was written.
        RunFailed: the run failed, as its results.json says.
    """
    asked = [*overrides, *written(settings)]
    with settings_composer(asked, config_dir, plugins) as composing:
        config, default_dir = composing.job(asked, 0)
    from metalearn.runs.preflight import preflight
    from metalearn.runs.run import run

    with errors_name_wishes():
        preflight(config)
    named = any(override.startswith("hydra.run.dir=") for override in asked)
    run_dir = make_directory(Path(default_dir), named)
    with _logged(run_dir), _failures():
        run(config, run_dir)
    return Run(run_dir, config)


def sweep(
    *overrides: str, config_dir: str | None = None, plugins: tuple[str, ...] = (), **settings: Any
) -> list[dict[str, Any]]:
    """Runs what is missing of a sweep, as `metalearn train -m` does; returns the rows of its table, one for each job.

    A list or tuple of values is varied: `sweep(algorithm=["maml", "protonet"], seed=[0, 1, 2])`. Otherwise as `train`.

    Raises:
        UserError: a setting of the sweep or of a job is wrong, or the sweep is a search (`sweep.search`: use the command line).
    """
    from metalearn.sweeps.summary import report

    return report(run_sweep([*overrides, *written(settings, varied=True)], config_dir, plugins))


def run_sweep(asked: list[str], config_dir: str | None, plugins: tuple[str, ...]) -> SweepDir:
    """Runs what is missing of the sweep that the overrides ask for, without its table; raises what `sweep` raises."""
    from metalearn.runs.preflight import preflight
    from metalearn.sweeps.ask import asked_sweep, shared_config
    from metalearn.sweeps.directory import SweepDir
    from metalearn.sweeps.jobs import composed_jobs
    from metalearn.sweeps.launchers import runner

    with settings_composer(asked, config_dir, plugins) as composing:
        wanted = asked_sweep(composing, shared_config(composing, asked), asked, multirun=True)
        if wanted is None or wanted.search is not None:
            raise UserError("sweep.search draws its jobs: use `metalearn train` for it")
        jobs = composed_jobs(composing, wanted)
    directory = SweepDir(wanted.directory)
    directory.check(jobs)
    missing = [job.config for job in jobs if directory.status(job.name) != Status.DONE]
    with errors_name_wishes():
        for config in missing:
            preflight(config)
    run_jobs = runner(wanted)
    if not wanted.named:
        directory = SweepDir(make_directory(wanted.directory, named=False))
    directory.store(jobs, f"metalearn.sweep(sweep_name='{directory.path.name}', ...)")
    if missing:
        run_jobs(directory, [job.name for job in jobs])
    return directory


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What went wrong in a run, which the run has written down, as RunFailed."""
    try:
        yield
    except (UserError, RunFailed):
        raise
    except Exception as error:
        raise RunFailed(f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _logged(run_dir: Path) -> Iterator[None]:
    """Writes run.log and shows a run's lines; leaves the logging of the caller's own program as it is."""
    from metalearn.report.terminal import FileLog, handler

    log = logging.getLogger("metalearn")
    console, file, level = handler(), FileLog(str(run_dir / "run.log"), "utf-8"), log.level
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.setLevel(logging.INFO)
    log.addHandler(console)
    log.addHandler(file)
    try:
        yield
    finally:
        log.removeHandler(console)
        log.removeHandler(file)
        file.close()
        log.setLevel(level)
