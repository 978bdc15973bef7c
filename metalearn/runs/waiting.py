"""Jobs of a sweep that have not started: they have a stored configuration, and no run directory yet. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from metalearn.errors import UserError, one_line
from metalearn.runs.directory import read_text
from metalearn.runs.finding import places
from metalearn.runs.found import UNREADABLE, Found
from metalearn.runs.quick_config import quick_config
from metalearn.status import Status


def waiting_jobs(path: str | Path) -> list[Found]:
    """The jobs that have not started of the sweeps at or below a path: pending, or failed where not even their directory could be made.

    Raises:
        UserError: the path is not there.
    """
    sweeps = dict.fromkeys(file.parent for place in places(str(path)) for file in sorted(place.rglob("sweep.json")))
    return [job for sweep in sweeps for job in _waiting(sweep)]


def _waiting(sweep: Path) -> Iterator[Found]:
    try:
        names = list(json.loads(read_text(sweep / "sweep.json"))["jobs"])
    except (UserError, ValueError, KeyError, TypeError):  # another program's file
        return
    for name in names:
        if any((sweep / name / file).exists() for file in ("config.yaml", "results.json")):
            continue
        stored, failed = sweep / "jobs" / f"{name}.yaml", sweep / "jobs" / f"{name}.error"
        error = " ".join(failed.read_text(encoding="utf-8", errors="replace").split()) if failed.is_file() else None
        try:
            status = Status.PENDING if error is None else Status.FAILED
            yield Found(sweep / name, str(status), error, quick_config(stored), {})
        except UserError as why:
            yield Found(sweep / name, UNREADABLE, one_line(why), {}, {}, unreadable=(one_line(why),))
