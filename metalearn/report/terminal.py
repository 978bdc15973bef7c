"""The terminal: streams that outlive their readers, logging handlers, and single lines on stdout and stderr."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import IO, TextIO, cast

from rich.console import Console, ConsoleRenderable
from rich.logging import RichHandler
from rich.table import Column, Table
from rich.text import Text

from metalearn.status import Status

log = logging.getLogger("metalearn")
# What is logged here goes to run.log alone: the console gets one line about a failure, not its traceback.
file_log = logging.getLogger("metalearn.file")


class _Stream:
    """sys.stdout or sys.stderr, whatever that is at the moment; outlives its reader, as in `metalearn train | head`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.lost = False  # whether something could not be written though somebody may want to read it: a full disk

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
        """Sends all further output nowhere, since run.log has it too: the reader has gone (a closed pipe, a closed terminal), or the disk is full.

        Of a full disk stderr says so once, and `lost` tells the command: a run that was trained for hours must still write its results.
        """
        if error.errno not in (errno.EPIPE, errno.EIO):
            self.lost = True
            if self is STDOUT:
                STDERR.write(f"stdout cannot be written: {error.strerror or error}\n")
        # On the file descriptor, so that what Python still holds in its buffer does not fail when it is flushed at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._file.fileno())
        os.close(nowhere)


STDOUT, STDERR = _Stream("stdout"), _Stream("stderr")
CONSOLE = Console(file=cast("IO[str]", STDOUT), highlight=False)
STATUS_STYLES: dict[str, str] = {
    Status.DONE: "green",
    Status.FAILED: "bold red",
    Status.DIVERGED: "bold red",
    Status.INTERRUPTED: "yellow",
    Status.PRUNED: "dim",
}
# Of a thread: one that runs a job says nothing while another shows the whole sweep.
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
_views = 0  # live views that other lines are printed above


def handler() -> logging.Handler:
    """Makes the console's logging handler, for conf/hydra/job_logging: through rich on a terminal, else plain flushed lines."""
    made: logging.Handler = _TerminalHandler() if on_terminal() else _PlainHandler(STDOUT)
    made.addFilter(_is_for_the_console)
    return made


def _is_for_the_console(record: logging.LogRecord) -> bool:
    """Whether the program itself says it to the user; what other libraries log or warn of stands in run.log alone."""
    return record.name.partition(".")[0] == log.name and record.name != file_log.name


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


def on_terminal() -> bool:
    """Whether stdout is a terminal that can show a live view."""
    # isatty on top of is_terminal, which FORCE_COLOR makes true of a pipe.
    return not _QUIET.get() and STDOUT.isatty() and CONSOLE.is_terminal and not CONSOLE.is_dumb_terminal


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While the context lasts, this thread prints nothing on stdout; errors are printed still."""
    before = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(before)


def open_view() -> None:
    """A live view is on the terminal: other lines go above it until `close_view`."""
    global _views
    _views += 1


def close_view() -> None:
    """The live view is gone."""
    global _views
    _views -= 1


def say(line: str) -> None:
    """Prints a line of a program's, not of a run's: it goes into no log."""
    if _QUIET.get():
        return
    if _views:
        CONSOLE.print(Text(line), soft_wrap=True)
        return
    STDOUT.write(f"{line}\n")
    STDOUT.flush()


def table(head: list[str], rows: list[list[str]], style: Callable[[int, str], str] = lambda column, cell: "") -> None:
    """Prints a table: with lines on a terminal, where long cells are folded; elsewhere in columns of even width.

    On a terminal that is too narrow for its columns, each row becomes a paragraph with a line for each cell.

    Args:
        style: of a cell, given the number of its column and its text, for a terminal; an empty text for none.
    """
    # Folded, its cells would be columns of single letters.
    if on_terminal() and _least_width(head, rows) > CONSOLE.width:
        for row in rows:
            say("\n".join(f"{title}: {cell}" for title, cell in zip(head, row, strict=True) if cell) + "\n")
        return
    if on_terminal():
        framed = Table(*(Column(title, overflow="fold") for title in head))
        for row in rows:
            framed.add_row(*(Text(cell, style=style(column, cell)) for column, cell in enumerate(row)))
        CONSOLE.print(framed)
        return
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _least_width(head: list[str], rows: list[list[str]]) -> int:
    """The columns of a terminal that a table with lines needs so that no word but a path is broken."""
    columns = zip(head, *rows, strict=True)
    words = ([word for cell in column for word in cell.split() if "/" not in word] for column in columns)
    return 1 + sum(3 + max(map(len, column), default=1) for column in words)


def close_log() -> None:
    """Closes the files that a run's logging has open, and lets the next run set up its own."""
    for opened in list(logging.getLogger().handlers):
        if isinstance(opened, logging.FileHandler):
            logging.getLogger().removeHandler(opened)
            opened.close()


def error_line(message: str) -> None:
    """Prints `message` as one line on stderr, red on a terminal."""
    line = " ".join(part.strip() for part in message.splitlines())
    if STDERR.isatty() and _views:
        CONSOLE.print(Text(line, style="red"), soft_wrap=True)
    elif STDERR.isatty():
        Console(file=cast("IO[str]", STDERR)).print(Text(line, style="red"), soft_wrap=True)
    else:
        STDERR.write(f"{line}\n")
        STDERR.flush()


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
