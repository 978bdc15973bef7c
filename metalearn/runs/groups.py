"""Scores of groups of test tasks: those of as many ways, of as many shots, of one source.

What a task is grouped by comes with it (`TaskBatch.about`): a text is the name of its group; a number falls into a range.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalearn.engine.evaluate import Scores

_STARTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)  # of the ranges that numbers fall into, rounded; the last one is open


@dataclass(frozen=True)
class Group:
    """The tasks of one group, or of all groups with the same weight each.

    Attributes:
        score: the mean of the kind's score over its tasks; of all groups the mean of their means.
        ci95: half the width of the 95 % interval over tasks; None for a single task, and where one of the groups of a mean has none.
        ci95_classes: the same over tasks and classes; None where there is none.
        tasks: how many it has.
        chance: the mean score of guessing; None where all test tasks have the same, or where it is not known.
    """

    score: float
    ci95: float | None
    ci95_classes: float | None
    tasks: int
    chance: float | None

    def to_json(self, score: str) -> dict[str, Any]:
        """The entry in results.json; `score` is the name of the kind's score."""
        chance = {} if self.chance is None else {"chance": self.chance}
        return {score: self.score, "ci95": self.ci95, "ci95_classes": self.ci95_classes, "tasks": self.tasks, **chance}


def grouped(scores: Scores) -> dict[str, dict[str, Group]]:
    """What tasks are grouped by -> name of a group -> its scores; ranges in ascending order, other groups in that of their first task."""
    found: dict[str, dict[str, Group]] = {}
    for what, values in scores.about.items():
        names = list(values) if _named(values) else [_range(value) for value in values]
        order = names if _named(values) else map(_range, sorted(set(values)))
        found[what] = {
            name: _group(scores, [task for task, of in enumerate(names) if of == name]) for name in dict.fromkeys(order)
        }
    return found


def means(scores: Scores, groups: dict[str, dict[str, Group]]) -> dict[str, Group]:
    """The mean over groups that have a name, each with the same weight; not of ranges of numbers."""
    return {what: _mean(list(of.values())) for what, of in groups.items() if _named(scores.about[what])}


def _named(values: Sequence[Any]) -> bool:
    return isinstance(values[0], str)


def _group(scores: Scores, tasks: list[int]) -> Group:
    part = scores.part(tasks)
    ci95 = part.ci95 if len(tasks) > 1 else None
    return Group(part.mean, ci95, part.ci95_classes(part.score[-1]), len(tasks), part.chance)


def _mean(groups: list[Group]) -> Group:
    """Groups have other tasks each, so the errors of their means are independent."""
    n = len(groups)
    chances = [group.chance for group in groups if group.chance is not None]
    return Group(
        sum(group.score for group in groups) / n,
        _root_of_squares([group.ci95 for group in groups], n),
        _root_of_squares([group.ci95_classes for group in groups], n),
        sum(group.tasks for group in groups),
        sum(chances) / n if len(chances) == n else None,
    )


def _root_of_squares(widths: list[float | None], n: int) -> float | None:
    known = [width for width in widths if width is not None]
    return math.hypot(*known) / n if len(known) == n else None


def _range(number: float) -> str:
    """`5-9` of 7; of ranges of one number that number; `500 or more`."""
    place = bisect(_STARTS, round(number))
    first = _STARTS[place - 1]
    if place == len(_STARTS):
        return f"{first} or more"
    last = _STARTS[place] - 1
    return str(first) if first == last else f"{first}-{last}"
