"""scripts/coverage.py: the page shows what was measured, and a measurement can be repeated."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.scripts.load import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("coverage")


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    script.main(["--check"])


def test_draws_are_the_same_every_time(script: ModuleType) -> None:
    world = script.WORLDS["extreme"]
    first, second = (script.row("extreme", world, 20, 5, 30, 5, world.mean(5, 1000)) for _ in range(2))
    assert first == second
    assert 0.5 < first.mean < 1


def test_a_world_with_equal_classes_has_the_mean_that_was_asked_for(script: ModuleType) -> None:
    """6 % of the queries are taken for another class, at a rate: of these 1 - exp(-0.06) are wrong."""
    for ways in (5, 20):
        assert script.World(0.0, 0.0, 0.0).mean(ways, 20_000) == pytest.approx(0.9418, abs=0.002)


def test_tasks_have_different_classes(script: ModuleType) -> None:
    drawn = script.WORLDS["alike"].drawn(script.np.random.default_rng(0), 20, 20, 50)
    assert (script.np.sort(drawn.classes, 1) == range(20)).all()
    assert drawn.scores.shape == (50,)
