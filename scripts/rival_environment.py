"""Makes the environment of parallel-metalearn, which `metalearn bench rivals` and `metalearn bench scaling` measure.

    python scripts/rival_environment.py

The package has the import name `metalearn`, as ours, so it cannot be installed beside it. Its environment lies in the cache directory
(METALEARN_CACHE). What it needs, torch, numpy and tqdm, it finds where this Python finds them: both sides then compute with the same torch.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import torch

from metalearn.bench import rival


def main() -> None:
    folder = rival.environment_dir()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    # The package alone: pip must not bring another torch, nor touch the one that is shared.
    package = f"{rival.NAME}=={rival.VERSION}"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", package], check=True)
    share(folder)
    subprocess.run([str(python), "-I", "-c", "import metalearn.algorithms, tqdm"], check=True)
    print(folder)


def share(folder: Path) -> None:
    """Lets the environment in `folder` find the packages that this Python has, behind its own."""
    own = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
    (Path(own) / "shared.pth").write_text(f"{Path(torch.__file__).parents[1]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
