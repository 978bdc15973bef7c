"""Six classes with odd files, from `data check` through `train` and `eval`, as a user would type it."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from metalearn.cli.main import main
from tests.data.own.own_images import classes, odd_folder, written


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setenv("METALEARN_CACHE", str(place))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return place


def exit_code(*argv: str) -> int:
    try:
        main(list(argv))
    except SystemExit as left:
        return int(left.code or 0)
    return 0


SMALL = ["dataset.size=16", "train.steps=4", "train.val_every=4", "eval.tasks=10", "device=cpu", "hydra.run.dir=run"]


@pytest.mark.thorough
def test_a_folder_of_odd_files_is_checked_trained_on_and_tested(capsys: pytest.CaptureFixture[str]) -> None:
    odd_folder(Path("my photos, odd"))
    assert exit_code("data", "check", "./my photos, odd") == 1
    said = capsys.readouterr().out
    for part in (
        "1 turned upright by EXIF",
        "1 animated (first frame)",
        "d/page.jpg is not a readable image",
        "the class 'empty' has no image",
        "e/double.png, f/0.png",
        "contact sheet: my photos, odd-sheet.png",
    ):
        assert part in said
    assert Path("my photos, odd-sheet.png").is_file()
    command = next(line for line in said.splitlines() if line.startswith("try: metalearn "))
    words = shlex.split(command.removeprefix("try: metalearn "))

    refused = [word for word in words if "skip_unreadable" not in word]
    assert exit_code(*refused, *SMALL) == 2
    assert "1 file cannot be read as images: d/page.jpg" in capsys.readouterr().err
    assert not Path("run").exists()

    assert exit_code(*words, *SMALL) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert (results["status"], results["dataset"], results["split"]["name"]) == ("done", "folder", "random-0")
    capsys.readouterr()

    shutil.make_archive("my photos, odd", "zip", "my photos, odd")
    assert exit_code("eval", "run", "eval.tasks=10", 'dataset.root="my photos, odd.zip"') == 0
    assert "test 2-way 1-shot" in capsys.readouterr().out
    assert exit_code("eval", "run", "dataset.split_seed=3") == 2
    assert "of these test classes were training classes of this run, 'folder-my photos, odd:" in capsys.readouterr().err
    written(Path("others"), classes("uvwxyz", 6))
    assert exit_code("eval", "run", "dataset.root=others", "eval.tasks=10") == 0


def test_a_folder_in_which_nothing_is_wrong_has_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    written(Path("photos.zip"), classes("abcdef", 3))
    before = set(Path().iterdir())
    assert exit_code("data", "check", "photos.zip", "--sheet", "none", "dataset.split_seed=2") == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert set(Path().iterdir()) == before
    assert exit_code("data", "check", "folder", "dataset.root=photos.zip", "--sheet", "mine.png") == 0
    assert Path("mine.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["./nowhere"], "PATH=./nowhere is not there"),
        (["nowhere"], "no data set named 'nowhere' (available: "),
        (["nowhere"], "images of your own are checked by their path, and there is no './nowhere'"),
        (["photos", "dataset.class_depth=0"], "dataset.class_depth=0 is not allowed"),
        (["photos", "train.steps=1"], "'train.steps=1' was given"),
        (["photos", "--sheet", "x.jpg"], "--sheet=x.jpg is not allowed"),
        (["photos", "--sheet", "no/x.png"], "cannot be written"),
        (["glyphs", "--sheet", "x.png"], "--sheet goes with metalearn data check PATH"),
        (["folder"], "dataset.root must be set"),
        (["text"], "dataset.root must be set: a folder, an archive or a CSV file of your own"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    written(Path("photos"), classes("abcdef", 3))
    assert exit_code("data", "check", *words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_a_hostile_archive_is_one_line_and_leaves_nothing(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(Path("bad.zip"), classes("abcdef", 3) | {"../../evil.png": b"x"})
    for command in (["data", "check", "bad.zip"], ["train", "dataset=folder", "dataset.root=bad.zip", *SMALL]):
        assert exit_code(*command) == 2
        assert "leads out of the archive" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["bad.zip"]
    assert not cache.exists() or not list(cache.iterdir())
