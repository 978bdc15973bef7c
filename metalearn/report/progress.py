"""How far a run has got: a live view on a terminal, plain lines elsewhere, the same lines in run.log."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from types import TracebackType

import rich.progress
from rich.console import RenderableType
from rich.text import Text

from metalearn.kinds import CLASSIFICATION, Scale
from metalearn.report import terminal
from metalearn.report.text import duration

_BYTES_SECONDS = 10.0  # between two lines about a file that comes or is read
_BAR_SECONDS = 0.25  # between two changes of the bar that no number asks for
_ESTIMATED = (3, 5.0)  # after so many steps and seconds it is said how long the whole will take
_LONG = 60.0  # seconds; what takes less needs no such line
LOG_SECONDS = 60.0  # at least every so many seconds a line, where nothing else is asked for


class Progress:
    """Shows how many outer steps are done: a log line at every tenth, on a terminal a live bar below it.

    Args:
        total_steps: outer steps of the whole run; where it has none, each update has a line of its own.
        title: what is trained, such as `maml on omniglot`.
        done: outer steps done by an earlier process, where the run is resumed.
        log_seconds: where there is no live bar, a line also follows after so many seconds (at the next update).
        ways: ways of the training tasks and of the test tasks, where there are classes; they are shown where they differ.
        kind: of the tasks, which says which tags are scores and how they are shown.
    """

    def __init__(
        self,
        total_steps: int,
        title: str,
        done: int = 0,
        log_seconds: float = LOG_SECONDS,
        ways: tuple[int | str, int | str] | None = None,
        kind: Scale = CLASSIFICATION,
    ) -> None:
        self._total_steps, self._kind = total_steps, kind
        self._latest: dict[str, float] = {}
        self._names = _names(ways)
        self._shown = 0.0
        self._rate, self._estimated = _Rate(), False
        self._line = _Line(done, total_steps, log_seconds)
        self._bar = _LiveBar(title, total_steps)

    def __enter__(self) -> Progress:
        self._bar.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.end()

    def update(self, step: int, values: dict[str, float]) -> None:
        """Outer step `step` is done, with these values by tag; a tag that is missing keeps its last value on show."""
        self._latest |= values
        left = self._show(step)
        numbers = "  ".join(self._numbers())
        if not self._total_steps:
            terminal.log.info("  ".join(("no outer steps", numbers)))
        elif self._line.is_due(step, by_time=not self._bar.is_open):
            where = f"step {step}/{self._total_steps} ({_percent(step, self._total_steps)} %)"
            terminal.log.info("  ".join(part for part in (where, numbers, left) if part))

    def passed(self, step: int) -> None:
        """Outer step `step` is done, and there is nothing new to say of it.

        The time left is counted from the first call of this or `update` on: start-up, and what an earlier process did, is no part of a step.
        """
        if (now := time.monotonic()) - self._shown >= _BAR_SECONDS:
            self._shown = now
            self._show(step)

    def _show(self, step: int) -> str:
        left = self._rate.left(step, self._total_steps)
        self._bar.show(step, "  ".join(self._numbers()), left)
        self._say_how_long(step)
        return left

    def _say_how_long(self, step: int) -> None:
        """Says once, after the first steps, how long training will take: the first tenth of a long run may be an hour away."""
        seconds = None if self._estimated else self._rate.remaining(step, self._total_steps, *_ESTIMATED)
        if seconds is None:
            return
        self._estimated = True
        if seconds > _LONG:
            steps = self._total_steps - step
            terminal.log.info(f"training: about {duration(seconds)} for {steps:,} more steps")

    def _numbers(self) -> Iterable[str]:
        latest, kind = self._latest, self._kind
        if "train/loss" in latest:
            yield f"loss {latest['train/loss']:.3f}"
        for tag, name in (
            (f"train/{kind.score}", self._names["train"] + kind.score),
            (f"val/{kind.score}", self._names["val"] + "val"),
        ):
            if tag in latest:
                yield f"{name} {kind.text(latest[tag], digits=1 if kind.percent else None)}"
        if "time/tasks_per_second" in latest:
            yield f"{latest['time/tasks_per_second']:,.0f} tasks/s"


class TaskProgress:
    """Shows how many tasks are done: on a terminal a live bar, elsewhere a log line at most every `log_seconds`.

    ```
    with TaskProgress(1000, "test") as progress:
        ...
        progress.update(20)
    ```

    Args:
        total: all tasks.
        what: what is done with them, such as `test`.
        log_seconds: seconds between two lines where there is no live bar; what takes less writes no line at all.
        unit: what is counted.
        done: so many are done before it begins; `update` counts from there on.
    """

    def __init__(
        self, total: int, what: str, log_seconds: float = LOG_SECONDS, unit: str = "tasks", done: int = 0
    ) -> None:
        self._total, self._what, self._unit, self._done = total, what, unit, done
        self._rate = _Rate()
        self._line = _Line(done, total, log_seconds, at_tenths=False)
        self._bar = _LiveBar(what, total)

    def __enter__(self) -> TaskProgress:
        self._rate.left(self._done, self._total)
        self._bar.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.end()

    def update(self, done: int) -> None:
        """So many tasks are done since it began."""
        done += self._done
        left = self._rate.left(done, self._total)
        self._bar.show(done, "", left)
        if not self._bar.is_open and done < self._total and self._line.is_due(done):
            where = f"{self._what}: {done}/{self._total} {self._unit} ({done * 100 // self._total} %)"
            terminal.log.info("  ".join(part for part in (where, left) if part))


class BytesProgress:
    """Shows how much of a file has come or was read: on a terminal a live bar, elsewhere a line every ten seconds.

    Args:
        name: of the file.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: rich.progress.Progress | None = None
        self._line: _Line | None = None
        self._rate = _Rate()

    def __enter__(self) -> BytesProgress:
        if terminal.on_terminal():
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}", markup=False),
                rich.progress.BarColumn(bar_width=None),
                rich.progress.DownloadColumn(),
                rich.progress.TransferSpeedColumn(),
                rich.progress.TimeRemainingColumn(),
                console=terminal.CONSOLE,
                transient=True,
                expand=True,
            )
            self._bar.add_task(self._name, total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, whole: int | None) -> None:
        """So many bytes are there, of `whole`, or of a number that nobody knows."""
        if self._bar is not None:
            self._bar.update(rich.progress.TaskID(0), completed=done, total=whole)
            return
        if not whole:
            return
        self._line = self._line or _Line(done, whole, _BYTES_SECONDS, at_tenths=False)
        left = self._rate.left(done, whole)
        if self._line.is_due(done) and done < whole:
            where = f"{self._name}: {done / 1e6:.1f}/{whole / 1e6:.1f} MB ({done * 100 // whole} %)"
            terminal.say("  ".join(part for part in (where, left) if part))


class _Rate:
    """Time left, from the time that was taken since the first count."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def remaining(self, count: int, total: int, least: int = 1, seconds: float = 0.0) -> float | None:
        """Seconds left; None where all is done, or nothing is known yet: before `least` counts and so many seconds after the first."""
        now = time.monotonic()
        if self._first is None:
            self._first = (count, now)
        first, since = self._first
        if count >= total or count < first + least or now - since < seconds:
            return None
        return (now - since) / (count - first) * (total - count)

    def left(self, count: int, total: int) -> str:
        """`1:02 left`; nothing where that is not known."""
        seconds = self.remaining(count, total)
        return "" if seconds is None else f"{duration(seconds)} left"


class _Line:
    """When a line is due: at every tenth of the whole, and when `seconds` have passed since the last one."""

    def __init__(self, done: int, total: int, seconds: float, at_tenths: bool = True) -> None:
        self._total, self._seconds, self._at_tenths = total, seconds, at_tenths
        self._tenths = _percent(done, total) // 10
        self._last = time.monotonic()

    def is_due(self, done: int, by_time: bool = True) -> bool:
        tenths, now = _percent(done, self._total) // 10, time.monotonic()
        due = (self._at_tenths and tenths > self._tenths) or (by_time and now - self._last >= self._seconds)
        if due:
            self._tenths, self._last = tenths, now
        return due


class _LiveBar(rich.progress.Progress):
    """One bar, and a second row for the numbers: together they do not fit 80 columns. Elsewhere than on a terminal it shows nothing."""

    def __init__(self, title: str, total: int) -> None:
        self._numbers = ""  # first, as rich asks for the renderables while it is being made
        self.is_open = False
        super().__init__(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=None),  # what the texts leave free
            rich.progress.TextColumn("{task.fields[percent]} %"),
            rich.progress.TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            rich.progress.TextColumn("{task.fields[left]}", markup=False),
            console=terminal.CONSOLE,
            refresh_per_second=4,
            transient=True,
            expand=True,
        )
        self._total = total
        self._id = self.add_task(title, total=total, left="", percent=0)

    def begin(self) -> None:
        # A launcher's worker processes share the terminal; two live views would tear each other.
        if terminal.on_terminal() and multiprocessing.parent_process() is None:
            self.is_open = True
            self.start()

    def end(self) -> None:
        if self.is_open:
            self.is_open = False
            self.stop()

    def show(self, done: int, numbers: str, left: str) -> None:
        self._numbers = numbers
        # Rounded down, as in the log lines.
        self.update(self._id, completed=done, left=left, percent=_percent(done, self._total))

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self._numbers:
            yield Text(self._numbers, no_wrap=True, overflow="ellipsis")


def _percent(done: int, total: int) -> int:
    """Rounded down; all of nothing is 100."""
    return done * 100 // total if total else 100


def _names(ways: tuple[int | str, int | str] | None) -> dict[str, str]:
    """What stands before a number of training and of validation: its ways, where the two differ."""
    if ways is None or ways[0] == ways[1]:
        return {"train": "", "val": ""}
    return {"train": f"{ways[0]}-way ", "val": f"{ways[1]}-way "}
