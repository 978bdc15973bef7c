"""test_tasks.npz: every number of a test, task by task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metalearn.data.classes import ClassId
from metalearn.engine.evaluate import Scores
from metalearn.intervals import interval95_of_classes
from metalearn.kinds import CLASSIFICATION, REGRESSION
from metalearn.runs.per_task import read_tasks, write_tasks


def test_the_file_is_small_and_read_without_unpickling(tmp_path: Path) -> None:
    ids = tuple(ClassId("omniglot", f"Alphabet_of_the_Magi/character{number:03d}") for number in range(423))
    classes = torch.rand(1000, 423, generator=torch.Generator().manual_seed(0)).argsort(1)[:, :5]
    score = torch.randint(60, 76, (3, 1000)) / 75
    scores = Scores(score, [0, 1, 2], torch.rand(1000), {"fits": torch.ones(1000)}, CLASSIFICATION, classes, ids)
    write_tasks(tmp_path / "test_tasks.npz", scores)
    assert (tmp_path / "test_tasks.npz").stat().st_size < 16_000
    with np.load(tmp_path / "test_tasks.npz", allow_pickle=False) as found:
        assert sorted(found) == ["class_names", "classes", "further/fits", "loss", "score"]
        assert (found["score"].dtype, found["loss"].dtype, found["classes"].dtype) == ("float32", "float32", "uint16")
        assert np.array_equal(found["score"], score[-1].numpy())
        assert np.array_equal(found["classes"], classes.numpy())
        assert found["class_names"][422] == "omniglot:Alphabet_of_the_Magi/character422"
    assert [file.name for file in tmp_path.iterdir()] == ["test_tasks.npz"]


def test_tasks_without_classes_have_none(tmp_path: Path) -> None:
    scores = Scores(torch.rand(1, 4), [0], torch.rand(4), {}, REGRESSION)
    write_tasks(tmp_path / "test_tasks.npz", scores)
    with np.load(tmp_path / "test_tasks.npz") as found:
        assert sorted(found) == ["loss", "score"]
    assert read_tasks(tmp_path / "test_tasks.npz").classes is None
    assert scores.ci95_classes(scores.score[-1]) is None


def test_a_character_and_its_turned_copies_are_drawn_together() -> None:
    ids = tuple(ClassId("omniglot", f"character{number}", turn) for turn in (0, 90, 180, 270) for number in range(30))
    generator = torch.Generator().manual_seed(1)
    classes = torch.rand(200, 120, generator=generator).argsort(1)[:, :5]
    per_task = torch.rand(30, generator=generator)[classes % 30].mean(1)
    scores = Scores(per_task[None], [0], per_task, {}, CLASSIFICATION, classes, ids)
    assert scores.ci95_classes(per_task) == interval95_of_classes(per_task, classes % 30)
    assert scores.ci95_classes(per_task) > interval95_of_classes(per_task, classes)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    ids = tuple(ClassId("glyphs", f"seed0/glyph{number:03d}", turn) for turn in (0, 180) for number in range(20))
    classes = torch.rand(50, 40, generator=torch.Generator().manual_seed(2)).argsort(1)[:, :5]
    scores = Scores(torch.rand(2, 50), [0, 1], torch.rand(50), {"mine": torch.rand(50)}, CLASSIFICATION, classes, ids)
    write_tasks(tmp_path / "tasks.npz", scores)
    found = read_tasks(str(tmp_path / "tasks.npz"))
    assert torch.equal(found.score, scores.score[-1:])
    assert torch.equal(found.loss, scores.loss)
    assert torch.equal(found.further["mine"], scores.further["mine"])
    assert found.class_ids == ids
    assert (found.mean, found.ci95) == (scores.mean, scores.ci95)
    assert found.ci95_classes(found.score[-1]) == scores.ci95_classes(scores.score[-1]) is not None


def test_tasks_of_uneven_size_say_their_ways_and_shots(tmp_path: Path) -> None:
    ids = tuple(ClassId("glyphs", f"glyph{number:03d}") for number in range(200))
    classes = torch.tensor([[150, 3, -1, -1], [2, 1, 0, 199]])
    about = {"ways": (2, 4), "shots": (1.5, 3.0), "source": ("one", "other")}
    scores = Scores(torch.rand(1, 2), [0], torch.rand(2), {}, CLASSIFICATION, classes, ids, about)
    write_tasks(tmp_path / "tasks.npz", scores)
    with np.load(tmp_path / "tasks.npz", allow_pickle=False) as found:
        assert found["about/ways"].tolist() == [2, 4]
        assert found["about/shots"].tolist() == [1.5, 3.0]
        assert found["about/source"].tolist() == ["one", "other"]
        assert found["classes"].dtype == "int16"
    again = read_tasks(tmp_path / "tasks.npz")
    assert torch.equal(again.classes, classes) if again.classes is not None else False
    assert again.about == about
    assert again.further == {}
    assert again.chance == scores.chance == 0.375


def test_what_cannot_be_written_does_not_cost_the_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tasks(tmp_path / "gone" / "test_tasks.npz", Scores(torch.rand(1, 4), [0], torch.rand(4), {}))
    assert "test_tasks.npz cannot be written: No such file or directory" in capsys.readouterr().err
