"""The command line: `metalearn COMMAND ...`, from the names of the commands to exit codes.

Nothing slow is imported before a command needs it, so that `metalearn --help` answers at once.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

from metalearn.cli import help as texts
from metalearn.cli import help_classifier, help_finding, help_records, help_sweeps, help_training
from metalearn.cli.completion import shell_completion
from metalearn.cli.plugins import without_plugins
from metalearn.errors import Interrupted, RunFailed, UserError, nearest, one_line
from metalearn.garbage import collect_rarely
from metalearn.version import __version__

DEBUG = "METALEARN_DEBUG"  # environment variable


class Command(NamedTuple):
    summary: str
    place: str  # module and function, imported when the command is run
    help: Callable[[list[str]], str]

    def run(self, argv: list[str]) -> None:
        module, _, function = self.place.partition(":")
        getattr(importlib.import_module(module), function)(argv)


COMMANDS = {
    "train": Command(
        "train a learner, test it, write a run directory", "metalearn.cli.train:train", help_training.train_help
    ),
    "eval": Command(
        "test finished runs again, under other conditions; grids of them",
        "metalearn.cli.evaluate:evaluate",
        help_training.eval_help,
    ),
    "predict": Command(
        "label your own images with a finished run", "metalearn.cli.predict:predict", help_classifier.predict_help
    ),
    "export": Command(
        "write a run or its classifier as ONNX, torch.export and safetensors",
        "metalearn.cli.export:export",
        help_classifier.export_help,
    ),
    "compare": Command(
        "compare runs: means over seeds, differences on the same tasks",
        "metalearn.cli.compare:compare",
        help_records.compare_help,
    ),
    "tensorboard": Command(
        "show the curves, tasks and settings of runs in TensorBoard",
        "metalearn.cli.tensorboard:tensorboard",
        help_records.tensorboard_help,
    ),
    "runs": Command("list runs, remove them, give them a label", "metalearn.cli.runs:runs", help_records.runs_help),
    "status": Command(
        "how far a sweep or a run is, and how long it still takes",
        "metalearn.cli.status:status",
        help_sweeps.status_help,
    ),
    "reproduce": Command(
        "train as a paper did, compare with its numbers",
        "metalearn.cli.reproduce:reproduce",
        help_training.reproduce_help,
    ),
    "data": Command(
        "list data sets, fetch their files, check what is here", "metalearn.cli.data:data", help_finding.data_help
    ),
    "explain": Command(
        "what a setting means, may be and is, and who set it",
        "metalearn.cli.explain:explain_command",
        help_finding.explain_help,
    ),
    "config": Command(
        "the composed configuration with origins; differences; a schema",
        "metalearn.cli.config:config",
        help_finding.config_help,
    ),
    "list": Command(
        "algorithms, data sets, backbones, tasks, experiments, sweeps",
        "metalearn.cli.choose:list_choices",
        help_finding.list_help,
    ),
    "copy": Command(
        "copy an experiment or another choice to edit it", "metalearn.cli.choose:copy_choice", help_finding.copy_help
    ),
    "doctor": Command(
        "check this machine, Python and packages", "metalearn.cli.doctor:doctor", help_finding.doctor_help
    ),
    "bench": Command(
        "measure speed and memory beside learn2learn", "metalearn.cli.bench:bench", help_training.bench_help
    ),
}


def main(argv: list[str] | None = None) -> None:
    """Runs one command; leaves through SystemExit with 1 (a run failed), 2 (wrong input), 130 (interrupted) or 143 (terminated).

    Args:
        argv: the command and its arguments. None: those of this process, which ends with the command.
    """
    _open_missing_streams()
    if argv is not None:
        _run(argv)
        return
    collect_rarely()
    _run(sys.argv[1:])
    _leave_as_further_process()


def _leave_as_further_process() -> None:
    """Ends a process that helped torchrun's first one, without the interpreter's own ending.

    A thread of torch.distributed may still want the interpreter while that ends; then the process aborts ("terminate called without an active
    exception"), and torchrun stops the first process in the middle of its test. A helping process has no file to close and nothing to release.
    """
    ranks = sys.modules.get("metalearn.engine.ranks")  # where no command needed it, nothing was shared
    if ranks is None or ranks.launched().first:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _run(argv: list[str]) -> None:
    """Runs one command; turns what went wrong into a line and an exit code."""
    if "--debug" in argv:
        argv = [word for word in argv if word != "--debug"]
        os.environ[DEBUG] = "1"  # the processes that this one starts read it too
    try:
        _dispatch(without_plugins(argv))
        _flush()
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
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _traceback_for_debugging()
        print(f"metalearn: error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None


def _flush() -> None:
    """Raises SystemExit with 1 where a part of the output could not be written, as on a full disk; a line on stderr says so."""
    terminal = sys.modules.get("metalearn.report.terminal")  # where it was not needed, nothing was lost in it
    if terminal is not None and terminal.STDOUT.lost:
        raise SystemExit(1)
    sys.stdout.flush()


def _with_origins(message: str) -> str:
    """Says of settings that were preferred by a choice which choice it was."""
    wishes = sys.modules.get("metalearn.compose.wishes")  # where nothing was composed there are none
    return wishes.with_origins(message) if wishes else message


def _traceback_for_debugging() -> None:
    """Prints the traceback of the exception in flight, and of its cause, where --debug or METALEARN_DEBUG asks for it."""
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exc()


def _open_missing_streams() -> None:
    """Sends output nowhere where the process was started without stdout or stderr, as daemons are."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115  # for the life of the process; first, for it gets the lowest number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _dispatch(argv: list[str]) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing and exiting
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help"):
        print(texts.main_help({name: entry.summary for name, entry in COMMANDS.items()}))
    elif "--version" in argv:
        print(f"metalearn {__version__}")
    elif command in ("-sc", "--shell-completion"):
        shell_completion(argv[1:], list(COMMANDS))
    elif command not in COMMANDS:
        hint = f"; did you mean 'metalearn train {command}'?" if "=" in command else nearest(command, COMMANDS)
        raise UserError(f"no command named '{command}'{hint} (available: {', '.join(COMMANDS)})")
    elif "-h" in argv or "--help" in argv:
        print(COMMANDS[command].help(argv))
    else:
        COMMANDS[command].run(argv[1:])
