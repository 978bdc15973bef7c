"""Texts that a user hands to a finished run: labels, calibrated probabilities and sets, saved classifiers, a page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import metalearn
from metalearn.cli.main import main
from metalearn.errors import UserError

TRAIN = (
    *(
        "algorithm=protonet",
        "dataset=text",
        "backbone.buckets=2048",
        "backbone.hidden=[64]",
        "task.ways=3",
        "task.train.ways=4",
    ),
    *(
        "task.queries=4",
        "task.train.queries=4",
        "train.steps=30",
        "train.val_every=30",
        "train.val_tasks=10",
        "eval.tasks=20",
    ),
    "eval.pictures=0",
)
SUPPORT = (
    'text,label\npay the bill please,bill\nhow do i pay my bill,bill\n"my card, gone",card\ni lost the card,card\n'
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, texts_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("run") / "texts"
    metalearn.train(*TRAIN, f"dataset.root={texts_file}", f"hydra.run.dir={folder}")
    return folder


@pytest.fixture
def support(tmp_path: Path) -> Path:
    (tmp_path / "support.csv").write_text(SUPPORT)
    return tmp_path / "support.csv"


def labels(record: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(one["image"], one["label"]) for one in record["predictions"]]


def test_texts_are_labelled_wherever_they_stand(run_dir: Path, support: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("id,text\n1,please pay the bill\n2,i lost the card!\n")
    (tmp_path / "more" / "card").mkdir(parents=True)
    (tmp_path / "more" / "card" / "1.txt").write_text("my card is gone\n")
    found = metalearn.predict(
        run_dir,
        support,
        [tmp_path / "new.csv", tmp_path / "more"],
        texts=["how do i pay the bill"],
        tasks=10,
        coverage=0.8,
    )
    assert labels(found) == [
        ("how do i pay the bill", "bill"),
        ("please pay the bill", "bill"),
        ("i lost the card!", "card"),
        (str(tmp_path / "more" / "card" / "1.txt"), "card"),
    ]
    assert found["examples"] == "texts"
    assert found["images"] == "8 texts"
    assert found["classes"] == {"bill": 2, "card": 2}
    assert found["folders"] == {"images": 1, "right": 1}
    assert found["calibration"]["dataset"] == "text"
    assert all(one["set"] for one in found["predictions"])


def test_a_folder_of_txt_files_teaches_the_same(run_dir: Path, support: Path, tmp_path: Path) -> None:
    for label, texts in {
        "bill": ["how do i pay my bill", "pay the bill please"],
        "card": ["i lost the card", "my card, gone"],
    }.items():
        (tmp_path / "shown" / label).mkdir(parents=True)
        for k, text in enumerate(texts):
            (tmp_path / "shown" / label / f"{k}.txt").write_text(f"  {text}\n")
    first, second = (
        metalearn.predict(run_dir, given, texts=["pay for a card"], calibrated=False)
        for given in (support, tmp_path / "shown")
    )
    assert first["predictions"][0]["probabilities"] == pytest.approx(second["predictions"][0]["probabilities"])


def test_a_saved_classifier_and_its_page(
    run_dir: Path, support: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, page = tmp_path / "mine.pt", tmp_path / "page.html"
    main(
        [
            "predict",
            str(run_dir),
            "--support",
            str(support),
            "--save",
            str(saved),
            "--uncalibrated",
            "--text",
            "how do i pay my bill <b>now</b>",
        ]
    )
    first = capsys.readouterr().out
    assert "classes: 2, learned from 2 texts of each" in first
    main(
        ["predict", "--adapted", str(saved), "--text", "how do i pay my bill <b>now</b>", "--html", str(page), "--json"]
    )
    again = json.loads(capsys.readouterr().out)
    assert again["predictions"][0]["label"] == "bill"
    content = page.read_text()
    assert "Predictions for 1 text<" in content
    assert "how do i pay my bill &lt;b&gt;now&lt;/b&gt;" in content
    assert "<b>now" not in content


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--support", "one.csv", "--text", "a"), "has one class, 'bill': two or more are needed"),
        (("--support", "nowhere", "--text", "a"), "--support nowhere is not there"),
        (("--support", "support.csv", "--text", "a", "--invert", "yes"), "--invert and --fit are for images"),
        (("--support", "support.csv", "--query", "empty"), r"--query empty holds no text \(\.txt\)"),
        (("--support", "support.csv", "--query", "wrong.csv"), r"--query wrong\.csv: no column is named text"),
        (("--support", "support.csv", "--text", "a", " "), "--text ' ' has no text in it"),
        (("--support", "support.csv"), "predict needs something to label, --query FILE|DIR .*--text TEXT"),
    ],
)
def test_mistakes_are_one_line(
    run_dir: Path,
    support: Path,
    words: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(support.parent)
    Path("one.csv").write_text("text,label\na,bill\n")
    Path("wrong.csv").write_text("id,words\n1,a\n")
    Path("empty").mkdir()
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(["predict", str(run_dir), "--uncalibrated", *words]))
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert re.search(message, error), error


def test_python_takes_lists_of_texts(run_dir: Path) -> None:
    given = ["pay the bill please", "how do i pay my bill", "my card, gone", "i lost the card"]
    found = metalearn.load(run_dir).predict(given, [7, 7, 3, 3], ["how do i pay my bill now, and to whom"])
    assert found.labels.tolist() == [7]
    assert found.probabilities.shape == (1, 2)


def test_texts_cannot_be_exported_as_programs(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="export writes programs that take images, this run learned texts"):
        metalearn.export(run_dir, tmp_path / "out", formats=("pt2",))
    assert not (tmp_path / "out").exists()
