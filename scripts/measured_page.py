"""What the programs that measure tables of the documentation share: the file of rows, and the page that has them between two markers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from metalearn.runs.directory import write_json, write_text
from metalearn.runs.environment import environment

Record = dict[str, Any]


def stored(results: Path) -> Record:
    """The rows that were measured so far, `measured`, and the `environment` of the last one."""
    return json.loads(results.read_text()) if results.exists() else {"measured": []}  # type: ignore[no-any-return]


def filled(file: Path, lines: list[str], markers: tuple[str, str]) -> str:
    """The text of a page with these lines in their place, between the markers."""
    begin, last = markers
    before, _, rest = file.read_text(encoding="utf-8").partition(begin)
    _, end, after = rest.partition(last)
    if not end:
        raise SystemExit(f"{file} lacks the lines {begin} and {last}")
    return "\n".join([before + begin, *lines, last]) + after


def bring_up_to_date(
    rows: Iterable[Record], results: Path, file: Path, page: Callable[[Record], str], check: str | None
) -> None:
    """Measures rows on one thread, stores each at once, and writes the page.

    Args:
        rows: measured as they are asked for.
        results: the JSON file of rows.
        page: the text of `file` with the tables of what is stored.
        check: the name of a program: nothing is measured or written, and an old page ends it with a line that names the program.
    """
    if check is not None:
        if page(stored(results)) != file.read_text(encoding="utf-8"):
            sys.exit(f"{file} is out of date: run python scripts/{check}")
        return
    torch.set_num_threads(1)
    for row in rows:
        record = stored(results)
        record["environment"] = environment("cpu")
        record["measured"].append(row)
        write_json(results, record)
    write_text(file, page(stored(results)))
