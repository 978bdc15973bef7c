"""`metalearn compare`: runs side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from metalearn.cli.arguments import parsed, positive
from metalearn.errors import UserError

_FORMATS = ("csv", "json", "md", "tex")


def compare(argv: list[str]) -> None:
    """Reads the runs, prints the table, writes what was asked for."""
    args = parsed(_parser(), with_joined_sort(argv))
    if not args.paths:
        raise UserError("compare needs runs: metalearn compare PATH... (a run, a sweep, a folder with runs, a pattern)")
    from metalearn.report import comparison as shown
    from metalearn.runs.comparison import Wanted
    from metalearn.runs.comparison import compare as compared

    filters = [text for group in args.filter or [] for text in group]
    found = compared(
        Wanted(args.paths, args.baseline, bands(args.equal or []), args.sort, filters, args.top, args.evals)
    )
    texts: dict[str, Callable[[], str]] = {
        "csv": lambda: shown.csv_text(found.record),
        "json": lambda: json_text(found.record),
        "md": lambda: shown.markdown_text(found.record, args.skip_unchanged),
        "tex": lambda: shown.tex_text(found.record, args.skip_unchanged),
    }
    asked = {name: file for name in _FORMATS if (file := getattr(args, name)) is not None}
    to_stdout = [*asked.values(), args.html].count("-")
    if to_stdout > 1:
        raise UserError("only one of --csv, --json, --md, --tex and --html can go to stdout")
    if not to_stdout:
        shown.show(found.record, args.skip_unchanged)
    for name, file in asked.items():
        write(file, texts[name](), f"--{name}")
    if args.html is not None:
        from metalearn.report.page import html_text
        from metalearn.runs.details import details

        write(args.html, html_text(found.record, details(found.rows), args.skip_unchanged), "--html")


def with_joined_sort(argv: list[str]) -> list[str]:
    """`--sort=-score` for `--sort -score`, which argparse takes for two flags."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--sort" and not word.startswith("--"):
            joined[-1] = f"--sort={word}"
        else:
            joined.append(word)
    return joined


def write(file: str, text: str, flag: str) -> None:
    """Writes to a file, or to stdout for `-`.

    Raises:
        UserError: the file cannot be written.
    """
    from metalearn import atomic
    from metalearn.report import terminal
    from metalearn.runs.directory import check_target

    if file == "-":
        terminal.say(text.rstrip("\n"))
        return
    path = check_target(file, flag)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, text.encode())
    except OSError as error:
        raise UserError(f"{flag}: {file} cannot be written: {error.strerror or error}") from error
    terminal.say(f"written to: {file}")


def json_text(record: Any) -> str:
    """JSON, with null where a number is NaN."""
    from metalearn.runs.directory import without_nan

    return json.dumps(without_nan(record), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def bands(texts: list[str]) -> dict[str | None, float]:
    """What `--equal 0.5` and `--equal mse=0.01` say: score -> band, None for the others."""
    found: dict[str | None, float] = {}
    for text in texts:
        score, equals, number = text.rpartition("=")
        try:
            found[score if equals else None] = band = float(number)
        except ValueError:
            band = -1.0
        if not 0 <= band < float("inf"):
            raise UserError(f"--equal: '{text}' is not allowed (a number >= 0, or SCORE=NUMBER)")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--baseline")
    parser.add_argument("--equal", action="append")
    parser.add_argument("--filter", action="append", nargs="+")
    parser.add_argument("--sort")
    parser.add_argument("--top", type=positive)
    parser.add_argument("--skip-unchanged", action="store_true")
    parser.add_argument("--evals", action="store_true")
    for name in (*_FORMATS, "html"):
        parser.add_argument(f"--{name}", metavar="FILE")
    return parser
