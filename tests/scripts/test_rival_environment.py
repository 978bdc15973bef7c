"""scripts/rival_environment.py: an environment that finds the packages of this one behind its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from tests.scripts.load import load_script


def test_an_environment_has_a_metalearn_of_its_own_and_our_torch(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    load_script("rival_environment").share(tmp_path)
    (shared,) = tmp_path.rglob("shared.pth")
    (shared.parent / "metalearn").mkdir()
    (shared.parent / "metalearn" / "__init__.py").touch()
    program = (
        "import importlib.util as u; print(*(u.find_spec(name).origin for name in ('metalearn', 'torch')), sep='\\n')"
    )
    interpreter = str(tmp_path / "bin" / "python")
    found = subprocess.run([interpreter, "-I", "-c", program], check=True, capture_output=True, text=True).stdout
    assert found.splitlines() == [str(shared.parent / "metalearn" / "__init__.py"), torch.__file__]
