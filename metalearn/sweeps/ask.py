"""Which jobs a sweep has, from the command line and its file, and how Hydra's launchers get to run them."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from metalearn.compose.mistakes import several_values
from metalearn.config.files import slug
from metalearn.errors import UserError, nearest
from metalearn.report import terminal
from metalearn.runs import directory as files
from metalearn.status import Status
from metalearn.sweeps.directory import Job, SweepDir, unfinished
from metalearn.sweeps.job import run_job
from metalearn.sweeps.space import check_search, corners, trial_text
from metalearn.sweeps.summary import write_summary

if TYPE_CHECKING:
    from metalearn.compose.composer import Composer
    from metalearn.sweeps.slots import Slot

_SETTINGS = ("grid", "zip", "list", "seeds", "jobs", "jobs_per_gpu", "retry_failed", "search")
_OF_SWEEPS = ("sweep", "sweep_name", "hydra")  # settings that are not a run's
_PLAIN = re.compile(r"[A-Za-z_][\w./:@-]*")
_NOT_TEXT = ("null", "true", "false", "nan", "inf")


class Choice(NamedTuple):
    key: str
    value: Any
    override: str


class Sweep(NamedTuple):
    """What a command asks for, before any job is composed."""

    directory: Path
    sweep_name: str
    named: bool  # by the user, who may have been there before; else it is a new directory
    jobs: list[list[Choice]]
    fixed: list[str]  # the overrides that all jobs share
    settings: dict[str, Any]  # the configuration's `sweep`
    base: DictConfig  # the configuration of the whole, as Hydra's launchers want it
    search: dict[str, Any] | None  # the configuration's `sweep.search`, where that draws the jobs


def shared_config(composing: Composer, overrides: list[str]) -> DictConfig:
    """What the command line composes to, several values still together: the settings of the sweep and of its launcher stand in it."""
    return composing.compose(overrides, RunMode.MULTIRUN, sweeps=True)


def asked_sweep(base: DictConfig, overrides: list[str], multirun: bool) -> Sweep | None:
    """The sweep that a command asks for, `base` being its shared_config; None where it asks for a single run.

    It is the product of its parts: `sweep.list`, `sweep.zip`, `sweep.grid`, what the command line gives several values, seeds.
    """
    plain: Any = OmegaConf.to_container(base.sweep, resolve=False)
    for key in plain:
        if key not in _SETTINGS:
            raise UserError(f"no setting 'sweep.{key}'{nearest(key, _SETTINGS)}")
    parsed = OverridesParser.create().parse_overrides(overrides)
    varied = [override for override in parsed if override.is_sweep_override()]
    of_file = any(plain[part] for part in ("grid", "zip", "list", "seeds"))
    searched = bool((plain["search"] or {}).get("space"))
    if not (searched or multirun or of_file or base.hydra.mode == RunMode.MULTIRUN):
        if varied:
            raise UserError(several_values(_text(varied[0])))
        return None
    for override in varied:
        if override.is_hydra_override():
            raise UserError(several_values(_text(override)))
        if override.key_or_group.partition(".")[0] in ("sweep", "sweep_name"):
            raise UserError(f"'{_text(override)}': a sweep's own settings take one value")
    if any(override.key_or_group == "hydra.sweep.subdir" for override in parsed):
        raise UserError("hydra.sweep.subdir: the jobs of a sweep are named by what varies")
    given = {override.key_or_group: _text(override) for override in parsed}
    parts = [
        *_parts_of_file(plain),
        *_params(base, given),
        *([[choice] for choice in _choices(override)] for override in varied),
        *_seeds(plain["seeds"]),
    ]
    fixed = {override.key_or_group for override in parsed if not override.is_sweep_override()}
    _refuse_twice(parts, fixed)
    if searched:
        _check_alone(base, plain, parts)
        check_search(plain["search"], fixed)
    return Sweep(
        directory=Path(_resolved(base, "hydra.sweep.dir")),
        sweep_name=_resolved(base, "sweep_name"),
        named="${now:" not in str(OmegaConf.to_container(base, resolve=False)["sweep_name"])  # type: ignore[call-overload, index]
        or "hydra.sweep.dir" in given,
        jobs=[list(itertools.chain(*job)) for job in itertools.product(*parts)],
        fixed=[_text(override) for override in parsed if not override.is_sweep_override()],
        settings=plain,
        base=base,
        search=plain["search"] if searched else None,
    )


def left_to_hydra(base: DictConfig, overrides: list[str], multirun: bool) -> list[str] | None:
    """The overrides that all jobs share, where a plugin of Hydra's chooses the rest (hydra/sweeper=...); else None."""
    of_plugin = not base.hydra.sweeper._target_.endswith(".BasicSweeper")
    if not (of_plugin and (multirun or base.hydra.mode == RunMode.MULTIRUN)):
        return None
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [_text(override) for override in parsed if not override.is_sweep_override()]


def composed_jobs(composing: Composer, asked: Sweep) -> list[Job]:
    """Every job of the sweep with its checked configuration."""
    jobs: dict[str, Job] = {}
    name_override = override_text("sweep_name", asked.sweep_name)
    for number, choices in enumerate(asked.jobs):
        own = [choice.override for choice in choices]
        config, _ = composing.job([*asked.fixed, *own, name_override], number)
        name = job_name(choices)
        if name in jobs:
            raise UserError(f"the sweep has two jobs {' '.join(own) or name}")
        jobs[name] = Job(name, {choice.key: choice.value for choice in choices}, config)
    return list(jobs.values())


def corner_configs(composing: Composer, asked: Sweep) -> list[dict[str, Any]]:
    """Checked configurations at the corners of a search's space."""
    assert asked.search is not None
    return [trial_job(composing, asked, 0, values).config for values in corners(asked.search["space"])]


def trial_job(composing: Composer, asked: Sweep, number: int, values: dict[str, Any]) -> Job:
    """The job of a search's trial with its checked configuration."""
    own = [override_text(key, value) for key, value in values.items()]
    config, _ = composing.job([*asked.fixed, *own, override_text("sweep_name", asked.sweep_name)], number)
    return Job(slug(trial_text(number, values)), values, config)


def single_run(asked: Sweep, flags: list[str], values: dict[str, Any]) -> list[str]:
    """The arguments of `metalearn train` that train a search's trial again, alone."""
    parsed = OverridesParser.create().parse_overrides(asked.fixed)
    own = [_text(override) for override in parsed if override.key_or_group.partition(".")[0] not in _OF_SWEEPS]
    by_file = any(override.key_or_group == "sweep" for override in parsed)
    # Where the search is not of a file that is now left out, it may be an experiment's.
    space = [] if by_file else ["sweep.search.space=null"]
    drawn = [override_text(key, value) for key, value in values.items()]
    return [*(flag for flag in flags if flag not in ("-m", "--multirun")), *own, *space, *drawn]


def places(settings: dict[str, Any]) -> list[Slot]:
    """Where jobs are run on this machine."""
    from metalearn.sweeps.slots import slots, visible_gpus

    jobs = None if settings["jobs"] == "auto" else settings["jobs"]
    return slots(jobs, settings["jobs_per_gpu"], visible_gpus())


def runner(asked: Sweep) -> Callable[[SweepDir, list[str]], None]:
    """What runs the jobs: Hydra's launcher where one was chosen, else this machine."""
    settings = asked.settings
    retry = bool(settings["retry_failed"])
    if not str(asked.base.hydra.launcher._target_).endswith(".BasicLauncher"):
        return lambda sweep, names: _launch(asked.base, sweep, unfinished(sweep, names, retry))
    from metalearn.sweeps.pool import run_jobs

    slots = places(settings)
    return lambda sweep, names: run_jobs(sweep, names, slots, retry)


def job_name(choices: list[Choice]) -> str:
    """A directory's name that says what varies: `algorithm=maml-seed=0`; long or strange ones end in a hash."""
    return slug("-".join(f"{choice.key}={_shown(choice.value)}" for choice in choices))


def override_text(key: str, value: Any) -> str:
    """`key=value` as the command line takes it."""
    return f"{key}={_written(value)}"


def _parts_of_file(plain: dict[str, Any]) -> Iterator[list[list[Choice]]]:
    """Of each part of a sweep's file: its alternatives, each a list of choices."""
    if plain["list"]:
        if not isinstance(plain["list"], list) or not all(isinstance(one, dict) and one for one in plain["list"]):
            raise UserError("sweep.list is a list of combinations, each of them a mapping from settings to values")
        yield [[_choice(key, value) for key, value in one.items()] for one in plain["list"]]
    for name in ("zip", "grid"):
        for key, values in _axes(plain, name).items():
            if not isinstance(values, list) or not values:
                raise UserError(f"sweep.{name}: {key} needs a list of values")
    if zipped := _axes(plain, "zip"):
        lengths = {key: len(values) for key, values in zipped.items()}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            raise UserError(f"sweep.zip pairs lists of one length, but {counts}")
        rows = zip(*zipped.values(), strict=True)
        yield [[_choice(key, value) for key, value in zip(zipped, row, strict=True)] for row in rows]
    for key, values in _axes(plain, "grid").items():
        yield [[_choice(key, value)] for value in values]


def _axes(plain: dict[str, Any], name: str) -> dict[str, Any]:
    axes = plain[name] or {}
    if not isinstance(axes, dict):
        raise UserError(f"sweep.{name} is a mapping from settings to lists of values")
    return axes


def _params(base: DictConfig, given: dict[str, str]) -> Iterator[list[list[Choice]]]:
    """Of hydra.sweeper.params, Hydra's own way to put a sweep into a file; the command line wins."""
    params = [f"{key}={value}" for key, value in (base.hydra.sweeper.get("params") or {}).items() if key not in given]
    for override in OverridesParser.create().parse_overrides(params):
        yield [[choice] for choice in _choices(override)]


def _seeds(seeds: Any) -> Iterator[list[list[Choice]]]:
    """Innermost, so that the seeds of one setting are run one after the other."""
    if isinstance(seeds, int | list):  # anything else is refused with the jobs' other settings
        yield [[_choice("seed", seed)] for seed in (range(seeds) if isinstance(seeds, int) else seeds)]


def _refuse_twice(parts: list[list[list[Choice]]], fixed: set[str]) -> None:
    seen: set[str] = set()
    for part in parts:
        keys = {choice.key for alternative in part for choice in alternative}
        if again := sorted(keys & seen):
            raise UserError(f"{again[0]} is varied twice in this sweep")
        if again := sorted(keys & fixed):
            raise UserError(f"{again[0]} is varied by the sweep and set on the command line as well")
        seen |= keys


def _check_alone(base: DictConfig, plain: dict[str, Any], parts: list[list[list[Choice]]]) -> None:
    """A search draws its jobs, one after the other, from what the earlier ones came to."""
    if parts:
        raise UserError(f"sweep.search draws all jobs: {parts[0][0][0].key} cannot be varied beside it")
    if plain["retry_failed"]:
        raise UserError("sweep.retry_failed: a search draws other trials instead (sweep.search.trials)")
    if not str(base.hydra.launcher._target_).endswith(".BasicLauncher"):
        raise UserError("sweep.search runs on this machine: it takes sweep.jobs, and no hydra/launcher")


def _choice(key: str, value: Any) -> Choice:
    return Choice(key.lstrip("+"), value, override_text(key, value))


def _choices(override: Override) -> list[Choice]:
    """Of `key=a,b`, or of `key=a`."""
    if not override.is_sweep_override():
        return [Choice(override.key_or_group, override.value(), _text(override))]
    if not override.is_discrete_sweep():
        raise UserError(f"'{_text(override)}': a sweep takes a list of values, choice(...) or range(...)")
    texts = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    singles = OverridesParser.create().parse_overrides(texts)
    return [Choice(override.key_or_group, single.value(), text) for single, text in zip(singles, texts, strict=True)]


def _text(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def _written(value: Any) -> str:
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
            return value
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(_written(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_written(item)}' for key, item in value.items())}}}"
    return json.dumps(value)


def _resolved(base: DictConfig, key: str) -> str:
    HydraConfig.instance().set_config(base)
    return str(OmegaConf.select(base, key))


# --- Hydra's launchers ------------------------------------------------------------------------------------------------


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
