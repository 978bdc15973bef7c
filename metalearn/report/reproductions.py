"""How the runs of several seeds compare with their paper, in one table."""

from __future__ import annotations

from typing import Any

from metalearn.report import terminal
from metalearn.report.results import departures, verdict_style

_HEAD = ["", "paper", "mean", "deviation", "± seeds", "± tasks", "± classes", "difference", "band", "verdict"]


def over_seeds(record: dict[str, Any]) -> None:
    """Prints what the `reproduction.json` of a whole says: a table, then each difference once."""
    terminal.say(f"{record['experiment']}: {record['paper']}, {record['table']} ({record['url']})")
    rows = [_cells(row) for row in record["rows"]]
    terminal.table(_HEAD, rows, lambda column, cell: verdict_style(cell) if column == len(_HEAD) - 1 else "")
    for note in _notes(record):
        terminal.say(note)


def _cells(row: dict[str, Any]) -> list[str]:
    paper = "none"
    if row["reported"] is not None:
        interval = "" if row["interval"] is None else f" ± {row['interval']:g}"
        paper = f"{row['reported']:g}{interval} %"
    numbers = [row[key] for key in ("std", "ci95_seeds", "ci95", "ci95_classes")]
    return [
        row["name"],
        paper,
        "none" if row["ours"] is None else f"{row['ours']:.2f} %",
        *("" if number is None else f"{number:.2f}" for number in numbers),
        "none" if row["difference"] is None else f"{row['difference']:+.2f}",
        "none" if row["band"] is None else f">= {row['band']:g} %",
        row["verdict"],
    ]


def _notes(record: dict[str, Any]) -> list[str]:
    seeds, tasks = record["seeds"], {row["tasks"] for row in record["rows"]}
    paper = f"the paper's intervals: over {record['interval_over']}; " if record["interval_over"] else ""
    ours = (
        f"{paper}ours: mean over {len(seeds)} seeds ({', '.join(map(str, seeds))}) of {', '.join(map(str, sorted(tasks)))} test tasks each, their "
        "standard deviation, 95 % intervals of the mean over seeds, over test tasks and over test classes"
    )
    return [ours, *departures(record)]
