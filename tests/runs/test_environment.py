"""What results.json says about the machine and the code."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from metalearn.runs import environment as module


def test_environment_names_versions_and_device() -> None:
    found = module.environment("cpu")
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
        commit = module.git_commit(package)
        monkeypatch.delenv("GIT_DIR")
        assert commit is not None
        assert self.git(package, "rev-parse", "HEAD").startswith(commit)
        (package / "__init__.py").write_text("changed")
        assert module.git_commit(package) == f"{commit}-dirty"

    def test_is_none_for_a_package_that_a_checkout_only_contains(self, package: Path) -> None:
        (package.parent / "tracked").touch()
        self.git(package.parent, "add", "tracked")
        self.git(package.parent, "commit", "--quiet", "-m", "first")
        assert module.git_commit(package) is None

    def test_is_none_without_a_commit_or_git(self, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.git(package, "add", ".")
        assert module.git_commit(package) is None
        monkeypatch.setenv("PATH", str(package))
        assert module.git_commit(package) is None

    def test_does_not_wait_for_ever(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
        (tmp_path / "git").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(module, "_GIT_SECONDS", 0.2)
        started = time.monotonic()
        assert module.git_commit(tmp_path) is None
        assert 0.2 <= time.monotonic() - started < 4


def test_peak_memory_sees_an_allocation_and_does_not_forget_it() -> None:
    # In a new process, small beside this one, which has torch in it: the peak must be its own.
    code = """
from types import SimpleNamespace
from metalearn.runs.environment import peak_memory_mib
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
