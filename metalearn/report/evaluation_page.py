"""A grid of evaluations as one HTML page that needs nothing else: the table, the score against each varied number, inner steps, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from metalearn.kinds import scale_of
from metalearn.report.comparison import setting_text
from metalearn.report.evaluation import heading, is_done, remarks, run_name, short_keys, table
from metalearn.report.page import template
from metalearn.report.svg import RELIABILITY, Line, curve_chart, line_chart, reliability_diagram

_MOST = 8  # lines of a chart: so many colours there are
_TASKS, _CELLS = 2, 6  # tasks whose curves are shown, and cells that they are shown of, at most
_INTERVAL = "The band is the 95 % interval over tasks."

Record = Mapping[str, Any]


class _Chart(NamedTuple):
    title: str
    svg: str
    key: list[tuple[str, int]]  # name and colour of each line
    caption: str


def html_text(record: Record) -> str:
    """The page of what the grid's file holds."""
    head, lines = table(record)
    done = [cell for cell in record["cells"] if is_done(cell)]
    charts = []
    for score in dict.fromkeys(scale_of(cell).score for cell in done):  # other kinds have other axes
        of_kind = [cell for cell in done if scale_of(cell).score == score]
        charts += [*_against_numbers(record, of_kind), _by_inner_step(record, of_kind), _calibration(record, of_kind)]
    charts += _curves(record, done)
    return template("evaluation.html.j2").render(
        title=f"{len(record['cells'])} evaluations of {len(record['runs'])} run{'' if len(record['runs']) == 1 else 's'}",
        heading=heading(record),
        head=head,
        lines=lines,
        remarks=remarks(record),
        charts=[chart for chart in charts if chart.svg],
    )


def _against_numbers(record: Record, cells: Sequence[Record]) -> list[_Chart]:
    """For each varied setting with several numbers a chart of the score against it, with a line for each combination of the others."""
    charts = []
    for key, short in short_keys(record).items():
        lines: dict[str, list[tuple[float, float, float, float]]] = {}
        for cell in cells:
            at = cell["choices"].get(key)
            if isinstance(at, int | float) and not isinstance(at, bool):
                score, half = cell["test"][scale_of(cell).score], cell["test"]["ci95"]
                lines.setdefault(_name(record, cell, key), []).append((at, score, score - half, score + half))
        several = [(name, sorted(points)) for name, points in lines.items() if len(points) > 1]
        if several:
            kind = scale_of(cells[0])
            drawn = [Line(name, colour, points) for colour, (name, points) in enumerate(several[:_MOST])]
            svg = line_chart(drawn, short.replace("_", " "), kind.score, kind.percent)
            charts.append(
                _chart(f"Test {kind.score} against {short.replace('_', ' ')}", svg, drawn, several, _INTERVAL)
            )
    return charts


def _by_inner_step(record: Record, cells: Sequence[Record]) -> _Chart:
    """A line for each cell whose learner adapts in steps."""
    lines = []
    for cell in cells:
        scores = cell["test"].get("per_step") or []
        steps = cell["test"].get("scored_steps") or range(len(scores))
        points = [(step, score, score, score) for step, score in zip(steps, scores, strict=True)]
        if len(points) > 1:
            lines.append((_name(record, cell), points))
    kind = scale_of(cells[0])
    drawn = [Line(name, colour, points) for colour, (name, points) in enumerate(lines[:_MOST])]
    svg = line_chart(drawn, "inner steps done", kind.score, kind.percent)
    return _chart(f"Test {kind.score} by inner step", svg, drawn, lines, "The last point is the result.")


def _calibration(record: Record, cells: Sequence[Record]) -> _Chart:
    lines = []
    for cell in cells:
        bins = (cell["test"].get("calibration") or {}).get("bins") or []
        if bins:
            lines.append((_name(record, cell), [(int(count), confidence, right) for count, confidence, right in bins]))
    drawn = [(name, colour, bins) for colour, (name, bins) in enumerate(lines[:_MOST])]
    named = [Line(name, colour, []) for name, colour, _ in drawn]
    return _chart("Calibration", reliability_diagram(drawn), named, lines, RELIABILITY)


def _curves(record: Record, cells: Sequence[Record]) -> list[_Chart]:
    """The first test tasks of cells whose tasks are functions of one number: what was predicted, with its band, and what was right."""
    with_curves = [cell for cell in cells if cell.get("curves")]
    charts = []
    for number in range(_TASKS):
        for cell in with_curves[:_CELLS]:
            if number < len(cell["curves"]):
                task, kind = cell["curves"][number], scale_of(cell)
                band = task["band"] or [0.0] * len(task["x"])
                points = [(x, y, y - half, y + half) for x, y, half in zip(task["x"], task["y"], band, strict=True)]
                name, score = _name(record, cell), kind.text(task["score"])
                said = "Dots: support; rings: the targets of queries."
                said += " The band is ± 2 predicted standard deviations." if task["band"] else ""
                hidden = len(with_curves) - _CELLS
                said += f" {hidden} more cells are not shown." if hidden > 0 else ""
                svg = curve_chart(Line(name, 0, points), task["support"], task["query"], "x", "y")
                charts.append(_Chart(f"Test task {number + 1}, {name}: {kind.score} {score}", svg, [], said))
    return charts


def _chart(title: str, svg: str, drawn: Sequence[Line], all_: Sequence[Any], caption: str) -> _Chart:
    hidden = f" The first {len(drawn)} of {len(all_)} lines." if len(all_) > len(drawn) else ""
    return _Chart(title, svg, [(line.name, line.colour) for line in drawn], caption + hidden)


def _name(record: Record, cell: Record, but: str | None = None) -> str:
    """What tells a cell from the others, but for one setting."""
    words = [run_name(record, cell["run"])] if len(record["runs"]) > 1 else []
    words += [
        f"{short}={setting_text(cell['choices'][key])}"
        for key, short in short_keys(record).items()
        if key != but and key in cell["choices"]
    ]
    return " ".join(words) or str(cell["algorithm"])
