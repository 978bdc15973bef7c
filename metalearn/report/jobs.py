"""How far the jobs of a sweep are: a table, one line, or a live view. All are given what `metalearn status --json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metalearn.kinds import scale_of
from metalearn.report import terminal
from metalearn.report.text import duration, short_names
from metalearn.status import Status

_ORDER = (
    Status.DONE,
    Status.RUNNING,
    Status.PENDING,
    Status.INTERRUPTED,
    Status.PRUNED,
    Status.FAILED,
    Status.DIVERGED,
)
_OTHER_LINES = 4  # of the live view and below it: the bar of the whole, what is left out, the prompt
_NAMED = 4  # jobs that a plain line names at most

Job = Mapping[str, Any]


def jobs_table(record: Mapping[str, Any]) -> None:
    """Prints all jobs, a line for the whole, and what Slurm has of them."""
    names = job_names(record["jobs"])
    head = ["job" if record["sweep"] else "run", "status", "step", "validation", "test", "tasks/s", "time", "left"]
    terminal.table(head, [[names[row["job"]], *_cells(row)] for row in record["jobs"]], _style)
    terminal.say(whole_line(record))
    for row in record["jobs"]:
        if row["error"] and row["status"] != Status.PRUNED:
            terminal.say(f"{names[row['job']]}: {row['error']} ({row['directory']})")
    for array in record["slurm"]:
        terminal.say(array_line(array))
    if record["sweep"] and record["commands"] and not record["counts"].get(Status.RUNNING) and unfinished(record):
        terminal.say(f"no process runs a job of it; to go on: {record['commands'][-1]}")


def whole_line(record: Mapping[str, Any]) -> str:
    """`3 of 8 jobs done, 2 running, 3 pending; 12:30 left`."""
    counts, total = record["counts"], record["total"]
    waiting = counts.get(Status.PENDING, 0) + total - len(record["jobs"])  # a search has not drawn all of them yet
    counts = {**counts, Status.PENDING: waiting}
    parts = [f"{counts[status]} {status}" for status in _ORDER[1:] if counts.get(status)]
    if dead := sum(row["dead"] for row in record["jobs"]):
        parts = [part + (f" ({dead} dead)" if part.endswith(Status.INTERRUPTED) else "") for part in parts]
    line = ", ".join([f"{counts.get(Status.DONE, 0)} of {total} job{'' if total == 1 else 's'} done", *parts])
    return f"{line}; {duration(record['left'])} left" if record["left"] else line


def array_line(array: Mapping[str, Any]) -> str:
    """Which job array of Slurm's it is, how to look at it, and where its logs are."""
    what = "a job" if array["jobs"] == 1 else f"an array of {array['jobs']} jobs"
    return f"Slurm {array['id']}: {what}; {array['squeue']}; logs: {array['logs']}"


def unfinished(record: Mapping[str, Any]) -> list[Job]:
    """The jobs that have not ended."""
    return [row for row in record["jobs"] if not Status(row["status"]).finished]


def job_names(rows: Sequence[Job]) -> dict[str, str]:
    """Name of a job -> what tells it from the others, in short: `filters=8 seed=0`."""
    short = short_names(dict.fromkeys(key for row in rows for key in row["choices"]))
    return {
        row["job"]: " ".join(f"{short[key]}={value}" for key, value in row["choices"].items()) or row["job"]
        for row in rows
    }


def progress_line(record: Mapping[str, Any]) -> str:
    """The whole in one line and, where they are few, the jobs that run."""
    names = job_names(record["jobs"])
    running = [row for row in record["jobs"] if row["status"] == Status.RUNNING]
    said = [f"{names[row['job']]} {_where(row)}" + (f" val {_val(row)}" if _val(row) else "") for row in running]
    return " | ".join([whole_line(record), *(said if len(said) <= _NAMED else [])])


class LiveJobs:
    """On a terminal: the jobs that run, each with a bar, and the whole below them. Elsewhere it shows nothing."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._record: Mapping[str, Any] | None = None

    def __enter__(self) -> LiveJobs:
        if terminal.on_terminal():
            self._live = Live(self, console=terminal.CONSOLE, auto_refresh=False, transient=True)
            self._live.start()
            terminal.open_view()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            terminal.close_view()
            self._live.stop()
            self._live = None

    @property
    def is_open(self) -> bool:
        return self._live is not None

    def show(self, record: Mapping[str, Any]) -> None:
        """Draws this state."""
        self._record = record
        if self._live is not None:
            self._live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._record is None:
            return
        yield Group(*_drawn(self._record, max(options.size.height - _OTHER_LINES, 1)))


def _drawn(record: Mapping[str, Any], lines: int) -> list[Any]:
    names = job_names(record["jobs"])
    running = [row for row in record["jobs"] if row["status"] == Status.RUNNING]
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for ratio, justify in (
        (3, "left"),
        (2, "left"),
        (None, "right"),
        (None, "right"),
        (None, "right"),
        (None, "right"),
    ):
        grid.add_column(ratio=ratio, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for row in running[:lines]:
        speed = "" if row["tasks_per_second"] is None else f"{row['tasks_per_second']:,.0f} tasks/s"
        val = f"val {_val(row)}" if _val(row) else ""
        bar = ProgressBar(total=row["steps"] or 1, completed=row["step"] or 0)
        grid.add_row(Text(names[row["job"]]), bar, _where(row), val, speed, _left(row))
    hidden = [Text(f"and {len(running) - lines} more that run", style="dim")] if len(running) > lines else []
    total = max(record["total"], 1)
    ended = sum(Status(row["status"]).finished for row in record["jobs"])
    parts = sum(min((row["step"] or 0) / row["steps"], 1.0) for row in running if row["steps"])
    whole = Table.grid(padding=(0, 2, 0, 0), expand=True)
    whole.add_column(no_wrap=True)
    whole.add_column(ratio=1)
    whole.add_row(Text(whole_line(record), style="bold"), ProgressBar(total=total, completed=ended + parts))
    return [grid, *hidden, whole]


def _cells(row: Job) -> list[str]:
    kind = scale_of(row)
    return [
        f"{row['status']}{' (dead)' if row['dead'] else ''}",
        "" if row["status"] == Status.PENDING else _where(row),
        _val(row),
        "" if row["score"] is None else kind.text(row["score"], row["ci95"]),
        "" if row["tasks_per_second"] is None else f"{row['tasks_per_second']:,.0f}",
        "" if row["seconds"] is None else duration(row["seconds"]),
        _left(row),
    ]


def _where(row: Job) -> str:
    """`120/500`, or what the job is at where no steps are made."""
    if row["phase"] == "test":
        return "test"
    if row["step"] is None:
        return "starts" if row["status"] == Status.RUNNING else ""
    return f"{row['step']}/{row['steps']}" if row["steps"] else str(row["step"])


def _val(row: Job) -> str:
    kind = scale_of(row)
    return "" if row["val"] is None else kind.text(row["val"], digits=1 if kind.percent else None)


def _left(row: Job) -> str:
    return f"{duration(row['left'])} left" if row["left"] and row["status"] == Status.RUNNING else ""


def _style(column: int, cell: str) -> str:
    return terminal.STATUS_STYLES.get(cell.partition(" ")[0], "") if column == 1 else ""
