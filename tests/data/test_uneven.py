"""Tasks of uneven size: what is drawn, within which bounds, and how such tasks are put together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn.data.classes import ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.images import ImageClasses
from metalearn.data.numbers import Stream
from metalearn.data.uneven import _distinct, _queries, _shots, _ways, _words_for, draw_task
from metalearn.errors import UserError
from metalearn.tasks import TaskBatch, TaskShape, VaryingShape, joined, shape_of

CPU = torch.device("cpu")
COUNTS = np.array([3, 30, 9, 2, 14, 5, 60, 8, 4, 21])
SHAPE = VaryingShape("varying", "varying", "varying", 3, 7, 6, 20, 4, 2.0)
PINNED = {
    "classes": [9, 1, 6, 7, 0],
    "shots": [3, 5, 7, 1, 1],
    "queries": 1,
    "support": [1, 15, 13, 10, 12, 4, 27, 28, 29, 14, 46, 43, 3, 35, 59, 1, 1],
    "query": [11, 21, 8, 5, 0],
}


def numbered(counts: np.ndarray = COUNTS) -> ImageClasses:
    """Every image says which it is: pixel 0 the class, pixel 1 its number in the class."""
    images = [np.zeros((count, 1, 2, 2), dtype=np.uint8) for count in counts]
    for number, of_class in enumerate(images):
        of_class[:, 0, 0, 0], of_class[:, 0, 0, 1] = number, np.arange(len(of_class))
    names = tuple(f"c{number}" for number in range(len(counts)))
    split = ClassSplit("all", {"train": names, "val": (), "test": ()})
    return ImageClasses("numbered", FlatImages.of_classes(images), names, split, {"train": 1, "val": 1, "test": 1})


def examples(part: torch.Tensor) -> list[tuple[int, int]]:
    pixels = (part * 255).round().long()[:, 0, 0]
    return [(int(one), int(other)) for one, other in pixels]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    first=st.integers(0, 10**12),
    ways=st.one_of(st.just("varying"), st.integers(2, 7)),
    shots=st.one_of(st.just("varying"), st.just(1)),
    queries=st.one_of(st.just("varying"), st.just(1)),
    max_support=st.integers(7, 40),
    imbalance=st.floats(1, 5),
)
def test_every_task_keeps_the_rules(
    seed: int, first: int, ways: int | str, shots: int | str, queries: int | str, max_support: int, imbalance: float
) -> None:
    shape = SHAPE._replace(ways=ways, shots=shots, queries=queries, max_support=max_support, imbalance=imbalance)
    for task in numbered().source("train", seed, CPU).tasks(first, 4, shape).chunks(1):
        support, query, n = task.support, task.query, task.support.ways
        assert n == ways if ways != "varying" else 3 <= n <= 7
        assert task.classes.shape == (1, n)
        of_class = dict(enumerate(task.classes[0].tolist()))
        assert len(set(of_class.values())) == n
        for part in (support, query):
            assert part.mask is None
            assert part.counts == (part.x.shape[1],) == (part.y.shape[1],)
            assert part.y[0].tolist() == sorted(part.y[0].tolist()), "blocks by label"
            assert [of_class[int(y)] for y in part.y[0]] == [number for number, _ in examples(part.x[0])]
        drawn = examples(support.x[0]) + examples(query.x[0])
        assert len(set(drawn)) == len(drawn), "no image twice"
        shots_of = np.bincount(support.y[0], minlength=n)
        queries_of = np.bincount(query.y[0], minlength=n)
        smallest = min(COUNTS[number] for number in of_class.values())
        assert (shots_of >= 1).all()
        assert len(set(queries_of)) == 1
        assert len(support.y[0]) <= max_support
        assert queries_of[0] == (1 if queries == 1 else min(4, smallest // 2 if shots == "varying" else smallest - 1))
        if shots == 1:
            assert (shots_of == 1).all()
        assert task.about == {"ways": (n,), "shots": (len(support.y[0]) / n,)}


def test_a_task_is_the_same_wherever_it_is_made() -> None:
    source = numbered().source("train", 3, CPU)
    whole = source.tasks(5, 6, SHAPE).chunks(1)
    for number in reversed(range(6)):
        alone = numbered().source("train", 3, CPU).tasks(5 + number, 1, SHAPE)
        for part, of_all in ((alone.support, whole[number].support), (alone.query, whole[number].query)):
            assert torch.equal(part.x, of_all.x)
            assert torch.equal(part.y, of_all.y)
            assert (part.ways, part.counts, part.task_ways) == (of_all.ways, of_all.counts, of_all.task_ways)
        assert torch.equal(alone.classes, whole[number].classes)
    assert not torch.equal(numbered().source("train", 4, CPU).tasks(5, 1, SHAPE).classes, whole[0].classes)


def test_draws_stay_what_they_are() -> None:
    """A stored result names its tasks by their numbers: the same number must stay the same task in every later version."""
    task = draw_task(Stream(0, "train"), 2, SHAPE, COUNTS)
    assert (task.classes.tolist(), task.shots.tolist(), task.queries) == (
        PINNED["classes"],
        PINNED["shots"],
        PINNED["queries"],
    )
    assert (task.support.tolist(), task.query.tolist()) == (PINNED["support"], PINNED["query"])


def test_sizes_by_hand() -> None:
    available, alike = np.array([20, 10, 4]), np.array([0.5, 0.5, 0.5])
    # Left are 18, 8 and 2, at most 6 each: floor(m / 2 + 1) are 4, 4 and 2. One for each class, and 7 shared out as 20 to 10 to 4.
    assert _shots(SHAPE, available, 2, 0.5, alike).tolist() == [5, 3, 1]
    # As 10 to 10 to 4 * sqrt(2): 2.73, 2.73 and 1.54.
    assert _shots(SHAPE, available, 2, 0.5, np.array([0.0, 0.5, 0.75])).tolist() == [3, 3, 2]
    assert _shots(SHAPE._replace(max_support=4), available, 2, 0.5, alike).tolist() == [1, 1, 1]
    assert _shots(SHAPE._replace(shots=2), available, 2, 0.5, alike).tolist() == [2, 2, 2]
    assert [_queries(SHAPE, smallest) for smallest in (2, 5, 8, 100)] == [1, 2, 4, 4]
    assert [_queries(SHAPE._replace(shots=3), smallest) for smallest in (4, 100)] == [1, 4]
    assert [_ways(number, SHAPE, 10) for number in (0.0, 0.19, 0.21, 0.999)] == [3, 3, 4, 7]
    assert [_ways(0.999, SHAPE._replace(max_support=most), classes) for most, classes in ((20, 5), (4, 10))] == [5, 4]
    assert _ways(0.999, SHAPE._replace(shots=4), 10) == 5, "5 ways of 4 shots are max_support"


def test_sizes_spread_over_all_that_is_allowed() -> None:
    counts = np.full(40, 100)
    shape = VaryingShape("varying", "varying", "varying", 5, 30, 50, 150, 10, 2.0)
    tasks = [draw_task(Stream(1, "test"), number, shape, counts) for number in range(400)]
    ways = np.array([len(task.classes) for task in tasks])
    assert (ways.min(), ways.max()) == (5, 30)
    assert abs(np.histogram(ways, bins=[5, 18, 31])[0] / 400 - 0.5).max() < 0.08, "evenly"
    assert {task.queries for task in tasks} == {10}
    support = np.array([task.shots.sum() for task in tasks])
    assert (support <= 150).all()
    assert (support >= ways).all()
    assert (support > 100).any()
    largest = np.array([task.shots.max() / task.shots.min() for task in tasks])
    assert largest.max() > 2, "imbalanced"
    balanced = [draw_task(Stream(1, "test"), number, shape._replace(imbalance=1.0), counts) for number in range(50)]
    assert all(task.shots.max() == task.shots.min() for task in balanced), "classes of one size, each the same part"


def test_a_large_class_gets_a_large_part() -> None:
    counts, shape = np.array([20] * 5 + [400]), VaryingShape(6, "varying", "varying", 2, 6, 100, 300, 5, 2.0)
    shots = [
        (task.shots[task.classes == 5].sum(), task.shots[task.classes != 5].max())
        for task in (draw_task(Stream(0, "train"), number, shape, counts) for number in range(30))
    ]
    assert all(large >= small for large, small in shots)
    assert max(large for large, _ in shots) > 50


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 7), (50, 3), (1000, 3), (100_000, 200)])
def test_images_are_drawn_without_repetition_and_evenly(n: int, k: int) -> None:
    rng, seen = np.random.default_rng(0), np.zeros(n, dtype=int)
    for _ in range(200):
        drawn = _distinct(rng.random(_words_for(n, k)), n, k)
        assert len(set(drawn.tolist())) == k
        assert ((drawn >= 0) & (drawn < n)).all()
        seen[drawn] += 1
    halves = seen[: n // 2].sum(), seen[n - n // 2 :].sum()
    assert abs(halves[0] - halves[1]) <= 5 * np.sqrt(200 * k)


def test_padding_is_zeros_behind_the_examples() -> None:
    batch = numbered().source("train", 0, CPU).tasks(0, 5, SHAPE)
    assert batch.uneven
    support = batch.support
    assert support.counts is not None
    assert support.task_ways is not None
    assert len(set(support.counts)) > 1
    assert support.mask is not None
    assert support.mask.sum(1).tolist() == list(support.counts)
    assert not support.x[~support.mask].any()
    assert not support.y[~support.mask].any()
    for row, ways in zip(batch.classes, support.task_ways, strict=True):
        assert (row[:ways] >= 0).all()
        assert (row[ways:] == -1).all()
    logits = torch.randn(5, batch.query.y.shape[1], batch.query.ways)
    by_task = batch.query.by_task(lambda outputs, y: outputs.gather(2, y.unsqueeze(2)).mean((1, 2)), logits)
    first, count = batch.chunks(1)[2], batch.query.counts[2] if batch.query.counts else 0
    expected = torch.stack([logits[2, i, y] for i, y in enumerate(first.query.y[0].tolist())]).mean()
    assert first.query.y.shape == (1, count)
    torch.testing.assert_close(by_task[2], expected)


def test_batches_are_joined_and_parted_without_loss() -> None:
    whole = numbered().source("train", 0, CPU).tasks(0, 5, SHAPE)
    again = joined(whole.chunks(2))
    for one, other in ((whole.support, again.support), (whole.query, again.query)):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)
        assert one[2:] == other[2:]
    assert torch.equal(whole.classes, again.classes)
    assert whole.about == again.about
    even: TaskBatch = numbered(np.full(6, 9)).source("train", 0, CPU).tasks(0, 3, TaskShape(3, 1, 2))
    assert torch.equal(joined(even.chunks(1)).query.x, even.query.x)
    assert not joined(even.chunks(2)).uneven


def test_a_shape_is_fixed_unless_something_varies() -> None:
    fixed = {"ways": 5, "shots": 1, "queries": 15, "min_ways": 5}
    assert shape_of(fixed) == TaskShape(5, 1, 15)
    with pytest.raises(
        UserError, match=r"task.train.shots=varying: nothing says how it is drawn \(task.train.max_ways"
    ):
        shape_of(fixed | {"shots": "varying"}, "task.train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_ways": 11}, r"task.train.min_ways=11 needs 11 classes, the train split has 10"),
        ({"ways": 12}, r"task.train.ways=12 needs 12 classes, the train split has 10"),
        ({"min_ways": 9}, r"task.train.min_ways=9 is more than task.train.max_ways=7"),
        ({"max_support": 2}, r"task.train.max_support=2 is less than 3 ways ask for \(3 or more\)"),
        ({"ways": 5, "shots": 5}, r"task.train.max_support=20 is less than 5 ways ask for \(25 or more\)"),
        ({"queries": 2}, r"1 support example \+ task.train.queries=2 need 3 images of every class, 'c3' has 2"),
        ({"shots": 2}, r"task.train.shots=2 \+ 1 query need 3 images of every class, 'c3' has 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes: dict[str, int], message: str) -> None:
    numbered().check("train", SHAPE)
    with pytest.raises(UserError, match=r"^numbered cannot serve the train tasks: .*" + message):
        numbered().check("train", SHAPE._replace(**changes))


def test_turned_and_changed_images_belong_to_their_task() -> None:
    dataset = numbered()
    source = dataset.source("train", 0, CPU, {"translate": 0.5})
    together, alone = source.tasks(0, 4, SHAPE).chunks(1)[3], source.tasks(3, 1, SHAPE)
    assert torch.equal(together.support.x, alone.support.x)
    assert not torch.equal(alone.support.x, dataset.source("train", 0, CPU).tasks(3, 1, SHAPE).support.x)
