"""The numbers of a run: the same ones in metrics.csv and in TensorBoard's event file."""

from __future__ import annotations

import csv
import io
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import hparams as hparams_records
from torch.utils.tensorboard.summary import scalar as scalar_record

from metalearn.errors import UserError
from metalearn.runs.directory import write_text

_EVENTS = "events.out.tfevents"


class Tracker:
    """Writes into `run_dir` until it is closed.

    Args:
        hparams: what the run is called by in TensorBoard's table.
        after: where a run goes on after this outer step: later rows are dropped, and so are those of tests.
    """

    def __init__(self, run_dir: Path, hparams: dict[str, object], after: int | None = None) -> None:
        self._path = run_dir / "metrics.csv"
        kept = _rows_up_to(self._path, after) if after is not None else []
        if after is None and self._path.exists():
            raise UserError(f"{self._path} exists: '{run_dir}' holds another run's numbers already")
        self._columns = ["step", *dict.fromkeys(tag for row in kept for tag in row if tag != "step")]
        self._write([[row.get(name, "") for name in self._columns] for row in kept])
        self._file = self._path.open("a", encoding="utf-8", newline="")
        self._events = _EventFile(run_dir)
        if after is None:
            self._events.add(summary=_session_start(hparams))
        else:
            # Readers forget what they have of this step and later ones; a test's row may stand at this very step.
            self._events.add(step=after, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
            for row in kept:
                if int(row["step"]) == after:
                    self._scalars(after, {tag: float(cell) for tag, cell in row.items() if tag != "step"})
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
        """Adds one row and one scalar for each tag, which are in the files when this returns."""
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
                self._events.add(summary=_session_end(status))
        finally:
            try:
                self._file.close()
            finally:
                self._events.close()

    def _scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        for tag, value in numbers.items():
            self._events.add(step=step, summary=scalar_record(tag, value))  # type: ignore[no-untyped-call]

    def _write(self, rows: list[list[str]]) -> None:
        """Puts the file in place with the present columns and these rows."""
        write_text(self._path, "".join(_csv_line(row) for row in [self._columns, *rows]))


class _EventFile:
    """TensorBoard's records, each in the file when `add` returns.

    torch's SummaryWriter writes them from a thread, in which a full disk ends in a traceback that nobody can catch.
    """

    def __init__(self, run_dir: Path) -> None:
        # Readers take the files of a directory in the order of their names, whatever the clock did in between.
        earlier = [file.name.split(".")[3] for file in run_dir.glob(f"{_EVENTS}.*.*")]
        number = max([int(time.time()), *(int(name) + 1 for name in earlier if name.isdigit())])
        name = f"{_EVENTS}.{number:010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (run_dir / name).open("wb")
        self._records = RecordWriter(self._file)
        self.add(file_version="brain.Event:2")

    def add(self, **content: Any) -> None:
        self._records.write(event_pb2.Event(wall_time=time.time(), **content).SerializeToString())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


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


def _session_start(hparams: dict[str, object]) -> Any:
    """The record of a run's hyperparameters for TensorBoard's hparams plugin.

    torch's other record, of an Experiment, would fix the table's columns to those of one run; without it TensorBoard shows the union of all runs'.
    """
    values = {key: _hparam(value) for key, value in hparams.items() if value is not None}
    _, start, _ = hparams_records(values, {})  # type: ignore[no-untyped-call]
    return start


def _session_end(status: str) -> Any:
    """The record of how a run ended; torch only makes one of success."""
    _, _, end = hparams_records({}, {})  # type: ignore[no-untyped-call]
    plugin = end.value[0].metadata.plugin_data
    content = plugin_data_pb2.HParamsPluginData.FromString(plugin.content)
    content.session_end_info.status = api_pb2.STATUS_SUCCESS if status == "done" else api_pb2.STATUS_FAILURE
    content.session_end_info.end_time_secs = time.time()
    plugin.content = content.SerializeToString()
    return end


def _hparam(value: object) -> float | str:
    """TensorBoard draws a bool as 0 or 1 and knows no lists: both become text."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float | str) else str(value)
