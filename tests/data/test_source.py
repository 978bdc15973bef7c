"""The sampler's promises: what no task may ever do, whatever is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn.data.base import Embedding, TaskSource
from metalearn.data.classes import ClassId, ClassSplit, random_split
from metalearn.data.container import FlatImages
from metalearn.data.images import ImageClasses
from metalearn.data.normalize import Normalize
from metalearn.errors import UserError
from metalearn.tasks import TaskBatch, TaskShape

CPU = torch.device("cpu")
CLASSES, IMAGES = 12, 9
PINNED_CLASSES = [[0, 2, 1], [3, 1, 2], [5, 3, 1]]
PINNED_IMAGES = [
    [[8, 6, 5], [8, 5, 1], [0, 4, 7]],
    [[6, 5, 8], [3, 1, 0], [6, 5, 1]],
    [[3, 0, 1], [6, 2, 0], [4, 7, 5]],
]


def numbered(rotations: int = 1, counts: list[int] | None = None) -> ImageClasses:
    """Every image of a class says which it is: pixel (0, 0) the class, pixel (0, 1) the number of the image; the rest marks 'up'."""
    images = np.zeros((CLASSES, IMAGES, 1, 4, 4), dtype=np.uint8)
    images[..., 0, 0] = np.arange(CLASSES)[:, None, None]
    images[..., 0, 1] = np.arange(IMAGES)[None, :, None]
    images[..., 0, 2] = 200
    names = tuple(f"c{i:02d}" for i in range(CLASSES))
    parts = {"train": names[:6], "val": names[6:9], "test": names[9:]}
    return ImageClasses(
        "numbered",
        FlatImages.of_classes([images[i, :count] for i, count in enumerate(counts or [IMAGES] * CLASSES)]),
        names,
        ClassSplit("fixed", parts),
        dict.fromkeys(("train", "val", "test"), rotations),
    )


def identities(batch: TaskBatch) -> tuple[np.ndarray, np.ndarray]:
    """(class, image number) of every example as drawn into its pixels: support [T, N*K, 2], query [T, N*Q, 2]."""
    support, query = (
        (examples.x * 255).round().long()[:, :, 0, 0, :2].numpy() for examples in (batch.support, batch.query)
    )
    return support, query


@settings(max_examples=60, deadline=None)
@given(
    ways=st.integers(2, 6),
    shots=st.integers(1, 4),
    queries=st.integers(1, 5),
    seed=st.integers(0, 2**63),
    first=st.integers(0, 10**12),
)
def test_every_task_keeps_the_rules(ways: int, shots: int, queries: int, seed: int, first: int) -> None:
    source = numbered().source("train", seed, CPU)
    batch = source.tasks(first, 3, TaskShape(ways, shots, queries))
    assert batch.support.x.shape == (3, ways * shots, 1, 4, 4)
    assert batch.query.x.shape == (3, ways * queries, 1, 4, 4)
    support, query = identities(batch)
    for task in range(3):
        labels = {int(y): int(c) for y, (c, _) in zip(batch.support.y[task], support[task], strict=True)}
        assert sorted(labels) == list(range(ways))
        assert len(set(labels.values())) == ways, "distinct classes"
        assert set(labels.values()) <= set(range(6)), "classes of the training split only"
        assert [labels[int(y)] for y in batch.query.y[task]] == query[task][:, 0].tolist(), "a label is one class"
        assert batch.classes[task].tolist() == [labels[y] for y in range(ways)]
        drawn = [tuple(pair) for pair in np.concatenate([support[task], query[task]])]
        assert len(set(drawn)) == len(drawn), "support and query are disjoint, no image twice"


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**63), first=st.integers(0, 10**9), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5)
)
def test_a_task_does_not_depend_on_how_the_stream_is_cut(seed: int, first: int, sizes: list[int]) -> None:
    source = numbered().source("train", seed, CPU)
    whole = source.tasks(first, sum(sizes), TaskShape(4, 2, 3))
    start = first
    pieces = []
    for size in sizes:
        pieces.append(source.tasks(start, size, TaskShape(4, 2, 3)))
        start += size
    assert torch.equal(whole.support.x, torch.cat([piece.support.x for piece in pieces]))
    assert torch.equal(whole.query.x, torch.cat([piece.query.x for piece in pieces]))
    assert torch.equal(whole.classes, torch.cat([piece.classes for piece in pieces]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_tasks_on_the_gpu() -> None:
    batches = [
        numbered(4).source("train", 3, torch.device(device)).tasks(5, 20, TaskShape(5, 2, 3))
        for device in ("cpu", "cuda")
    ]
    assert torch.equal(batches[0].support.x, batches[1].support.x.cpu())
    assert torch.equal(batches[0].query.x, batches[1].query.x.cpu())


def test_tasks_are_the_same_everywhere_and_for_ever() -> None:
    """Pinned: a change here silently changes every published number."""
    classes, images = numbered().source("train", 0, CPU).draw(0, 3, 3, 3)
    assert classes.tolist() == PINNED_CLASSES
    assert images.tolist() == PINNED_IMAGES


def test_seeds_and_splits_are_separate_streams() -> None:
    draws = [numbered().source(split, seed, CPU).draw(0, 20, 3, 3)[1] for split in ("train", "val") for seed in (0, 1)]
    for i in range(4):
        for j in range(i):
            assert not np.array_equal(draws[i], draws[j])


def test_splits_never_share_a_class() -> None:
    dataset = numbered(rotations=4)
    seen = {split: set(dataset.source(split, 0, CPU).class_names) for split in ("train", "val", "test")}
    assert [len(names) for names in seen.values()] == [24, 12, 12]
    bare = {split: {ClassId.parse(name).upright for name in names} for split, names in seen.items()}
    assert not bare["train"] & bare["val"]
    assert not (bare["train"] | bare["val"]) & bare["test"]


def test_overlapping_splits_are_refused() -> None:
    with pytest.raises(UserError, match="'b' is in train and in test"):
        ClassSplit("bad", {"train": ("a", "b"), "val": ("c",), "test": ("b",)})


def test_labels_are_uniformly_permuted() -> None:
    """Every class gets every label equally often, and every class and image is drawn equally often."""
    classes, images = numbered().source("train", 1, CPU).draw(0, 12_000, 3, 2)
    table = np.array([np.bincount(classes[:, label], minlength=6) for label in range(3)])  # [label, class]
    # 2000 expected in every cell; a fair draw strays by sqrt(2000 * 5/6) = 41, so 6 of those are 245.
    assert np.abs(table - 2000).max() < 245
    drawn = np.bincount(images.reshape(-1), minlength=IMAGES)
    assert np.abs(drawn - 8000).max() < 6 * np.sqrt(8000)


def test_rotated_classes_are_turned_images() -> None:
    source = numbered(rotations=4).source("train", 0, CPU)
    batch = source.tasks(0, 200, TaskShape(5, 1, 1))
    up = source.class_names[:6]
    assert source.class_names[6:12] == tuple(f"{name}@90" for name in up)
    corners = {0: (0, 2), 1: (1, 0), 2: (3, 1), 3: (2, 3)}  # where rot90 takes the mark at row 0, column 2
    for x, row in zip(batch.support.x.flatten(0, 1), batch.classes.flatten(), strict=True):
        turns, class_ = divmod(int(row), 6)
        assert round(float(x[(0, *corners[turns])]) * 255) == 200
        assert round(float(x[0].rot90(-turns, (-2, -1))[0, 0]) * 255) == class_


def test_classes_may_have_fewer_images_than_the_largest() -> None:
    counts = [4, 9, 5, 9, 6, 9] + [IMAGES] * 6
    source = numbered(counts=counts).source("train", 0, CPU)
    classes, images = source.draw(0, 500, 4, 4)
    assert (images.max(axis=2) < np.array(counts)[classes]).all()
    assert all(len(set(drawn)) == 4 for drawn in images.reshape(-1, 4).tolist()), "no image twice"
    for class_, count in enumerate(counts[:6]):  # every image of a class is drawn equally often
        drawn = np.bincount(images[classes == class_].reshape(-1), minlength=count)
        expected = drawn.sum() / count
        assert np.abs(drawn - expected).max() < 6 * np.sqrt(expected)
    batch = source.tasks(0, 50, TaskShape(4, 2, 2))
    support, _ = identities(batch)
    assert (support[:, ::2, 0] == batch.classes.numpy()).all(), "the images are those of the classes"


@pytest.mark.parametrize(
    ("ways", "shots", "queries", "said"),
    [
        (
            7,
            1,
            1,
            "task.train.ways=7 needs 7 classes, the train split has 6; the largest that fits: 6 ways, 1 shot, 1 query",
        ),
        (
            5,
            1,
            9,
            "task.train.shots=1 \\+ task.train.queries=9 need 10 images of every class, 'c00' has 9; .* 5 ways, 1 shot, 8 queries",
        ),
        (7, 12, 1, "ways=7 .*shots=12 .*; the largest that fits: 6 ways, 8 shots, 1 query"),
    ],
)
def test_impossible_tasks_name_both_numbers_and_what_fits(ways: int, shots: int, queries: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        numbered().check("train", TaskShape(ways, shots, queries))


@given(ways=st.integers(2, 6), shots=st.integers(1, 8))
def test_what_fits_is_not_refused(ways: int, shots: int) -> None:
    numbered().check("train", TaskShape(ways, shots, IMAGES - shots))


def test_random_split_is_a_function_of_its_seed() -> None:
    names = [f"n{i}" for i in range(50)]
    assert random_split(names, 10, 15, seed=1) == random_split(names, 10, 15, seed=1)
    assert random_split(names, 10, 15, seed=1).classes["test"] != random_split(names, 10, 15, seed=2).classes["test"]
    assert [len(random_split(names, 10, 15, 0).classes[split]) for split in ("train", "val", "test")] == [25, 10, 15]


def test_pixels_are_unit_floats(source: Callable[..., TaskSource]) -> None:
    x = source().tasks(0, 4, TaskShape(5, 1, 2)).support.x
    assert x.dtype == torch.float32
    assert 0 <= float(x.min()) < float(x.max()) <= 1


def test_small_classes_can_be_left_out() -> None:
    dataset = numbered(counts=[4, 9, 5, 9, 6, 9] + [IMAGES] * 6)
    kept = dataset.without_small_classes(6)
    assert kept.split.classes["train"] == ("c01", "c03", "c04", "c05")
    assert kept.split.classes["test"] == dataset.split.classes["test"]
    assert kept.split.name == "fixed-min6"
    assert kept.split.sha256 != dataset.split.sha256
    kept.check("train", TaskShape(4, 1, 5))
    batch = kept.source("train", 0, CPU).tasks(0, 20, TaskShape(3, 1, 5))
    assert set(identities(batch)[0][..., 0].flatten()) == {1, 3, 4, 5}
    assert dataset.without_small_classes(4) is dataset
    with pytest.raises(
        UserError, match=r"dataset\.min_images=10 leaves no class in the train split of numbered \(at most 9 does\)"
    ):
        dataset.without_small_classes(10)


def coloured(normalize: Normalize | None = None, origin: str | None = None) -> ImageClasses:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 3, 8, 8), dtype=np.uint8)
    names = tuple("abcdef")
    split = ClassSplit("fixed", {"train": names[:2], "val": names[2:4], "test": names[4:]})
    rotations = dict.fromkeys(("train", "val", "test"), 2)
    return ImageClasses("coloured", FlatImages.of_classes(images), names, split, rotations, origin, normalize)


def test_channels_are_normalised_one_by_one() -> None:
    normalize = Normalize((0.2, 0.4, 0.6), (0.5, 0.25, 2.0))
    shape = TaskShape(2, 1, 2)
    plain, normalised = (coloured(how).source("train", 0, CPU).tasks(0, 3, shape) for how in (None, normalize))
    for channel, (mean, std) in enumerate(zip(normalize.mean, normalize.std, strict=True)):
        expected = (plain.query.x[:, :, channel] - mean) / std
        torch.testing.assert_close(normalised.query.x[:, :, channel], expected)


def test_what_is_embedded_is_normalised_first() -> None:
    source = coloured(Normalize((0.5,) * 3, (0.5,) * 3)).source("val", 0, CPU)
    embedded = source.embedded(Embedding(lambda images: images.flatten(1), 3 * 64)).tasks(0, 2, TaskShape(2, 1, 2))
    assert torch.equal(embedded.support.x, source.tasks(0, 2, TaskShape(2, 1, 2)).support.x.flatten(2))


def test_normalisation_for_another_number_of_channels_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset\.normalize\.std has 1 value, the images have 3 channels"):
        coloured(Normalize((0.5,) * 3, (0.5,)))


def test_classes_carry_their_origin() -> None:
    assert coloured(origin="photographs").classes("test")[3] == ClassId("photographs", "f", 180)
    assert coloured().classes("test")[0] == ClassId("coloured", "e")


def test_normalisation_is_read_from_the_setting() -> None:
    assert Normalize.of(None) is None
    assert Normalize.of({"mean": [0, 0.5], "std": [1, 0.25]}) == Normalize((0.0, 0.5), (1.0, 0.25))
