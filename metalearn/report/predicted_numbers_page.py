"""`metalearn predict --html` of a run that predicts numbers: one page with the table, and the predicted curve where there is one input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from metalearn.report.page import template
from metalearn.report.predicted_numbers import Record, columns, summary
from metalearn.report.svg import Line, curve_chart

Point = tuple[Sequence[float], Sequence[float]]  # inputs and targets of a row


class _Chart(NamedTuple):
    title: str
    svg: str
    key: list[tuple[str, int]]
    caption: str


def page(record: Record, support: Sequence[Point]) -> str:
    """The whole page.

    Args:
        record: what --json prints.
        support: the points that were learned from; empty where they are not at hand, as with `--adapted`.
    """
    head, lines = columns(record)
    title = f"Predictions for {len(lines)} row{'' if len(lines) == 1 else 's'}"
    alone = len(record["inputs"]) == 1 and lines
    charts = [_curve(record, support, place) for place in range(len(record["targets"]))] if alone else []
    return template("evaluation.html.j2").render(
        title=title, table="Predictions", heading=summary(record), head=head, lines=lines, remarks=[], charts=charts
    )


def _curve(record: Record, support: Sequence[Point], place: int) -> _Chart:
    """The prediction of one target against the only input, from row to row."""
    (of,), target = record["inputs"], record["targets"][place]
    rows = sorted(record["predictions"], key=lambda row: row["inputs"][of])
    points = []
    for row in rows:
        y, half = row["predicted"][target], 2 * row.get("deviations", {}).get(target, 0.0)
        points.append((row["inputs"][of], y, y - half, y + half))
    known = [(row["inputs"][of], row["targets"][target]) for row in rows if "targets" in row]
    learned = [(inputs[0], targets[place]) for inputs, targets in support]
    said = [
        "The line is the prediction.",
        *(["Dots: the points that it was learned from."] if learned else []),
        *(["Rings: the targets of the rows."] if known else []),
        *(["The band is ± 2 predicted standard deviations."] if any("deviations" in row for row in rows) else []),
    ]
    svg = curve_chart(Line(target, 0, points), learned, known, of, target)
    return _Chart(f"{target} against {of}", svg, [], " ".join(said))
