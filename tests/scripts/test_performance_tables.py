"""scripts/performance_tables.py: docs/performance.md says what the benchmarks' records say."""

from __future__ import annotations

from types import ModuleType

import pytest

from metalearn.bench import BENCHMARKS
from metalearn.bench.command import read_records
from metalearn.bench.harness import compared
from tests.scripts.load import ROOT, load_script

PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("performance_tables")


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    results = RESULTS / "bench.json"
    text = PAGE.read_text(encoding="utf-8")
    assert script.filled(text, read_records(results) if results.exists() else {}) == text


def test_a_record_becomes_a_table_in_its_place(script: ModuleType) -> None:
    environment = {"device": "a CPU", "cpu_threads": 2, "torch": "2", "learn2learn": "0.2.0"}
    record = {
        "date": "2026-01-02",
        "rounds": 3,
        "quick": False,
        "environment": environment,
        "dataset": "drawn",
        "classes": 4,
        "rows": [{"label": "files", **compared([0.001], [0.5])}],
    }
    text = "\n".join(f"{script.begin(name)}\n{script.end(name)}" for name in BENCHMARKS)
    filled = script.filled(text, {"tasks": record})
    assert "| files | 1,000 | 2 | 500 (500 to 500) |" in filled
    assert "Measured 2026-01-02: a CPU, 2 threads" in filled
    assert filled.count(script.NOT_MEASURED) == len(BENCHMARKS) - 1
    assert script.filled(filled, {"tasks": record}) == filled
    other = {"conditions": "2025-12-31: another CPU"}
    record["rows"].append(record["rows"][0] | other | {"label": "memory"})
    filled = script.filled(filled, {"tasks": record})
    assert "Measured 2026-01-02: a CPU" in filled
    assert "But memory: measured 2025-12-31: another CPU." in filled
    # What most rows share stands first, whichever was measured last.
    record["rows"].append(record["rows"][0] | other | {"label": "workers"})
    filled = script.filled(filled, {"tasks": record})
    assert "Measured 2025-12-31: another CPU." in filled
    assert "But files: measured 2026-01-02: a CPU" in filled


def test_what_make_bench_compares_with_is_there() -> None:
    records = read_records(RESULTS / "pinned.json")
    assert all(row["ratio"]["median"] > 0 for name in ("tasks", "steps") for row in records[name]["rows"])
