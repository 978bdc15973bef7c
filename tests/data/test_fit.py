"""Images brought to the size and the channels that a network knows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from metalearn.data.base import TEXTS, TrainedOn
from metalearn.data.classes import ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.fit import can_fit, fitted
from metalearn.data.images import ImageClasses
from metalearn.errors import UserError
from metalearn.tasks import TaskShape

CPU = torch.device("cpu")


def coloured(size: int = 12) -> ImageClasses:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3, size, size), dtype=np.uint8)
    split = ClassSplit("own", {"train": ("a",), "val": (), "test": ("b", "c")})
    return ImageClasses("set", FlatImages.of_classes(pixels), ("a", "b", "c"), split, dict.fromkeys(split.classes, 1))


def test_what_fits_is_the_same_memory() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert fitted(images, (3, 8, 8)) is images


def test_a_grey_channel_is_repeated_and_colours_become_their_luma() -> None:
    grey, colours = torch.rand(2, 5, 1, 4, 4), torch.rand(2, 5, 3, 4, 4)
    assert torch.equal(fitted(grey, (3, 4, 4)), torch.cat([grey, grey, grey], dim=2))
    expected = 0.299 * colours[:, :, 0] + 0.587 * colours[:, :, 1] + 0.114 * colours[:, :, 2]
    assert_allclose(fitted(colours, (1, 4, 4))[:, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [9, 40])
def test_the_size_changes_as_pillow_changes_it(size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)
    theirs = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    ours = fitted(torch.from_numpy(pixels)[None, None] / 255, (1, size, size))
    assert_allclose(ours[0, 0].numpy(), np.asarray(theirs) / 255, atol=1.5 / 255)


def test_which_channels_can_be_had() -> None:
    assert can_fit(1, 3)
    assert can_fit(3, 1)
    assert can_fit(2, 2)
    assert not can_fit(3, 4)
    assert not can_fit(2, 1)


def test_a_data_set_is_served_as_a_model_was_trained() -> None:
    stored = coloured()
    normalize = {"mean": [0.5], "std": [0.25]}
    dataset = stored.brought_to(TrainedOn((1, 8, 8), 5, normalize))
    assert dataset.input_shape == (1, 8, 8)
    assert dataset.trained_on == TrainedOn((1, 8, 8), 1, normalize)
    shape = TaskShape(2, 1, 2)
    as_stored, as_trained = (each.source("test", 0, CPU).tasks(0, 3, shape) for each in (stored, dataset))
    assert torch.equal(as_stored.classes, as_trained.classes)
    assert_allclose(as_trained.query.x, (fitted(as_stored.query.x, (1, 8, 8)) - 0.5) / 0.25, atol=1e-6)


def test_what_cannot_be_brought_there_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"set has images of 3 channels, the model was trained on .* \[4, 8, 8\]"):
        coloured().brought_to(TrainedOn((4, 8, 8), 5))
    with pytest.raises(UserError, match=r"trained on texts of the shape \[7\]"):
        coloured().brought_to(TrainedOn((7,), 5, form=TEXTS))


def test_what_a_model_was_trained_on_survives_a_checkpoint() -> None:
    trained_on = TrainedOn((3, 8, 8), 64, {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.3]})
    assert TrainedOn.of(trained_on.record()) == trained_on
    assert TrainedOn.of(TrainedOn((1, 28, 28), 5).record()) == TrainedOn((1, 28, 28), 5)
