"""Where the jobs of a sweep are run: on this machine, or by one of Hydra's launchers, whose workers enter at `stored_job`."""

from __future__ import annotations

import copy
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from metalearn.report import terminal
from metalearn.runs import directory as files
from metalearn.status import Status
from metalearn.sweeps.ask import Sweep, is_on_this_machine
from metalearn.sweeps.directory import SweepDir, unfinished
from metalearn.sweeps.job import run_job
from metalearn.sweeps.slots import Slot
from metalearn.sweeps.slurm import quiet_submitit
from metalearn.sweeps.status import Watcher
from metalearn.sweeps.summary import write_summary
from metalearn.sweeps.view import SweepView


def places(settings: dict[str, Any]) -> list[Slot]:
    """Where jobs are run on this machine."""
    from metalearn.sweeps.slots import slots, visible_gpus

    jobs = None if settings["jobs"] == "auto" else settings["jobs"]
    return slots(jobs, settings["jobs_per_gpu"], visible_gpus())


def runner(asked: Sweep) -> Callable[[SweepDir, list[str]], None]:
    """What runs the jobs: Hydra's launcher where one was chosen, else this machine."""
    settings = asked.settings
    retry = bool(settings["retry_failed"])
    if not is_on_this_machine(asked.base):
        return lambda sweep, names: _launch(asked.base, sweep, unfinished(sweep, names, retry))
    from metalearn.sweeps.pool import run_jobs

    slots = places(settings)
    return lambda sweep, names: run_jobs(sweep, names, slots, retry)


def _launch(base: DictConfig, sweep: SweepDir, names: list[str]) -> None:
    """Hands the named jobs to the chosen launcher, and returns when it says that they have ended."""
    if not names:
        return
    config = copy.deepcopy(base)
    with read_write(config.hydra):
        config.hydra.sweep.dir = str(sweep.path.resolve()).replace("${", "\\${")
    HydraConfig.instance().set_config(config)
    context = HydraContext(config_loader=_StoredJobs(), callbacks=Callbacks())  # type: ignore[arg-type]  # one method is all they use
    launcher = Plugins.instance().instantiate_launcher(context, stored_job, config)
    try:
        with ExitStack() as stack:
            if find_spec("submitit") and "Slurm" in type(launcher).__name__:
                stack.enter_context(quiet_submitit())
            stack.enter_context(SweepView(Watcher(sweep, names), tells=True))
            launcher.launch([[name] for name in names], initial_job_idx=0)
    except Exception as error:  # a job's own failure stands in its results.json; this is about the engine
        details = sweep.path / "launcher.error"
        files.write_text(details, traceback.format_exc())
        terminal.error_line(f"hydra/launcher: {type(error).__name__}: {error} ({details})")


class _StoredJobs:
    """In place of Hydra's ConfigLoader, which would compose a job anew where it starts, from files that may have changed."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        (name,) = sweep_overrides
        config: DictConfig = OmegaConf.create({"job": name})
        config.hydra = copy.deepcopy(master_config.hydra)
        OmegaConf.set_readonly(config.hydra, None)  # the launcher fills in more
        config.hydra.sweep.subdir = name
        config.hydra.overrides.task = [name]
        return config


def stored_job(cfg: DictConfig) -> None:
    """What a launcher calls, somewhere: the job `cfg.job` of the sweep whose directory Hydra's configuration names."""
    sweep = SweepDir(Path(HydraConfig.get().runtime.output_dir).parent)
    with sweep.lock(cfg.job) as mine:
        if mine and sweep.status(cfg.job) != Status.DONE:  # else another runner was quicker
            with _saved_before_requeue():
                run_job(sweep, cfg.job)
    write_summary(sweep)


@contextmanager
def _saved_before_requeue() -> Iterator[None]:
    """Submitit has a signal, before a time limit or a preemption, upon which it has Slurm requeue the job and ends the process at once.

    Here the run saves first, as for SIGTERM, and is then requeued: it continues in the same directory.
    """
    number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
    requeue = signal.getsignal(number)
    if not callable(requeue):
        yield
        return
    warned: list[tuple[int, FrameType | None]] = []

    def save(received: int, frame: FrameType | None) -> None:
        warned.append((received, frame))
        signal.raise_signal(signal.SIGTERM)

    signal.signal(number, save)
    try:
        yield
    except BaseException:
        if warned:
            requeue(*warned[0])
        raise
    finally:
        signal.signal(number, requeue)
