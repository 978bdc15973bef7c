"""`metalearn tensorboard`: TensorBoard over chosen runs.

A folder is made that holds, for each run, a folder with a short name and links to the run's event files. TensorBoard's server is started on it. A
first event file in each of these folders says by which settings the run differs from the others: so the table of hyperparameters has these columns
alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalearn.errors import RunFailed, UserError, one_line
from metalearn.runs.directory import PROJECTOR
from metalearn.runs.filters import kept
from metalearn.runs.finding import found
from metalearn.runs.found import UNREADABLE, Found
from metalearn.runs.rows import NAMES, Row, differing, grouped, named, value_text
from metalearn.status import Status

HOST, PORT = "127.0.0.1", 6006  # TensorBoard's own port, taken where it is free
_START = 60.0  # seconds that the server may take to answer
_EVENTS = "events.out.tfevents"
_LOST = re.compile(r"[/\\:\0]+")  # what the name of a folder cannot hold, or should not


@dataclass(frozen=True)
class Shown:
    """A run as TensorBoard calls it."""

    name: str
    run: Found
    settings: dict[str, Any]  # by which it differs from the others


def chosen(paths: Sequence[str | Path], filters: Sequence[str] = ()) -> tuple[list[Shown], list[Found]]:
    """The runs that can be shown, each with a name, and those that have written nothing to show.

    Args:
        paths: as `metalearn compare` takes them: runs, sweeps, folders with runs, patterns.
        filters: `key=value` and the like.

    Raises:
        UserError: a path holds no run, a filter fits no run or has a key that no run has, or no run has curves.
    """
    runs = kept(found(paths), filters)
    if not runs:
        raise UserError(f"no run is left by {' '.join(filters)}")
    there = [run for run in runs if run.status != UNREADABLE and run.config and (_events(run.path) or _rows(run))]
    if not there:
        raise UserError(f"{'these runs have' if len(runs) > 1 else 'this run has'} written no curves yet")
    return _named(there), [run for run in runs if run not in there]


def _named(runs: Sequence[Found]) -> list[Shown]:
    """A name for each run: what tells it apart, and its seed where seeds differ."""
    rows = grouped(runs)
    columns = differing(rows)
    seeds = len({run.seed for run in runs}) > 1
    shown, taken = [], set()
    for row, text in zip(rows, named(rows, columns), strict=True):
        for run in row.runs:
            words = f"{text} seed={run.seed}" if seeds else text
            plain = _LOST.sub("-", words).strip() or run.path.name
            name = next(
                one for n in range(1, len(runs) + 2) if (one := plain if n == 1 else f"{plain} #{n}") not in taken
            )
            taken.add(name)
            shown.append(
                Shown(name, run, _settings(row, columns) | ({"seed": run.seed} if seeds or not columns else {}))
            )
    order = {run.path: place for place, run in enumerate(runs)}
    return sorted(shown, key=lambda one: order[one.run.path])


def _implied(shown: Sequence[Shown]) -> set[str]:
    """The settings that say no more than the names of the parts do: that are alike in all runs of one algorithm, say."""
    told: dict[str, dict[tuple[Any, ...], set[str]]] = {}
    for one in shown:
        names = tuple(one.run.name_of(name) for name in NAMES)
        for key, value in one.settings.items():
            told.setdefault(key, {}).setdefault(names, set()).add(value_text(value))
    several = len({names for by_names in told.values() for names in by_names}) > 1
    return {
        key
        for key, by_names in told.items()
        if several and key not in NAMES and all(len(values) == 1 for values in by_names.values())
    }


def _settings(row: Row, columns: dict[str, str]) -> dict[str, Any]:
    """What the table shows of the runs of a row: what differs, or, where nothing does, which algorithm, backbone and data set."""
    return {key: row.value(key) for key in columns or NAMES if row.has(key)}


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
        self._port = _port(port)
        self.address = f"http://{HOST}:{self._port}/"
        self._columns = list(dict.fromkeys(key for one in self.shown for key in one.settings))
        self._folder = Path(tempfile.mkdtemp(prefix="metalearn-tensorboard-"))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            for number, one in enumerate(self.shown):
                self._add(one, first=number == 0)
            self._start()
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
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Ends the server and removes its folder; the runs stay as they are. Later calls do nothing."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            _end(process)
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
                log.add(started, summary=events.experiment(self._values(), _implied(self.shown), self._metrics()))
            if _rows(one.run):
                _add_curves(one.run, log, started)
        finally:
            log.close()
        if not _rows(one.run):
            _link(one.run.path, folder)

    def _values(self) -> dict[str, list[object]]:
        """Column -> what the runs have there."""
        told = [self._of_one_type(one) for one in self.shown]
        return {key: [row[key] for row in told if row.get(key) is not None] for key in self._columns}

    def _of_one_type(self, one: Shown) -> dict[str, Any]:
        """The settings of a run, as texts in columns where some run has a text: TensorBoard sorts a column by one type."""
        from metalearn.runs.events import hparam

        texts = {
            key for key in self._columns for each in self.shown if isinstance(hparam(each.settings.get(key, 0)), str)
        }
        return {
            key: (value_text(value) if key in texts else value)
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

    def _start(self) -> None:
        words = ["--logdir", str(self._folder), "--host", HOST, "--port", str(self._port)]
        output = self._folder.with_name(f"{self._folder.name}.log")
        try:
            with output.open("wb") as file:
                # A session of its own: Ctrl-C ends this process, which then ends the server and its data server.
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tensorboard.main", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            deadline = time.monotonic() + _START
            while self.running and time.monotonic() < deadline:
                if _answers(self.address):
                    return
                time.sleep(0.1)
            said = output.read_text(errors="replace").strip().splitlines()
            raise RunFailed(f"TensorBoard did not start: {said[-1] if said else 'no answer'}")
        finally:
            output.unlink(missing_ok=True)


def _events(path: Path) -> list[Path]:
    return sorted(path.glob(f"{_EVENTS}.*"))


def _rows(run: Found) -> bool:
    """Whether the curves are taken from metrics.csv: in event files of earlier versions they have other tags."""
    ended = run.status not in (Status.RUNNING, Status.INTERRUPTED)
    return ended and "pictures" not in (run.config.get("eval") or {}) and (run.path / "metrics.csv").is_file()


def _started(path: Path) -> float:
    """When a run began, in seconds since 1970: its first event file is called by it."""
    for file in _events(path):
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
    for file in [*_events(path), *(path / name for name in PROJECTOR)]:
        place = folder / file.name
        if file.is_file() and not place.exists():
            # The projector refuses files that lie outside of its folder, as links do.
            if file.name not in PROJECTOR:
                with contextlib.suppress(OSError):
                    place.symlink_to(file.resolve())
                    continue
            shutil.copy2(file, place)


def _port(asked: int | None) -> int:
    """A port that is free.

    Raises:
        UserError: the one that was asked for is not.
    """
    for port in (PORT, 0) if asked is None else (asked,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name != "nt")
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError) as error:
                if asked is not None:
                    raise UserError(
                        f"--port {asked} cannot be used ({one_line(error)}); without --port a free one is taken"
                    ) from error
                continue
            return int(probe.getsockname()[1])
    raise UserError("no port is free")


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}data/environment", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the server with the process that reads files for it."""
    for sign in _signals():
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, sign)
            else:
                process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            return


def _signals() -> Iterator[int]:
    yield signal.SIGTERM
    yield getattr(signal, "SIGKILL", signal.SIGTERM)
