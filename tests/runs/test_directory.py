from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from metalearn.errors import UserError
from metalearn.runs import directory as files

RESULTS: dict[str, Any] = {
    "status": "done",
    "error": None,
    "algorithm": "maml",
    "dataset": "glyphs",
    "backbone": "conv4",
    "seed": 0,
    "config_hash": "0123456789ab",
    "split": {"name": "glyphs", "sha256": "00"},
    "task": {"ways": 5, "shots": 1, "queries": 15},
    "test": {"accuracy": 0.987, "ci95": 0.002, "loss": math.nan, "per_step": (0.2, math.inf)},
    "val": None,
    "train": None,
    "environment": {},
}


def test_json_keeps_the_order_of_keys_and_writes_null_for_what_is_no_number(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"z": 1, "a": [math.nan, -math.inf, 0.1], "ä": "±"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert list(json.loads(text).items()) == [("z", 1), ("a", [None, None, 0.1]), ("ä", "±")]
    assert "NaN" not in text


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    files.write_json(path, {"a": 1})

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_results_come_back(tmp_path: Path) -> None:
    files.write_results(tmp_path, RESULTS)
    expected = RESULTS | {"test": RESULTS["test"] | {"loss": None, "per_step": [0.2, None]}}
    assert files.read_results(tmp_path) == expected


def test_results_without_a_name_that_scripts_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="config_hash"):
        files.write_results(tmp_path, {key: value for key, value in RESULTS.items() if key != "config_hash"})
    assert not list(tmp_path.iterdir())


def test_config_reads_the_same_with_yaml_and_with_omegaconf(tmp_path: Path) -> None:
    # Texts that look like something else, small floats, and what a run's configuration is made of.
    values = {"text": ["1e5", "on", "null", "", "007", "a: b", "Zürich"], "lr": 1e-5, "none": None, "flag": True}
    config = {"names": {"algorithm": "maml"}, "empty": {}, **values}
    files.write_config(tmp_path, config)
    assert files.read_config(tmp_path) == config
    assert list(files.read_config(tmp_path)) == list(config)
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize("content", ["- a\n- b\n", "", "a: [\n", "a: !!python/object/apply:os.getcwd []\n"])
def test_a_config_that_is_no_plain_mapping_is_the_users_to_mend(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        files.read_config(tmp_path)


@pytest.mark.parametrize("read", [files.read_config, files.read_results])
def test_a_missing_file_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        read(tmp_path)


@pytest.mark.parametrize("content", ["[]", '{"a": ', "\xff"])
def test_results_that_are_no_mapping_are_the_users_to_mend(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"results\.json"):
        files.read_results(tmp_path)


def test_environment_names_versions_and_device() -> None:
    found = files.environment("cpu")
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["device"] not in ("", "cpu")
    assert {"learn2learn", "torchvision", "numpy", "hydra-core", "metalearn", "platform", "git"} <= set(found)
    json.dumps(found, allow_nan=False)


class TestGitCommit:
    @pytest.fixture
    def package(self, tmp_path: Path) -> Path:
        package = tmp_path / "package"
        package.mkdir()
        (package / "__init__.py").touch()
        self.git(tmp_path, "init", "--quiet")
        return package

    @staticmethod
    def git(where: Path, *arguments: str) -> str:
        names = ("-c", "user.name=n", "-c", "user.email=e@example.com")
        done = subprocess.run(["git", "-C", where, *names, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def test_of_a_checkout_says_whether_it_was_changed(self, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.git(package, "add", ".")
        self.git(package, "commit", "--quiet", "-m", "first")
        self.git(package, "tag", "-a", "v1", "-m", "v1")
        # As in a hook of another repository.
        monkeypatch.setenv("GIT_DIR", str(package / "elsewhere"))
        commit = files.git_commit(package)
        monkeypatch.delenv("GIT_DIR")
        assert commit is not None
        assert self.git(package, "rev-parse", "HEAD").startswith(commit)
        (package / "__init__.py").write_text("changed")
        assert files.git_commit(package) == f"{commit}-dirty"

    def test_is_none_for_a_package_that_a_checkout_only_contains(self, package: Path) -> None:
        (package.parent / "tracked").touch()
        self.git(package.parent, "add", "tracked")
        self.git(package.parent, "commit", "--quiet", "-m", "first")
        assert files.git_commit(package) is None

    def test_is_none_without_a_commit_or_git(self, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.git(package, "add", ".")
        assert files.git_commit(package) is None
        monkeypatch.setenv("PATH", str(package))
        assert files.git_commit(package) is None

    def test_does_not_wait_for_ever(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
        (tmp_path / "git").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(files, "_GIT_SECONDS", 0.2)
        started = time.monotonic()
        assert files.git_commit(tmp_path) is None
        assert 0.2 <= time.monotonic() - started < 4


def test_peak_memory_sees_an_allocation_and_does_not_forget_it() -> None:
    # In a new process, small beside this one, which has torch in it: the peak must be its own.
    code = """
from types import SimpleNamespace
from metalearn.runs.directory import peak_memory_mib
cpu = SimpleNamespace(type="cpu")
before = peak_memory_mib(cpu)
block = b"x" * (128 * 2**20)
del block
print(before, peak_memory_mib(cpu))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    before, after = map(float, done.stdout.split())
    assert 5 < before < 120
    assert 120 < after - before < 140
