"""How a comparison of runs is shown: a table on the terminal, CSV, Markdown, LaTeX. The record is what `metalearn compare --json` writes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from metalearn.kinds import Scale, scale_of
from metalearn.report import terminal
from metalearn.report.seen import marks
from metalearn.report.text import duration, markdown_table

_WIDEST = 7  # columns of settings that a terminal is given; the files have all
_STYLES = {"better": "green", "worse": "red", "practically equal": "cyan", "undecided": "yellow"}


def show(record: Mapping[str, Any], skip_unchanged: bool = False) -> None:
    """Prints the table, and below it what a reader has to know."""
    head, rows = cells(record, skip_unchanged, most=_WIDEST)
    terminal.table(head, rows, lambda column, cell: _style(head[column], cell))
    for line in remarks(record, shown=True):
        terminal.say(line)


def remarks(record: Mapping[str, Any], shown: bool = False) -> list[str]:
    """The lines below a table: how to read it, warnings, notes, and the runs without a score.

    Args:
        shown: on a terminal, which is not given all columns.
    """
    lines = [_legend(record)] if any(row["difference"] for row in record["rows"]) else []
    hidden = [column["name"] for column in record["columns"][_WIDEST:]] if shown else []
    if hidden:
        lines.append(
            f"not shown: {len(hidden)} more settings that differ ({', '.join(hidden[:6])} ...); --csv, --json and --html have them"
        )
    lines += [f"warning: {text}" for text in record["warnings"]]
    lines += [f"note: {text}" for text in record["notes"]]
    lines += [
        f"{run['status']}: {run['path']}{'' if run['file'] == 'results.json' else '/' + run['file']}{'' if run['why'] is None else ': ' + run['why']}"
        for run in record["left_out"]
    ]
    return lines


def _legend(record: Mapping[str, Any]) -> str:
    scales = {row["kind"]["score"]: scale_of(row) for row in record["rows"]}
    bands = [
        f"{scales[name].text(band)}" if scales[name].percent else f"{name} {band:g}"
        for name, band in record["equal"].items()
        if band
    ]
    equal = f"; practically equal: less than {' or '.join(bands)}" if bands else ""
    return (
        f"difference to the baseline (marked *) with its 95 % interval, on the same test tasks unless it says so{equal}"
    )


def cells(
    record: Mapping[str, Any], skip_unchanged: bool = False, most: int | None = None
) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table, as texts.

    Args:
        skip_unchanged: without columns that say the same in every row.
        most: no more columns of settings than this.
    """
    columns = record["columns"][:most]
    mixed = len({row["task_text"] + str(row["dataset"]) + row["kind"]["score"] for row in record["rows"]}) > 1
    labelled = any(row["label"] for row in record["rows"])
    head = [*(["label"] if labelled else []), *(column["name"] for column in columns)]
    head = head or ["runs of"]
    head += [
        *(["tested on"] if mixed else []),
        "seeds",
        _score_head(record),
        "over",
        "difference",
        "over ",
        "p",
        "verdict",
        "to settle it",
    ]
    rows = []
    for row in record["rows"]:
        own = [setting_text(row["settings"].get(column["key"]), column["key"] in row["settings"]) for column in columns]
        line = [*([row["label"] or ""] if labelled else []), *own] or [row["name"]]
        line += [f"{row['task_text']} {row['dataset']}"] if mixed else []
        rows.append([*line, seeds_text(row), score_text(row), row["interval_over"] or "", *difference_cells(row)])
    if skip_unchanged and len(rows) > 1:
        keep = [place for place in range(len(head)) if len({line[place] for line in rows}) > 1]
        head, rows = [head[place] for place in keep], [[line[place] for place in keep] for line in rows]
    else:
        keep = [place for place in range(len(head)) if any(line[place] for line in rows)]
        head, rows = [head[place] for place in keep], [[line[place] for place in keep] for line in rows]
    return [title.strip() for title in head], rows


def setting_text(value: Any, there: bool = True) -> str:
    """A setting's value; nothing where a row has no such setting."""
    if not there:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return value if isinstance(value, str) else json.dumps(value)


def _score_head(record: Mapping[str, Any]) -> str:
    names = {row["kind"]["score"] for row in record["rows"]}
    return f"{names.pop() if len(names) == 1 else 'score'} ± 95 %"


def seeds_text(row: Mapping[str, Any]) -> str:
    """`3`, or `2 of 3 (1 failed)`; `running` where there is no score yet."""
    others = {status: n for status, n in row["status"].items() if status != "done"}
    if not others:
        return str(row["n"])
    said = ", ".join(f"{n} {status}" for status, n in others.items())
    return f"{row['n']} of {row['n'] + sum(others.values())} ({said})" if row["n"] else said


def score_text(row: Mapping[str, Any]) -> str:
    """`98.35 ± 0.10 %`, marked where test classes were seen in training."""
    if row["score"] is None:
        return ""
    kind = scale_of(row)
    return f"{'' if kind.percent else kind.score + ' '}{kind.text(row['score'], row['interval'])}{marks(row)}"


def difference_cells(row: Mapping[str, Any]) -> list[str]:
    """Difference, what its interval is over, p, verdict, what would settle it."""
    if row["is_baseline"]:
        return ["*", "", "", "baseline", ""]
    found = row["difference"]
    if found is None:
        return ["", "", "", row["not_paired"] or "", ""]
    over = "+".join(found["over"]).replace("classes", scale_of(row).drawn)
    paired = "" if found["paired"] else f" (not paired: {row['not_paired']})"
    return [
        difference_text(found, scale_of(row)),
        over,
        p_text(found["p"]),
        found["verdict"] + paired,
        settle_text(found, scale_of(row)),
    ]


def difference_text(found: Mapping[str, Any], kind: Scale) -> str:
    """`-0.75 ± 0.31` points, or in the score's own unit."""
    factor, digits = (100, 2) if kind.percent else (1, 4)
    half = found["half_width"]
    interval = "" if half is None or math.isnan(half) else f" ± {factor * half:.{digits}f}"
    return f"{factor * found['value']:+.{digits}f}{interval}"


def p_text(p: float | None) -> str:
    """`0.012`, `<0.001`; nothing where it is not known."""
    if p is None or math.isnan(p):
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def settle_text(found: Mapping[str, Any], kind: Scale) -> str:
    """`5 more seeds or 1,200 more tasks`, of an undecided difference."""
    if found["verdict"] != "undecided" or not found["over"]:
        return ""
    ways = []
    if found["more_seeds"]:
        ways.append(f"{found['more_seeds']} more seed{'s' if found['more_seeds'] > 1 else ''} each")
    if found["more_tasks"]:
        ways.append(f"{found['more_tasks']:,} more tasks")
    if ways:
        return " or ".join(ways)
    if "seeds" not in found["over"]:
        return "more seeds: 2 or more each say how much they matter"
    return f"seeds and tasks together, or more test {kind.drawn}"


def csv_text(record: Mapping[str, Any]) -> str:
    """One line for each row, numbers as they are: scores are fractions."""
    columns = record["columns"]
    numbers = (
        "n",
        "score",
        "std",
        "interval",
        "interval_over",
        "ci95_classes",
        "test_tasks",
        "transductive",
        "seconds",
    )
    of_difference = ("value", "half_width", "p", "p_holm", "paired", "verdict", "more_seeds", "more_tasks")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "name",
            *(column["key"] for column in columns),
            "score_name",
            "dataset_name",
            "task_text",
            *numbers,
            "baseline",
            "not_paired",
        ]
        + [f"difference_{name}" for name in of_difference]
        + ["difference_over", "status", "runs"]
    )
    for row in record["rows"]:
        found = row["difference"] or {}
        settings = [row["settings"].get(column["key"]) for column in columns]
        own = [row["kind"]["score"], row["dataset"], row["task_text"], *(row[name] for name in numbers)]
        other = [row["baseline"], row["not_paired"], *(found.get(name) for name in of_difference)]
        paths = " ".join(run["path"] for run in row["runs"])
        writer.writerow([row["name"], *settings, *own, *other, "+".join(found.get("over", ())), seeds_text(row), paths])
    return text.getvalue()


def markdown_text(record: Mapping[str, Any], skip_unchanged: bool = False) -> str:
    """The table and the lines below it."""
    head, rows = cells(record, skip_unchanged)
    return "\n".join([*markdown_table(head, rows), "", *(f"- {line}" for line in remarks(record))]) + "\n"


_TEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_TEX |= {char: f"\\{char}" for char in "&%$#_{}"}


def tex_text(record: Mapping[str, Any], skip_unchanged: bool = False) -> str:
    """A tabular for LaTeX with booktabs; the lines below the table as comments."""
    head, rows = cells(record, skip_unchanged)
    lines = [f"% {line}" for line in remarks(record)]
    lines += [f"\\begin{{tabular}}{{{'l' * len(head)}}}", r"\toprule", _tex_line(head), r"\midrule"]
    return "\n".join([*lines, *map(_tex_line, rows), r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex_line(texts: Sequence[str]) -> str:
    return " & ".join("".join(_TEX.get(char, char) for char in text) for text in texts) + r" \\"


def _style(title: str, cell: str) -> str:
    return _STYLES.get(cell.partition(" (")[0], "") if title == "verdict" else ""


def seconds_text(row: Mapping[str, Any]) -> str:
    """How long training took: `1:02:03`."""
    return "" if row["seconds"] is None else duration(row["seconds"])
