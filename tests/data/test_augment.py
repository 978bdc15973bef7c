"""Random changes of training images: as far as asked, the same for the same task, and nothing where nothing is asked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision

from metalearn.data.augment import CHANGES, MOVES, Augment, crop, crop_boxes
from metalearn.data.classes import SPLITS, ClassSplit
from metalearn.data.colour import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from metalearn.data.container import FlatImages
from metalearn.data.images import ImageClasses
from metalearn.data.sets.glyphs import load
from metalearn.errors import UserError
from metalearn.tasks import TaskShape

CPU = torch.device("cpu")
# Ink, and its moments down and across, of two images.
PINNED = [[15.5305, 36.5139], [120.3965, 240.0880], [139.5565, 277.0173]]
HALF = 0.5  # neither to one side nor to the other


def dot(row: int, column: int, size: int = 21) -> Tensor:
    image = torch.zeros(1, 1, size, size)
    image[0, 0, row, column] = 1.0
    return image


def centre_of_mass(image: Tensor) -> tuple[float, float]:
    side = torch.arange(image.shape[-1], dtype=torch.float32)
    mass = image.sum()
    return float((image[0, 0].sum(1) * side).sum() / mass), float((image[0, 0].sum(0) * side).sum() / mass)


def numbers(turn: float = HALF, right: float = HALF, down: float = HALF, size: float = HALF) -> dict[int, Tensor]:
    return {MOVES: torch.tensor([[turn, right, down, size]])}


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


def test_a_task_moves_as_it_did_before_there_were_other_changes() -> None:
    """Pinned: an older run that is resumed goes on with the same tasks."""
    dataset = load(classes=20, drawers=5, size=16, seed=0, val_classes=4, test_classes=4)
    augment = {"degrees": 20, "translate": 0.1, "scale": 0.1}
    x = dataset.source("train", 3, CPU, augment).tasks(7, 1, TaskShape(2, 1, 1)).support.x
    side = torch.arange(16.0)
    moments = torch.stack([x.sum((0, 2, 3, 4)), x.sum((0, 2, 4)) @ side, x.sum((0, 2, 3)) @ side])
    torch.testing.assert_close(moments, torch.tensor(PINNED), atol=1e-2, rtol=0)
    off = dict.fromkeys(("crop", "flip", "brightness", "contrast", "saturation", "hue"), 0.0)
    again = dataset.source("train", 3, CPU, augment | off).tasks(7, 1, TaskShape(2, 1, 1)).support.x
    assert torch.equal(again, x)


COLOURS = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
COLOURS[0, :, 0, :3] = torch.tensor([[0.0, 1.0, 0.5]] * 3)  # black, white, grey
COLOURS[0, :, 1, :6] = torch.tensor([[1, 1, 0, 0, 0, 1], [0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]).float()
GREYS = COLOURS[:, :1]
FACTORS = torch.tensor([0.0, 0.3, 0.9, 1.0, 1.4, 2.0])


@pytest.mark.parametrize("images", [COLOURS, GREYS], ids=["colours", "greys"])
@pytest.mark.parametrize(
    ("ours", "theirs", "amounts"),
    [
        (adjust_brightness, torchvision.adjust_brightness, FACTORS),
        (adjust_contrast, torchvision.adjust_contrast, FACTORS),
        (adjust_saturation, torchvision.adjust_saturation, FACTORS),
        (adjust_hue, torchvision.adjust_hue, torch.tensor([-0.5, -0.2, 0.0, 0.1, 0.37, 0.5])),
    ],
)
def test_colours_change_as_torchvision_changes_them(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], amounts: Tensor, images: Tensor
) -> None:
    before = images.clone()
    expected = torch.stack([theirs(image, float(amount)) for image, amount in zip(images, amounts, strict=True)])
    torch.testing.assert_close(ours(images, amounts.view(-1, 1, 1, 1)), expected, atol=1e-5, rtol=0)
    assert torch.equal(images, before)


@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_a_crop_is_torchvisions_resized_crop(size: tuple[int, int]) -> None:
    images = COLOURS[:, :, : size[0]].repeat(1, 1, 1, 2)[..., : size[1]]
    boxes = torch.tensor(
        [[0, 0, *size], [1, 2, 3, 4], [0, 0, 1, 1], [2, 3, 4, 5], [size[0] - 2, size[1] - 3, 2, 3], [0, 1, 5, 5]]
    )
    cropped = crop(images, boxes.float())
    for image, box, ours in zip(images, boxes.tolist(), cropped, strict=True):
        torch.testing.assert_close(ours, torchvision.resized_crop(image, *box, list(size)), atol=1e-5, rtol=0)
    torch.testing.assert_close(cropped[0], images[0])


@given(
    st.lists(st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4), min_size=1, max_size=20),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_a_crop_lies_within_the_image(drawn: list[tuple[float, ...]], height: int, width: int) -> None:
    area, ratio, down, right = torch.tensor(drawn, dtype=torch.float32).clamp(max=1 - 2**-24).unbind(1)
    top, left, tall, wide = crop_boxes(1 - area, ratio, down, right, torch.Size([height, width])).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (tall >= 1).all()
    assert (wide >= 1).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()


def test_a_crop_keeps_the_asked_part_of_the_area_in_shapes_from_3_to_4_to_4_to_3() -> None:
    unit = torch.rand(4000, 4, generator=torch.Generator().manual_seed(1))
    area, ratio, down, right = unit.unbind(1)
    *_, tall, wide = crop_boxes(1 - 0.8 * area, ratio, down, right, torch.Size([1000, 1000])).unbind(1)
    part, shape = tall * wide / 1e6, wide / tall
    assert 0.19 < float(part.min()) < 0.21
    assert float(part.max()) > 0.95
    assert 0.74 < float(shape.min()) < 0.76
    assert 1.31 < float(shape.max()) < 1.35
    free = area > 0.5  # long boxes of nearly the whole image are cut to it
    torch.testing.assert_close(part[free], 1 - 0.8 * area[free], atol=2e-3, rtol=0)


def test_left_and_right_are_exchanged_as_often_as_asked() -> None:
    images = torch.rand(2000, 1, 2, 4)
    unit = torch.rand(2000, 9, generator=torch.Generator().manual_seed(0))
    flipped = Augment(flip=0.25)(images, {CHANGES: unit})
    turned = (flipped == images.flip(-1)).flatten(1).all(1)
    assert torch.equal(turned, ~(flipped == images).flatten(1).all(1))
    assert 0.2 < float(turned.float().mean()) < 0.3
    assert torch.equal(Augment(flip=1.0)(images, {CHANGES: unit}), torchvision.hflip(images))


@pytest.mark.parametrize(("key", "number"), [("brightness", 5), ("contrast", 6), ("saturation", 7), ("hue", 8)])
def test_an_amount_is_drawn_evenly_from_both_sides(key: str, number: int) -> None:
    """The ends of the range, and its middle, which changes nothing."""
    adjust = {"brightness": adjust_brightness, "contrast": adjust_contrast, "saturation": adjust_saturation}.get(
        key, adjust_hue
    )
    neutral = 0.0 if key == "hue" else 1.0
    unit = torch.full((3, 9), 0.9)
    unit[:, number] = torch.tensor([0.0, 0.5, 1.0])
    changed = Augment(**{key: 0.4})(COLOURS[:3], {CHANGES: unit})
    expected = adjust(COLOURS[:3], torch.tensor([neutral - 0.4, neutral, neutral + 0.4]).view(-1, 1, 1, 1))
    torch.testing.assert_close(changed, expected)
    torch.testing.assert_close(changed[1], COLOURS[1], atol=1e-5, rtol=0)


def test_only_what_is_asked_for_takes_random_numbers() -> None:
    assert Augment().numbers == {}
    assert Augment(scale=0.1).numbers == {MOVES: 4}
    assert Augment(crop=0.1).numbers == Augment(flip=0.5).numbers == Augment(hue=0.1).numbers == {CHANGES: 9}
    assert Augment(degrees=1, saturation=0.1).numbers == {MOVES: 4, CHANGES: 9}


def test_all_changes_together_are_the_same_however_the_stream_is_cut() -> None:
    dataset = load(classes=20, drawers=5, size=16, seed=0, val_classes=4, test_classes=4)
    augment = {"degrees": 20, "crop": 0.5, "flip": 0.5, "brightness": 0.4, "contrast": 0.4}
    source = dataset.source("train", 3, CPU, augment)
    assert source.examples is None
    whole = source.tasks(7, 3, TaskShape(3, 1, 2))
    for i in range(3):
        one = source.tasks(7 + i, 1, TaskShape(3, 1, 2))
        torch.testing.assert_close(one.query.x[0], whole.query.x[i], atol=1e-6, rtol=0)
    plain = dataset.source("train", 3, CPU).tasks(7, 3, TaskShape(3, 1, 2))
    assert (plain.query.x - whole.query.x).abs().flatten(2).amax(2).min() > 0.05, "every image is changed"
    assert 0 <= float(whole.query.x.min()) < float(whole.query.x.max()) <= 1


def test_colours_of_two_channels_are_refused() -> None:
    images = FlatImages.of_classes(np.zeros((6, 2, 2, 4, 4), dtype=np.uint8))
    split = ClassSplit("fixed", {"train": ("a", "b"), "val": ("c", "d"), "test": ("e", "f")})
    dataset = ImageClasses("two", images, tuple("abcdef"), split, dict.fromkeys(SPLITS, 1))
    dataset.check_augment({"crop": 0.5, "brightness": 0.5, "hue": 0.0})
    with pytest.raises(
        UserError, match=r"train\.augment\.hue=0\.1: the images of two have 2 channels \(needed: 1 or 3"
    ):
        dataset.check_augment({"hue": 0.1})
