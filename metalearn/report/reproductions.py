"""How the runs of several seeds compare with their paper, in one table."""

from __future__ import annotations

from typing import Any

from metalearn.report import terminal
from metalearn.report.published import band_text, number, paper_text, unit
from metalearn.report.results import departures, verdict_style
from metalearn.sizes import count_text

_HEAD = ["", "paper", "mean", "deviation", "± seeds", "± tasks", "± classes", "difference", "band", "verdict"]


def over_seeds(record: dict[str, Any]) -> None:
    """Prints what the `reproduction.json` of a whole says: a table, then each difference once."""
    terminal.say(f"{record['experiment']}: {record['paper']}, {record['table']} ({record['url']})")
    rows = [_cells(row) for row in record["rows"]]
    terminal.table(_HEAD, rows, lambda column, cell: verdict_style(cell) if column == len(_HEAD) - 1 else "")
    for note in _notes(record):
        terminal.say(note)


def _cells(row: dict[str, Any]) -> list[str]:
    numbers = [row[key] for key in ("std", "ci95_seeds", "ci95", "ci95_classes")]
    return [
        row["name"],
        paper_text(row),
        "none" if row["ours"] is None else f"{number(row, row['ours'])}{unit(row)}",
        *("" if value is None else number(row, value) for value in numbers),
        "none" if row["difference"] is None else number(row, row["difference"], sign=True),
        band_text(row),
        row["verdict"],
    ]


def _notes(record: dict[str, Any]) -> list[str]:
    seeds, tasks = record["seeds"], {row["tasks"] for row in record["rows"]}
    paper = f"the paper's intervals: over {record['interval_over']}; " if record["interval_over"] else ""
    classes = any(row["ci95_classes"] is not None for row in record["rows"])
    over_classes = " and over test classes" if classes else ""
    mean = f"mean over {count_text(len(seeds), 'seed')} ({', '.join(map(str, seeds))})"
    ours = (
        f"{paper}ours: {mean} of {', '.join(map(str, sorted(tasks)))} test tasks each, their standard deviation, "
        f"95 % intervals of the mean over seeds, over test tasks{over_classes}"
    )
    return [ours, *departures(record)]
