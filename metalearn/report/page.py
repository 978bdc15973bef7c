"""A comparison as one HTML page that needs nothing else: no script, no network, light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from metalearn.kinds import Scale, scale_of
from metalearn.report.comparison import cells, remarks, setting_text
from metalearn.report.svg import Line, distributions, line_chart

_IN_RESULTS = 4  # settings beside the results: all are in a table of their own
_MOST_SETTINGS = 12  # rows that this table has a column for


def html_text(record: Mapping[str, Any], details: Sequence[Mapping[str, Any]], skip_unchanged: bool = False) -> str:
    """The page.

    Args:
        record: what `metalearn compare --json` writes.
        details: what belongs to some of its rows, at most eight: `place` of the row, `curve`, `train_curve`, `steps`, `tasks`, `classes`.
    """
    rows = record["rows"]
    head, lines = cells(record, skip_unchanged, most=_IN_RESULTS)
    colours = {one["place"]: colour for colour, one in enumerate(details)}
    legend = [{"name": rows[place]["name"], "colour": colour} for place, colour in colours.items()]
    classes = [
        {"name": rows[one["place"]]["name"], "colour": colours[one["place"]], "classes": _short(one["classes"])}
        for one in details
        if one["classes"]
    ]
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False).from_string(
        files("metalearn.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    runs = [
        [
            row["name"],
            run["seed"],
            run["status"],
            _score(row, run),
            run["path"] + ("" if run["file"] == "results.json" else f"/{run['file']}"),
        ]
        for row in rows
        for run in row["runs"]
    ]
    scored = sum(row["score"] is not None for row in rows)
    return template.render(
        title=_title(rows),
        subtitle=f"{sum(len(row['runs']) for row in rows)} runs in {len(rows)} row{'s' if len(rows) != 1 else ''}, made by metalearn compare",
        record=record,
        head=head,
        lines=[
            {"cells": line, "colour": colours.get(place), "base": rows[place]["is_baseline"]}
            for place, line in enumerate(lines)
        ],
        verdict=head.index("verdict") if "verdict" in head else -1,
        remarks=[text for text in remarks(record) if not text.startswith("warning: ")],
        charts=_charts(rows, details),
        legend=legend,
        hidden=f"The charts show the first {len(details)} of {scored} rows: --top and --sort choose them."
        if scored > len(details)
        else "",
        classes=classes,
        names=[row["name"] for row in rows[:_MOST_SETTINGS]],
        settings=[
            (
                column["key"],
                [
                    setting_text(row["settings"].get(column["key"]), column["key"] in row["settings"])
                    for row in rows[:_MOST_SETTINGS]
                ],
            )
            for column in record["columns"]
        ],
        runs=runs,
    )


def _title(rows: Sequence[Mapping[str, Any]]) -> str:
    questions = list(dict.fromkeys(f"{row['task_text']} on {row['dataset']}" for row in rows))
    return (
        f"Runs compared: {questions[0]}" if len(questions) == 1 else f"Runs compared: {len(questions)} kinds of tasks"
    )


def _short(classes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Without the data set before each name, where it is the same one."""
    names = [name for one in classes for name in (one["name"], *one["taken_for"])]
    alike = len({name.partition(":")[0] for name in names}) == 1

    def own(name: str) -> str:
        return name.partition(":")[2] or name if alike else name

    return [{**one, "name": own(one["name"]), "taken_for": [own(name) for name in one["taken_for"]]} for one in classes]


def _score(row: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    return "" if run["score"] is None else scale_of(row).text(run["score"])


def _charts(rows: Sequence[Mapping[str, Any]], details: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One group of charts for each kind of score: other kinds have other axes."""
    charts = []
    for score in dict.fromkeys(rows[one["place"]]["kind"]["score"] for one in details):
        chosen = [(colour, one) for colour, one in enumerate(details) if rows[one["place"]]["kind"]["score"] == score]
        kind = scale_of(rows[chosen[0][1]["place"]])
        named = [(rows[one["place"]]["name"], colour, one) for colour, one in chosen]
        charts += _of_kind(named, kind)
    return [chart for chart in charts if chart["svg"]]


def _of_kind(named: Sequence[tuple[str, int, Mapping[str, Any]]], kind: Scale) -> list[dict[str, Any]]:
    def curves(key: str) -> list[Line]:
        return [Line(name, colour, one[key]) for name, colour, one in named]

    steps = [
        Line(name, colour, [(step, score, score, score) for step, score in one["steps"]]) for name, colour, one in named
    ]
    band = "The line is the mean over seeds, the band reaches from the lowest to the highest seed."
    return [
        {
            "title": f"Validation {kind.score} in training",
            "svg": line_chart(curves("curve"), "outer step", kind.score, kind.percent),
            "caption": band,
        },
        {
            "title": f"Training {kind.score}",
            "svg": line_chart(curves("train_curve"), "outer step", kind.score, kind.percent),
            "caption": f"{band} Training tasks may be harder than test tasks.",
        },
        {
            "title": f"Test {kind.score} by inner step",
            "svg": line_chart(steps, "inner steps done", kind.score, kind.percent),
            "caption": "Only algorithms that adapt in steps have it. The last point is the result.",
        },
        {
            "title": "Test tasks",
            "svg": distributions(
                [(name, colour, one["tasks"]) for name, colour, one in named], kind.score, kind.percent
            ),
            "caption": "How many test tasks have which score, each the mean over seeds. The line marks their mean.",
        },
    ]
