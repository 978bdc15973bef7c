"""torchvision without torch's compiler, and with it where it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest


def printed(*lines: str) -> str:
    program = "; ".join(("import sys", *lines))
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    ).stdout.strip()


@pytest.mark.thorough
def test_networks_of_torchvision_come_without_the_compiler_which_comes_when_it_is_asked_for() -> None:
    assert (
        printed(
            "from metalearn.backbones.from_torchvision import models",
            "before = [name for name in sys.modules if name.startswith('torch._dynamo')]",
            "from torchvision.ops.roi_align import is_compile_supported",
            "answer = is_compile_supported('cpu')",
            "import torch, torch._dynamo.utils as utils",
            "print(before, answer == utils.is_compile_supported('cpu'), torch._dynamo is sys.modules['torch._dynamo'])",
        )
        == "[] True True"
    )


@pytest.mark.thorough
def test_a_compiler_that_is_there_already_stays() -> None:
    assert (
        printed(
            "import torch._dynamo as compiler",
            "from metalearn.backbones.from_torchvision import models",
            "import torch",
            "print(torch._dynamo is compiler)",
        )
        == "True"
    )
