"""Hyperparameter search: what may be asked for, that trials are drawn and run once, what is stopped, what is reported."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

from metalearn.cli.main import main
from metalearn.errors import Pruned, UserError
from metalearn.runs.run import run
from metalearn.sweeps.directory import Job, SweepDir
from metalearn.sweeps.space import corners, trial_text
from metalearn.sweeps.summary import write_summary
from tests import fake_run
from tests.compose import SMALL, compose
from tests.fake_run import calls
from tests.sweeps.conftest import pretend
from tests.sweeps.test_sweep import leaves_with

pytestmark = pytest.mark.usefixtures("elsewhere")
ROOT = Path(__file__).parents[2]
FOLDER = Path("outputs/multirun/mine")
needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs Optuna")
SPACE = "space: {train.lr: {low: 1.0e-3, high: 0.5, log: true}, train.optimizer: {choices: [adam, sgd]}}"
SEARCH = f"search: {{{SPACE}, trials: 6, startup_trials: 3, pruner: null}}"
PRUNING = f"search: {{{SPACE}, trials: 8, pruner: {{startup_trials: 2}}}}"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The folder of a search that has drawn so many of its six trials; each is made once."""
    made: dict[int, Path] = {}

    def folder(count: int) -> Path:
        if count not in made:
            with pytest.MonkeyPatch.context() as patched:
                pretend(patched, cwd := tmp_path_factory.mktemp("searched") / "cwd")
                main([*search_file(SEARCH), *([f"sweep.search.trials={count}"] if count != 6 else [])])
            made[count] = cwd / FOLDER
        return made[count]

    return folder


@pytest.fixture
def begun(searched: Callable[[int], Path]) -> Callable[[int], None]:
    """Puts a copy of that folder where `search_file(SEARCH)` looks for it."""
    return lambda count: shutil.copytree(searched(count), FOLDER) and None


@pytest.fixture
def whole(searched: Callable[[int], Path]) -> dict[str, dict[str, Any]]:
    """The trials of a search that nothing disturbed."""
    return SweepDir(searched(6)).choices()


def search_file(text: str, sweep_name: str = "mine") -> list[str]:
    Path("conf/sweep").mkdir(parents=True, exist_ok=True)
    Path("conf/sweep/mine.yaml").write_text(text)
    return ["train", "--config-dir", "conf", "sweep=mine", f"sweep_name={sweep_name}"]


def trials(sweep_name: str = "mine") -> dict[str, dict[str, Any]]:
    """Each job's values."""
    return SweepDir(FOLDER.with_name(sweep_name)).choices()


def table_of(printed: list[str]) -> list[list[str]]:
    """The words of each row of the table of a search: its values, its status, its score, ..., its run directory."""
    return [line.split() for line in printed if f"{FOLDER}/trial=" in line and ": " not in line]


def statuses() -> list[str]:
    return [SweepDir(FOLDER).status(name) for name in trials()]


# --- what may be asked for: without Optuna ----------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("search", "arguments", "said"),
    [
        ("{space: {train.lr: [1, 2]}}", [], "sweep.search.space: train.lr: needs {low, high}, with log: true"),
        ("{space: {train.lr: {low: 1}}}", [], "sweep.search.space: train.lr: needs {low, high}"),
        ("{space: {train.lr: {low: 1, high: 2, lgo: true}}}", [], "sweep.search.space: train.lr: no setting 'lgo'"),
        ("{space: {train.lr: {low: 0.2, high: 0.1}}}", [], "sweep.search.space: train.lr: low=0.2 is not below high"),
        ("{space: {train.lr: {low: a, high: 0.1}}}", [], "sweep.search.space: train.lr: low=a is no number"),
        (
            "{space: {train.lr: {low: 0, high: 0.1, log: true}}}",
            [],
            "sweep.search.space: train.lr: low=0 must be above",
        ),
        ("{space: {train.lr: {low: 1, high: 2, log: 1}}}", [], "sweep.search.space: train.lr: log=1 is not allowed"),
        ("{space: {train.lr: {low: 1, high: 2, log: true, step: 1}}}", [], "sweep.search.space: train.lr: takes log"),
        ("{space: {train.steps: {low: 1, high: 10, step: 4}}}", [], "sweep.search.space: train.steps: step=4 does not"),
        ("{space: {train.lr: {choices: []}}}", [], "sweep.search.space: train.lr: choices is a list of values"),
        ("{space: {train.lr: {choices: [1, 1]}}}", [], "sweep.search.space: train.lr: has the choice 1 twice"),
        ("{space: {train.lr: {choices: [1], low: 1}}}", [], "sweep.search.space: train.lr: has choices, and so"),
        ("{space: {train.lr: {low: 0.0, high: 0.1}}}", [], "train.lr=0.0 is not allowed (float > 0)"),
        ("{space: {train.lrr: {low: 0.1, high: 0.2}}}", [], "no setting 'train.lrr'; did you mean 'train.lr'?"),
        ("{space: {algorithm: {choices: [protonet, mamll]}}}", [], "no algorithm named 'mamll'"),
        ("{space: {seed: {choices: [1, 99]}}}", [], "99 is too large"),
        ("{space: {sweep.jobs: {choices: [1, 2]}}}", [], "sweep.search.space: sweep.jobs is no setting of a run"),
        ("{space: {task.ways: {low: 2, high: 5}}}", [], "sweep.search.space: task.ways changes what is validated"),
        ("{space: {eval.seed: {low: 2, high: 5}}}", [], "sweep.search.space: eval.seed changes what is validated"),
        ("{space: 5}", [], "sweep.search.space is a mapping from settings"),
        (f"{{{SPACE}, metric: test/accuracy}}", [], "no setting 'sweep.search.metric': a search is for the best val"),
        (f"{{{SPACE}, trails: 3}}", [], "no setting 'sweep.search.trails'; did you mean 'trials'?"),
        (f"{{{SPACE}, pruner: {{warmup: 3}}}}", [], "no setting 'sweep.search.pruner.warmup'"),
        (f"{{{SPACE}, pruner: {{keep_percent: 100}}}}", [], "sweep.search.pruner.keep_percent=100 is not allowed"),
        (f"{{{SPACE}, trials: 0}}", [], "sweep.search.trials=0 is not allowed (int >= 1)"),
        (f"{{{SPACE}}}", ["train.lr=0.1"], "train.lr is varied by the search and set on the command line as well"),
        (f"{{{SPACE}}}", ["sweep.seeds=3"], "sweep.search draws all jobs: seed cannot be varied beside it"),
        (f"{{{SPACE}}}", ["sweep.retry_failed=true"], "sweep.retry_failed: a search draws other trials instead"),
        (f"{{{SPACE}}}", ["hydra.launcher._target_=a_cluster.Launcher"], "sweep.search runs on this machine"),
    ],
)
def test_a_wrong_search_is_refused_before_anything_is_written(
    search: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "99" in said:  # the one that a constructor says
        monkeypatch.setattr("metalearn.sweeps.search.optuna", lambda: None)
    assert leaves_with(*search_file(f"search: {search}"), *arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"metalearn: error: {said}")
    assert line.count("\n") == 1
    assert not Path("outputs").exists()


def test_without_optuna_one_line_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert leaves_with(*search_file(SEARCH)) == 2
    said = "sweep.search needs Optuna: pip install '.[optuna]' in the checkout"
    assert capsys.readouterr().err == f"metalearn: error: {said}\n"
    assert not Path("outputs").exists()


def test_the_corners_of_a_space_have_every_bound_and_every_choice() -> None:
    space = {"a": {"low": 1, "high": 9}, "b": {"choices": ["x", [1, 2], None]}}
    assert list(corners(space)) == [
        {"a": 1, "b": "x"},
        {"a": 9, "b": "x"},
        {"a": 1, "b": [1, 2]},
        {"a": 1, "b": None},
    ]


def test_a_trial_is_called_after_its_number_and_values() -> None:
    values = {"train.lr": 0.00056115, "algorithm.steps": 3, "algorithm": "maml", "x": True}
    assert trial_text(7, values) == "trial=7-train.lr=0.000561-algorithm.steps=3-algorithm=maml-x=true"


def test_the_summary_has_the_best_trial_by_validation_first() -> None:
    sweep = SweepDir(Path("stored"))
    search = {"space": {"train.lr": {"low": 0, "high": 9}}}
    sweep.store([Job(f"trial={i}", {"train.lr": i}, {"seed": i}) for i in range(5)], "the command", search)
    ended = {  # status, validation, test
        "trial=0": ("done", 0.5, 0.9),
        "trial=1": ("pruned", 0.8, None),
        "trial=2": ("done", 0.7, 0.6),
        "trial=4": ("done", 0.7, 0.8),
    }
    for name, (status, val, test) in ended.items():
        sweep.run_dir(name).mkdir()
        record = {"status": status, "val": {"accuracy": val}, "test": test and {"accuracy": test, "ci95": 0.01}}
        (sweep.run_dir(name) / "results.json").write_text(json.dumps(record))
    rows = write_summary(sweep)
    assert [row["job"] for row in rows] == ["trial=2", "trial=4", "trial=0", "trial=1", "trial=3"]
    with (sweep.path / "summary.csv").open() as file:
        written = [(row["job"], row["status"], row["val_accuracy"]) for row in csv.DictReader(file)]
    assert written[3:] == [("trial=1", "pruned", "0.8"), ("trial=3", "pending", "")]
    text = (sweep.path / "summary.md").read_text()
    assert "| run | train.lr | status | validation | accuracy | time | error |" in text
    assert "| [trial=1](trial=1) | 1 | pruned | 80.00 % |  |  |  |" in text


def test_another_search_under_the_same_name_is_refused() -> None:
    sweep = SweepDir(Path("stored"))
    sweep.store([], "the command", {"seed": 0, "space": {"train.lr": {"low": 0.1, "high": 1.0}}})
    changed = r"begun with sweep\.search\.seed=0, now 1; sweep\.search\.space\.train\.lr\.low=0\.1, now 0\.2: take"
    with pytest.raises(UserError, match=changed):
        sweep.check([], {"seed": 1, "space": {"train.lr": {"low": 0.2, "high": 1.0}}})
    with pytest.raises(UserError, match=r"now \(none\)"):
        sweep.check([])


# --- a run that is stopped: without Optuna ----------------------------------------------------------------------------


def test_a_pruned_run_says_so_keeps_its_checkpoint_and_can_be_gone_on_with() -> None:
    small = (*SMALL, "dataset.classes=40", "dataset.val_classes=8", "dataset.test_classes=12", "device=cpu")
    steps = (
        "train.steps=6",
        "train.val_every=2",
        "train.val_tasks=4",
        "train.task_chunk=2",
        "eval.tasks=4",
        "eval.pictures=0",
    )
    config = compose(*small, *steps, "train.meta_batch_size=2", "train.checkpoint_every=100")
    whole, stopped = Path("whole"), Path("stopped")
    whole.mkdir()
    stopped.mkdir()
    asked: list[tuple[int, float]] = []

    def should_prune(step: int, accuracy: float) -> bool:
        asked.append((step, accuracy))
        return len(asked) == 2

    with pytest.raises(Pruned):
        run(config, stopped, should_prune=should_prune)
    results = json.loads((stopped / "results.json").read_text())
    assert (results["status"], results["step"], results["test"]) == ("pruned", 4, None)
    assert results["error"] == "stopped by the search at step 4: other trials had validated better by then"
    assert results["val"]["accuracy"] == max(accuracy for _, accuracy in asked)
    assert (stopped / "last.pt").exists()
    told: list[int] = []
    ended = run(config, stopped, resume=True, should_prune=lambda step, _: bool(told.append(step)))
    assert (ended["status"], told) == ("done", [6]), "nothing is asked twice, and nobody at the end is stopped"
    straight = run(config, whole, should_prune=lambda step, _: step == 6)
    assert straight["status"] == "done", "a run that has come to its end is not stopped"
    assert (ended["test"]["accuracy"], ended["val"]) == (straight["test"]["accuracy"], straight["val"])


# --- searches ---------------------------------------------------------------------------------------------------------


@needs_optuna
def test_a_search_runs_its_trials_and_says_how_to_train_the_best_again(capsys: pytest.CaptureFixture[str]) -> None:
    main([*search_file(SEARCH), "task.shots=3"])
    drawn = trials()
    assert len(drawn) == 6
    assert next(iter(drawn)).startswith("trial=0-train.lr=0.")
    assert len({values["train.lr"] for values in drawn.values()}) == 6
    assert {values["train.optimizer"] for values in drawn.values()} == {"adam", "sgd"}
    best = max(drawn, key=lambda name: drawn[name]["train.lr"])
    out = capsys.readouterr().out.splitlines()
    table = [[Path(words[-1]).name, *words[2:4]] for words in table_of(out)]
    assert table[0] == [best, "done", f"{100 * drawn[best]['train.lr']:.2f}"]
    assert sorted(name for name, *_ in table) == sorted(drawn)
    said = next(line for line in out if line.startswith("best: "))
    assert said.startswith(f"best: {best}; to train it again: metalearn train --config-dir conf task.shots=3 train.lr=")
    main([*shlex.split(said.partition("metalearn ")[2]), "hydra.run.dir=again"])
    again = yaml.safe_load(Path("again/config.yaml").read_text())
    trained = SweepDir(FOLDER).config(best)
    assert {**again, "sweep_name": None} == {**trained, "sweep_name": None}


@pytest.mark.slow
@needs_optuna
def test_a_search_draws_the_same_from_the_same_seed() -> None:
    main(search_file(SEARCH, "one"))
    main(search_file(SEARCH, "two"))
    main(search_file(SEARCH.replace("trials", "seed: 1, trials", 1), "three"))
    assert trials("one") == trials("two")
    assert trials("one") != trials("three")


@pytest.mark.thorough
@needs_optuna
def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(
    whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0

    def interrupted(config: dict[str, Any], run_dir: Path, **options: Any) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count == 3:
            (run_dir / "config.yaml").write_text("")
            raise KeyboardInterrupt
        return fake_run.run(config, run_dir, **options)

    monkeypatch.setattr(sys.modules["metalearn.runs.run"], "run", interrupted)
    assert leaves_with(*search_file(SEARCH)) == 130
    assert statuses() == ["done", "done", "interrupted"]
    main(search_file(SEARCH))
    assert trials() == whole
    assert statuses() == ["done"] * 6
    assert [call["resume"] for call in calls(FOLDER)] == [False, False, True, False, False, False]
    main([*search_file(SEARCH), "sweep.search.trials=8"])
    assert len(trials()) == 8
    assert len(calls(FOLDER)) == 8, "what is done is not done again"


@pytest.mark.slow
@needs_optuna
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_trial_whose_drawing_was_cut_short_is_drawn_to_its_end(
    when: str, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, count = SweepDir.store, 0

    def cut(sweep: SweepDir, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if when == "after" or count != 4:
            store(sweep, *arguments)
        if count == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(SweepDir, "store", cut)
    assert leaves_with(*search_file(SEARCH)) == 130
    main(search_file(SEARCH))
    assert trials() == whole
    assert len(calls(FOLDER)) == 6


@pytest.mark.thorough
@needs_optuna
def test_hopeless_trials_are_stopped_and_named_so(capsys: pytest.CaptureFixture[str]) -> None:
    main(search_file(PRUNING))
    assert statuses()[:2] == ["done", "done"], "none is stopped before two were trained to their end"
    assert set(statuses()) == {"done", "pruned"}
    ended: list[float] = []
    for values, status in zip(trials().values(), statuses(), strict=True):
        lr = values["train.lr"]
        if len(ended) >= 2:  # the fakes' accuracy is lr from the first validation on
            assert (status == "pruned") == (lr < median(ended))
        ended += [lr] if status == "done" else []
    assert "pruned" in {words[2] for words in table_of(capsys.readouterr().out.splitlines())}


@pytest.mark.thorough
@needs_optuna
def test_failed_trials_count_and_end_in_exit_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = "{train.lr: {low: 0.1, high: 0.5}, seed: {choices: [1, 113]}}"
    text = f"search: {{space: {space}, trials: 6, startup_trials: 6}}"
    assert leaves_with(*search_file(text)) == 1
    assert set(statuses()) == {"done", "failed"}
    assert len(calls(FOLDER)) == 6
    out, err = capsys.readouterr()
    assert "best: trial=" in out
    assert "not all trials have an outcome" in err


@pytest.mark.thorough
@needs_optuna
def test_a_search_whose_settings_have_changed_is_refused(
    begun: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    begun(6)
    assert leaves_with(*search_file(SEARCH.replace("0.5", "0.7"))) == 2
    assert "was begun with sweep.search.space.train.lr.high=0.5, now 0.7" in capsys.readouterr().err
    assert leaves_with(*search_file(SEARCH), "sweep.search.trials=7", "task.shots=3") == 2
    assert "was stored with task.shots=1, now 3" in capsys.readouterr().err
    assert leaves_with("train", "sweep.seeds=2", "sweep_name=mine") == 2
    assert len(trials()) == 6


@pytest.mark.thorough
@needs_optuna
@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("study.db", "no database" * 100, ""),
        ("study.journal", "no journal", "line 1 is no record of an Optuna journal"),
        ("study.journal", "no journal\n" * 100, "line 1 is no record of an Optuna journal"),
        ("study.journal", '{"op_code":4}\n', "its records contradict each other"),
        ("study.journal", '{"op_code":99,"worker_id":"a"}\n', "its records contradict each other"),
        ("study.journal", "[1, 2]\n", "line 1 is no record of an Optuna journal"),
    ],
)
def test_a_file_that_is_no_study_is_refused(
    file: str, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    FOLDER.mkdir(parents=True)
    (FOLDER / file).write_text(content)
    assert leaves_with(*search_file(SEARCH)) == 2
    line = capsys.readouterr().err
    assert f"{file} cannot be used as an Optuna study: {said}" in line
    assert line.count("\n") == 1
    assert (FOLDER / file).read_text() == content


@needs_optuna
def test_a_damaged_journal_is_refused(begun: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> None:
    begun(6)
    journal = FOLDER / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], lines[3][:20] + b"\n", *lines[4:]]))
    assert leaves_with(*search_file(SEARCH)) == 2
    line = capsys.readouterr().err
    assert line.endswith("study.journal cannot be used as an Optuna study: line 4 is no record of an Optuna journal\n")
    assert line.count("\n") == 1


@pytest.mark.thorough
@needs_optuna
@pytest.mark.parametrize("rest", ['{"op_code":8,"worker', '{"op', '{"op_code":8,\0\0\0', "\0\0"])
def test_an_incomplete_last_record_is_removed_before_the_next(
    rest: str, begun: Callable[[int], None], whole: dict[str, Any]
) -> None:
    begun(5)
    with (FOLDER / "study.journal").open("a") as journal:
        journal.write(rest)
    main(search_file(SEARCH))
    assert trials() == whole
    assert statuses() == ["done"] * 6
    records = [json.loads(line) for line in (FOLDER / "study.journal").read_text().splitlines()]
    assert all("op_code" in record for record in records)
    assert sorted(path.name for path in FOLDER.glob("study.*")) == ["study.journal"], "no lock is left"


@pytest.mark.thorough
@needs_optuna
def test_a_search_begun_in_a_database_continues_there(whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from metalearn.sweeps import search

    def in_database(library: Any, path: Path, settings: dict[str, Any]) -> Any:
        return search._in_database(library, path.with_name("study.db"), settings)

    with monkeypatch.context() as patched:  # as the earlier version
        patched.setattr(search, "_in_journal", in_database)
        main([*search_file(SEARCH), "sweep.search.trials=3"])
    assert [path.name for path in FOLDER.glob("study.*")] == ["study.db"]
    main(search_file(SEARCH))
    assert [path.name for path in FOLDER.glob("study.*")] == ["study.db"]
    assert trials() == whole
    assert len(calls(FOLDER)) == 6


RUNNER = """
import sys
from tests import fake_run
sys.modules.update(fake_run.modules())
from metalearn.sweeps import pool, queue, slots
queue._WAIT = 0.05
pool._WORKER = (sys.executable, "-m", "tests.fake_run")
slots.visible_gpus = list
from metalearn.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.slow
@needs_optuna
def test_runners_at_once_never_run_a_trial_twice() -> None:
    command = search_file(SEARCH)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *_outside()]), "FAKE_SECONDS": "0.1"}
    start: Callable[..., Any] = lambda jobs: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", RUNNER, *command, f"sweep.jobs={jobs}"], env=environment
    )
    running = [start(1), start(1), start(2)]
    assert [process.wait(300) for process in running] == [0, 0, 0]
    assert sorted(call["job"] for call in calls(FOLDER)) == sorted(trials())
    assert statuses() == ["done"] * 6


def _outside() -> list[str]:
    return [path for path in [os.environ.get("PYTHONPATH")] if path]
