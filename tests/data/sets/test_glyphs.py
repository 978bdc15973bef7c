"""`draw`: the same arguments give the same alphabet anywhere, and what it draws can be told apart."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from metalearn.data.sets.glyphs import SMALLEST_SIZE, coloured, draw, load
from metalearn.errors import UserError
from metalearn.tasks import TaskShape


@pytest.fixture(scope="module")
def alphabet() -> np.ndarray:
    """uint8 [60, 20, 1, 28, 28]."""
    return draw(60, 20, 28, 0)


def test_shape_and_dtype_and_full_range(alphabet: np.ndarray) -> None:
    assert alphabet.shape == (60, 20, 1, 28, 28)
    assert alphabet.dtype == np.uint8
    assert alphabet.min() == 0
    assert alphabet.max() == 255


def test_size_scales_the_same_drawing() -> None:
    small, large = draw(3, 4, 28, 0), draw(3, 4, 56, 0)
    assert large.shape == (3, 4, 1, 56, 56)
    halved = large.reshape(3, 4, 1, 28, 2, 28, 2).mean(axis=(4, 6))
    # Not equal: edge and margin are in pixels. An unrelated drawing correlates by about 0.1.
    assert np.corrcoef(small.ravel(), halved.ravel())[0, 1] > 0.9


def test_same_arguments_same_images(alphabet: np.ndarray) -> None:
    np.random.seed(1)  # the global generator must not matter
    np.testing.assert_array_equal(draw(60, 20, 28, 0), alphabet)


def test_images_are_pinned_to_the_bit() -> None:
    # Published numbers rest on these images. Whoever changes them on purpose changes the key of the cache entry too.
    images = draw(12, 5, 28, 0)
    assert (
        hashlib.sha256(images.tobytes()).hexdigest()
        == "b5d0f6adbfd6638849305e87628ac3d30c13e4fd1430e8e290e94fd323657d06"
    )


@pytest.mark.parametrize("other_seed", [1, 2**32, 2**64 - 1])
def test_another_seed_is_another_alphabet(other_seed: int) -> None:
    images, others = draw(5, 3, 28, 0), draw(5, 3, 28, other_seed)
    assert all((a != b).any() for a, b in zip(images.reshape(15, -1), others.reshape(15, -1), strict=True))


def test_classes_and_drawers_do_not_depend_on_how_many_are_asked_for() -> None:
    images = draw(10, 6, 28, 3)
    np.testing.assert_array_equal(images[:5], draw(5, 6, 28, 3))
    np.testing.assert_array_equal(images[:, :4], draw(10, 4, 28, 3))


def test_every_image_differs_from_every_other(alphabet: np.ndarray) -> None:
    assert len(np.unique(alphabet.reshape(60 * 20, -1), axis=0)) == 60 * 20


@pytest.mark.parametrize("size", [SMALLEST_SIZE, 28])
def test_no_image_is_blank_or_blotted_or_cut_off(size: int) -> None:
    images = draw(200, 10, size, 1)[:, :, 0] / 255  # [C, M, H, W]
    ink = images.mean(axis=(2, 3))
    assert ink.min() > 0.02
    assert ink.max() < 0.4
    assert images.max(axis=(2, 3)).min() > 0.5
    border = np.ones((size, size), dtype=bool)
    border[1:-1, 1:-1] = False
    assert images[:, :, border].max() == 0


def test_edges_are_soft(alphabet: np.ndarray) -> None:
    grey = (alphabet > 0) & (alphabet < 255)
    assert grey.any(axis=(2, 3, 4)).all()


def test_drawings_of_one_class_are_closer_than_drawings_of_two(alphabet: np.ndarray) -> None:
    x = alphabet.reshape(60, 20, -1).astype(np.float64) / 255
    flat = x.reshape(1200, -1)
    squared = (flat**2).sum(axis=1)
    distance = np.sqrt(np.maximum(squared[:, None] + squared - 2 * flat @ flat.T, 0))  # [1200, 1200]
    distance = distance.reshape(60, 20, 60, 20).mean(axis=(1, 3))  # [60, 60]
    within = distance.diagonal() * 20 / 19  # without the zero distance of each image to itself
    between = (distance.sum(axis=1) - distance.diagonal()) / 59
    assert within.mean() < 0.95 * between.mean()
    assert (within < between).mean() > 0.9


def test_the_nearest_pixels_find_the_class_sometimes_but_not_often(alphabet: np.ndarray) -> None:
    """5-way 1-shot by raw pixels: far above chance (20 %), far below solved, so there is something left to learn."""
    x = alphabet.reshape(12, 5, 20, -1).astype(np.float64) / 255  # 12 tasks of 5 classes
    correct = []
    for task in x:
        gaps = ((task[:, 1:, None] - task[None, None, :, 0]) ** 2).sum(axis=-1)  # [5, 19, 5]
        correct.append(gaps.argmin(axis=-1) == np.arange(5)[:, None])
    assert 0.35 < np.mean(correct) < 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 28, 0), "classes is 0, must be at least 1"),
        ((1, 0, 28, 0), "drawers is 0, must be at least 1"),
        ((1, 1, SMALLEST_SIZE - 1, 0), f"size is {SMALLEST_SIZE - 1}, must be at least {SMALLEST_SIZE}"),
        ((1, 1, 28, -1), "seed is -1, must be at least 0"),
        ((1, 1, 28, 2**64), r"seed is 18446744073709551616, must be below 2\*\*64"),
        ((0, -2, 28, 0), "classes is 0.*drawers is -2"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(*arguments)


def test_an_image_in_colour_is_the_drawing_in_two_colours_of_its_own() -> None:
    written = draw(6, 4, 16, 0)
    images = np.stack(list(coloured(written, 0)))
    assert images.shape == (6, 4, 3, 16, 16)
    paper, ink = images.min(axis=(3, 4)).astype(int), images.max(axis=(3, 4)).astype(int)  # [6, 4, 3]
    assert paper.max() <= 0.35 * 255 + 1
    assert ink.min() > 100
    cover = written / 255.0
    expected = paper[..., None, None] + (ink - paper)[..., None, None] * cover / cover.max(axis=(3, 4), keepdims=True)
    assert np.abs(images - expected).max() <= 1.5
    assert len(np.unique(paper.reshape(-1, 3), axis=0)) == 24, "each image has its own"
    np.testing.assert_array_equal(images[:3, :2], np.stack(list(coloured(written[:3, :2], 0))))


def test_the_same_characters_are_there_in_colour() -> None:
    grey, colour = (load(12, 3, 12, 0, 2, 2, channels=channels) for channels in (1, 3))
    assert (grey.input_shape, colour.input_shape) == ((1, 12, 12), (3, 12, 12))
    assert grey.classes("test") == colour.classes("test"), "a model that knows one is refused on the other"
    normalized = load(12, 3, 12, 0, 2, 2, channels=3, normalize={"mean": [0.5] * 3, "std": [0.5] * 3})
    shape, cpu = TaskShape(2, 1, 1), torch.device("cpu")
    plain, moved = (dataset.source("val", 0, cpu).tasks(0, 2, shape).query.x for dataset in (colour, normalized))
    torch.testing.assert_close(moved, plain * 2 - 1)
    with pytest.raises(UserError, match=r"dataset\.normalize\.mean has 1 value, the images have 3 channels"):
        load(12, 3, 12, 0, 2, 2, channels=3, normalize={"mean": [0.5], "std": [0.5]})
