"""The settings as objects: the same keys as in the YAML, and made of what older runs stored."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from metalearn.engine.settings import EvalSettings, Names, Settings, TrainSettings
from tests.compose import compose


@pytest.mark.parametrize(("node", "group"), [("train", TrainSettings), ("eval", EvalSettings), ("names", Names)])
def test_the_fields_are_the_keys_of_the_yaml(node: str, group: type) -> None:
    assert {entry.name for entry in fields(group)} == set(compose()[node])


def test_settings_are_read_and_cannot_be_changed() -> None:
    settings = Settings.of(compose("task=20way_5shot", "task.train.ways=7", "train.steps=9"))
    assert (settings.task.ways, settings.task.shots, settings.train_task.ways, settings.train.steps) == (20, 5, 7, 9)
    with pytest.raises(FrozenInstanceError):
        settings.train.steps = 10  # type: ignore[misc]


def test_a_run_that_is_older_than_a_setting_does_what_it_did() -> None:
    config = compose()
    del config["train"]["cuda_graph"]
    assert Settings.of(config).train.cuda_graph is True
    config["train"]["of_another_version"] = 3
    Settings.of(config)
