"""`metalearn explain`: the comment, the rule and the origin of a setting, read from the YAML files themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import metalearn
from metalearn.cli.main import main
from metalearn.compose.composer import composer
from metalearn.config.files import conf_dir


def _explained(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    main(["explain", *words, "--json"])
    (setting,) = json.loads(capsys.readouterr().out)
    assert isinstance(setting, dict)
    return setting


def _line(file: str, text: str) -> str:
    """`conf/train.yaml:21`, the line of a shipped file that begins with `text`."""
    lines = (conf_dir() / file).read_text(encoding="utf-8").splitlines()
    return f"conf/{file}:{next(n for n, line in enumerate(lines, 1) if line.strip().startswith(text))}"


def test_a_preference_stands_between_the_default_and_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    found = _explained(capsys, "train.meta_batch_size", "algorithm=maml", "train.meta_batch_size=7")
    assert (found["value"], found["default"], found["allowed"]) == (7, 4, "int >= 1")
    assert found["meaning"] == "tasks per outer step"
    assert [(one["value"], one["by"]) for one in found["setters"]] == [
        (4, "file"),
        (16, "preference"),
        (7, "command line"),
    ]
    assert [one["place"] for one in found["setters"]] == [
        _line("train.yaml", "meta_batch_size:"),
        _line("algorithm/maml.yaml", "train.meta_batch_size:") + " (preferred by algorithm=maml)",
        "command line",
    ]


def test_an_experiment_sets_what_its_file_states(capsys: pytest.CaptureFixture[str]) -> None:
    found = _explained(capsys, "algorithm.inner_lr", "experiment=finn2017/omniglot_5w1s")
    assert found["setters"][-1]["place"] == _line("experiment/finn2017/omniglot_5w1s.yaml", "inner_lr:")
    assert found["meaning"].startswith("step size")  # of the algorithm's file, not of the experiment's


def test_a_file_of_the_users_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "algorithm").mkdir()
    mine = tmp_path / "algorithm" / "mine.yaml"
    mine.write_text("defaults:\n  - protonet\nscale: 3.0   # mine\n")
    found = _explained(capsys, "algorithm.scale", "algorithm=mine", "--config-dir", str(tmp_path))
    assert found["value"] == 3.0
    assert found["setters"][-1]["place"] == f"{mine.as_posix()}:3"


def test_an_interpolation_is_shown_with_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    found = _explained(capsys, "task.train.shots", "task.shots=3")
    assert (found["value"], found["interpolation"]) == (3, "${task.shots}")


def test_the_last_setter_has_the_value_of_the_composition() -> None:
    for overrides in (["algorithm=mamlpp", "dataset=cub"], ["experiment=short/mann_omniglot_5w1s", "seed=3"]):
        with composer() as composing:
            described = composing.described(overrides)
        for key, setters in described.setters.items():
            node: Any = described.written
            for part in key.split("."):
                node = node[part]
            assert setters[-1].value == node, key
        places = {key: setters[0].place for key, setters in described.setters.items()}
        assert all(":" in place or place == "command line" for place in places.values())


def test_a_paragraph_and_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "train.lr", "algorithm=maml"])
    assert capsys.readouterr().out.splitlines() == [
        "train.lr = 0.001",
        "  meaning  learning rate of the outer optimizer",
        "  allowed  float > 0",
        f"  default  0.001   {_line('train.yaml', 'lr:')}",
    ]
    main(["explain", "sweep"])
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.split(None, 2) == ["sweep.grid", "{}", "setting -> list of values: every combination"] for line in lines
    )
    main(["explain", "algorithm", "algorithm=maml"])
    assert capsys.readouterr().out.startswith("algorithm=maml: Model-Agnostic")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["train.learning_rate"], "did you mean 'train.lr'?"),
        (["algorithm.inner_lr"], "it belongs to algorithm="),
        ([], "explain needs one setting"),
        (["train.lr", "seed"], "explain needs one setting"),
        (["train.lr", "algorithm=nothing"], "no algorithm named 'nothing'"),
        (["train.lr", "seed=1,2"], "several values need -m"),
    ],
)
def test_mistakes(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["explain", *words])
    assert left.value.code == 2
    assert part in capsys.readouterr().err


def test_every_setting_of_a_run_has_a_meaning_and_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    for group in ("train", "eval", "task"):
        main(["explain", group, "--json"])
        settings = json.loads(capsys.readouterr().out)
        assert all(setting["meaning"] and setting["allowed"] for setting in settings)


def test_a_node_speaks_for_settings_without_a_comment(capsys: pytest.CaptureFixture[str]) -> None:
    assert _explained(capsys, "dataset.rotations.train", "dataset=cub")["meaning"].startswith("4: a class turned by 90")


def test_from_python() -> None:
    (setting,) = metalearn.explain("train.lr", "train.lr=0.5")
    assert (setting.value, setting.setters[-1].by) == (0.5, "command line")


def test_it_needs_no_torch() -> None:
    code = "import sys; from metalearn.cli.main import main; main(['explain', 'train.lr']); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
