"""The command line: `metalearn COMMAND ...`. The only module that knows Hydra's command line.

Nothing slow is imported before a command needs it, so that `metalearn --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from metalearn import __version__
from metalearn.errors import UserError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

if "omegaconf" in sys.modules:
    # A launcher's worker process imports this module to find `job`, and before it calls `job` it resolves the name of
    # the job's directory: for that it needs the resolver that config registers.
    import metalearn.config  # noqa: F401


class RunFailed(RuntimeError):
    """A run failed and has said so itself: on the console, in run.log and in results.json."""


class Command(NamedTuple):
    summary: str
    run: Callable[[list[str]], None]
    help: Callable[[], str]


def main(argv: list[str] | None = None) -> None:
    """Runs one command; leaves through SystemExit with 1 (a run failed), 2 (wrong input) or 130 (interrupted)."""
    try:
        _dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"metalearn: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except RunFailed:
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this, Python complains once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _dispatch(argv: list[str]) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing and exiting
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help"):
        print(_main_help())
    elif "--version" in argv:
        print(f"metalearn {__version__}")
    elif command in ("-sc", "--shell-completion"):
        _shell_completion(argv[1:])
    elif command not in COMMANDS:
        hint = f"; did you mean 'metalearn train {command}'?" if "=" in command else nearest(command, COMMANDS)
        raise UserError(f"no command named '{command}'{hint} (available: {', '.join(COMMANDS)})")
    elif "-h" in argv or "--help" in argv:
        print(COMMANDS[command].help())
    else:
        COMMANDS[command].run(argv[1:])


# --- train ------------------------------------------------------------------------------------------------------------


def train(argv: list[str]) -> None:
    """Composes and checks every job before anything is written, then hands over to Hydra."""
    args = _parse(argv)
    from metalearn.cli_compose import composer, explained

    # Hydra's own parser does not take flags between overrides.
    hydra_argv = [word for word in argv if word not in args.overrides] + args.overrides
    where = (args.config_dir, args.config_name)
    if args.cfg or args.info or args.hydra_help:
        with explained(args.overrides, *where):
            _call_hydra(hydra_argv)
        return
    with explained(args.overrides, *where), composer(*where) as composing:
        jobs = composing.split_jobs(args.overrides, args.multirun)
        composed = [composing.job(job, number) for number, job in enumerate([args.overrides] if jobs is None else jobs)]
    _preflight([plain for plain, _ in composed])
    if jobs is None:
        named = any(override.startswith("hydra.run.dir=") for override in args.overrides)
        hydra_argv.append(_run_dir_override(_make_run_dir(Path(composed[0][1]), named)))
    with explained(args.overrides, *where), contextlib.redirect_stderr(_WithoutHydrasEpitaph(sys.stderr)):
        _call_hydra(hydra_argv)


def job(cfg: DictConfig) -> dict[str, Any]:
    """One run, in the directory that Hydra made for it; what launchers call, perhaps in another process."""
    from hydra.core.hydra_config import HydraConfig

    from metalearn.config import without_limits
    from metalearn.run import run

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    results_before = _modified(run_dir / "results.json")
    try:
        return run(without_limits(cfg), run_dir)
    except (Exception, SystemExit) as error:
        if _modified(run_dir / "results.json") != results_before:  # written after the run has said what went wrong
            raise RunFailed(f"{type(error).__name__}: {error}") from error
        # Of a sweep's failures Hydra tells the first alone.
        logging.getLogger("metalearn").error("%s: failed", run_dir, exc_info=error)
        if isinstance(error, SystemExit):  # would end the whole sweep
            raise RuntimeError(f"the run called sys.exit({error.code})") from error
        raise


def _modified(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _preflight(configs: list[dict[str, Any]]) -> None:
    from metalearn.run import preflight

    for config in configs:
        try:
            preflight(config)
        except ValueError as error:  # of a constructor, about a value that it cannot take
            raise UserError(str(error)) from error


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
    if args.multirun or args.cfg or args.info:
        raise UserError("eval takes a run directory, overrides and --config-dir only")
    if not args.overrides:
        raise UserError("eval needs a run directory: metalearn eval RUN_DIR [key=value ...]")
    run_dir, overrides = Path(args.overrides[0]), args.overrides[1:]
    from metalearn.cli_compose import composer, explained

    with explained(overrides, args.config_dir, None), composer(args.config_dir) as composing:
        config = composing.evaluation(_saved_config(run_dir), overrides)
    from metalearn.evaluate import evaluate_run

    evaluate_run(run_dir, config, overrides)


def _saved_config(run_dir: Path) -> DictConfig:
    from omegaconf import DictConfig, OmegaConf

    path = run_dir / "config.yaml"
    if not path.is_file():
        below = sorted(run_dir.rglob("config.yaml"), key=lambda file: file.stat().st_mtime)
        hint = f"; the newest run below it is {below[-1].parent}" if below else ""
        raise UserError(f"'{run_dir}' {'has no config.yaml' if run_dir.is_dir() else 'is no directory'}{hint}")
    saved = OmegaConf.load(path)
    if not isinstance(saved, DictConfig):
        raise UserError(f"{path} is not the configuration of a run")
    return saved


# --- Hydra's command line and shell completion ------------------------------------------------------------------------


def _parse(argv: list[str]) -> argparse.Namespace:
    """Hydra's flags and the overrides, in any order."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        args, unknown = parser.parse_known_intermixed_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    flags = [flag for action in parser._actions for flag in action.option_strings]
    if unknown:
        raise UserError(f"no flag named '{unknown[0]}'{nearest(unknown[0], flags)}")
    if args.config_path or args.experimental_rerun:
        raise UserError(
            "--config-path and --experimental-rerun are not supported; --config-dir DIR adds your own files"
        )
    if sum([args.run, args.multirun, bool(args.cfg), bool(args.info)]) > 1:
        raise UserError("only one of --run, --multirun, --cfg and --info can be given")
    if args.resolve and not args.cfg:
        raise UserError("--resolve goes with --cfg")
    return args


def _call_hydra(argv: list[str]) -> None:
    import hydra

    from metalearn.config import conf_dir

    sys.argv = ["metalearn", *argv]
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(job)()


def _shell_completion(arguments: list[str]) -> None:
    """`query=SHELL` is what the shell runs at every Tab, the line so far in COMP_LINE; `install=` prints its script."""
    request, _, shell = (arguments or [""])[0].partition("=")
    if request not in ("install", "uninstall", "query") or shell not in ("bash", "zsh", "fish"):
        raise UserError("-sc takes install=SHELL or uninstall=SHELL, SHELL being bash, zsh or fish")
    if request != "query":
        return _call_hydra(["-sc", *arguments])
    line = os.environ.get("COMP_LINE", "")
    words = line.split() if line.endswith(" ") else line.split()[:-1]
    current = "" if line.endswith(" ") else (line.split() or [""])[-1]
    if len(words) < 2:
        # The word before the cursor is the program itself in `metalearn` without a blank: offer the commands.
        return print("\n".join(name for name in COMMANDS if not words or name.startswith(current)))
    if words[1] == "eval" and len(words) == 2:
        return print("\n".join(f"{path}/" for path in sorted(Path().glob(f"{current}*")) if path.is_dir()))
    if words[1] not in COMMANDS or current.startswith("-"):
        return None
    from metalearn.cli_errors import MISTAKES

    before = words[3:] if words[1] == "eval" else words[2:]
    os.environ["COMP_LINE"] = " ".join(["metalearn", *before, current])
    with contextlib.suppress(*MISTAKES):  # a line that cannot be read yet has no completions
        return _call_hydra(["-sc", *arguments])


# --- help -------------------------------------------------------------------------------------------------------------


def _main_help() -> str:
    commands = "\n".join(f"  {name:8}{command.summary}" for name, command in COMMANDS.items())
    return f"""\
metalearn {__version__}: train and evaluate few-shot learners

usage: metalearn COMMAND [key=value ...]

{commands}

  metalearn train                                            the defaults: a minute, no download
  metalearn train algorithm=maml dataset=omniglot task=20way_1shot
  metalearn train -m algorithm=maml,protonet seed=0,1,2      a sweep: every combination
  metalearn eval RUN_DIR task.ways=20                        another test condition, same checkpoint

metalearn COMMAND --help says more. Completion: eval "$(metalearn -sc install=bash)\""""


def _choices_help(*groups: str) -> str:
    from metalearn.config import choices

    return "\n".join(f"  {group + '=':13}{', '.join(choices(group)) or '(none)'}" for group in groups)


def _train_help() -> str:
    return f"""\
usage: metalearn train [-m] [key=value ...]

  metalearn train algorithm=maml train.steps=5000 train.lr=3e-4
  metalearn train experiment=NAME device=cuda hydra.run.dir=outputs/mine
  metalearn train -m task=5way_1shot,5way_5shot seed=0,1,2 sweep_name=shots

choices:
{_choices_help("algorithm", "backbone", "dataset", "task", "experiment")}

settings (metalearn train --cfg job shows all, with the choices you give):
  seed device precision             device=auto|cpu|cuda, precision=fp32|tf32|bf16
  task.ways task.shots task.queries the test tasks; task.train.ways ... for other training tasks
  train.steps train.meta_batch_size train.lr train.val_every train.checkpoint_every
  eval.tasks eval.transductive
  algorithm.* backbone.* dataset.*  what the chosen part has
  hydra.run.dir sweep_name          the run's directory; a sweep goes to outputs/multirun/SWEEP_NAME

flags:
  -m, --multirun        one run for every combination of the values a,b,c
  --config-dir DIR      your own YAML files, in DIR/algorithm, DIR/experiment, ...
  --cfg job             show the configuration, run nothing (--resolve: interpolations resolved)
  --info [WHAT]         how Hydra composed it: defaults, defaults-tree, searchpath, plugins
  --hydra-help          Hydra's own flags"""


def _eval_help() -> str:
    return f"""\
usage: metalearn eval RUN_DIR [key=value ...]

Evaluates the run's checkpoint on test tasks, under the run's own configuration changed by what you give.

  metalearn eval RUN_DIR task.ways=20 task.shots=5
  metalearn eval RUN_DIR task=20way_1shot eval.tasks=2000
  metalearn eval RUN_DIR dataset=omniglot eval.checkpoint=last

choices:
{_choices_help("dataset", "task")}

settings:
  task.ways task.shots task.queries eval.tasks eval.seed eval.checkpoint eval.transductive device
  algorithm.*                       those of the evaluation, such as algorithm.test_inner_steps

flags:
  --config-dir DIR                  your own YAML files, as for metalearn train"""


COMMANDS = {
    "train": Command("train a learner, test it, write a run directory", train, _train_help),
    "eval": Command("test a finished run again, under other conditions", evaluate, _eval_help),
}
