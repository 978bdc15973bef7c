"""A wheel, installed elsewhere and used from another directory, finds its configuration."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (made,) = folder.glob("metalearn_runner-*.whl")
    return made


def test_every_yaml_and_split_is_in_the_wheel(wheel: Path) -> None:
    members = set(zipfile.ZipFile(wheel).namelist())
    for file in (ROOT / "conf").rglob("*.yaml"):
        assert f"metalearn/{file.relative_to(ROOT).as_posix()}" in members
    for file in (ROOT / "metalearn").rglob("*.txt"):
        assert file.relative_to(ROOT).as_posix() in members


@pytest.mark.thorough
def test_it_runs_in_another_environment_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    zipfile.ZipFile(wheel).extractall(site)
    # The dependencies come from the environment of the tests, behind the wheel's own files and without the checkout.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(others))
    work = tmp_path / "elsewhere"
    work.mkdir()
    python = environment / "bin" / "python"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    tiny = ["dataset.classes=40", "dataset.val_classes=10", "dataset.test_classes=10", "backbone.filters=4"]
    tiny += ["train.steps=2", "train.val_tasks=4", "eval.tasks=4", "task.train.ways=5", "hydra.run.dir=run"]
    where = subprocess.run(
        [python, "-c", "import metalearn.config.files as c; print(c.conf_dir())"],
        cwd=work,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()) == site / "metalearn" / "conf", where.stderr
    done = subprocess.run(
        [python, "-m", "metalearn", "train", *tiny], cwd=work, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (work / "run" / "results.json").is_file()
