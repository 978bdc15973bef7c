"""scripts/reproduction_table.py: what README, docs and headers say is what the records of runs say."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metalearn.config.files import choices
from tests.scripts.load import ROOT, load_script

NAME = "short/protonet_omniglot_5w1s"
FILE = "short_protonet_omniglot_5w1s"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """With ProtoNet's experiments alone, read once: composing them all takes many seconds."""
    module = load_script("reproduction_table")
    names = [name for name in choices("experiment") if name.startswith(("snell2017/", "short/protonet"))]
    module.choices = lambda group: names
    experiments = module.read_experiments()
    module.read_experiments = lambda: experiments
    return module


@pytest.fixture
def copy(script: ModuleType, tmp_path: Path) -> Path:
    """What the script reads and writes, with one record: seed 0 of the experiment NAME."""
    for part in ("docs", "conf"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "benchmarks" / "reproduction").mkdir(parents=True)
    add(script, tmp_path, 0, 98.2)
    return tmp_path


def add(
    script: ModuleType,
    copy: Path,
    seed: int,
    ours: float,
    name: str = "",
    more: dict[str, float] | None = None,
    **changes: Any,
) -> None:
    """A record of a run, with `train` settings changed and `more` in its row."""
    (experiment,) = (experiment for experiment in script.read_experiments() if experiment.name == NAME)
    row: dict[str, Any] = {
        "name": "not transductive",
        "transductive": False,
        "ours": ours,
        "ci95": 0.2,
        "tasks": 1000,
    } | (more or {})
    record = {
        "experiment": NAME,
        "seed": seed,
        "rows": [row],
        "config": experiment.config | {"train": experiment.config["train"] | changes},
        "results": {
            "train": {"seconds": 1544.0},
            "environment": {"device": "AMD EPYC", "cuda": None, "cpu_threads": 1},
        },
    }
    file = copy / "benchmarks" / "reproduction" / f"{FILE}-seed{seed}{name}.json"
    file.write_text(json.dumps(record), encoding="utf-8")


def written(script: ModuleType, copy: Path) -> tuple[str, list[str], list[str]]:
    """README, the experiment's lines of the full table, the `Measured` lines of its file."""
    script.main([], root=copy)
    docs = (copy / "docs" / "reproductions.md").read_text(encoding="utf-8").splitlines()
    header = (copy / "conf" / "experiment" / f"{NAME}.yaml").read_text(encoding="utf-8").splitlines()
    return (
        (copy / "README.md").read_text(encoding="utf-8"),
        [line for line in docs if line.startswith(f"| [`{NAME}`]")],
        [line for line in header if line.startswith("#   Measured:")],
    )


@pytest.mark.thorough
def test_the_repository_is_up_to_date() -> None:
    load_script("reproduction_table").main(["--check"])


def test_the_best_known_algorithms_stand_first() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(\w+)`\]\(docs/algorithms", readme, re.MULTILINE)
    assert rows[:5] == ["maml", "reptile", "protonet", "matching", "mann"]
    assert "r2d2" in rows[5:]


@pytest.mark.thorough
def test_check_names_what_is_out_of_date_and_writes_nothing(script: ModuleType, copy: Path) -> None:
    script.main([], root=copy)
    script.main(["--check"], root=copy)
    add(script, copy, 1, 97.0)
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    with pytest.raises(
        SystemExit, match=rf"out of date: README\.md, docs/reproductions\.md, conf/experiment/{NAME}\.yaml"
    ):
        script.main(["--check"], root=copy)
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before
    script.main([], root=copy)
    script.main(["--check"], root=copy)


def test_one_seed_keeps_its_interval_over_tasks(script: ModuleType, copy: Path) -> None:
    add(script, copy, 0, 98.5)
    readme, (line,), (measured,) = written(script, copy)
    assert f"| [98.50 ± 0.20](conf/experiment/{NAME}.yaml)ˢ (98.8) | not measured (99.7) |" in readme
    assert (
        "| not transductive | 98.8 | 98.50 ± 0.20 | 0 | 1,000 | no | reproduced | 26 min, AMD EPYC, 1 thread |" in line
    )
    assert measured == (
        "#   Measured: not transductive 98.50 % (± 0.20 over 1,000 tasks; seed 0), reproduced; training 26 min, AMD EPYC, 1 thread."
    )


def test_one_seed_has_its_interval_over_classes_too_which_decides(script: ModuleType, copy: Path) -> None:
    add(script, copy, 0, 98.5, more={"ci95_classes": 0.45})
    readme, (line,), (measured,) = written(script, copy)
    assert f"[98.50 ± 0.20/0.45](conf/experiment/{NAME}.yaml)ˢ (98.8)" in readme
    assert "| 98.8 | 98.50 ± 0.20/0.45 | 0 | 1,000 | no | undecided |" in line, "the band is 98.2"
    assert "98.50 % (± 0.20 over 1,000 tasks, ± 0.45 over classes; seed 0), undecided;" in measured


def test_seeds_are_averaged(script: ModuleType, copy: Path) -> None:
    add(script, copy, 1, 97.0)
    add(script, copy, 10, 96.5)
    values = [98.2, 97.0, 96.5]
    text = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} (3 seeds)"
    readme, (line,), (measured,) = written(script, copy)
    assert f"[{text}]" in readme
    assert f"| {text} | 0, 1, 10 | 1,000 | no | undecided |" in line, (
        "t at 3 seeds is 4.3: the band, 98.2, is within reach"
    )
    said = "mean and standard deviation of seeds 0, 1, 10; 1,000 tasks"
    assert f"not transductive {text.removesuffix(' (3 seeds)')} % ({said}), undecided;" in measured


def test_several_seeds_and_classes_decide_together(script: ModuleType, copy: Path) -> None:
    for seed, ours in enumerate((98.6, 98.5, 98.7)):
        add(script, copy, seed, ours, more={"ci95_classes": 0.1})
    assert "(3 seeds), ± 0.10 over classes | 0, 1, 2 | 1,000 | no | reproduced |" in written(script, copy)[1][0]
    for seed, ours in enumerate(
        (98.6, 98.5, 98.7)
    ):  # t * deviation / root of 3 is 0.25: neither alone reaches the band, 0.4 below
        add(script, copy, seed, ours, more={"ci95_classes": 0.35})
    assert "(3 seeds), ± 0.35 over classes | 0, 1, 2 | 1,000 | no | undecided |" in written(script, copy)[1][0]


def test_a_cell_of_fewer_test_tasks_is_shown_with_their_number_until_all_are_measured(
    script: ModuleType, copy: Path
) -> None:
    file = copy / "benchmarks" / "reproduction" / f"{FILE}-seed0.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["config"]["eval"]["tasks"] = record["rows"][0]["tasks"] = 200
    few = file.with_name(f"{FILE}-seed0-200tasks.json")
    few.write_text(json.dumps(record), encoding="utf-8")
    assert "200 tasks" not in written(script, copy)[0], "there is one of all tasks"
    file.unlink()
    readme, (own, other), _ = written(script, copy)
    assert f"[98.20 ± 0.20](conf/experiment/{NAME}.yaml)ˢ, 200 tasks (98.8)" in readme
    assert "| not measured |" in own
    assert "with eval.tasks=200" in other
    record["config"]["train"]["steps"] = 5
    few.write_text(json.dumps(record), encoding="utf-8")
    assert "200 tasks" not in written(script, copy)[0], "another training is another number"


def test_a_run_with_other_settings_stands_by_itself(script: ModuleType, copy: Path) -> None:
    add(script, copy, 0, 90.0, name="-short", steps=5)
    readme, (own, other), measured = written(script, copy)
    assert "98.20 ± 0.20" in readme
    assert "90.00" not in readme
    assert "98.20 ± 0.20 | 0 |" in own
    assert " with train.steps=5 | not transductive | 98.8 | 90.00 ± 0.20 | 0 | 1,000 | no |  | " in other
    assert "not transductive 90.00 % (± 0.20 over 1,000 tasks; seed 0) with train.steps=5; training" in measured[1]


def test_without_a_record_nothing_is_claimed(script: ModuleType, copy: Path) -> None:
    (copy / "benchmarks" / "reproduction" / f"{FILE}-seed0.json").unlink()
    readme, (line,), measured = written(script, copy)
    assert "| [`protonet`]" not in readme, "its table has algorithms of which a cell is measured"
    assert line.endswith("| not transductive | 98.8 | not measured |  |  |  |  |  |")
    assert measured == ["#   Measured: not yet."]


def test_a_record_may_say_what_it_changed_behind_its_name(script: ModuleType, copy: Path) -> None:
    folder = copy / "benchmarks" / "reproduction"
    before = script.read_records(folder)
    (folder / f"{FILE}-seed0.json").rename(folder / f"{FILE}-seed0-random.json")
    assert script.read_records(folder) == before
    (folder / f"{FILE}-seed0-random.json").rename(folder / f"{FILE}-seed00.json")
    with pytest.raises(SystemExit, match="should be called"):
        script.read_records(folder)


def test_a_record_under_another_name_is_refused(script: ModuleType, copy: Path) -> None:
    folder = copy / "benchmarks" / "reproduction"
    (folder / f"{FILE}-seed0.json").rename(folder / f"{FILE}-seed1.json")
    with pytest.raises(SystemExit, match="should be called short_protonet_omniglot_5w1s-seed0"):
        script.main([], root=copy)
    text = (
        (folder / f"{FILE}-seed1.json")
        .read_text(encoding="utf-8")
        .replace(f'"experiment": "{NAME}"', '"experiment": "gone"')
    )
    (folder / f"{FILE}-seed1.json").unlink()
    (folder / "gone-seed0.json").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="no experiment named gone"):
        script.main([], root=copy)
