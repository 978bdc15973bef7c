"""`metalearn eval`: finished runs on test tasks, under their own configuration changed by overrides; several runs or values make a grid."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from metalearn.cli.arguments import parsed, with_quoted_home
from metalearn.cli.single import is_first_rank
from metalearn.compose.composer import composer, explained
from metalearn.errors import RunFailed, UserError
from metalearn.sizes import count_text

_USAGE = "metalearn eval RUN_DIR [RUN_DIR ...] [key=value[,value ...] ...]"


def evaluate(argv: list[str]) -> None:
    """Evaluates a run, or every cell of a grid."""
    args = parsed(_parser(), argv)
    runs, overrides = _sorted(args.words)
    if not runs:
        raise UserError(f"eval needs a run directory: {_USAGE}")
    asked = [name for name in ("csv", "json", "html") if getattr(args, name) is not None]
    if [getattr(args, name) for name in asked].count("-") > 1:
        raise UserError("only one of --csv, --json and --html can go to stdout")
    from metalearn.sweeps.evaluations import asked_cells

    with explained(overrides, args.config_dir, None), composer(args.config_dir) as composing:
        cells = asked_cells(composing, runs, overrides)
    if not is_first_rank():  # of torchrun's processes one is enough
        return
    if len(cells) == 1 and not asked and not args.fresh:
        from metalearn.runs.evaluation import evaluate_run

        config = cells[0].config
        assert config is not None  # else it would have been refused
        evaluate_run(runs[0], config, overrides)
        return
    _grid(args, cells, overrides, asked)


def _grid(args: argparse.Namespace, cells: list[Any], overrides: list[str], asked: list[str]) -> None:
    from metalearn.cli.compare import json_text, write
    from metalearn.report import evaluation as shown
    from metalearn.report import terminal
    from metalearn.runs.evaluation_grid import evaluate_grid

    quiet = "-" in [getattr(args, name) for name in asked]  # stdout is the file

    def told(cell: dict[str, Any], number: int, of: int) -> None:
        if not quiet:
            terminal.say(shown.progress_line(cell, number, of))

    try:
        record = evaluate_grid(cells, overrides, args.fresh, told)
    except KeyboardInterrupt:
        terminal.error_line("stopped: finished cells are kept, the same command goes on with the others")
        raise
    if not quiet:
        shown.show(record)
    if args.csv is not None:
        write(args.csv, shown.csv_text(record), "--csv")
    if args.json is not None:
        write(args.json, json_text(record), "--json")
    if args.html is not None:
        from metalearn.report.evaluation_page import html_text

        write(args.html, html_text(record), "--html")
    missing = sum(not shown.is_done(cell) for cell in record["cells"])
    if missing or record["written"] is None:
        raise RunFailed(f"without a score: {missing} of {count_text(len(cells), 'cell')}")


def _sorted(words: list[str]) -> tuple[list[Path], list[str]]:
    """Run directories, the first word in any case, and overrides; a directory may have a `=` in its name."""

    def is_run(place: int, word: str) -> bool:
        return place == 0 or os.path.isdir(os.path.expanduser(word)) or ("/" in word and "=" not in word)

    runs = [Path(os.path.expanduser(word)) for place, word in enumerate(words) if is_run(place, word)]
    return runs, [with_quoted_home(word) for place, word in enumerate(words) if not is_run(place, word)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--fresh", action="store_true")
    for flag in ("--csv", "--json", "--html"):
        parser.add_argument(flag, metavar="FILE")
    return parser
