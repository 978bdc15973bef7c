"""Images in a mapped file give the tasks that resident ones give, and nothing of the file is copied beforehand."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metalearn.data.base import Embedding
from metalearn.data.cache import load_or_make
from metalearn.data.classes import SPLITS, ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.images import ImageClasses
from metalearn.data.normalize import Normalize
from metalearn.data.source import ClassTasks
from metalearn.data.store import Found, Mapped
from metalearn.errors import UserError
from metalearn.tasks import TaskBatch, TaskShape, VaryingShape

CPU = torch.device("cpu")
SHAPE = TaskShape(3, 1, 2)
UNEVEN = [5, 3, 40, 4, 3, 7, 3, 9, 1000]


def uneven(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, turns: int = 4, height: int = 6, width: int = 6
) -> ImageClasses:
    """Nine classes of three channels and very uneven sizes, in a cache entry; a split's classes do not lie together."""
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    names = tuple("abcdefghi")
    images = [rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8) for count in UNEVEN]
    stored = load_or_make("uneven", f"{turns}-{height}-{width}", lambda: zip(names, images, strict=True))
    split = ClassSplit("fixed", {"train": ("h", "b", "d"), "val": ("a", "e", "g"), "test": ("i", "c", "f")})
    normalize = Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    return ImageClasses("uneven", stored.images, names, split, dict.fromkeys(SPLITS, turns), normalize=normalize)


def assert_equal(one: TaskBatch, other: TaskBatch) -> None:
    assert torch.equal(one.support.x, other.support.x)
    assert torch.equal(one.query.x, other.query.x)
    assert torch.equal(one.classes, other.classes)


@pytest.mark.parametrize("turns", [1, 2, 4])
@pytest.mark.parametrize("augment", [None, {"crop": 0.5, "hue": 0.2, "degrees": 20}])
def test_mapped_images_give_the_same_tasks_bit_for_bit(
    turns: int, augment: dict[str, float] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dataset = uneven(monkeypatch, tmp_path, turns)
    for split in SPLITS:
        resident, mapped = (made.source(split, 5, CPU, augment) for made in (dataset, dataset.kept_in_file()))
        # One after the other, backwards, again, with another stride and another count: expected or not.
        for first, count in [(0, 2), (0, 2), (2, 2), (4, 2), (0, 2), (8, 2), (16, 2), (24, 2), (32, 3), (31, 1)]:
            assert_equal(mapped.tasks(first, count, SHAPE), resident.tasks(first, count, SHAPE))
        mapped.close()


@pytest.mark.parametrize("augment", [None, {"crop": 0.5, "scale": 0.2}])
def test_tasks_of_uneven_size_are_the_same_too(
    augment: dict[str, float] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dataset = uneven(monkeypatch, tmp_path)
    shape = VaryingShape("varying", "varying", "varying", 3, 8, 10, 40, 4, 2.0)
    resident, mapped = (made.source("test", 5, CPU, augment) for made in (dataset, dataset.kept_in_file()))
    for first in (0, 3, 6, 9):
        batch = resident.tasks(first, 3, shape)
        assert_equal(mapped.tasks(first, 3, shape), batch)
        for i in range(3):
            (one,) = resident.tasks(first + i, 1, shape).chunks(1)
            torch.testing.assert_close(batch.chunks(1)[i].query.x, one.query.x, atol=1e-6, rtol=0)
    mapped.close()


def test_images_that_are_not_square_are_served_upright_and_turned_by_half(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dataset = uneven(monkeypatch, tmp_path, turns=2, height=4, width=7)
    resident, mapped = (made.source("train", 0, CPU) for made in (dataset, dataset.kept_in_file()))
    batch = resident.tasks(0, 4, SHAPE)
    assert batch.support.x.shape == (4, 3, 3, 4, 7)
    assert_equal(mapped.tasks(0, 4, SHAPE), batch)
    mapped.close()
    said = r"dataset\.rotations\.train=4: the images of uneven have 4x7 pixels, only square ones .* \(allowed: 1 or 2\)"
    with pytest.raises(UserError, match=said):
        uneven(monkeypatch, tmp_path, turns=4, height=4, width=7)


def test_mapped_images_are_embedded_as_resident_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dataset = uneven(monkeypatch, tmp_path)
    resident, mapped = (made.source("test", 0, CPU) for made in (dataset, dataset.kept_in_file()))
    assert resident.examples == mapped.examples == 4 * (1000 + 40 + 7)
    sizes: list[int] = []

    def embed(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images.flatten(1)[:, :5]

    first, second = (of.embedded(Embedding(embed, 5)).tasks(0, 60, SHAPE) for of in (mapped, resident))
    assert_equal(first, second)
    assert max(sizes) <= 256 < sum(sizes)


def test_a_mapped_source_copies_no_image_beforehand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dataset = uneven(monkeypatch, tmp_path).kept_in_file()
    monkeypatch.setattr(FlatImages, "of_class", lambda *_: pytest.fail("images were read"))
    monkeypatch.setattr(FlatImages, "select", lambda *_: pytest.fail("images were copied"))
    source = dataset.source("test", 0, CPU)
    assert isinstance(source, ClassTasks)
    source.tasks(0, 1, SHAPE)
    source.close()


def test_a_task_fits_the_smallest_class_however_large_the_others_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dataset = uneven(monkeypatch, tmp_path, turns=1)
    dataset.check("test", TaskShape(3, 1, 6))
    with pytest.raises(UserError, match=r"need 8 images of every class, 'f' has 7; .* 3 ways, 1 shot, 6 queries"):
        dataset.check("test", TaskShape(3, 1, 7))
    classes, images = dataset.source("test", 0, CPU).draw(0, 300, 3, 7)
    assert images[classes == 0].max() > 900, "the large class is drawn from as a whole"
    assert set(images[classes == 2].flatten()) == set(range(7))


def test_images_that_the_device_has_no_room_for_are_one_line() -> None:
    many = np.broadcast_to(np.uint8(0), (2**30, 3, 1024, 1024))  # takes no memory
    split = ClassSplit("fixed", {"train": ("a",), "val": ("a2",), "test": ("a3",)})
    images = FlatImages(many, np.array([2**30 - 2, 1, 1]))
    dataset = ImageClasses("many", images, ("a", "a2", "a3"), split, dict.fromkeys(SPLITS, 1))
    with pytest.raises(UserError, match=r"3,221,225,466 MiB of images do not fit .* of cpu: images=mapped leaves them"):
        dataset.source("train", 0, CPU)
    source = dataset.kept_in_file().source("val", 0, CPU)
    assert source.examples == 1


def test_what_resident_images_take_is_known_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert uneven(monkeypatch, tmp_path).resident_bytes == 4 * sum(UNEVEN) * 3 * 6 * 6
    assert uneven(monkeypatch, tmp_path, turns=1).resident_bytes == sum(UNEVEN) * 3 * 6 * 6


def test_the_thread_ends_when_the_source_is_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = uneven(monkeypatch, tmp_path).kept_in_file().source("train", 0, CPU)
    before = threading.active_count()
    source.tasks(0, 1, SHAPE)
    assert threading.active_count() == before + 1
    source.close()
    assert threading.active_count() == before
    source.tasks(0, 1, SHAPE)
    source.close()
    assert threading.active_count() == before


def test_an_image_file_that_fails_in_the_thread_fails_the_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = uneven(monkeypatch, tmp_path).kept_in_file().source("train", 0, CPU)
    here, found = threading.get_ident(), Mapped.find

    def broken(store: Mapped, rows: NDArray[np.int64]) -> Found:
        if threading.get_ident() != here:
            raise OSError("the disk is gone")
        return found(store, rows)

    monkeypatch.setattr(Mapped, "find", broken)
    source.tasks(0, 1, SHAPE)
    with pytest.raises(OSError, match="the disk is gone"):
        source.tasks(1, 1, SHAPE)
    source.close()
