"""`metalearn status`: how far a sweep or a run is, whoever runs it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from metalearn.cli.arguments import parsed
from metalearn.errors import UserError
from metalearn.report import terminal
from metalearn.report.jobs import LiveJobs, jobs_table, progress_line, unfinished
from metalearn.runs.directory import without_nan
from metalearn.status import Status
from metalearn.sweeps.status import status_of

_LIVE_SECONDS, _LINE_SECONDS = 2.0, 30.0  # between two looks: on a terminal, and where each makes a line


def status(argv: list[str]) -> None:
    """Prints the jobs with their progress; with --watch, again and again until no job is at work."""
    args = _arguments(argv)
    record = status_of(args.path)
    if args.json:
        print(json.dumps(without_nan(record), indent=2, ensure_ascii=False))
        return
    if args.watch:
        record = _watched(args.path, record)
    jobs_table(record)


def _watched(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Shows the progress until all jobs have ended or none is at work; returns the last state."""
    with LiveJobs() as live:
        while record["counts"].get(Status.RUNNING) and unfinished(record):
            if live.is_open:
                live.show(record)
            else:
                terminal.say(progress_line(record))
            time.sleep(_LIVE_SECONDS if live.is_open else _LINE_SECONDS)
            record = status_of(path)
    return record


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--watch", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parsed(parser, argv)
    if len(args.paths) != 1:
        raise UserError("status needs one sweep or run: metalearn status SWEEP_DIR|RUN_DIR [--watch] [--json]")
    if args.watch and args.json:
        raise UserError("only one of --watch and --json can be given")
    args.path = args.paths[0].expanduser()
    return args
