"""The numbers of a run: the same ones in metrics.csv and in TensorBoard's event file."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_records

from metalearn.errors import UserError
from metalearn.run_dir import write_text

_EVENT_SECONDS = 10  # between two flushes of the event file: how old TensorBoard's curves may be


class Tracker:
    """Writes into `run_dir` until it is closed."""

    def __init__(self, run_dir: Path, hparams: dict[str, object]) -> None:
        self._path = run_dir / "metrics.csv"
        if self._path.exists():
            raise UserError(f"{self._path} exists: '{run_dir}' holds another run's numbers already")
        self._columns = ["step"]
        self._write_header()
        self._file = self._path.open("a", encoding="utf-8", newline="")
        self._events = SummaryWriter(str(run_dir), flush_secs=_EVENT_SECONDS)
        self._records: Any = self._events._get_file_writer()  # type: ignore[no-untyped-call]
        self._records.add_summary(_session_start(hparams))
        self._closed = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one row, which is in the file when this returns, and one scalar for each tag."""
        numbers = {tag: float(value) for tag, value in values.items()}
        new = [tag for tag in numbers if tag not in self._columns]
        if new:
            self._columns += new
            self._file.close()
            self._write_header()
            self._file = self._path.open("a", encoding="utf-8", newline="")
        self._file.write(_csv_line([step, *(numbers.get(tag, "") for tag in self._columns[1:])]))
        self._file.flush()
        for tag, value in numbers.items():
            self._events.add_scalar(tag, value, step)

    def close(self, status: str) -> None:
        """Writes how the run ended (`done` or anything else) and closes both files; later calls do nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._records.add_summary(_session_end(status))
        finally:
            self._file.close()
            self._events.close()

    def _write_header(self) -> None:
        """Puts the file in place with the present columns; the rows it holds keep their cells and get empty ones."""
        rows = _read_rows(self._path)[1:] if self._path.exists() else []
        padded = [row + [""] * (len(self._columns) - len(row)) for row in rows]
        write_text(self._path, "".join(_csv_line(row) for row in [self._columns, *padded]))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, without the cells that are empty."""
    header, *rows = _read_rows(path)
    return [{name: float(cell) for name, cell in zip(header, row, strict=False) if cell} for row in rows]


def _read_rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


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
