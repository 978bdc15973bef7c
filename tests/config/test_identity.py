"""One table says what makes two runs the same, whoever asks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from metalearn.config.identity import Kind, compared, config_hash, differences, kind_of
from metalearn.config.resume import refuse_changes
from metalearn.errors import UserError
from metalearn.runs.reproduce import changed_settings
from metalearn.sweeps.directory import Job, SweepDir

CONFIG: dict[str, Any] = {
    "seed": 0,
    "device": "cuda",
    "images": "auto",
    "names": {"algorithm": "maml"},
    "dataset": {"_target_": "metalearn.data.sets.glyphs.load", "root": "here", "download": True, "size": 28},
    "train": {
        "steps": 10,
        "lr": 0.1,
        "schedule": "constant",
        "cuda_graph": True,
        "log_every": 20,
        "checkpoint_every": 200,
        "task_chunk": 4,
        "max_loss": 1e4,
        "val_every": 5,
    },
    "eval": {"task_chunk": 20, "tasks": 100},
    "reference": None,
}

COLOURS = ("brightness", "contrast", "saturation", "hue")

# A change, and whether it is the same: for config_hash and a sweep's stored job | a protocol | a run that is resumed.
CASES = [
    ("dataset.root", "there", True, True, True),
    ("dataset.download", False, True, True, True),
    ("names.algorithm", "my_maml", True, True, True),
    ("device", "cpu", True, True, True),
    ("images", "mapped", True, True, True),
    ("train.cuda_graph", False, True, True, True),
    ("train.task_chunk", 2, True, True, True),
    ("eval.task_chunk", 5, True, True, True),
    ("train.log_every", 7, True, True, True),
    ("train.checkpoint_every", "10min", True, True, True),
    ("train.max_loss", 1e5, True, True, True),
    ("seed", 1, False, True, False),
    ("train.steps", 20, False, False, True),
    ("train.lr", 0.2, False, False, False),
    ("train.val_every", 6, False, False, False),
    ("dataset.size", 20, False, False, False),
    ("eval.tasks", 200, False, False, False),
]


def changed(key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *nodes, last = key.split(".")
    node = config
    for name in nodes:
        node = node[name]
    node[last] = value
    return config


@pytest.mark.parametrize(("key", "value", "same_question", "same_protocol", "may_go_on"), CASES)
def test_every_question_has_the_same_answer_wherever_it_is_asked(
    key: str, value: Any, same_question: bool, same_protocol: bool, may_go_on: bool, tmp_path: Path
) -> None:
    now = changed(key, value)
    assert (config_hash(compared(CONFIG)) == config_hash(compared(now))) == same_question
    assert (not changed_settings(CONFIG, now)) == same_protocol

    sweep = SweepDir(tmp_path)
    sweep.store([Job("job", {}, CONFIG)], "command")
    assert not fails(lambda: sweep.check([Job("job", {}, CONFIG)]))
    assert fails(lambda: sweep.check([Job("job", {}, now)])) != same_question

    assert fails(lambda: refuse_changes(CONFIG, now, "the run")) != may_go_on


def fails(action: Any) -> bool:
    try:
        action()
    except UserError:
        return True
    return False


def test_a_class_that_moved_is_the_same_class() -> None:
    assert not differences(changed("dataset._target_", "metalearn.data.glyphs.load"), CONFIG)


def test_what_no_pattern_names_belongs_to_the_protocol() -> None:
    assert kind_of("algorithm.something_new") is Kind.PROTOCOL
    assert kind_of("train.seed") is Kind.PROTOCOL


def test_an_automatic_number_is_the_same_as_the_number() -> None:
    long = {"train": {"steps": 1000, "val_every": 500, "meta_batch_size": 16, "val_tasks": 200}}
    automatic = {"train": long["train"] | {"val_tasks": "auto"}}
    short = {"train": automatic["train"] | {"meta_batch_size": 1}}
    assert not differences(long, automatic)
    assert differences(automatic, short)["train.val_tasks"] == (200, 50)


def test_a_run_stored_before_images_were_cropped_and_coloured_is_the_same_without() -> None:
    stored = changed("train.augment", {"degrees": 10.0})
    now = changed("train.augment", {"degrees": 10.0} | dict.fromkeys(("crop", "flip", *COLOURS), 0.0))
    assert differences(stored, now) == {}
    assert differences(stored, changed("train.augment", now["train"]["augment"] | {"hue": 0.1})) == {
        "train.augment.hue": (0.0, 0.1)
    }
