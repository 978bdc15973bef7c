"""The numbers of a run: all of them in metrics.csv; curves, pictures and texts in TensorBoard's event file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from metalearn.errors import UserError
from metalearn.runs import events
from metalearn.runs.directory import write_text


class Tracker:
    """Writes into `run_dir` until it is closed.

    Args:
        hparams: what the run is called by in TensorBoard's table.
        after: where a run goes on after this outer step: later rows are dropped, and so are those of tests.
        score: the name of the main score.
        about: the run's configuration as Markdown; empty: TensorBoard shows none.
    """

    def __init__(
        self,
        run_dir: Path,
        hparams: dict[str, object],
        after: int | None = None,
        score: str = "accuracy",
        about: str = "",
    ) -> None:
        self._path = run_dir / "metrics.csv"
        kept = _rows_up_to(self._path, after) if after is not None else []
        if after is None and self._path.exists():
            raise UserError(f"{self._path} exists: '{run_dir}' holds another run's numbers already")
        self._columns = ["step", *dict.fromkeys(tag for row in kept for tag in row if tag != "step")]
        self._write([[row.get(name, "") for name in self._columns] for row in kept])
        self._file = self._path.open("a", encoding="utf-8", newline="")
        self._events, self._score = events.EventFile(run_dir), score
        if after is None:
            self._events.add(summary=events.session_start(hparams))
            self._events.add(summary=events.layout(score))
        else:
            # Readers forget what they have of this step and later ones; a test's row may stand at this very step.
            self._events.add(step=after, session_log=events.RESTART)
            for row in kept:
                if int(row["step"]) == after:
                    self._scalars(after, {tag: float(cell) for tag, cell in row.items() if tag != "step"})
        if about:
            self._events.add(step=after or 0, summary=events.text("configuration", about))
        self._closed = False

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """A run that was interrupted has not ended: nothing is said of it."""
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        try:
            self.close("done" if kind is None else None if interrupted else "failed")
        except OSError:
            if kind is None:  # else it says less than what went wrong before
                raise

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one row, and a point to each curve, which are in the files when this returns."""
        numbers = {tag: float(value) for tag, value in values.items()}
        new = [tag for tag in numbers if tag not in self._columns]
        if new:
            rows = _read_rows(self._path)[1:]
            self._columns += new
            self._file.close()
            # The rows there are keep their cells and get empty ones.
            self._write([row + [""] * (len(self._columns) - len(row)) for row in rows])
            self._file = self._path.open("a", encoding="utf-8", newline="")
        self._file.write(_csv_line([step, *(numbers.get(tag, "") for tag in self._columns[1:])]))
        self._file.flush()
        self._scalars(step, numbers)

    def show(self, step: int, pictures: Mapping[str, events.Picture], texts: Mapping[str, str] | None = None) -> None:
        """Adds pictures, and texts in Markdown, by their tags to what TensorBoard shows."""
        for tag, picture in pictures.items():
            self._events.add(step=step, summary=events.image(tag, picture))
        for tag, text in (texts or {}).items():
            self._events.add(step=step, summary=events.text(tag, text))

    def sync(self) -> None:
        """Puts the rows on the disk, to be there after a power cut."""
        os.fsync(self._file.fileno())

    def close(self, status: str | None) -> None:
        """Writes how the run ended (`done` or anything else; None: it has not) and closes both files; later calls do nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            if status is not None:
                self._events.add(summary=events.session_end(status))
        finally:
            try:
                self._file.close()
            finally:
                self._events.close()

    def _scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        for record in events.scalars(numbers, self._score):
            self._events.add(step=step, summary=record)

    def _write(self, rows: list[list[str]]) -> None:
        """Puts the file in place with the present columns and these rows."""
        write_text(self._path, "".join(_csv_line(row) for row in [self._columns, *rows]))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, without the cells that are empty."""
    header, *rows = _read_rows(path)
    return [{name: float(cell) for name, cell in zip(header, row, strict=False) if cell} for row in rows]


def _read_rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def _rows_up_to(path: Path, step: int) -> list[dict[str, str]]:
    """The rows of training up to an outer step; what a killed process left of a line is none."""
    if not path.exists():
        return []
    whole_lines = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0]
    header, *rows = list(csv.reader(io.StringIO(whole_lines))) or [[]]
    named = [{name: cell for name, cell in zip(header, row, strict=False) if cell} for row in rows]
    return [
        row
        for row in named
        if row.get("step", "").isdigit()
        and int(row["step"]) <= step
        and all(_is_number(cell) for cell in row.values())
        and not any(tag.startswith("test/") for tag in row)
    ]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _csv_line(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
