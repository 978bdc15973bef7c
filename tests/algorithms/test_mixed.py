"""Tasks from several data sets, in colour, for each YAML in conf/algorithm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metalearn.data.classes import ClassSplit
from metalearn.data.container import FlatImages
from metalearn.data.images import ImageClasses
from metalearn.data.sets.mix import Mix
from metalearn.engine.build import build_algorithm
from metalearn.engine.evaluate import evaluate
from metalearn.engine.gradient import meta_gradient
from metalearn.tasks import TaskShape
from tests.compose import SMALL, compose
from tests.conftest import easy_classes
from tests.each import learners_of_classes

SHAPE = TaskShape(5, 2, 3)


def coloured() -> ImageClasses:
    """Classes that differ in their colour, 12 of 8 images of 12x12 for each split."""
    rng = np.random.default_rng(5)
    colours = rng.integers(40, 216, (36, 1, 3, 1, 1))
    images = np.clip(colours + rng.integers(-30, 31, (36, 8, 3, 12, 12)), 0, 255).astype(np.uint8)
    names = tuple(f"colour{number:02d}" for number in range(36))
    split = ClassSplit("own", {"train": names[:12], "val": names[12:24], "test": names[24:]})
    return ImageClasses(
        "coloured", FlatImages.of_classes(list(images)), names, split, {"train": 1, "val": 1, "test": 1}
    )


@pytest.fixture(scope="module")
def mixed() -> Mix:
    return Mix({"easy": easy_classes(), "coloured": coloured()}, None, size=16, channels=3)


@pytest.mark.parametrize("name", learners_of_classes())
def test_an_algorithm_learns_from_several_sources(name: str, mixed: Mix) -> None:
    algorithm = build_algorithm(compose(f"algorithm={name}", *SMALL), mixed).train()
    tasks = mixed.source("train", 0, torch.device("cpu"))
    assert {*tasks.tasks(0, 8, SHAPE).about["source"]} == {"easy", "coloured"}
    if algorithm.fits:
        with torch.no_grad():
            algorithm.eval().fit(tasks.every_example())
            algorithm.train()
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=3e-3)
    steps = (2 if name == "mann" else 8) if algorithm.trains else 0  # mann needs hundreds
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        meta_gradient(algorithm, tasks.tasks(3 * step, 3, SHAPE), 3, "fp32")
        optimizer.step()
    scores = evaluate(algorithm, mixed.source("test", 0, torch.device("cpu")), SHAPE, 20, 7, stepwise=False)
    assert scores.about["source"] == ("coloured", "easy") * 10
    if name != "mann":
        assert scores.mean - scores.ci95 > 0.2
