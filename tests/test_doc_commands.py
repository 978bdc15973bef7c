"""The commands and programs that README and the pages show: each command composes, its flags exist, and the first pages run from top to bottom."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import metalearn
from metalearn.cli.main import COMMANDS, main
from metalearn.compose.composer import Composer, composer
from metalearn.sweeps.ask import asked_sweep, shared_config
from metalearn.sweeps.jobs import composed_jobs

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Flags whose next word is a value; overrides are what has a `=` and belongs to none of them.
NEEDS_FILES = ("--plugins", "--config-dir", "--resume")  # composed from files of a reader's own, or from a run
SKETCHES = re.compile(r"hydra/launcher=|\.\.\. ")  # a command with a gap, or for a launcher that is installed apart
# What the settings of a test run are on top of those of a page.
TINY = (
    "train.steps=4",
    "train.val_every=2",
    "train.val_tasks=4",
    "eval.tasks=6",
    "eval.pictures=0",
    "backbone.filters=8",
)


def _commands(page: Path) -> list[str]:
    """Every line of a code block that starts with `metalearn`, without its comment."""
    blocks = [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language in ("", "bash")]
    return [
        line
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        if re.match(r"metalearn [a-z]+\b(?!:)", line)
    ]


ALL = [(page, line) for page in PAGES for line in _commands(page)]


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    return {name: command.help(["--help"]) for name, command in COMMANDS.items()}


def test_there_are_commands_on_the_pages() -> None:
    assert len(ALL) > 50
    assert {"README.md", "quickstart.md", "sweeps.md"} <= {page.name for page, _ in ALL}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_their_flags_exist(page: Path, helps: dict[str, str]) -> None:
    for line in _commands(page):
        _, command, *words = shlex.split(line, comments=True)
        assert command in COMMANDS, line
        for flag in (word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)):
            # --plugins goes with every command; the help of train explains it.
            said = helps["train" if flag == "--plugins" else command]
            assert re.search(rf"(?<![\w-]){re.escape(flag)}\b", said), f"{page.name}: {line}: {flag}"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "page", [page for page in PAGES if _commands(page)], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_settings_of_commands_compose(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in _commands(page):
        _, command, *words = shlex.split(line, comments=True)
        overrides = [word for word in words if "=" in word and not word.startswith("-")]
        if command not in ("train", "eval", "explain", "reproduce", "predict") or SKETCHES.search(line):
            continue
        if any(flag in words for flag in NEEDS_FILES):
            continue
        with composer() as composing:
            if command == "reproduce":
                overrides = [f"experiment={words[0]}", *overrides]
            if command in ("eval", "predict"):
                _compose_evaluation(composing, overrides)
            else:
                _compose(composing, overrides, multirun="-m" in words)


def _compose(composing: Composer, overrides: list[str], multirun: bool) -> None:
    wanted = asked_sweep(composing, shared_config(composing, overrides), overrides, multirun)
    if wanted is None:
        assert composing.job(overrides, 0)
    elif wanted.search is not None:
        assert composing.compose(overrides, sweeps=True)
    else:
        assert composed_jobs(composing, wanted)


def _compose_evaluation(composing: Composer, overrides: list[str]) -> None:
    from omegaconf import OmegaConf

    # A run of an algorithm that has the settings which the page changes.
    trained = ["algorithm=maml"] if any(text.startswith("algorithm.") for text in overrides) else []
    trained += ["dataset=folder"] if any(text.startswith("dataset.root=") for text in overrides) else []
    trained += (
        ["dataset=tabular", "algorithm=maml"] if any(text.startswith("dataset.file=") for text in overrides) else []
    )
    saved = OmegaConf.create(composing.job(trained, 0)[0])
    first = [text if text.startswith("'") else text.partition(",")[0] for text in overrides]
    assert composing.evaluation(saved, first)


def _run_page(name: str) -> None:
    """Runs the bash and python blocks of a page in their order, as a reader would, but with tiny runs."""
    for language, text in BLOCK.findall((ROOT / "docs" / name).read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(text, name, "exec"), {"__name__": "__main__"})
        elif language == "bash":
            for line in text.splitlines():
                program, *argv = shlex.split(line, comments=True)
                assert program == "metalearn", line
                if argv[0] == "train":
                    argv = [*argv, *(one for one in TINY if "experiment" not in line or "filters" not in one)]
                _run(argv, line)


def _run(argv: list[str], line: str) -> None:
    try:
        main(argv)
    except SystemExit as left:
        if left.code:
            pytest.fail(f"{line}: exit code {left.code}")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_quick_start_runs(elsewhere: Path) -> None:
    _run_page("quickstart.md")
    assert len(list(elsewhere.glob("outputs/multirun/first/*/results.json"))) == 6


@pytest.mark.slow
def test_own_images_runs(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run_page("own-images.md")
    assert (elsewhere / "photos-sheet.png").is_file()
    assert "180 images of 18 classes" in capsys.readouterr().out


@pytest.mark.slow
def test_reproduce_runs(elsewhere: Path) -> None:
    if not os.environ.get("METALEARN_DATA"):
        pytest.skip("needs Omniglot")
    _run_page("reproduce.md")
    assert (elsewhere / "mine" / "experiment" / "longer.yaml").is_file()


@pytest.mark.slow
def test_predict_runs(elsewhere: Path) -> None:
    batch = metalearn.draw_tasks("task.queries=2", **{"task.ways": 3, "task.shots": 2})
    for folder, examples in (("support", batch.support), ("query", batch.query)):
        for number, (x, y) in enumerate(zip(examples.x[0], examples.y[0], strict=True)):
            file = elsewhere / folder / "abc"[int(y)] / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 - 255 * x[0]).byte().numpy()).resize((90, 120)).save(file)
    (elsewhere / "query").rename(elsewhere / "more")
    (elsewhere / "query").mkdir()
    for number, file in enumerate(sorted((elsewhere / "more").rglob("*.jpg"))):
        (elsewhere / "more" / f"{number}.jpg").write_bytes(file.read_bytes())
        (elsewhere / "query" / f"{number}.jpg").write_bytes(file.read_bytes())
    lines = [line for line in _commands(ROOT / "docs" / "predict.md") if "RUN" not in line and ".csv" not in line]
    assert len(lines) >= 3
    for line in lines:
        argv = shlex.split(line, comments=True)[1:]
        argv = [*argv, *TINY] if argv[0] == "train" else argv
        _run([word for one in argv for word in (sorted(map(str, Path().glob(one))) if "*" in one else [one])], line)
    assert (elsewhere / "mine.pt").is_file()


@pytest.mark.slow
def test_the_page_on_python_runs(elsewhere: Path) -> None:
    _run_page("python.md")
    assert len(list(elsewhere.glob("outputs/multirun/first/*/results.json"))) == 4
