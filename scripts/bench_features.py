"""Measures how long test tasks take where each image is embedded once, and where each task embeds its images anew.

    python scripts/bench_features.py [--quick]

A frozen MobileNetV2 with random weights (their values do not change the time) on images that the program draws, without features on the disk, and a
ProtoNet with conv4 on Omniglot's test classes. Writes benchmarks/results/features.json; scripts/measure_pretrained.py puts it into docs/results.md.
CPU seconds stand beside seconds: on a busy machine only they say what the work costs.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metalearn.compose.composer import composer
from metalearn.engine.build import build_algorithm, build_dataset
from metalearn.engine.evaluate import evaluate
from metalearn.runs.directory import write_json
from metalearn.runs.environment import environment
from metalearn.tasks import TaskShape

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "features.json"
MOBILENET = ("algorithm=protonet", "train.steps=0", "backbone=torchvision", "backbone.weights=none", "backbone.size=96")


class Case(NamedTuple):
    """What is timed: `tasks` test tasks of 5 ways, 1 shot and 15 queries."""

    title: str
    overrides: tuple[str, ...]
    features: str
    tasks: int


GLYPHS = (*MOBILENET, "dataset=glyphs")
OMNIGLOT = ("algorithm=protonet", "dataset=omniglot")
CASES = (
    Case("frozen MobileNetV2, 96 pixels, glyphs", GLYPHS, "memory", 1000),
    Case("frozen MobileNetV2, 96 pixels, glyphs", GLYPHS, "none", 20),
    Case("ProtoNet with conv4, Omniglot", OMNIGLOT, "memory", 10_000),
    Case("ProtoNet with conv4, Omniglot", OMNIGLOT, "none", 100),
)


def measured(case: Case, quick: bool) -> dict[str, Any]:
    """One row: seconds and CPU seconds of one evaluation, the first pass over the images included."""
    with composer() as composing:
        config, _ = composing.job([*case.overrides, "device=cpu"], 0)
    dataset = build_dataset(config)
    source = dataset.source("test", 0, torch.device("cpu"))
    algorithm, tasks = build_algorithm(config, dataset), max(2, case.tasks // 100) if quick else case.tasks
    shape, chunk = TaskShape(5, 1, 15), config["eval"]["task_chunk"]
    wall, cpu = time.perf_counter(), time.process_time()
    evaluate(algorithm, source, shape, tasks, chunk, stepwise=False, further=True, features=case.features)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    row = {"title": case.title, "features": case.features, "tasks": tasks, "images": source.examples}
    return row | {"seconds": wall, "cpu_seconds": cpu, "load": os.getloadavg()[0]}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of the tasks")
    quick = parser.parse_args(argv).quick
    torch.set_num_threads(1)
    rows = [measured(case, quick) for case in CASES]
    write_json(RESULTS, {"environment": environment("cpu"), "quick": quick, "rows": rows})


if __name__ == "__main__":
    main()
