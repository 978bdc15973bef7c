"""`metalearn eval` on other data than the run's: another size, other classes, classes that were trained on."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from metalearn.cli.main import main
from metalearn.compose.composer import composer
from metalearn.errors import UserError
from metalearn.runs import checkpoint
from metalearn.runs.seen import refuse_seen_classes, seen_classes

TINY = [
    *("dataset.classes=40", "dataset.val_classes=8", "dataset.test_classes=12", "dataset.size=16"),
    *("backbone.filters=4", "task.queries=3", "task.train.ways=5", "train.steps=2", "train.meta_batch_size=2"),
    *(
        "train.task_chunk=1",
        "train.val_every=2",
        "train.val_tasks=2",
        "train.checkpoint_every=2",
        "eval.tasks=6",
        "eval.pictures=0",
    ),
]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    main(["train", "algorithm=baseline", *TINY, "hydra.run.dir=run"])
    return tmp_path / "run"


def evaluated(run_dir: Path, *overrides: str) -> dict[str, Any]:
    before = set(run_dir.glob("eval-*.json"))
    main(["eval", str(run_dir), *overrides])
    (new,) = set(run_dir.glob("eval-*.json")) - before
    record: dict[str, Any] = json.loads(new.read_text())
    return record


def test_other_images_are_brought_to_what_the_model_knows(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also for a learner with a head for each training class, of which the other data set has another number."""
    other = [
        "dataset=glyphs",
        "dataset.seed=1",
        "dataset.size=20",
        "dataset.classes=60",
        "dataset.val_classes=8",
        "dataset.test_classes=12",
    ]
    record = evaluated(trained, *other)
    assert record["images"] == {"shape": [1, 20, 20], "as": [1, 16, 16]}
    assert "seen_classes" not in record["test"]
    assert "images of the shape 20 x 20 x 1 were brought to 16 x 16 x 1" in capsys.readouterr().out
    assert "images" not in evaluated(trained), "the run's own are as they were"


@pytest.mark.thorough
@pytest.mark.parametrize("more", [[], ["task=10shot_regression"]])
def test_data_of_another_form_are_refused_before_their_tasks_are_looked_at(
    trained: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["eval", str(trained), "dataset=sinusoid", *more])
    assert left.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.endswith(
        "sinusoid has numbers of the shape [1], the model was trained on images of the shape [1, 16, 16]"
    )


def test_a_data_set_that_cannot_serve_the_task_of_the_run_is_what_is_named() -> None:
    with composer() as composing:
        saved = OmegaConf.create(composing.job(["algorithm=maml", "dataset=sinusoid"], 0)[0])
        for overrides, said in (
            (["dataset=glyphs"], r"^dataset=glyphs cannot serve the run's own task: task\.ways=1 is not allowed"),
            (["dataset=glyphs", "task.ways=1"], r"^task\.ways=1 is not allowed"),
            (["dataset=glyphs", "task=5way_1shot", "eval.tasks=0"], r"^eval\.tasks=0 is not allowed"),
        ):
            with pytest.raises(UserError, match=said):
                composing.evaluation(saved, overrides)


def test_the_file_is_named_once_it_is_there(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["eval", str(trained)])
    file = next(trained.glob("eval-*.json"))
    assert capsys.readouterr().out.splitlines()[-1] == f"written to: run/{file.name}"

    def full(path: Path, record: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("metalearn.runs.evaluation.files.write_json", full)
    with pytest.raises(SystemExit) as leaving:
        main(["eval", str(trained)])
    said = capsys.readouterr()
    assert leaving.value.code == 1
    assert "test 5-way 1-shot:" in said.out
    assert "written to" not in said.out
    assert "cannot be written: No space left on device" in said.err


def test_a_directory_that_cannot_be_written_is_not_gone_on_with(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / "results.json").unlink()
    before = sorted(trained.iterdir())
    monkeypatch.setattr("metalearn.runs.run.os.access", lambda path, mode: Path(path) != trained)
    with pytest.raises(SystemExit) as leaving:
        main(["train", "--resume", str(trained)])
    assert leaving.value.code == 2
    assert f"'{trained}' cannot be written: it cannot be gone on with" in capsys.readouterr().err
    assert sorted(trained.iterdir()) == before


def test_more_ways_than_the_algorithm_serves_are_refused_before_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        main(["train", "algorithm=mann", "algorithm.label_units=5", *TINY, "task.ways=6", "hydra.run.dir=run"])
    assert leaving.value.code == 2
    assert "algorithm.label_units=5: a task of 6 ways needs a label unit for each" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_trained_classes_are_refused_or_marked(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["dataset.test_classes=25"]  # the 8 validation classes and 5 of training move there
    with pytest.raises(SystemExit) as leaving:
        main(["eval", str(trained), *more])
    assert leaving.value.code == 2
    assert "eval.allow_seen=true" in capsys.readouterr().err
    assert not list(trained.glob("eval-*.json"))
    seen = evaluated(trained, *more, "eval.allow_seen=true")["test"]["seen_classes"]
    assert seen == 5
    assert f"{seen} TEST CLASSES WERE TRAINING CLASSES" in capsys.readouterr().out


def test_a_checkpoint_that_does_not_say_what_it_was_trained_on_names_its_data_set(trained: Path) -> None:
    state = checkpoint.load(trained / "best.pt", torch.device("cpu"))
    assert state.pop("trained_on") == {"shape": [1, 16, 16], "classes": 20, "normalize": None, "form": "images"}
    checkpoint.save(trained / "best.pt", state)
    assert evaluated(trained, "dataset.seed=1", "dataset.size=20")["images"]["as"] == [1, 16, 16]


def test_a_class_is_recognised_turned_or_not_and_in_a_data_set_of_the_same_images() -> None:
    assert refuse_seen_classes(["a:x", "a:x@90"], ("a:y", "b:x"), allow=False) == 0
    with pytest.raises(UserError, match="1 of these test classes were training classes of this run, 'a:x'"):
        refuse_seen_classes(["a:x@90"], ("a:x@180", "a:y"), allow=False)
    assert refuse_seen_classes(["folder:icon@1x"], ("folder:icon@2x",), allow=False) == 0
    assert [str(one) for one in seen_classes(["a:z", "a:x"], ["a:x", "a:x@90", "a:z"])] == ["a:x", "a:z"]
    assert refuse_seen_classes(["a:z", "a:x"], ("a:x", "a:x@90"), allow=True) == 1
