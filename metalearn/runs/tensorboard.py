"""`metalearn tensorboard`: TensorBoard over chosen runs.

A folder is made that holds, for each run, a folder with a short name and links to the run's event files. TensorBoard's server is started on it. A
first event file in each of these folders says by which settings the run differs from the others: so the table of hyperparameters has these columns
alone.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalearn.errors import UserError
from metalearn.runs.directory import PROJECTOR
from metalearn.runs.found import Found
from metalearn.runs.rows import value_text
from metalearn.runs.shown import Shown, chosen, event_files, from_metrics, implied
from metalearn.runs.tensorboard_server import Server


class Board:
    """A TensorBoard server over runs, from its making until it is closed.

    Attributes:
        address: where it answers.
        shown: its runs.
        left_out: runs that have written nothing to show.

    Raises:
        UserError: as `chosen`; or the port is taken.
        RunFailed: the server does not start.
    """

    def __init__(self, paths: Sequence[str | Path], filters: Sequence[str] = (), port: int | None = None) -> None:
        self._asked = (paths, filters)
        self.shown, self.left_out = chosen(paths, filters)
        self._columns = list(dict.fromkeys(key for one in self.shown for key in one.settings))
        self._texts = {
            key
            for one in self.shown
            for key, value in one.settings.items()
            if isinstance(value, bool) or not isinstance(value, int | float)
        }
        self._folder = Path(tempfile.mkdtemp(prefix="metalearn-tensorboard-"))
        self._server: Server | None = None
        try:
            for number, one in enumerate(self.shown):
                self._add(one, first=number == 0)
            self._server = Server(self._folder, port)
            self.address = self._server.address
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self) -> dict[str, Any]:
        """Plain values: address, runs (name, path, status, settings), left_out (path, status)."""
        return {
            "address": self.address,
            "runs": [
                {
                    "name": one.name,
                    "path": str(one.run.path),
                    "status": str(one.run.status),
                    "settings": one.settings,
                }
                for one in self.shown
            ],
            "left_out": [{"path": str(run.path), "status": str(run.status)} for run in self.left_out],
        }

    def refresh(self) -> list[Shown]:
        """Adds runs that were started since, and files that the others have written; returns the new runs."""
        with contextlib.suppress(UserError):  # what was there may be gone by now
            now, self.left_out = chosen(*self._asked)
            known = {one.run.path: one for one in self.shown}
            for path, one in known.items():
                if not from_metrics(one.run):
                    _link(path, self._folder / one.name)
            new = []
            for one in now:
                if one.run.path not in known:
                    names = {each.name for each in self.shown}
                    name = next(
                        text
                        for n in range(1, len(names) + 2)
                        if (text := one.name if n == 1 else f"{one.name} #{n}") not in names
                    )
                    new.append(Shown(name, one.run, {key: one.settings.get(key) for key in self._columns}))
                    self._add(new[-1], first=False)
                    self.shown.append(new[-1])
            return new
        return []

    @property
    def running(self) -> bool:
        """Whether the server is still there."""
        return self._server is not None and self._server.running

    def close(self) -> None:
        """Ends the server and removes its folder; the runs stay as they are. Later calls do nothing."""
        if self._server is not None:
            self._server.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _add(self, one: Shown, first: bool) -> None:
        from metalearn.runs import events

        folder = self._folder / one.name
        folder.mkdir()
        log = events.EventFile(folder, number=0)  # before all others
        try:
            started = _started(one.run.path)
            log.add(started, summary=events.session_start(self._of_one_type(one), started))
            if first:
                log.add(started, summary=events.experiment(self._values(), implied(self.shown), self._metrics()))
            if from_metrics(one.run):
                _add_curves(one.run, log, started)
        finally:
            log.close()
        if not from_metrics(one.run):
            _link(one.run.path, folder)

    def _values(self) -> dict[str, list[object]]:
        """Column -> what the runs have there."""
        told = [self._of_one_type(one) for one in self.shown]
        return {key: [row[key] for row in told if row.get(key) is not None] for key in self._columns}

    def _of_one_type(self, one: Shown) -> dict[str, Any]:
        """The settings of a run, as texts in columns where some run has a text: TensorBoard sorts a column by one type."""
        return {
            key: (value_text(value) if key in self._texts else value)
            for key, value in one.settings.items()
            if key in self._columns
        }

    def _metrics(self) -> dict[str, str]:
        """Tag -> title, of the main scores of the runs' kinds."""
        scores = dict.fromkeys(one.run.kind.score for one in self.shown)
        return {
            tag: title
            for score in scores
            for tag, title in ((f"test/{score}", f"test {score}"), (f"{score}/val", f"validation {score}"))
        }


def _started(path: Path) -> float:
    """When a run began, in seconds since 1970: its first event file is called by it."""
    for file in event_files(path):
        if (number := file.name.split(".")[3]).isdigit():
            return float(number)
    return path.stat().st_mtime


def _add_curves(run: Found, log: Any, started: float) -> None:
    """The rows of metrics.csv as curves."""
    from metalearn.runs import events
    from metalearn.runs.tracking import read_metrics

    log.add(started, summary=events.layout(run.kind.score))
    seconds = 0.0
    for row in read_metrics(run.path / "metrics.csv"):
        seconds = row.get("time/seconds", seconds)
        numbers = {column: value for column, value in row.items() if column != "step"}
        for record in events.scalars(numbers, run.kind.score):
            log.add(started + seconds, step=int(row["step"]), summary=record)
    log.add(summary=events.session_end(run.status))


def _link(path: Path, folder: Path) -> None:
    """Links what TensorBoard reads of a run; copies it where there are no links, as on some file systems."""
    for file in event_files(path):
        place = folder / file.name
        if not place.exists():
            try:
                place.symlink_to(file.resolve())
            except OSError:
                shutil.copy2(file, place)
    # The projector refuses files that lie outside of its folder, as links do. The file that names the others comes last.
    for file in (path / name for name in reversed(PROJECTOR)):
        place = folder / file.name
        if file.is_file() and not (place.exists() and place.stat().st_mtime >= file.stat().st_mtime):
            shutil.copy2(file, place)
