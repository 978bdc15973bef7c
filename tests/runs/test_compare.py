"""Rows of runs, their differences, and what is said of runs that do not belong side by side."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.errors import UserError
from metalearn.kinds import REGRESSION, scale_of
from metalearn.runs.comparison import Wanted, compare
from metalearn.runs.finding import found
from metalearn.runs.quick_config import quick_config
from metalearn.runs.rows import task_text
from tests.runs.made_runs import MSE, classes_of, config_of, make_run, task_scores

OLD = Path(__file__).parent / "of_version_0_1_0"


def rows_of(*paths: Path, **wanted: Any) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in compare(Wanted(paths, **wanted)).record["rows"]}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two algorithms with three seeds each, on the same tasks; `good` is better by three points, which tasks' own difficulty hides."""
    hard = 0.15 * np.random.default_rng(1).standard_normal(300)
    for seed in range(3):
        for name, mean in (("good", 0.83), ("weak", 0.80)):
            scores = hard + task_scores(mean, 10 * seed + len(name) + (name == "weak"), 300, 0.02)
            make_run(tmp_path / f"{name}-{seed}", scores, config_of(name, seed))
    return tmp_path


def test_runs_that_differ_in_their_seed_are_one_row_with_an_interval_over_seeds(two: Path) -> None:
    rows = rows_of(two)
    assert list(rows) == ["good", "weak"]
    good = rows["good"]
    assert (good["n"], good["interval_over"]) == (3, "seeds")
    means = [run["score"] for run in good["runs"]]
    assert good["score"] == pytest.approx(np.mean(means))
    assert good["interval"] == pytest.approx(4.302653 * np.std(means, ddof=1) / 3**0.5, rel=1e-5)


def test_a_run_that_cannot_be_read_adds_no_columns(two: Path) -> None:
    before = compare(Wanted([two])).record["columns"]
    (two / "weak-0" / "config.yaml").write_text("")
    (two / "weak-0" / "results.json").write_text("")
    assert compare(Wanted([two])).record["columns"] == before


def test_a_paired_difference_sees_what_intervals_of_the_rows_hide(two: Path) -> None:
    difference = rows_of(two)["weak"]["difference"]
    assert difference["paired"]
    assert difference["over"] == ("tasks", "classes", "seeds")
    assert difference["value"] == pytest.approx(-0.03, abs=0.005)
    assert difference["half_width"] < 0.01
    assert difference["verdict"] == "worse"
    assert difference["p"] < 0.001


def test_a_baseline_is_named_by_name_path_label_or_setting(two: Path) -> None:
    (two / "weak-0" / "label.txt").write_text("mine\n")
    for baseline in ("weak", str(two / "weak-1"), "algorithm=weak"):
        rows = rows_of(two, baseline=baseline)
        assert rows["weak"]["is_baseline"]
        assert rows["good"]["difference"]["verdict"] == "better"
    with pytest.raises(UserError, match=r"no row is 'wek'; did you mean 'weak'"):
        rows_of(two, baseline="wek")


def test_a_wide_band_makes_them_practically_equal(two: Path) -> None:
    assert rows_of(two, equal={None: 5.0})["weak"]["difference"]["verdict"] == "practically equal"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"split": "b" * 64}, "another split"),
        ({"per_task": False}, "no scores of single tasks"),
        ({"classes": classes_of(200, seed=8)}, "other test tasks"),
    ],
)
def test_what_was_tested_on_other_tasks_is_not_paired_and_says_why(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    make_run(tmp_path / "a", task_scores(0.9, 1), config_of("a"))
    make_run(tmp_path / "b", task_scores(0.8, 2), config_of("b"), **change)
    row = rows_of(tmp_path)["b"]
    assert row["not_paired"] == why
    assert not row["difference"]["paired"]
    alone = 1.96 * 0.1 / 200**0.5
    assert row["difference"]["half_width"] == pytest.approx(2**0.5 * alone, rel=0.15)


def test_another_eval_seed_is_not_paired(tmp_path: Path) -> None:
    other = config_of("b")
    other["eval"]["seed"] = 1
    make_run(tmp_path / "a", task_scores(0.9, 1), config_of("a"))
    make_run(tmp_path / "b", task_scores(0.8, 2), other)
    assert (
        next(row for row in rows_of(tmp_path).values() if not row["is_baseline"])["not_paired"] == "another eval.seed"
    )


def test_tasks_without_classes_are_paired_where_their_data_are_the_same(tmp_path: Path) -> None:
    make_run(tmp_path / "a", task_scores(0.1, 1), config_of("a"), kind=MSE)
    make_run(tmp_path / "b", task_scores(0.2, 2), config_of("b"), kind=MSE)
    other = config_of("c")
    other["dataset"]["noise"] = 0.5
    make_run(tmp_path / "c", task_scores(0.3, 3), other, kind=MSE)
    rows = rows_of(tmp_path)
    verdicts = {
        row["algorithm"]: (row["not_paired"], row["difference"] and row["difference"]["verdict"])
        for row in rows.values()
    }
    assert verdicts == {"a": (None, None), "b": (None, "worse"), "c": ("other settings of the data set", "worse")}


def test_a_shorter_test_is_paired_on_the_tasks_that_both_have(tmp_path: Path) -> None:
    make_run(tmp_path / "a", task_scores(0.9, 1, 200), config_of("a"), classes=classes_of(200))
    make_run(tmp_path / "b", task_scores(0.8, 2, 50), config_of("b"), classes=classes_of(200)[:50])
    difference = rows_of(tmp_path)["b"]["difference"]
    assert (difference["paired"], difference["tasks"]) == (True, 50)


def test_each_kind_of_tasks_has_its_own_baseline_and_a_warning(tmp_path: Path) -> None:
    make_run(tmp_path / "a", task_scores(0.9, 1), config_of("a"))
    make_run(tmp_path / "b", task_scores(0.8, 2), config_of("b"))
    make_run(tmp_path / "c", task_scores(0.5, 3), config_of("a", ways=20))
    make_run(tmp_path / "m", task_scores(0.2, 4), config_of("a", steps=9), kind=MSE)
    make_run(tmp_path / "n", task_scores(0.1, 5), config_of("b", steps=9), kind=MSE)
    record = compare(Wanted([tmp_path])).record
    assert any("3 different questions" in text for text in record["warnings"])
    bases = [row for row in record["rows"] if row["is_baseline"]]
    assert len(bases) == 3
    assert next(row for row in bases if row["kind"] == MSE)["score"] == pytest.approx(0.1, abs=0.03)  # less is better


def test_runs_without_a_score_are_named_and_do_no_harm(two: Path) -> None:
    make_run(two / "failed", config=config_of("good", 7), status="failed")
    (two / "broken").mkdir()
    (two / "broken" / "config.yaml").write_text("a: [1")
    (two / "cut").mkdir()
    (two / "cut" / "config.yaml").write_text(
        (two / "good-0" / "config.yaml").read_text().replace("seed: 0", "seed: 8", 1)
    )
    (two / "cut" / "results.json").write_text('{"status": "done", "te')
    record = compare(Wanted([two])).record
    assert {Path(run["path"]).name: run["status"] for run in record["left_out"]} == {
        "failed": "failed",
        "broken": "interrupted",
        "cut": "unreadable",
    }
    good = next(row for row in record["rows"] if row["name"] == "good")
    assert good["status"] == {"done": 3, "failed": 1, "unreadable": 1}
    assert good["n"] == 3


@pytest.mark.parametrize(
    "results",
    [
        "[]",
        "nothing",
        '{"algorithm": "a", "dataset": "b", "status": "done", "task": 5}',
        '{"status": "done", "test": {"accuracy": "x"}}',
        '{"status": "done", "kind": {"name": "x"}}',
        '{"status": ["done"]}',
    ],
)
def test_damaged_results_do_no_harm_to_others(two: Path, results: str) -> None:
    run = make_run(two / "damaged", task_scores(0.9, 1), config_of("other"))
    (run / "results.json").write_text(results)
    record = compare(Wanted([two])).record
    assert [Path(entry["path"]).name for entry in record["left_out"]] == ["damaged"]
    assert [row["n"] for row in record["rows"]] == [3, 3, 0]
    (run / "config.yaml").write_text("names: 3\nalgorithm: {}\ndataset: {}\n")
    assert len(compare(Wanted([two])).record["left_out"]) == 1


def test_damaged_task_scores_are_said_and_the_difference_is_not_paired(tmp_path: Path) -> None:
    make_run(tmp_path / "a", task_scores(0.9, 1), config_of("a"))
    make_run(tmp_path / "b", task_scores(0.8, 2), config_of("b"))
    (tmp_path / "b" / "test_tasks.npz").write_bytes(b"PK nothing")
    record = compare(Wanted([tmp_path])).record
    assert record["rows"][1]["not_paired"] == "no scores of single tasks"
    assert any("test_tasks.npz cannot be read" in text for text in record["notes"])


def test_classes_seen_in_training_are_shouted(tmp_path: Path) -> None:
    make_run(tmp_path / "a", task_scores(0.9, 1), config_of("a"), seen_classes=3)
    record = compare(Wanted([tmp_path])).record
    assert any("3 TEST CLASSES WERE TRAINING CLASSES" in text for text in record["warnings"])


def test_runs_of_version_0_1_0_are_compared_though_they_lack_task_scores() -> None:
    record = compare(Wanted([OLD])).record
    assert {row["algorithm"] for row in record["rows"]} >= {"maml", "protonet"}
    others = [row for row in record["rows"] if row["difference"]]
    assert others
    assert all(row["not_paired"] for row in others)


def test_an_evaluation_is_a_row_of_its_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", task_scores(0.9, 1), config_of("a"))
    record = json.loads((run / "results.json").read_text())
    record |= {"overrides": ["task.shots=5"], "task": {"ways": 5, "shots": 5, "queries": 15}}
    record["test"]["accuracy"] = 0.97
    (run / "eval-1.json").write_text(json.dumps(record))
    assert len(rows_of(tmp_path)) == 1
    rows = rows_of(tmp_path, evaluations=True)
    assert {name: row["score"] for name, row in rows.items() if row["evaluation"]} == {"shots=5": 0.97}


def test_an_evaluation_that_repeats_the_runs_own_test_is_no_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", task_scores(0.9, 1), config_of("a"))
    record = json.loads((run / "results.json").read_text())
    (run / "eval-1.json").write_text(json.dumps(record | {"overrides": ["eval.transductive=false"]}))
    rows = rows_of(tmp_path, evaluations=True)
    assert [row["n"] for row in rows.values()] == [1]
    assert not next(iter(rows.values()))["evaluation"]


def test_null_and_what_it_means_for_a_network_are_one_row_and_a_failed_run_stays_in_it(tmp_path: Path) -> None:
    for seed, asked in enumerate((None, False, True)):
        config = config_of("a", seed)
        config["eval"]["transductive"] = asked
        make_run(tmp_path / f"{asked}", task_scores(0.9, seed), config, transductive=bool(asked))
    failed = config_of("a", 3)
    failed["eval"]["transductive"] = None
    make_run(tmp_path / "failed", None, failed, status="failed")
    record = compare(Wanted([tmp_path])).record
    assert {row["settings"]["eval.transductive"]: row["status"] for row in record["rows"]} == {
        False: {"done": 2, "failed": 1},
        True: {"done": 1},
    }
    assert any("transductive evaluations, which see other queries" in text for text in record["warnings"])


def test_a_table_of_transductive_numbers_alone_says_so(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        make_run(tmp_path / name, task_scores(0.9, seed), config_of(name), transductive=True)
    assert any("all evaluations are transductive" in text for text in compare(Wanted([tmp_path])).record["notes"])


def test_the_same_seed_twice_counts_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a", task_scores(0.8, 1), config_of("a"))
    make_run(tmp_path / "b", task_scores(0.9, 1), config_of("a"))
    record = compare(Wanted([tmp_path])).record
    assert [row["n"] for row in record["rows"]] == [1]
    assert record["rows"][0]["score"] == pytest.approx(0.9, abs=0.03)
    assert any("same settings and seed the last one counts; left out: a: 1" in text for text in record["notes"])


def test_filters_sorting_and_top(two: Path) -> None:
    for place, lr in enumerate((0.1, 0.2)):
        make_run(two / f"lr{place}", task_scores(0.6 + place / 10, place), config_of("good", lr=lr))
    assert len(rows_of(two, filters=["algorithm=good"])) == 3
    assert len(rows_of(two, filters=["lr>0.05"])) == 2
    assert len(rows_of(two, filters=["algorithm=g*", "lr!=0.1"])) == 2
    assert [row["settings"]["train.lr"] for row in rows_of(two, sort="-lr").values()] == [0.2, 0.1, 0.01, 0.01]
    assert len(rows_of(two, top=1, baseline="weak")) == 2
    with pytest.raises(UserError, match=r"no run has a setting 'tran\.lr'; did you mean 'train\.lr'"):
        rows_of(two, filters=["tran.lr=1"])
    with pytest.raises(UserError, match="no run is left"):
        rows_of(two, filters=["algorithm=none"])


def test_paths_that_hold_no_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("db: {host: x}\n")
    for path, said in (
        (tmp_path, "holds no run"),
        (tmp_path / "no", "is not there"),
        (tmp_path / "x*", "matches nothing"),
    ):
        with pytest.raises(UserError, match=said):
            found([path])


def test_a_pattern_and_a_file_of_a_run_are_paths_too(two: Path) -> None:
    assert len(found([f"{two}/good-*"])) == 3
    assert [run.path for run in found([two / "good-1" / "results.json", two / "good-1"])] == [two / "good-1"]


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb:\n  c: null\n  d: [1, 2]\n  e: -0.5\nf: 'x: y'\ng: 1e-3\nh: 2026-01-01\ni: true\n",
        "a: 1\nb:\nc: 2\n",
        "a:\n- 1\n- 2\nb: 'it''s'\n",
        'a: "x # y"\nb: x # comment\nc: {d: 1}\n',
        "a: |\n  text\n  b: 2\nc: long\n  text\n",
        "a: &x 1\nb: *x\n",
        "123: a\nb:\n  ''  : 1\n",
    ],
)
def test_configurations_are_read_line_by_line_as_yaml_reads_them(tmp_path: Path, text: str) -> None:
    import yaml

    (tmp_path / "config.yaml").write_text(text)
    assert quick_config(tmp_path / "config.yaml") == yaml.safe_load(text)


def test_every_stored_configuration_is_read_as_yaml_reads_it() -> None:
    import yaml

    files = list(OLD.rglob("config.yaml"))
    assert files
    for file in files:
        assert quick_config(file) == yaml.safe_load(file.read_text())


def test_no_torch_is_needed(two: Path) -> None:
    code = (
        "import sys; from metalearn.cli.main import main; main(['compare', sys.argv[1], '--json', '-']); "
        "main(['runs', sys.argv[1]]); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(two)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hundreds_of_runs_are_compared_without_opening_an_event_file(tmp_path: Path) -> None:
    """The command says seconds; here processor time, with room for a busy machine."""
    for n in range(100):
        run = make_run(
            tmp_path / str(n),
            task_scores(0.8, n, 300),
            config_of("a", n % 5, lr=0.001 * (n // 5)),
            classes=classes_of(300),
        )
        (run / "events.out.tfevents.1.x").mkdir()  # cannot be opened as a file
    begun = time.process_time()
    assert len(rows_of(tmp_path)) == 20
    assert time.process_time() - begun < 4


def test_tasks_without_classes_have_no_ways_also_before_a_run_says_its_kind() -> None:
    assert task_text({"ways": 1, "shots": 10}, REGRESSION) == "10-shot"
    assert task_text({"ways": 1, "shots": 10}, scale_of({})) == "10-shot"
    assert task_text({"ways": 5, "shots": 1}, scale_of({})) == "5-way 1-shot"
