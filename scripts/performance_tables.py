"""Writes the tables of docs/performance.md from what `metalearn bench --json benchmarks/results/bench.json` measured.

    python scripts/performance_tables.py [--check]

The text between `<!-- bench:NAME:begin -->` and `<!-- bench:NAME:end -->` is benchmark NAME's. --check writes nothing and exits with 1 where it is
out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from metalearn.bench import BENCHMARKS
from metalearn.bench.command import module_of, read_records
from metalearn.bench.harness import Record, conditions
from metalearn.runs.directory import write_text

ROOT = Path(__file__).resolve().parent.parent
NOT_MEASURED = "Not measured yet."


def begin(name: str) -> str:
    return f"<!-- bench:{name}:begin -->"


def end(name: str) -> str:
    return f"<!-- bench:{name}:end -->"


def section(name: str, record: Record | None) -> str:
    """One benchmark's tables and what they were measured on."""
    if record is None:
        return NOT_MEASURED
    parts = [table.markdown() for table in module_of(name).tables(record)]
    # A case with a row for each opponent is named once.
    labels: dict[str, dict[str, None]] = {}
    for row in record["rows"]:
        labels.setdefault(row.get("conditions", conditions(record)), {})[row.get("case", row["label"])] = None
    most, *others = sorted(labels, key=lambda measured: -len(labels[measured])) or [conditions(record)]
    parts.append(f"Measured {most}.")
    parts += [f"But {'; '.join(labels[other])}: measured {other}." for other in others]
    return "\n\n".join(parts)


def filled(text: str, records: dict[str, Record]) -> str:
    """`text` with every benchmark's section in its place."""
    for name in BENCHMARKS:
        pattern = re.compile(f"{re.escape(begin(name))}\n.*?{re.escape(end(name))}", re.DOTALL)
        place = f"{begin(name)}\n{section(name, records.get(name))}\n{end(name)}"
        text, found = pattern.subn(lambda _, place=place: place, text)  # type: ignore[misc]
        assert found == 1, f"{found} places for {name}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    file, results = ROOT / "docs" / "performance.md", ROOT / "benchmarks" / "results" / "bench.json"
    old = file.read_text(encoding="utf-8")
    new = filled(old, read_records(results) if results.exists() else {})
    if old == new:
        return
    if arguments.check:
        sys.exit("out of date: docs/performance.md (python scripts/performance_tables.py writes it)")
    write_text(file, new)


if __name__ == "__main__":
    main()
