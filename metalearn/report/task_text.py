"""A task of texts as Markdown: what was learned from, and what was predicted of which text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_SUPPORT, _QUERIES, _LETTERS = 5, 5, 160  # of a class, that are shown; of a text


_ENTITIES = {ord(mark): f"&#{ord(mark)};" for mark in "&\\`*_[]<>|#"}  # of what Markdown and HTML read as marks


class Answered(NamedTuple):
    """A query of a class."""

    text: str
    predicted: str  # the name of a class
    probability: float


class TextRow(NamedTuple):
    """A class of a task."""

    name: str
    support: Sequence[str]
    queries: Sequence[Answered]


def task_text(title: str, rows: Sequence[TextRow]) -> str:
    """The title and two tables. Of each class some texts are shown, wrong queries before right ones; wrong classes are bold."""
    learned = [[row.name, *map(_quoted, row.support[:_SUPPORT])] for row in rows]
    most = max((len(row) for row in learned), default=1)
    asked = []
    for row in rows:
        for query in sorted(row.queries, key=lambda query: query.predicted == row.name)[:_QUERIES]:
            right = query.predicted == row.name
            predicted = _cell(query.predicted) if right else f"**{_cell(query.predicted)}**"
            asked.append([_quoted(query.text), _cell(row.name), predicted, f"{100 * query.probability:.0f} %"])
    shots = ["" for _ in range(most - 1)]
    return "\n".join(
        [
            f"### {title}",
            "",
            *_table(["class", "learned from", *shots[1:]][:most], [[_cell(row[0]), *row[1:]] for row in learned]),
            "",
            *_table(["query", "class", "predicted", "probability"], asked),
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    width = len(head)
    lines = [list(head), ["---"] * width, *([*row, *[""] * (width - len(row))] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _quoted(text: str) -> str:
    short = " ".join(text.split())
    return _cell(short if len(short) <= _LETTERS else f"{short[:_LETTERS]} …")


def _cell(text: str) -> str:
    """A text as it is, within a cell of a table of Markdown that becomes HTML."""
    return text.translate(_ENTITIES)
