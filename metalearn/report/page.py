"""A comparison as one HTML page that needs nothing else: no script, no network, light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from metalearn.kinds import Scale, scale_of
from metalearn.report.comparison import cells, remarks, setting_text
from metalearn.report.svg import RELIABILITY, Line, distributions, line_chart, reliability_diagram
from metalearn.sizes import count_text

_IN_RESULTS = 4  # settings beside the results: all are in a table of their own
# The page's style names them c0 ... c7.
_COLOURS = ("blue", "orange", "green", "purple", "gold", "sky", "brown", "grey")
NAMES = ("algorithm", "backbone", "dataset")
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
    return template("page.html.j2").render(
        title=_title(rows),
        subtitle=f"{count_text(sum(len(row['runs']) for row in rows), 'run')} in {count_text(len(rows), 'row')}, made by metalearn compare",
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


def template(name: str) -> Template:
    """A template of this package; it may include others."""

    def text(of: str) -> str:
        return files("metalearn.report").joinpath(of).read_text(encoding="utf-8")

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False, loader=FunctionLoader(text))
    return made.get_template(name)


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
    return [chart for chart in charts + _by_shape(rows) if chart["svg"]]


def _by_shape(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The score against shots and against ways, where rows differ in nothing else, as evaluations of a run do."""
    charts = []
    for size, title in (("shots", "shots"), ("ways", "ways")):
        groups: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            value = row["task"].get(size)
            if row["score"] is None or not isinstance(value, int):
                continue
            kind = scale_of(row)
            task = " ".join(
                f"{name}={other}" for name, other in row["task"].items() if name in ("ways", "shots") and name != size
            )
            others = " ".join(
                f"{key.rpartition('.')[2]}={setting_text(of)}"
                for key, of in row["settings"].items()
                if key.split(".")[0] not in ("task", *NAMES)
            )
            which = " ".join(str(row[name]) for name in NAMES if row[name])
            groups.setdefault(f"{kind.score}|{which} {task} {others}".strip(), []).append((value, row["score"]))
        for score in dict.fromkeys(name.partition("|")[0] for name in groups):
            lines = [
                (name.partition("|")[2], sorted(points))
                for name, points in groups.items()
                if name.startswith(f"{score}|") and len({x for x, _ in points}) > 1
            ][: len(_COLOURS)]
            percent = any(row["kind"]["percent"] for row in rows if row["kind"]["score"] == score)
            drawn = [
                Line(name, colour, [(x, y, y, y) for x, y in points]) for colour, (name, points) in enumerate(lines)
            ]
            key = "; ".join(f"{_COLOURS[line.colour]}: {line.name}" for line in drawn)
            charts.append(
                {"title": f"Test {score} by {title}", "svg": line_chart(drawn, title, score, percent), "caption": key}
            )
    return charts


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
        {
            "title": "Calibration",
            "svg": reliability_diagram([(name, colour, one["reliability"]) for name, colour, one in named]),
            "caption": RELIABILITY,
        },
    ]
