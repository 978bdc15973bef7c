"""The difference of two configurations: how large, how certain, what it means, and what would settle it. docs/statistics.md has the formulas.

Letters: T test tasks, R runs (seeds) of one configuration, N classes in each task.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from metalearn.intervals import SharedClasses, Spread, added, spread_of_mean, t95

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_SEEDS, _MOST_TASKS = 1_000, 1_000_000  # further ones that are worth naming


class Verdict(enum.StrEnum):
    """What a difference to the baseline means."""

    BETTER = "better"
    WORSE = "worse"
    EQUAL = "practically equal"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Difference:
    """A row's mean score minus the baseline's.

    Attributes:
        value: in the score's own unit.
        half_width: half the width of its 95 % interval; NaN where nothing says how uncertain it is.
        p: the two-sided p-value of "no difference", Student's t; NaN likewise.
        over: what the interval counts as drawn: tasks, classes, seeds.
        tasks: how many test tasks it is from; of a difference that is not paired, those of the row.
        paired: whether both were scored on the same test tasks.
        verdict: see `verdict_of`.
        more_seeds: so many further seeds of each side would settle it, were the difference what it is now; None: no number of them, or not known.
        more_tasks: likewise of test tasks.
    """

    value: float
    half_width: float
    p: float
    over: tuple[str, ...]
    tasks: int
    paired: bool
    verdict: Verdict
    more_seeds: int | None = None
    more_tasks: int | None = None


class Chances:
    """What an uncertain difference is made of."""

    def __init__(self, value: float, tasks: Spread, n_tasks: int, floor: Spread | None, seeds: Seeds | None) -> None:
        self.value = value
        self.tasks = tasks  # of the mean over tasks
        self.n_tasks = n_tasks
        self.over_classes = floor  # of the mean over tasks and classes; None: not known
        self.seeds = seeds

    @property
    def spread(self) -> Spread:
        """All of it."""
        base = self.over_classes or self.tasks
        return base if self.seeds is None else added([base, self.seeds.spread(0)])

    @property
    def over(self) -> tuple[str, ...]:
        return (
            "tasks",
            *(("classes",) if self.over_classes else ()),
            *(("seeds",) if self.seeds else ()),
        )

    def more_tasks(self, target: float) -> int | None:
        """Further tasks with which half the width of the interval would be `target`."""
        whole = self.spread
        if whole.variance == 0:
            return None
        rest = max(whole.variance - self.tasks.variance, 0.0)  # stays, however many tasks there are
        left = (target / t95(whole.freedom)) ** 2 - rest
        if left <= 0:
            return None
        more = math.ceil(self.tasks.variance * self.n_tasks / left) - self.n_tasks
        return more if 0 < more <= _MOST_TASKS else None

    def more_seeds(self, target: float) -> int | None:
        """Further seeds of each side with which half the width of the interval would be `target`."""
        if self.seeds is None:
            return None
        base = self.over_classes or self.tasks
        if base.half_width >= target:
            return None
        numbers = itertools.chain(range(1, 50), range(50, _MOST_SEEDS + 1, 10))
        return next((n for n in numbers if added([base, self.seeds.spread(n)]).half_width <= target), None)


@dataclass(frozen=True)
class Seeds:
    """How much the mean scores of runs vary from seed to seed, on each side: variances, numbers of runs."""

    variances: tuple[float, float]
    numbers: tuple[int, int]

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Seeds | None:
        """From the mean scores of runs; None where a side has a single one, which says nothing about others."""
        if min(len(ours), len(theirs)) < 2:
            return None
        variances = tuple(spread_of_mean(side).variance * len(side) for side in (ours, theirs))
        return cls((variances[0], variances[1]), (len(ours), len(theirs)))

    def spread(self, more: int) -> Spread:
        """Of the difference of the two means over seeds, with so many further seeds on each side: Welch's."""
        sides = [
            Spread(variance / (n + more), n + more - 1)
            for variance, n in zip(self.variances, self.numbers, strict=True)
        ]
        return added(sides)


def paired_difference(
    ours: Sequence[NDArray[np.float64]],
    theirs: Sequence[NDArray[np.float64]],
    classes: Sequence[tuple[float, NDArray[Any] | None, SharedClasses | None]],
    higher_is_better: bool,
    band: float,
) -> Difference:
    """The difference of two configurations that were scored on the same tasks.

    Args:
        ours, theirs: the scores [T] of each run.
        classes: of each data set that tasks are from, its part of the tasks, which these are [T] (None: all), and the classes they share; empty or
            with a None where there is no interval over classes.
        band: differences up to this are practically none.
    """
    import numpy as np

    each = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    n = len(each)
    if n < 2:
        return _difference(None, float(each.mean()), n, True, higher_is_better, band)
    parts = []
    for weight, here, shared in classes:
        spread = None if shared is None else shared.spread(each if here is None else each[here])
        parts.append(None if spread is None else Spread(weight**2 * spread.variance, spread.freedom))
    known = [part for part in parts if part is not None]
    over_classes = added(known) if known and len(known) == len(parts) else None
    seeds = Seeds.of([float(one.mean()) for one in ours], [float(one.mean()) for one in theirs])
    made_of = Chances(float(each.mean()), spread_of_mean(each), n, over_classes, seeds)
    return _difference(made_of, made_of.value, n, True, higher_is_better, band)


def unpaired_difference(
    ours: Sequence[float],
    theirs: Sequence[float],
    widths: tuple[tuple[float, int, bool] | None, tuple[float, int, bool] | None],
    higher_is_better: bool,
    band: float,
) -> Difference:
    """The difference of two configurations that were scored on other tasks, or of which single tasks are not known.

    Args:
        ours, theirs: the mean score of each run.
        widths: of each side (half the width of a run's 95 % interval, its tasks, whether that is over classes too); None: not known.
    """
    value = math.fsum(ours) / len(ours) - math.fsum(theirs) / len(theirs)
    tasks = min((side[1] for side in widths if side), default=0)
    known = [side for side in widths if side and side[1] > 1 and math.isfinite(side[0])]
    if len(known) < 2:
        return _difference(None, value, tasks, False, higher_is_better, band)
    # The runs of a side share their tasks, so that their mean is as uncertain as each of them.
    sides = [Spread((width / t95(n - 1)) ** 2, n - 1) for width, n, _ in known]
    over_classes = added(sides) if all(over for _, _, over in known) else None
    made_of = Chances(value, added(sides), tasks, over_classes, Seeds.of(ours, theirs))
    return _difference(made_of, value, tasks, False, higher_is_better, band)


def _difference(
    made_of: Chances | None, value: float, tasks: int, paired: bool, higher_is_better: bool, band: float
) -> Difference:
    if made_of is None:
        return Difference(value, math.nan, math.nan, (), tasks, paired, Verdict.UNDECIDED)
    spread = made_of.spread
    half_width = spread.half_width
    verdict = verdict_of(value, half_width, higher_is_better, band)
    difference = Difference(value, half_width, p_value(value, spread), made_of.over, tasks, paired, verdict)
    if verdict != Verdict.UNDECIDED:
        return difference
    target = max(abs(value), band - abs(value))
    return replace(
        difference,
        more_seeds=made_of.more_seeds(target),
        more_tasks=made_of.more_tasks(target) if paired else None,
    )


def verdict_of(value: float, half_width: float, higher_is_better: bool, band: float) -> Verdict:
    """What the 95 % interval says: practically equal where it lies within the band around 0, better or worse where it lies on one side of 0."""
    if not math.isfinite(half_width):
        return Verdict.UNDECIDED
    low, high = value - half_width, value + half_width
    if low == high == 0 or (-band < low and high < band):
        return Verdict.EQUAL
    if low > 0 or high < 0:
        return Verdict.BETTER if (low > 0) == higher_is_better else Verdict.WORSE
    return Verdict.UNDECIDED


def p_value(value: float, spread: Spread) -> float:
    """The two-sided p-value of a mean of 0, by Student's t."""
    from scipy.special import stdtr

    if spread.variance == 0:
        return 1.0 if value == 0 else 0.0
    return 2 * float(stdtr(spread.freedom, -abs(value) / math.sqrt(spread.variance)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several comparisons, adjusted by Holm's method (1979); NaN stays NaN and does not count."""
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = list(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted
