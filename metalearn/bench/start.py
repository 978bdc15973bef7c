"""Benchmark 5: how long one waits before anything happens."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch

from metalearn.bench.harness import Bench, Record, Table, spread, with_spread

_IMPORTED = ("metalearn.cli.main", "metalearn.runs.run", "learn2learn")
_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)")
_SHOWN = 8  # packages
_ROUNDS = 3  # of an import


def measure(bench: Bench) -> Record:
    rounds = 3 if bench.quick else 5
    rows = [{"label": "metalearn --help", **spread([_seconds(["--help"]) for _ in range(rounds)])}]
    for overrides in ([], ["algorithm=maml"]):
        command = ["train", "dataset=glyphs", f"device={bench.device.type}", *overrides]
        label = " ".join(["metalearn train", *overrides])
        bench.say(label)
        first = _to_first_step(command)
        rows.append({"label": f"{label}: first run (task_chunk not chosen yet)", **spread([first])})
        rows.append({"label": f"{label}: later runs", **spread([_to_first_step(command) for _ in range(rounds - 2)])})
    bench.say("imports")
    return {"rows": rows, "imports": {name: _by_package(name) for name in _IMPORTED}}


def _environment() -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]  # of this package, which may not be an installed one
    paths = [str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    threads = str(torch.get_num_threads())
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": threads}


def _seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "metalearn", *arguments], check=True, capture_output=True, env=_environment())
    return time.perf_counter() - started


def _to_first_step(command: list[str]) -> float:
    """Seconds from calling the program to the report of its first outer step."""
    with tempfile.TemporaryDirectory(prefix="metalearn-bench-") as folder:
        settings = ["train.steps=10", "train.log_every=1", "train.val_every=10", f"hydra.run.dir={folder}/run"]
        started = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "metalearn", *command, *settings],
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        ) as process:
            assert process.stdout is not None
            seen = any(line.startswith("step 1/10 ") for line in process.stdout)
            taken = time.perf_counter() - started
            process.kill()
        assert seen, "the program ended before its first step"
    return taken


def _by_package(module: str) -> Record:
    """Seconds that importing takes, by top-level package: each module's own time, the median over rounds."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(_ROUNDS):
        command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment())
        packages: dict[str, float] = defaultdict(float)
        for microseconds, name in _LINE.findall(done.stderr):
            packages[name.partition(".")[0]] += int(microseconds) / 1e6
        for package, seconds in packages.items():
            found[package].append(seconds)
    medians = {package: statistics.median(values) for package, values in found.items()}
    largest = sorted(medians, key=lambda package: -medians[package])[:_SHOWN]
    return {"seconds": sum(medians.values()), "packages": {package: medians[package] for package in largest}}


def tables(record: Record) -> list[Table]:
    rows = [(row["label"], with_spread(row, "{:.2f}".format)) for row in record["rows"]]
    imports = [
        (
            f"import {name}",
            f"{found['seconds']:.2f}",
            ", ".join(f"{package} {seconds:.2f}" for package, seconds in found["packages"].items()),
        )
        for name, found in record["imports"].items()
    ]
    return [
        Table(
            "Seconds to the answer, or to the report of the first outer step (drawn characters)", ("", "seconds"), rows
        ),
        Table("Import time, each module's own, summed by package", ("", "seconds", "of these"), imports),
    ]
