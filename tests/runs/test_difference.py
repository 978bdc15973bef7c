"""Verdicts, p-values and what would settle a difference, against scipy and against simulated experiments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metalearn.intervals import SharedClasses, Spread, added, interval95
from metalearn.runs.difference import Seeds, Verdict, holm, p_value, paired_difference, unpaired_difference, verdict_of
from tests.runs.made_runs import classes_of


def test_one_run_each_without_classes_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.8, 0.1, 50), rng.normal(0.78, 0.1, 50)
    found = paired_difference([ours], [theirs], [], True, 0.0)
    expected = stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.half_width == pytest.approx(interval95(ours - theirs))
    assert found.over == ("tasks",)


def test_seeds_alone_are_welchs_test() -> None:
    ours, theirs = [0.80, 0.82, 0.79, 0.85], [0.75, 0.76, 0.78]
    seeds = Seeds.of(ours, theirs)
    assert seeds is not None
    difference = float(np.mean(ours) - np.mean(theirs))
    assert p_value(difference, seeds.spread(0)) == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)


def test_the_sum_of_spreads_has_satterthwaites_freedom() -> None:
    assert added([Spread(1.0, 9), Spread(1.0, 9)]) == Spread(2.0, 18.0)


@pytest.mark.parametrize(
    ("value", "half_width", "verdict"),
    [
        (0.03, 0.01, Verdict.BETTER),
        (-0.03, 0.01, Verdict.WORSE),
        (0.001, 0.002, Verdict.EQUAL),
        (0.004, 0.003, Verdict.BETTER),  # some of it lies beyond the band
        (0.001, 0.01, Verdict.UNDECIDED),
        (0.03, math.nan, Verdict.UNDECIDED),
        (0.0, 0.0, Verdict.EQUAL),
    ],
)
def test_verdicts(value: float, half_width: float, verdict: Verdict) -> None:
    assert verdict_of(value, half_width, True, 0.005) == verdict


def test_less_is_better_for_an_error() -> None:
    assert verdict_of(-0.03, 0.01, False, 0.0) == Verdict.BETTER


def test_holms_method() -> None:
    assert holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(holm([math.nan])[0])


def test_so_many_more_tasks_do_settle_it() -> None:
    """With the number of tasks that is named, the interval is as narrow as the verdict needs."""
    rng = np.random.default_rng(3)
    each = rng.normal(0, 0.1, 100)
    each += 0.01 - each.mean()
    found = paired_difference([each], [np.zeros(100)], [], True, 0.005)
    assert found.verdict == Verdict.UNDECIDED
    assert found.more_tasks is not None
    with_more = np.tile(each, 50)[: 100 + found.more_tasks]
    assert 1.96 * each.std(ddof=1) / len(with_more) ** 0.5 == pytest.approx(0.01, rel=0.03)
    assert found.more_seeds is None


def test_more_seeds_are_named_where_seeds_are_what_varies() -> None:
    ours = [np.full(100, mean) for mean in (0.80, 0.84)]
    theirs = [np.full(100, mean) for mean in (0.78, 0.80)]
    found = paired_difference(ours, theirs, [], True, 0.005)
    assert (found.verdict, found.more_tasks) == (Verdict.UNDECIDED, None)
    assert found.more_seeds is not None
    assert 1 < found.more_seeds < 10


def test_an_unpaired_difference_adds_both_intervals() -> None:
    found = unpaired_difference([0.9], [0.8], ((0.01, 1000, False), (0.02, 1000, False)), True, 0.0)
    assert found.half_width == pytest.approx(math.hypot(0.01, 0.02), rel=0.01)
    assert not found.paired


def test_a_difference_without_any_interval_is_undecided() -> None:
    found = unpaired_difference([0.9], [0.8], (None, (0.02, 1000, False)), True, 0.0)
    assert found.verdict == Verdict.UNDECIDED
    assert math.isnan(found.half_width)


def test_intervals_hold_the_true_difference_of_configurations() -> None:
    """Effects of tasks, classes, seeds and their rest are drawn anew each time; the true difference is 0. 95 % is aimed at; here 300 draws."""
    rng, held = np.random.default_rng(5), 0
    draws, tasks, classes = 300, 120, 40
    of_tasks = classes_of(tasks, 5, classes)
    shared = SharedClasses.of(of_tasks)
    for _ in range(draws):
        sides = []
        for _ in range(2):
            by_class = rng.normal(0, 0.03, classes)[of_tasks].mean(1)
            sides.append([by_class + rng.normal(0, 0.01) + rng.normal(0, 0.05, tasks) for _ in range(4)])
        found = paired_difference(sides[0], sides[1], [(1.0, None, shared)], True, 0.0)
        held += abs(found.value) <= found.half_width
    assert held / draws > 0.93
