"""`metalearn bench`: runs benchmarks, prints their tables, writes and compares their records."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console

from metalearn.bench import BENCHMARKS
from metalearn.bench.harness import Bench, Config, Record, Table, conditions, fresh_choices, times
from metalearn.engine.host_memory import keep_freed_memory
from metalearn.errors import UserError
from metalearn.garbage import collect_as_usual
from metalearn.nn.l2l import learn2learn
from metalearn.runs.directory import write_json
from metalearn.runs.environment import environment

_ROUNDS, _QUICK_ROUNDS = 9, 5
_BESIDE_LEARN2LEARN = {"tasks", "steps", "rivals"}  # what cannot be measured without it
_IN_PARTS = ("steps", "rivals", "scaling", "eval", "growth", "limit")  # what can measure some rows and leave the others
# What runs only where it is named, and why.
_BY_NAME = {
    "record": "it trains for many minutes",
    "rivals": "it takes ten minutes",
    "scaling": "it takes ten minutes",
}
_WIDTH = 170  # columns
_TOLERANCE = 1.1  # a ratio that is less than this many times another is the same


def run(
    names: list[str],
    compose: Callable[..., Config],
    *,
    json_file: Path | None = None,
    against: Path | None = None,
    threads: int | None = None,
    rounds: int | None = None,
    quick: bool = False,
    device: str = "cpu",
    runs: tuple[Path, ...] = (),
    train: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    cases: tuple[str, ...] = (),
) -> dict[str, Record]:
    """Runs the benchmarks of these names, or all of them; returns their records.

    Args:
        json_file: what to add the records to; those of other benchmarks in it stay, and of record those of other seeds.
        against: such a file, to compare ratios with.
        cases: parts of rows' labels: only these rows are measured; the others in `json_file` stay.

    Raises:
        UserError: there is no such device, a file is none of ours, or a benchmark has no row of these cases.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here")
    _check_needs(names, runs, train, cases)
    turns = len(seeds) or rounds or (_QUICK_ROUNDS if quick else _ROUNDS)
    bench = Bench(compose, turns, quick, torch.device(device), runs, train, seeds, cases)
    _check_cases(bench, names)
    before = {} if against is None else read_records(against)
    kept = read_records(json_file) if json_file is not None and json_file.exists() else {}
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()  # as metalearn train does; in this process it speeds up both sides
    collect_as_usual()
    console = _console()
    records: dict[str, Record] = {}
    with fresh_choices():
        for name in names or BENCHMARKS:
            if name == "accuracy" and not (runs or train):
                bench.say("accuracy: skipped, it needs --run RUN_DIR of finished runs or --train EXPERIMENT")
                continue
            if name in _BY_NAME and not names:
                bench.say(f"{name}: skipped, {_BY_NAME[name]} (metalearn bench {name})")
                continue
            bench.say(f"{name}: {BENCHMARKS[name]}")
            module = module_of(name)
            records[name] = _header(bench) | module.measure(bench)
            if name in kept and hasattr(module, "add"):
                records[name] = module.add(kept[name], records[name])
            if cases and name in kept:
                records[name] |= {"rows": with_new(kept[name], records[name])}
            for table in module.tables(records[name]):
                console.print(table.rich())
            if json_file is not None:  # at once: a later one may fail
                write_json(json_file, kept | records)
    if against is not None:
        console.print(comparison(before, records).rich())
    return records


def _check_needs(names: list[str], runs: tuple[Path, ...], train: tuple[str, ...], cases: tuple[str, ...]) -> None:
    """Raises UserError, before anything is printed, where a benchmark cannot run here."""
    if cases and not (names and set(names) <= set(_IN_PARTS)):
        raise UserError(f"--case {cases[0]}: allowed with bench {', '.join(_IN_PARTS)}, named")
    if "accuracy" in names and not (runs or train):
        raise UserError("bench accuracy needs --run RUN_DIR of finished runs or --train EXPERIMENT")
    if not names or set(names) & _BESIDE_LEARN2LEARN:
        learn2learn()


def _check_cases(bench: Bench, names: list[str]) -> None:
    """Raises UserError where a case would leave a benchmark without a row, or is part of no row's label."""
    if not bench.cases:
        return
    labels = {name: module_of(name).labels(bench) for name in names}
    for case in bench.cases:
        if not any(case in label for some in labels.values() for label in some):
            raise UserError(
                f"--case {case}: no row of bench {' or '.join(names)}{' --quick' if bench.quick else ''} has this in its label; "
                f"the labels: {'; '.join(label for some in labels.values() for label in some)}"
            )
    for name, some in labels.items():
        if not bench.chosen(some):
            raise UserError(f"--case {', '.join(bench.cases)}: no row of bench {name} has this in its label")


def _console() -> Console:
    """Wide enough for the tables where nobody's screen sets a limit."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=_WIDTH)


def module_of(name: str) -> ModuleType:
    return importlib.import_module(f"metalearn.bench.{name}")


def _header(bench: Bench) -> Record:
    return {
        "date": f"{datetime.now():%Y-%m-%d}",
        "rounds": bench.rounds,
        "quick": bench.quick,
        "environment": environment(str(bench.device)),
    }


def read_records(path: Path) -> dict[str, Record]:
    """What `metalearn bench --json` wrote.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not set(found) <= set(BENCHMARKS):
        raise UserError(f"{path} was not written by metalearn bench --json")
    return found


def with_new(before: Record, now: Record) -> list[Record]:
    """Stored rows, those of a case that was measured anew in their place; further ones follow.

    A stored row keeps the conditions under which it was measured, as `conditions`, where they are not those of `now`.
    """

    def key(row: Record) -> tuple[Any, ...]:
        return row["label"], row.get("axis")  # growth has a row for each axis

    measured = {key(row): row for row in now["rows"]}
    own = {} if conditions(before) == conditions(now) else {"conditions": conditions(before)}
    return [measured.pop(key(row), own | row) for row in before["rows"]] + list(measured.values())


def verdict(before: dict[str, float], now: dict[str, float]) -> str:
    """Of two spreads of a ratio to the peer: what a change of the machine's speed moves on both sides leaves it alone."""
    if now["median"] > _TOLERANCE * before["median"] and now["lower"] > before["median"]:
        return "better"
    if _TOLERANCE * now["median"] < before["median"] and now["upper"] < before["median"]:
        return "worse"
    return "same"


def comparison(before: dict[str, Record], now: dict[str, Record]) -> Table:
    rows = []
    for name, record in now.items():
        stored = {row["label"]: row for row in before.get(name, {}).get("rows", [])}
        for row in record["rows"]:
            if "ratio" not in row:
                continue
            old = stored.get(row["label"])
            cells = ("not stored", "") if old is None else (times(old["ratio"]), verdict(old["ratio"], row["ratio"]))
            rows.append((f"{name}: {row['label']}", times(row["ratio"]), *cells))
    return Table("Ratio of theirs to ours, now and stored", ("", "now", "stored", ""), rows)
