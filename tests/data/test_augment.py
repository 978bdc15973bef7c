"""Random moves of training images: as far as asked, the same for the same task, and nothing where nothing is asked."""

from __future__ import annotations

import torch
from torch import Tensor

from metalearn.data.augment import NUMBERS, Augment
from metalearn.data.sets.glyphs import load
from metalearn.tasks import TaskShape

CPU = torch.device("cpu")
HALF = 0.5  # neither to one side nor to the other


def dot(row: int, column: int, size: int = 21) -> Tensor:
    image = torch.zeros(1, 1, size, size)
    image[0, 0, row, column] = 1.0
    return image


def centre_of_mass(image: Tensor) -> tuple[float, float]:
    side = torch.arange(image.shape[-1], dtype=torch.float32)
    mass = image.sum()
    return float((image[0, 0].sum(1) * side).sum() / mass), float((image[0, 0].sum(0) * side).sum() / mass)


def numbers(turn: float = HALF, right: float = HALF, down: float = HALF, size: float = HALF) -> Tensor:
    return torch.tensor([[turn, right, down, size]])


def test_a_shift_is_the_asked_part_of_the_side() -> None:
    moved = Augment(translate=2 / 21)(dot(10, 10), numbers(right=1.0))
    assert centre_of_mass(moved) == (10.0, 8.0)
    moved = Augment(translate=2 / 21)(dot(10, 10), numbers(down=0.0))
    row, column = centre_of_mass(moved)
    assert abs(row - 12.0) < 1e-4
    assert abs(column - 10.0) < 1e-4


def test_a_turn_is_about_the_middle_by_the_asked_angle() -> None:
    moved = Augment(degrees=90)(dot(10, 17), numbers(turn=1.0))
    row, column = centre_of_mass(moved)
    assert abs(abs(row - 10) - 7) < 1e-3
    assert abs(column - 10) < 1e-3
    half = centre_of_mass(Augment(degrees=90)(dot(10, 17), numbers(turn=0.75)))
    assert abs((half[0] - 10) ** 2 + (half[1] - 10) ** 2 - 49) < 2, "as far from the middle as before"


def test_a_change_of_size_is_from_the_middle() -> None:
    larger = Augment(scale=0.5)(dot(10, 14), numbers(size=1.0))
    smaller = Augment(scale=0.5)(dot(10, 14), numbers(size=0.0))
    assert abs(centre_of_mass(larger)[1] - 16) < 0.1
    assert abs(centre_of_mass(smaller)[1] - 12) < 0.1


def test_asking_for_nothing_changes_nothing() -> None:
    assert not Augment()
    image = dot(3, 5)
    torch.testing.assert_close(Augment(degrees=10, translate=0.1, scale=0.1)(image, numbers()), image)


def test_a_task_is_moved_alike_however_the_stream_is_cut() -> None:
    dataset = load(classes=20, drawers=5, size=16, seed=0, val_classes=4, test_classes=4)
    source = dataset.source("train", 3, CPU, {"degrees": 20, "translate": 0.1, "scale": 0.1})
    whole = source.tasks(7, 4, TaskShape(3, 1, 2))
    for i in range(4):
        one = source.tasks(7 + i, 1, TaskShape(3, 1, 2))
        torch.testing.assert_close(one.support.x[0], whole.support.x[i], atol=1e-6, rtol=0)
        torch.testing.assert_close(one.query.x[0], whole.query.x[i], atol=1e-6, rtol=0)
    plain = dataset.source("train", 3, CPU).tasks(7, 4, TaskShape(3, 1, 2))
    assert torch.equal(plain.classes, whole.classes)
    assert torch.equal(plain.query.y, whole.query.y)
    moved = (plain.query.x - whole.query.x).abs().flatten(2).amax(2)
    assert moved.min() > 0.05, "every image is moved"
    inks = whole.query.x.flatten(2).sum(2) / plain.query.x.flatten(2).sum(2)
    assert 0.6 < float(inks.min()) < float(inks.max()) < 1.5, "and stays the character that it was"


def test_one_image_takes_four_numbers() -> None:
    assert Augment(degrees=5)(torch.rand(6, 1, 9, 9), torch.rand(6, NUMBERS)).shape == (6, 1, 9, 9)
