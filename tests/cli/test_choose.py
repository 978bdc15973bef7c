"""`metalearn list` and `metalearn copy`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import metalearn
from metalearn.cli.main import main
from metalearn.compose.composer import composer
from metalearn.config.files import choices
from metalearn.config.offer import KINDS


@pytest.mark.parametrize(("kind", "group"), KINDS.items())
def test_every_choice_has_a_line(kind: str, group: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", kind, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == choices(group)
    assert all(len(row["summary"]) > 10 for row in rows)
    assert metalearn.choices(kind) == rows


def test_all_kinds_and_a_single_one(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines() if line.endswith("=NAME)")] == list(KINDS)
    main(["list", "algorithm"])
    assert capsys.readouterr().out.startswith("anil")


def test_list_needs_no_torch_and_composes_nothing() -> None:
    code = "import sys; from metalearn.cli.main import main; main(['list']); assert not {'torch', 'hydra'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize("source", ["experiment/finn2017/omniglot_5w1s", "algorithm/protonet", "task/5way_5shot"])
def test_a_copy_composes_to_the_same(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group, _, name = source.partition("/")
    file = tmp_path / "mine" / group / "own.yaml"
    main(["copy", source, str(file), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["command"] == f"metalearn train --config-dir {tmp_path / 'mine'} {group}=own"
    with composer(str(tmp_path / "mine")) as composing:
        copied, _ = composing.job([f"{group}=own"], 0)
        original, _ = composing.job([f"{group}={name}"], 0)
    for config in (copied, original):
        del config["names"]
    assert copied == original
    text = file.read_text()
    assert f"A copy of {source}" in text
    assert "Measured:" not in text


def test_a_copy_never_replaces_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    main(["copy", "task/5way_1shot", str(file)])
    assert "must lie in DIR/task/" in capsys.readouterr().out
    before = file.read_bytes()
    with pytest.raises(SystemExit) as left:
        main(["copy", "task/5way_5shot", str(file)])
    assert left.value.code == 2
    assert "is there already" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["list", "algoritms"], "did you mean 'algorithms'?"),
        (["list", "tasks", "sweeps"], "list takes one of"),
        (["copy", "experiment/finn2017"], "copy needs a choice and a file"),
        (["copy", "protonet", "x.yaml"], "write GROUP/NAME"),
        (["copy", "algorithm/protonett", "x.yaml"], "did you mean 'protonet'?"),
        (["copy", "algorithm/protonet", "x"], "must end in .yaml"),
        (["copy", "algorithm/protonet", "file/x.yaml"], "cannot be written"),
    ],
)
def test_mistakes(
    words: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert part in capsys.readouterr().err


def test_the_list_has_the_users_own_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine" / "experiment" / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "deep" / "one.yaml").write_text("# @package _global_\n# What it is.\nseed: 1\n")
    main(["list", "experiments", "--config-dir", str(tmp_path / "mine")])
    out = capsys.readouterr().out.splitlines()
    assert next(line.split(maxsplit=1) for line in out if line.startswith("deep/")) == ["deep/one", "What it is."]
    assert len(out) > 1
    assert {"name": "deep/one", "summary": "What it is."} in metalearn.choices("experiments", str(tmp_path / "mine"))
    for words, said in (
        (["list", "tasks", "--config-dir", "nowhere"], "--config-dir: 'nowhere' is no directory"),
        (["copy", "task/5way_1shot", "x.yaml", "--config-dir", "mine"], "copy takes no --config-dir"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert said in capsys.readouterr().err
