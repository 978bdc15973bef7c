"""How long a start takes: imports by package."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from metalearn.bench import start

LINES = """\
import time: self [us] | cumulative | imported package
import time:      1000 |       9000 |   torch.nn
import time:   {torch} |    3000000 | torch
import time:     20000 |      20000 | json.decoder
"""


def test_imports_are_summed_by_package_and_the_median_of_the_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter((2_000_000, 9_000_000, 1_000_000))  # microseconds of torch in each round

    def run(command: list[str], **settings: Any) -> SimpleNamespace:
        assert command[1:] == ["-X", "importtime", "-c", "import metalearn.cli.main"]
        return SimpleNamespace(stderr=LINES.format(torch=next(taken)))

    monkeypatch.setattr(start.subprocess, "run", run)
    found = start._by_package("metalearn.cli.main")
    assert found["packages"] == pytest.approx({"torch": 2.001, "json": 0.02}), (
        "each module's own time, no cumulative one"
    )
    assert list(found["packages"]) == ["torch", "json"], "the largest first"
    assert found["seconds"] == pytest.approx(2.021)


def test_a_start_says_how_far_its_repetitions_lie_apart() -> None:
    rows = [{"label": "metalearn --help", "median": 0.25, "lower": 0.2, "upper": 0.375}]
    imports = {"learn2learn": {"seconds": 3.0, "packages": {"torch": 2.0, "scipy": 0.5}}}
    starts, packages = start.tables({"rows": rows, "imports": imports})
    assert starts.rows == [("metalearn --help", "0.25 (0.20 to 0.38)")]
    assert packages.rows == [("import learn2learn", "3.00", "torch 2.00, scipy 0.50")]
