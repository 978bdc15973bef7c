"""CLINC150: which sentences are read, how intents are divided, and what is no CLINC150."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from metalearn.data.classes import SPLITS
from metalearn.data.sets.clinc150 import load
from metalearn.errors import UserError
from metalearn.nn.texts import texts_of
from metalearn.tasks import TaskShape
from tests.data.small_sets import clinc150


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_an_intent_has_its_sentences_of_all_parts_but_none_without_an_intent(tmp_path: Path) -> None:
    clinc150(tmp_path)
    dataset = load(str(tmp_path), "intents", 0, None, None)
    assert len(dataset.class_names) == 150
    assert "oos" not in dataset.class_names
    assert set(dataset.texts.counts) == {16}
    tasks = dataset.source("test", 0, torch.device("cpu")).tasks(0, 2, TaskShape(5, 4, 12))
    for task in range(2):
        for k in range(5):
            name = dataset.split.classes["test"][int(tasks.classes[task, k])]
            texts = [
                *texts_of(tasks.support.x[task, 4 * k : 4 * k + 4]),
                *texts_of(tasks.query.x[task, 12 * k : 12 * k + 12]),
            ]
            assert sorted(texts) == sorted(f"please do {name} for the {number}th time" for number in range(16))


@pytest.mark.parametrize("split", ["intents", "domains", "random"])
def test_ninety_intents_are_for_training_thirty_for_validation_and_for_test(tmp_path: Path, split: str) -> None:
    clinc150(tmp_path)
    chosen = load(str(tmp_path), split, 0, None, None).split
    assert [len(chosen.classes[part]) for part in SPLITS] == [90, 30, 30]


def test_another_file_is_refused_in_one_line(tmp_path: Path) -> None:
    for content in ("[]", "{", json.dumps({"train": [["a"]], "val": [], "test": []}), json.dumps({"train": []})):
        (tmp_path / "data_full.json").write_text(content)
        with pytest.raises(UserError, match="is not the published file") as raised:
            load(str(tmp_path), "intents", 0, None, None)
        assert "\n" not in str(raised.value)
    (tmp_path / "data_full.json").write_text(json.dumps({"train": [["hello", "greeting"]], "val": [], "test": []}))
    with pytest.raises(
        UserError, match=r"the texts of clinc150 lack 149 of its classes, 'accept_reservations' for one"
    ):
        load(str(tmp_path), "intents", 0, None, None)


def test_the_published_file_has_22500_sentences_of_150_intents() -> None:
    root = Path(os.environ.get("METALEARN_DATA", "no-such-folder")) / "clinc150"
    if not (root / "data_full.json").is_file():
        pytest.skip("needs data_full.json of CLINC150 in $METALEARN_DATA/clinc150")
    dataset = load(str(root), "intents", 0, None, None)
    assert set(dataset.texts.counts) == {150}
    assert dataset.input_shape == (136,)
    number = dataset.class_names.index("routing")
    assert "where can i see the routing number for bmo" in texts_of(torch.tensor(dataset.texts.of_class(number)))
