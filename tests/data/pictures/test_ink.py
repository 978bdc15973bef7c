"""Where a drawing's ink comes to lie."""

from __future__ import annotations

import numpy as np
import pytest

from metalearn.data.pictures.ink import boxed, centred, margin


def test_the_ink_box_is_cut_out_whatever_stands_around_it() -> None:
    ink = np.zeros((2, 30, 40), dtype=np.uint8)
    ink[0, 3:10, 20:25] = 200
    ink[1, 9:12, 30] = 255
    ink[0, 29, 39] = 16  # faint
    box = boxed(ink)
    assert box is not None
    assert box.shape == (2, 9, 11)
    assert (box == ink[:, 3:12, 20:31]).all()


def test_a_blank_drawing_has_no_box() -> None:
    assert boxed(np.full((1, 8, 8), 16, dtype=np.uint8)) is None


@pytest.mark.parametrize("size", [8, 28, 84])
def test_the_longer_side_fills_the_image_up_to_its_margin(size: int) -> None:
    image = centred(np.full((1, 40, 80), 255, dtype=np.uint8), size)
    rows, columns = np.flatnonzero(image[0].any(axis=1)), np.flatnonzero(image[0].any(axis=0))
    room = size - 2 * margin(size)
    assert (len(columns), len(rows)) == (room, round(room / 2))
    assert columns[0] == margin(size)
    assert abs(rows[0] - (size - 1 - rows[-1])) <= 1  # in the middle
    assert set(np.unique(image)) == {0, 255}


def test_a_given_scale_keeps_small_drawings_small_and_makes_large_ones_fit() -> None:
    box = np.full((1, 8, 4), 255, dtype=np.uint8)
    assert (centred(box, 28, scale=0.5) > 0).sum() == 4 * 2
    assert (centred(box.repeat(20, axis=1), 28, scale=0.5) > 0).any(axis=2).sum() == 28 - 2 * margin(28)


def test_pixels_become_their_mean() -> None:
    box = np.zeros((1, 48, 48), dtype=np.uint8)
    box[0, :, ::2] = 200
    assert set(np.unique(centred(box, 28)[0, 2:26, 2:26])) == {100}
