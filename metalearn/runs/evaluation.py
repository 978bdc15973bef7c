"""`metalearn eval`: a finished run's checkpoint on test tasks."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

from metalearn.data.classes import ClassId
from metalearn.engine.build import build_algorithm, build_dataset, build_source, check_tasks, choose_device
from metalearn.engine.evaluate import evaluate, test_record
from metalearn.engine.host_memory import keep_freed_memory
from metalearn.errors import UserError, one_line
from metalearn.report import results as shown
from metalearn.runs import checkpoint
from metalearn.runs import directory as files


def evaluate_run(run_dir: Path, config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Scores a run's checkpoint on test tasks as `config` describes them, prints the result and writes `eval-<time>.json` beside it.

    Raises:
        UserError: no usable checkpoint, or the run was trained on classes that are test classes now.
    """

    started = time.perf_counter()
    device = choose_device(config)
    keep_freed_memory()
    dataset = build_dataset(config)
    check_tasks(dataset, config["task"], "test")
    state = checkpoint.load(run_dir / f"{config['eval']['checkpoint']}.pt", device)
    source = build_source(config, dataset, "test", device)
    refuse_seen_classes(state["train_classes"], source.class_names)
    algorithm = build_algorithm(config, dataset).to(device)
    try:
        algorithm.load_state_dict(state["model"])
    except RuntimeError as error:
        raise UserError(
            f"{run_dir}: the checkpoint does not fit this configuration: {one_line(error)[:300]}"
        ) from error
    if config["eval"]["transductive"] is not None:
        algorithm.set_transductive(config["eval"]["transductive"])
    scores = evaluate(
        algorithm, source, config["task"], config["eval"]["tasks"], config["eval"]["task_chunk"], stepwise=True
    )
    results = {
        "status": "done",
        "error": None,
        "algorithm": config["names"]["algorithm"],
        "dataset": config["names"]["dataset"],
        "backbone": config["names"]["backbone"],
        "seed": config["seed"],
        "overrides": overrides,
        "split": {"name": dataset.split.name, "sha256": dataset.split.sha256},
        "task": {name: config["task"][name] for name in ("ways", "shots", "queries")},
        "test": test_record(algorithm, scores, config["eval"]["checkpoint"]) | {"step": state["step"]},
        "seconds": time.perf_counter() - started,
        "environment": files.environment(str(device)),
    }
    files.write_json(run_dir / f"eval-{datetime.now():%Y-%m-%d_%H-%M-%S-%f}.json", results)
    shown.result_panel({**results, "run_dir": str(run_dir)})
    return results


def refuse_seen_classes(train_classes: list[str], test_classes: tuple[str, ...]) -> None:
    """Raises UserError where a test class, turned or not, was trained on; classes as checkpoints store them."""
    trained, tested = ({ClassId.parse(name).upright for name in names} for names in (train_classes, test_classes))
    seen = trained & tested
    if seen:
        raise UserError(
            f"dataset.split: {len(seen)} of these test classes were training classes of this run, '{min(seen)}' for one; "
            "a number measured on them would mean nothing"
        )
