"""Images lie on the device where they fit, else in their file; the run says which and why."""

from __future__ import annotations

import pytest
import torch

from metalearn.data.images import ImageClasses
from metalearn.data.sets.sinusoid import Sinusoid
from metalearn.engine.placement import placed
from metalearn.errors import UserError
from tests.conftest import easy_classes

CPU = torch.device("cpu")
NEEDED = 30 * 20 * 16 * 16  # bytes of `easy_classes`


@pytest.mark.parametrize(
    ("asked", "free", "place", "why"),
    [
        ("auto", 2 * NEEDED, "device", "0 MiB, at most half of 0 MiB free on cpu"),
        ("auto", 2 * NEEDED - 1, "mapped", "0 MiB, more than half of 0 MiB free on cpu"),
        ("auto", None, "device", "0 MiB; this system does not tell how much memory is free"),
        ("device", 0, "device", "0 MiB; images=device"),
        ("mapped", 2**40, "mapped", "0 MiB; images=mapped"),
    ],
)
def test_images_lie_where_they_fit_or_where_they_are_asked_for(
    easy: ImageClasses, asked: str, free: int | None, place: str, why: str
) -> None:
    dataset, chosen = placed(easy, asked, CPU, free=lambda device: free)
    assert chosen is not None
    assert (chosen.place, chosen.why) == (place, why)
    assert isinstance(dataset, ImageClasses)
    assert dataset.mapped == (place == "mapped")
    assert not easy.mapped


def test_a_copy_in_each_process_of_torchrun_counts(easy: ImageClasses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    enough, too_little = (
        placed(easy, "auto", CPU, free=free)[1] for free in (lambda _: 8 * NEEDED, lambda _: 8 * NEEDED - 1)
    )
    assert enough is not None
    assert too_little is not None
    assert (enough.place, too_little.place) == ("device", "mapped")
    assert "in each of 4 processes" in str(enough)


def test_megabytes_are_told() -> None:
    _, chosen = placed(easy_classes(classes=60, images=40, size=32), "auto", CPU, free=lambda device: 2**20)
    assert chosen is not None
    assert chosen.mib == round(60 * 40 * 32 * 32 / 2**20, 1)
    expected = "images: in their file, those of the next tasks gathered by a thread (2 MiB, more than half of 1 MiB free on cpu)"
    assert str(chosen) == expected


def test_what_has_no_images_cannot_be_mapped() -> None:
    waves = Sinusoid([0.1, 5], [0, 3], [-5, 5])
    assert placed(waves, "auto", CPU) == placed(waves, "device", CPU) == (waves, None)
    with pytest.raises(UserError, match=r"images=mapped: sinusoid makes its examples .* \(allowed: auto\)"):
        placed(waves, "mapped", CPU)
