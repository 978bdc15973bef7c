"""`metalearn runs`, `metalearn runs rm`, `metalearn runs mark`: the runs that there are."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from metalearn.cli.arguments import parsed
from metalearn.cli.compare import json_text, with_joined_sort, write
from metalearn.errors import UserError


def runs(argv: list[str]) -> None:
    """Runs one of the three."""
    args = parsed(_parser(), with_joined_sort(argv))
    action, *rest = args.words or [""]
    if action in ("rm", "mark"):
        if args.filter or args.sort or args.json:
            raise UserError(f"runs {action} takes no --filter, --sort or --json")
        if args.yes and action == "mark":
            raise UserError("--yes goes with metalearn runs rm")
        return _remove(rest, args.yes) if action == "rm" else _mark(rest)
    if args.yes:
        raise UserError("--yes goes with metalearn runs rm")
    return _list(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--filter", action="append", nargs="+")
    parser.add_argument("--sort")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("-y", "--yes", action="store_true")
    return parser


def _list(args: argparse.Namespace) -> None:
    from metalearn.report.results import runs_table
    from metalearn.runs.housekeeping import listed

    if not args.words and not Path("outputs").is_dir():
        raise UserError("there is no folder 'outputs' here: metalearn runs PATH names another one")
    rows = listed(args.words or ["outputs"], [text for group in args.filter or [] for text in group], args.sort)
    if args.json != "-":
        runs_table(rows)
    if args.json is not None:
        write(args.json, json_text(rows), "--json")


def _remove(paths: list[str], yes: bool) -> None:
    from metalearn.report import terminal
    from metalearn.runs.housekeeping import listed, removable, remove
    from metalearn.sizes import bytes_text

    if not paths:
        raise UserError("runs rm needs runs: metalearn runs rm RUN... [--yes]")
    chosen = [removable(path) for path in dict.fromkeys(paths)]
    for row in listed([run.path for run in chosen]):
        terminal.say(f"{row['path']}  {_said(row)}  {bytes_text(row['size'])}")
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(
                "runs rm asks before it removes, and there is nobody to ask: --yes removes without a question"
            )
        if input(f"remove {len(chosen)} run{'s' if len(chosen) > 1 else ''}? [y/N] ").strip().lower() not in (
            "y",
            "yes",
        ):
            terminal.say("nothing is removed")
            return
    remove(chosen)
    terminal.say(f"removed: {len(chosen)}")


def _said(row: dict[str, Any]) -> str:
    return " ".join(str(row[key]) for key in ("status", "algorithm", "dataset", "task") if row[key])


def _mark(words: list[str]) -> None:
    from metalearn.runs.housekeeping import mark, run_of

    if len(words) < 2:
        raise UserError("runs mark needs runs and a label: metalearn runs mark RUN... LABEL")
    *paths, label = words
    for run in [run_of(path) for path in paths]:
        mark(run, label)
