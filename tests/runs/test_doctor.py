"""`metalearn doctor`: each check is tried in a state that is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from metalearn.cli.main import main
from metalearn.config.files import choices
from metalearn.runs import doctor


def _of(name: str, found: list[doctor.Check]) -> doctor.Check:
    return next(check for check in found if check.name == name)


@pytest.mark.thorough
def test_a_machine_that_runs_the_tests_has_no_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path / "not" / "yet"))
    main(["doctor", "--json"])
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert {"Python", "torch", "GPU", "learn2learn", "packages", "optuna", "outputs", "cache", "data"} <= set(found)
    assert found["torch"]["found"].startswith("2.")
    assert "made when needed" in found["data"]["found"]
    assert not (tmp_path / "not").exists()


def test_a_fault_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    broken = [doctor.Check("torch", "fault", "cannot be imported", "pip install torch")]
    monkeypatch.setattr("metalearn.cli.doctor.checks", lambda: broken)
    with pytest.raises(SystemExit) as left:
        main(["doctor"])
    assert left.value.code == 1
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["fault", "torch", "cannot", "be", "imported"],
        ["->", "pip", "install", "torch"],
    ]


def test_doctor_takes_no_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["doctor", "torch"])
    assert left.value.code == 2
    assert "'torch' was given" in capsys.readouterr().err


def test_a_torch_that_ends_its_process_is_a_fault() -> None:
    (check,) = doctor._torch({}, -11)
    assert check.state == "fault"
    assert "exit code -11" in check.found
    assert "install torch torchvision" in check.mend


def test_a_learn2learn_that_does_not_import_is_a_warning() -> None:
    told = {"torch": "2.9", "threads": 2, "cuda": [], "mps": False, "built": None, "learn2learn_error": "no gym"}
    check = _of("learn2learn", list(doctor._torch(told, 0)))
    assert (check.state, check.mend) == ("warning", doctor.INSTALL)


@pytest.mark.parametrize(
    ("cuda", "built", "driver", "state", "word"),
    [
        ([["A100", 2**36]], "13.0", True, "ok", "A100 (64 GiB)"),
        ([], None, True, "warning", "CPU alone"),
        ([], "13.0", True, "warning", "sees no GPU"),
        ([], "13.0", False, "ok", "none"),
    ],
)
def test_gpu(
    cuda: list[object], built: str | None, driver: bool, state: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi" if driver else None)
    check = doctor._gpu({"cuda": cuda, "built": built, "mps": False})
    assert check.state == state
    assert word in check.found


@pytest.mark.parametrize(("version", "text"), [(None, "not installed"), ("1.0", "1.0; needed: >=2.4")])
def test_a_dependency_outside_its_bounds(version: str | None, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: version if name == "torch" else there(name))
    check = _of("torch", list(doctor._versions()))
    assert (check.state, check.found) == ("fault", text)
    assert "'torch>=2.4'" in check.mend


def test_an_extra_that_is_missing_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    check = _of("optuna", list(doctor._extras()))
    assert check.state == "ok"
    assert "'optuna>=5'" in check.mend


def test_every_extra_is_of_a_known_use_or_of_a_data_set() -> None:
    assert set(doctor._requirements()[1]) - {"l2l", *doctor._USES} <= set(choices("dataset"))


def test_another_package_of_this_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metalearn.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert any(str(tmp_path / "metalearn.py") in check.found for check in doctor._namesakes())


def test_the_distribution_of_this_name_is_another_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "0.6.2")
    assert next(doctor._namesakes()).state == "fault"


def test_a_variable_with_a_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEARN_DATAS", "x")
    (check,) = (check for check in doctor._variables() if check.name == "METALEARN_DATAS")
    assert "did you mean 'METALEARN_DATA'?" in check.found


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "file" / "cache"))
    check = _of("cache", list(doctor._places()))
    assert (check.state, check.mend) == ("fault", "export METALEARN_CACHE=DIR")
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage(1_000_000_000))
    assert _of("outputs", list(doctor._places())).state == "warning"


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free
