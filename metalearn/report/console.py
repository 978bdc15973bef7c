"""What a person sees while a run goes on: a live view on a terminal, plain lines elsewhere, and neither ever stops the run."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, TextIO, cast

import rich.progress
from rich.console import Console, ConsoleRenderable, RenderableType
from rich.logging import RichHandler
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

log = logging.getLogger("metalearn")
# What is logged here goes to run.log alone: the console gets one line about a failure, not its traceback.
file_log = logging.getLogger("metalearn.file")

_SHOWN = {  # of the metrics, while training goes on
    "train/loss": "loss {:.3f}",
    "train/accuracy": "accuracy {:.1%}",
    "val/accuracy": "val {:.1%}",
    "time/tasks_per_second": "{:,.0f} tasks/s",
}


_COMPARED = ("paper", "ours", "difference", "band", "verdict")  # in percent
_VERDICT_STYLES = {"reproduced": "green", "below the band": "bold red", "not scored": "bold red"}
_STATUS_STYLES = {
    "done": "green",
    "failed": "bold red",
    "diverged": "bold red",
    "interrupted": "yellow",
    "pruned": "dim",
}


class _Stream:
    """sys.stdout or sys.stderr, whatever that is at the moment; outlives its reader, as in `metalearn train | head`."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _file(self) -> TextIO:
        file = getattr(sys, self._name)
        # While a live view is up, rich puts a stand-in there that leads back to the Console, and so to this object.
        return cast("TextIO", getattr(file, "rich_proxied_file", file))

    @property
    def encoding(self) -> str:
        return self._file.encoding or "utf-8"

    def isatty(self) -> bool:
        return self._file.isatty()

    def fileno(self) -> int:
        return self._file.fileno()

    def write(self, text: str) -> int:
        try:
            # Better a question mark for a plus-minus than a run that ends in a UnicodeEncodeError.
            self._file.write(text.encode(self.encoding, "replace").decode(self.encoding))
        except OSError as error:
            self._outlive(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self._outlive(error)

    def _outlive(self, error: OSError) -> None:
        """Sends all further output nowhere if the reader has gone (a closed pipe, a closed terminal): run.log has it too."""
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise error
        # On the file descriptor, so that what Python still holds in its buffer does not fail when it is flushed at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._file.fileno())
        os.close(nowhere)


_STDOUT, _STDERR = _Stream("stdout"), _Stream("stderr")
CONSOLE = Console(file=cast("IO[str]", _STDOUT), highlight=False)


def handler() -> logging.Handler:
    """The console's logging handler, for conf/hydra/job_logging: through rich on a terminal, else plain flushed lines."""
    made: logging.Handler = _TerminalHandler() if _on_terminal() else _PlainHandler(_STDOUT)
    made.addFilter(lambda record: record.name != file_log.name)
    return made


class FileLog(logging.FileHandler):
    """run.log, opened at its first line; where it cannot be written, the console says so once and the run goes on."""

    def __init__(self, filename: str, encoding: str) -> None:
        super().__init__(filename, encoding=encoding, delay=True)
        self._told = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # raised while it is opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._told:
            self._told = True
            error_line(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}")


class Progress:
    """Shows how far `total_steps` outer steps have got: a line in the log at every tenth, on a terminal a live bar below it.

    `done` of them were done before, by a process that this one goes on for.
    """

    def __init__(self, total_steps: int, task: str, done: int = 0) -> None:
        self._total_steps = total_steps
        self._done = done
        self._task = task
        self._latest: dict[str, float] = {}
        self._tenths = done * 10 // total_steps
        self._started = time.monotonic()
        self._bar: _LiveBar | None = None

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        # A launcher's worker processes share the terminal; two live views would tear each other.
        if _on_terminal() and multiprocessing.parent_process() is None:
            self._bar = _LiveBar(self._task, self._total_steps)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, values: dict[str, float]) -> None:
        """Outer step `step` is done; of a tag that is missing in `values` the last value stays on show."""
        self._latest |= values
        numbers = "  ".join(
            text.format(self._latest[tag]).replace("%", " %") for tag, text in _SHOWN.items() if tag in self._latest
        )
        seconds_per_step = (time.monotonic() - self._started) / max(step - self._done, 1)
        left = f"{_duration(seconds_per_step * (self._total_steps - step))} left" if step < self._total_steps else ""
        if self._bar is not None:
            self._bar.show(step, numbers, left)
        tenths = step * 10 // self._total_steps
        if tenths > self._tenths:
            self._tenths = tenths
            where = f"step {step}/{self._total_steps} ({step * 100 // self._total_steps} %)"
            log.info("  ".join(part for part in (where, numbers, left) if part))


def result_panel(results: dict[str, Any]) -> None:
    """Prints the final result and puts it into run.log: `results` is what results.json holds, and `run_dir`."""
    run_dir = Path(results["run_dir"]).absolute()
    numbers = _result_lines(results["task"], results["test"])
    for line in numbers:
        file_log.info(line)
    # Outside the frame, so that they can be copied whole.
    places = [f"run directory: {_shown(run_dir)}", f"tensorboard --logdir {shlex.quote(_shown(run_dir.parent))}"]
    if _on_terminal():
        title = f"{results['algorithm']} on {results['dataset']}, {results['backbone']}, seed {results['seed']}"
        CONSOLE.print(Panel(Text("\n".join(numbers)), title=Text(title), expand=False))
        CONSOLE.print(Text("\n".join(places)), soft_wrap=True)
    else:
        _STDOUT.write("\n".join([*numbers, *places]) + "\n")
        _STDOUT.flush()


def reproduction(record: dict[str, Any]) -> None:
    """Prints how a run compares with its paper and puts it into run.log: `record` is what reproduction.json holds."""
    head = f"{record['experiment']}: {record['paper']}, {record['table']} ({record['url']})"
    rows = [_compared(row) for row in record["rows"]]
    notes = _reproduction_notes(record)
    texts = [", ".join(f"{title} {cell}" for title, cell in zip(_COMPARED, row[1:], strict=True)) for row in rows]
    lines = [head, *(f"{row[0]}: {text}" for row, text in zip(rows, texts, strict=True)), *notes]
    for line in lines:
        file_log.info(line)
    if _on_terminal():
        table = Table("", *_COMPARED)
        for *cells, verdict in rows:
            table.add_row(*map(Text, cells), Text(verdict, style=_VERDICT_STYLES.get(verdict, "")))
        CONSOLE.print(Text(head), table, Text("\n".join(notes)), sep="\n")
    else:
        _STDOUT.write("\n".join(lines) + "\n")
        _STDOUT.flush()


def sweep_table(head: list[str], rows: list[list[str]]) -> None:
    """Prints a sweep's jobs: name, status, and what else `head` says."""
    if _on_terminal():
        table = Table(*(Column(title, overflow="fold") for title in head))
        for name, status, *cells in rows:
            table.add_row(Text(name), Text(status, style=_STATUS_STYLES.get(status, "")), *map(Text, cells))
        CONSOLE.print(table)
    else:
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        for row in [head, *rows]:
            say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def say(line: str) -> None:
    """Prints a line of a program's, not of a run's: it goes into no log."""
    _STDOUT.write(f"{line}\n")
    _STDOUT.flush()


def close_log() -> None:
    """Closes the files that a run's logging has open, and lets the next run set up its own."""
    for opened in list(logging.getLogger().handlers):
        if isinstance(opened, logging.FileHandler):
            logging.getLogger().removeHandler(opened)
            opened.close()


def error_line(message: str) -> None:
    """Prints `message` as one line on stderr, red on a terminal."""
    line = " ".join(part.strip() for part in message.splitlines())
    if _STDERR.isatty():
        Console(file=cast("IO[str]", _STDERR)).print(Text(line, style="red"), soft_wrap=True)
    else:
        _STDERR.write(f"{line}\n")
        _STDERR.flush()


def _on_terminal() -> bool:
    # isatty on top of is_terminal, which FORCE_COLOR makes true of a pipe.
    return _STDOUT.isatty() and CONSOLE.is_terminal and not CONSOLE.is_dumb_terminal


class _LiveBar(rich.progress.Progress):
    """One bar, and a second row for the numbers: together they do not fit 80 columns."""

    def __init__(self, task: str, total_steps: int) -> None:
        self._numbers = ""  # first, as rich asks for the renderables while it is being made
        super().__init__(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=None),  # what the texts leave free
            rich.progress.TextColumn("{task.percentage:.0f} %"),
            rich.progress.TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            rich.progress.TextColumn("{task.fields[left]}", markup=False),
            console=CONSOLE,
            refresh_per_second=4,
            transient=True,
            expand=True,
        )
        self._id = self.add_task(task, total=total_steps, left="")

    def show(self, step: int, numbers: str, left: str) -> None:
        self._numbers = numbers
        self.update(self._id, completed=step, left=left)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self._numbers, no_wrap=True, overflow="ellipsis")


def _marked(record: logging.LogRecord, text: str) -> str:
    """No column for the level, but a word where it matters."""
    return f"{record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text


class _PlainHandler(logging.StreamHandler[_Stream]):
    def format(self, record: logging.LogRecord) -> str:
        return _marked(record, super().format(record))


class _TerminalHandler(RichHandler):
    def __init__(self) -> None:
        super().__init__(console=CONSOLE, show_level=False, show_path=False, log_time_format="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return _marked(record, super().format(record))

    def render_message(self, record: logging.LogRecord, message: str) -> ConsoleRenderable:
        # rich's own would colour every number and path.
        return Text(message, style="yellow" if record.levelno >= logging.WARNING else "")


def _result_lines(task: dict[str, Any], test: dict[str, Any]) -> list[str]:
    step = f", step {test['step']}" if "step" in test else ""
    lines = [
        f"test {task['ways']}-way {task['shots']}-shot: {100 * test['accuracy']:.2f} ± {100 * test['ci95']:.2f} % "
        f"(95 % interval over {test['tasks']} tasks; chance {100 / task['ways']:.2f} %; {test['checkpoint']} checkpoint{step}; "
        f"{'transductive' if test['transductive'] else 'not transductive'})"
    ]
    if "per_step" in test:
        after = [f"{100 * accuracy:.1f}" for accuracy in test["per_step"][1:]]
        steps = test.get("scored_steps", range(len(after) + 1))[1:]
        each = "each inner step" if steps[-1] == len(after) else f"inner steps {', '.join(map(str, steps))}:"
        lines.append(f"before adaptation {100 * test['accuracy_before']:.1f} %; after {each} {', '.join(after)} %")
    for name, score in test.get("further", {}).items():
        lines.append(f"{name.replace('_', ' ')}: {100 * score['mean']:.2f} ± {100 * score['ci95']:.2f} %")
    return lines


def _compared(row: dict[str, Any]) -> list[str]:
    """A row of reproduction.json as texts: its name, then what _COMPARED says."""
    paper = ours = difference = band = "none"
    if row["reported"] is not None:
        interval = "" if row["interval"] is None else f" ± {row['interval']:g}"
        paper = f"{row['reported']:g}{interval} %"
    if row["ours"] is not None:
        ours = f"{row['ours']:.2f} ± {row['ci95']:.2f} % of {row['tasks']} tasks"
    if row["difference"] is not None:
        difference = f"{row['difference']:+.2f}"
    if row["band"] is not None:
        band = f">= {row['band']:g} %"
    return [row["name"], paper, ours, difference, band, row["verdict"]]


def _reproduction_notes(record: dict[str, Any]) -> list[str]:
    paper = f"the paper's intervals: over {record['interval_over']}; " if record["interval_over"] else ""
    notes = [f"{paper}ours: 95 % over test tasks, one seed ({record['seed']})"]
    if record["differences"]:
        notes.append("known differences from the paper's protocol:")
        notes += [f"  - {sentence}" for sentence in record["differences"]]
    if changes := [f"{key}={value['run']} (not {value['experiment']})" for key, value in record["changed"].items()]:
        notes.append(f"not the experiment's protocol, changed: {', '.join(changes)}")
    return notes


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
