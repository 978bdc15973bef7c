"""The command line: `metalearn COMMAND ...`. The only module that knows Hydra's command line.

Nothing slow is imported before a command needs it, so that `metalearn --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from metalearn import __version__
from metalearn.cli import help as cli_help
from metalearn.errors import Interrupted, RunFailed, UserError, nearest, one_line
from metalearn.status import Status

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from metalearn.sweeps.ask import Sweep
    from metalearn.sweeps.directory import Job, SweepDir

if "omegaconf" in sys.modules:
    # A launcher's worker process imports this module to find `job`, and before it calls `job` it resolves the name of
    # the job's directory: for that it needs the resolver that the composer registers.
    import metalearn.compose.composer  # noqa: F401


DEBUG = "METALEARN_DEBUG"  # environment variable


class Command(NamedTuple):
    summary: str
    run: Callable[[list[str]], None]
    help: Callable[[], str]


def main(argv: list[str] | None = None) -> None:
    """Runs one command; leaves through SystemExit with 1 (a run failed), 2 (wrong input), 130 (interrupted) or 143 (terminated)."""
    argv = sys.argv[1:] if argv is None else argv
    if "--debug" in argv:
        argv = [word for word in argv if word != "--debug"]
        os.environ[DEBUG] = "1"  # the processes that this one starts read it too
    try:
        _dispatch(_without_plugins(argv))
        sys.stdout.flush()
    except UserError as error:
        _traceback_for_debugging()
        print(f"metalearn: error: {_with_origins(one_line(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except RunFailed:
        _traceback_for_debugging()
        raise SystemExit(1) from None
    except Interrupted as error:
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this, Python complains once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _without_plugins(argv: list[str]) -> list[str]:
    """Trusts what `--plugins A,B` names; returns the other words."""
    rest, words = [], iter(argv)
    for word in words:
        flag, _, names = word.partition("=")
        if flag != "--plugins":
            rest.append(word)
            continue
        names = names or next(words, "")
        if not names:
            raise UserError("--plugins needs the name of a package")
        from metalearn.config.plugins import trust

        trust([name for name in names.split(",") if name])
    return rest


def _with_plugins(command: list[str]) -> str:
    """The command as the user would type it again, with the plug-ins that were trusted."""
    from metalearn.config.plugins import trusted_by_command

    flags = ["--plugins", ",".join(names)] if (names := trusted_by_command()) else []
    return shlex.join([*command, *flags])


def _with_origins(message: str) -> str:
    """Says of settings that were preferred by a choice which choice it was."""
    wishes = sys.modules.get("metalearn.compose.wishes")  # where nothing was composed there are none
    return wishes.with_origins(message) if wishes else message


def _traceback_for_debugging() -> None:
    """Prints the traceback of the exception in flight, and of its cause, where --debug or METALEARN_DEBUG asks for it."""
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exc()


def _dispatch(argv: list[str]) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing and exiting
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help"):
        print(cli_help.main_help({name: entry.summary for name, entry in COMMANDS.items()}))
    elif "--version" in argv:
        print(f"metalearn {__version__}")
    elif command in ("-sc", "--shell-completion"):
        cli_help.shell_completion(argv[1:], list(COMMANDS), _call_hydra)
    elif command not in COMMANDS:
        hint = f"; did you mean 'metalearn train {command}'?" if "=" in command else nearest(command, COMMANDS)
        raise UserError(f"no command named '{command}'{hint} (available: {', '.join(COMMANDS)})")
    elif "-h" in argv or "--help" in argv:
        print(COMMANDS[command].help())
    else:
        COMMANDS[command].run(argv[1:])


# --- train ------------------------------------------------------------------------------------------------------------


def train(argv: list[str]) -> None:
    """One run, or a sweep."""
    args = _parse(argv)
    # Hydra's own parser does not take flags between overrides.
    flags = [word for word in argv if word not in args.overrides]
    if args.resume is not None:
        _resume(args)
    elif args.cfg or args.info or args.hydra_help:
        from metalearn.compose.composer import explained

        with explained(args.overrides, args.config_dir, args.config_name):
            _call_hydra([*flags, *args.overrides])
    else:
        _train(flags, args, argv)


def _train(flags: list[str], args: argparse.Namespace, argv: list[str]) -> Path | None:
    """Composes and checks every job before anything is written, then runs them; returns a single run's directory."""
    from metalearn.compose.composer import composer, explained
    from metalearn.sweeps.ask import asked_sweep, composed_jobs, corner_configs, left_to_hydra, shared_config, trial_job

    where = (args.config_dir, args.config_name)
    with explained(args.overrides, *where), composer(*where) as composing:
        base = shared_config(composing, args.overrides)
        of_hydra = left_to_hydra(base, args.overrides, args.multirun)
        asked = None if of_hydra is not None else asked_sweep(base, args.overrides, args.multirun)
        if asked is not None and asked.search is not None:
            wished = corner_configs(composing, asked)
        elif asked is not None:
            jobs = composed_jobs(composing, asked)
        else:
            plain, default_dir = composing.job(args.overrides if of_hydra is None else of_hydra, 0)
    if asked is not None and asked.search is not None:

        def make(number: int, values: dict[str, Any]) -> Job:
            with explained(args.overrides, *where), composer(*where) as again:
                return trial_job(again, asked, number, values)

        _search(asked, wished, make, flags, argv)
        return None
    if asked is not None:
        if "WORLD_SIZE" in os.environ and os.environ["WORLD_SIZE"] != "1":
            raise UserError("torchrun starts the processes of one run: a sweep's jobs want a torchrun each")
        _sweep(asked, jobs, argv)
        return None
    _preflight([plain])
    if not _is_first_rank():  # one of torchrun's processes: it writes nothing, so it has no directory
        from metalearn.runs.run import run

        run(plain, Path(default_dir))
        return None
    hydra_argv, run_dir = [*flags, *args.overrides], None
    if of_hydra is None:
        named = any(override.startswith("hydra.run.dir=") for override in args.overrides)
        run_dir = _make_run_dir(Path(default_dir), named)
        hydra_argv.append(_run_dir_override(run_dir))
    with explained(args.overrides, *where), contextlib.redirect_stderr(_WithoutHydrasEpitaph(sys.stderr)):
        _call_hydra(hydra_argv)
    return run_dir


def _is_first_rank() -> bool:
    from metalearn.engine.ranks import launched

    return launched().first


def _resume(args: argparse.Namespace) -> None:
    """Goes on with a run under its own configuration."""
    if args.multirun or args.cfg or args.info or args.hydra_help:
        raise UserError("--resume goes on with one run: it takes train.steps=... and the like, and --config-dir")
    from metalearn.compose.composer import composer, explained
    from metalearn.runs.directory import is_done, read_results

    run_dir = Path(args.resume)
    saved = _saved_config(run_dir)
    with explained(args.overrides, args.config_dir, None), composer(args.config_dir) as composing:
        config = composing.resumption(saved, args.overrides, f"'{run_dir}'")
    if is_done(run_dir) and read_results(run_dir)["train"]["steps"] == config["train"]["steps"]:
        return print(f"'{run_dir}' is done: nothing is left to do (metalearn eval tests it again)")
    _preflight([config])
    from metalearn.runs.run import run

    if _is_first_rank():
        _log_to(run_dir)
    results_before = _modified(run_dir / "results.json")
    try:
        run(config, run_dir, resume=True)
    except Exception as error:
        if _has_said_so(error, run_dir, results_before):
            raise RunFailed(f"{type(error).__name__}: {error}") from error
        raise


def _log_to(run_dir: Path) -> None:
    """Logs as Hydra would for a run in this directory."""
    import logging.config

    import yaml

    from metalearn.config.files import conf_dir

    settings = yaml.safe_load((conf_dir() / "hydra/job_logging/metalearn.yaml").read_text(encoding="utf-8"))
    settings["handlers"]["file"]["filename"] = str(run_dir / "run.log")
    logging.config.dictConfig(settings)


def _sweep(asked: Sweep, jobs: list[Job], argv: list[str]) -> None:
    """Stores the jobs and runs those that are missing."""
    from metalearn.report import terminal
    from metalearn.sweeps import ask as cli_sweep
    from metalearn.sweeps.directory import SweepDir

    sweep = SweepDir(asked.directory)
    sweep.check(jobs)
    missing = [job.config for job in jobs if sweep.status(job.name) != Status.DONE]
    if missing:
        _preflight(missing)
        runner = cli_sweep.runner(asked)
    sweep, command = _named(asked, argv)
    sweep.store(jobs, command)
    names = [job.name for job in jobs]
    done = [sweep.status(name) for name in names].count(Status.DONE)
    terminal.say(f"sweep directory: {sweep.path}; {len(names)} jobs, {done} of them done")
    rows = _reported(sweep, command, lambda: runner(sweep, names) if missing else None)
    if any(row["status"] != Status.DONE for row in rows if row["job"] in names):
        retry = "" if asked.settings["retry_failed"] else "; with sweep.retry_failed=true to run failed jobs once more"
        terminal.error_line(f"not all jobs are done; the same command runs what is missing{retry}: {command}")
        raise RunFailed


def _search(
    asked: Sweep,
    corners: list[dict[str, Any]],
    make: Callable[[int, dict[str, Any]], Job],
    flags: list[str],
    argv: list[str],
) -> None:
    """Draws and runs the trials that are missing."""
    from metalearn.report import terminal
    from metalearn.sweeps import ask as cli_sweep
    from metalearn.sweeps.directory import SweepDir
    from metalearn.sweeps.pool import run_queue
    from metalearn.sweeps.search import Trials, kept, optuna

    assert asked.search is not None
    optuna()
    SweepDir(asked.directory).check([], kept(asked.search))
    _preflight(corners)
    slots = cli_sweep.places(asked.settings)
    sweep, command = _named(asked, argv)
    sweep.store([], command, kept(asked.search))
    trials = Trials(sweep, asked.search, make)
    terminal.say(f"sweep directory: {sweep.path}; {len(trials)} of {asked.search['trials']} trials are left")

    def go() -> None:
        try:
            run_queue(sweep, trials, slots)
        finally:
            trials.close()

    rows = _reported(sweep, command, go)
    if rows and rows[0]["status"] == Status.DONE:
        best = cli_sweep.single_run(asked, flags, rows[0]["choices"])
        terminal.say(f"best: {rows[0]['job']}; to train it again: {_with_plugins(['metalearn', 'train', *best])}")
    if any(row["status"] not in (Status.DONE, Status.PRUNED, Status.DIVERGED) for row in rows):
        terminal.error_line(
            f"not all trials have an outcome; the same command goes on with what was interrupted: {command}"
        )
        raise RunFailed


def _named(asked: Sweep, argv: list[str]) -> tuple[SweepDir, str]:
    """The sweep's directory, a new one where the user named none, and the command that goes on with it."""
    from metalearn.sweeps.directory import SweepDir

    command = _with_plugins(["metalearn", "train", *argv])
    if asked.named:
        return SweepDir(asked.directory), command
    sweep = SweepDir(_make_run_dir(asked.directory, named=False))
    return sweep, f"{command} sweep_name={sweep.path.name}"


def _reported(sweep: SweepDir, command: str, go: Callable[[], None]) -> list[dict[str, Any]]:
    """Runs jobs and reports, whatever happens meanwhile; returns the rows of the table."""
    from metalearn.report import terminal
    from metalearn.sweeps.summary import report

    try:
        go()
    except BaseException as error:
        if not isinstance(error, UserError):
            report(sweep)
            terminal.error_line(f"to go on: {command}")
        raise
    return report(sweep)


def job(cfg: DictConfig) -> dict[str, Any]:
    """One run, in the directory that Hydra made for it; what launchers call, perhaps in another process."""
    from hydra.core.hydra_config import HydraConfig

    from metalearn.compose.composer import without_what_is_no_runs
    from metalearn.runs.run import run

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    results_before = _modified(run_dir / "results.json")
    try:
        return run(without_what_is_no_runs(cfg), run_dir)
    except (Exception, SystemExit) as error:
        if _has_said_so(error, run_dir, results_before):
            raise RunFailed(f"{type(error).__name__}: {error}") from error
        # Of a sweep's failures Hydra tells the first alone.
        logging.getLogger("metalearn").error("%s: failed", run_dir, exc_info=error)
        if isinstance(error, SystemExit):  # would end the whole sweep
            raise RuntimeError(f"the run called sys.exit({error.code})") from error
        raise


def _has_said_so(error: BaseException, run_dir: Path, results_before: int | None) -> bool:
    """Whether the run has said itself what went wrong: it writes results.json after that, or raises RunFailed where it cannot."""
    return isinstance(error, RunFailed) or _modified(run_dir / "results.json") not in (None, results_before)


def _modified(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _preflight(configs: list[dict[str, Any]]) -> None:
    from metalearn.runs.run import preflight

    for config in configs:
        preflight(config)


def _make_run_dir(path: Path, named: bool) -> Path:
    """Makes a directory that no other run has; a name that nobody asked for gets -1, -2, ... where it is taken.

    Hydra itself would write into whatever is there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for candidate in itertools.chain([path], (path.with_name(f"{path.name}-{n}") for n in itertools.count(1))):
            try:
                candidate.mkdir()
            except FileExistsError:
                if named and (not path.is_dir() or any(path.iterdir())):
                    raise UserError(f"the run directory '{path}' exists already") from None
                if not named:
                    continue
            return candidate
    except OSError as error:
        raise UserError(f"the run directory '{path}' cannot be made: {error.strerror}") from error
    raise AssertionError("itertools.count ended")


def _run_dir_override(path: Path) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    # `${` in a directory's name must not be taken for an interpolation.
    return f"hydra.run.dir={QuotedString(str(path).replace('${', chr(92) + '${'), Quote.single).with_quotes()}"


class _WithoutHydrasEpitaph:
    """stderr without "Error executing job with overrides: ...", which Hydra adds to what the run has said."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith("Error executing job with overrides") else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# --- eval -------------------------------------------------------------------------------------------------------------


def evaluate(argv: list[str]) -> None:
    """Evaluates a finished run under its own configuration, changed by overrides."""
    args = _parse(argv)
    if args.multirun or args.cfg or args.info or args.resume is not None:
        raise UserError("eval takes a run directory, overrides and --config-dir only")
    if not args.overrides:
        raise UserError("eval needs a run directory: metalearn eval RUN_DIR [key=value ...]")
    run_dir, overrides = Path(args.overrides[0]), args.overrides[1:]
    from metalearn.compose.composer import composer, explained

    with explained(overrides, args.config_dir, None), composer(args.config_dir) as composing:
        config = composing.evaluation(_saved_config(run_dir), overrides)
    from metalearn.runs.evaluation import evaluate_run

    evaluate_run(run_dir, config, overrides)


def _saved_config(run_dir: Path) -> DictConfig:
    from omegaconf import OmegaConf

    path = run_dir / "config.yaml"
    if not path.is_file():
        below = sorted(run_dir.rglob("config.yaml"), key=lambda file: file.stat().st_mtime)
        hint = f"; the newest run below it is {below[-1].parent}" if below else ""
        raise UserError(f"'{run_dir}' {'has no config.yaml' if run_dir.is_dir() else 'is no directory'}{hint}")
    from metalearn.config.tree import leaves
    from metalearn.runs.directory import read_config

    plain = read_config(run_dir)
    # Written resolved; what a stranger put there must not be looked up in this user's environment.
    for key, value in leaves(plain):
        if "${" in str(value):
            raise UserError(f"{path}: {key} is not a value but an interpolation")
    return OmegaConf.create(plain)


# --- reproduce --------------------------------------------------------------------------------------------------------


def reproduce(argv: list[str]) -> None:
    """Trains an experiment, or takes a finished run of it, and compares it with the paper that the experiment names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run", metavar="RUN_DIR")
    parser.add_argument("--config-dir")
    parser.add_argument("overrides", nargs="*")
    args = _parsed(parser, argv)
    if not args.overrides or "=" in args.overrides[0]:
        raise UserError("reproduce needs an experiment: metalearn reproduce EXPERIMENT [key=value ...]")
    overrides = args.overrides[1:]
    args.overrides[0] = f"experiment={args.overrides[0]}"
    from metalearn.compose.composer import composer, explained
    from metalearn.runs.directory import read_config
    from metalearn.runs.reference import read_reference
    from metalearn.runs.reproduce import evaluation_modes, reproduce_run
    from metalearn.sweeps.ask import asked_sweep, shared_config

    with explained(args.overrides, args.config_dir, None), composer(args.config_dir) as composing:
        protocol, _ = composing.job(args.overrides[:1], 0)
        reference = read_reference(protocol, [Path(args.config_dir)] if args.config_dir else [])
        if args.run is not None:
            run_dir = Path(args.run)
            config = composing.evaluation(_saved_config(run_dir), overrides)
        elif asked_sweep(shared_config(composing, args.overrides), args.overrides, False) is not None:
            raise UserError(f"reproduce trains one run, {args.overrides[0]} is a sweep")
        else:
            wished, _ = composing.job(args.overrides, 0)
    if args.run is None:
        # Not after hours of training: a row may ask for an evaluation that the model does not allow.
        _preflight(evaluation_modes(reference, wished))
        args.config_name, args.multirun = None, False
        trained = _train(["--config-dir", args.config_dir] if args.config_dir else [], args, argv)
        if trained is None:  # one of torchrun's further processes: the first one compares
            return
        run_dir, config = trained, read_config(trained)
    reproduce_run(run_dir, protocol, reference, config, overrides, again=args.run is not None and bool(overrides))


# --- bench ------------------------------------------------------------------------------------------------------------


def bench(argv: list[str]) -> None:
    """Measures what the program costs, beside learn2learn where that does the same."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--threads", type=_positive)
    parser.add_argument("--rounds", type=_positive)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--run", type=Path, action="append", default=[])
    parser.add_argument("--train", action="append", default=[])
    args = _parsed(parser, argv)
    from metalearn.bench import check_names

    check_names(args.names)
    from metalearn.bench.command import run
    from metalearn.compose.composer import composer, explained

    def compose(*overrides: str) -> dict[str, Any]:
        with explained(list(overrides), None, None), composer() as composing:
            return composing.job(list(overrides), 0)[0]

    run(
        args.names,
        compose,
        json_file=args.json,
        against=args.against,
        threads=args.threads,
        rounds=args.rounds,
        quick=args.quick,
        device=args.device,
        runs=tuple(args.run),
        train=tuple(args.train),
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not allowed (int >= 1)")
    return int(text)


# --- Hydra's command line ---------------------------------------------------------------------------------------------


def _parse(argv: list[str]) -> argparse.Namespace:
    """Hydra's flags and the overrides, in any order."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.add_argument("--resume", metavar="RUN_DIR")
    args = _parsed(parser, argv)
    if args.config_path or args.experimental_rerun:
        raise UserError(
            "--config-path and --experimental-rerun are not supported; --config-dir DIR adds your own files"
        )
    if sum([args.run, args.multirun, bool(args.cfg), bool(args.info)]) > 1:
        raise UserError("only one of --run, --multirun, --cfg and --info can be given")
    if args.resolve and not args.cfg:
        raise UserError("--resolve goes with --cfg")
    return args


def _parsed(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    parser.exit_on_error = False
    try:
        args, unknown = parser.parse_known_intermixed_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    flags = [flag for action in parser._actions for flag in action.option_strings]
    if unknown:
        raise UserError(f"no flag named '{unknown[0]}'{nearest(unknown[0], flags)}")
    return args


def _call_hydra(argv: list[str]) -> None:
    import hydra

    import metalearn.compose.composer  # noqa: F401  # makes Hydra grant wishes and find plug-ins' files
    from metalearn.config.files import conf_dir

    sys.argv = ["metalearn", *argv]
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(job)()


COMMANDS = {
    "train": Command("train a learner, test it, write a run directory", train, cli_help.train_help),
    "eval": Command("test a finished run again, under other conditions", evaluate, cli_help.eval_help),
    "reproduce": Command("train as a paper did, compare with its numbers", reproduce, cli_help.reproduce_help),
    "bench": Command("measure speed and memory beside learn2learn", bench, cli_help.bench_help),
}
