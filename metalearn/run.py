"""One run, from a plain configuration to results.json: the program, top to bottom."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch

from metalearn import checkpoint, console
from metalearn import run_dir as files
from metalearn.build import build_algorithm, build_dataset, check_tasks, choose_device
from metalearn.config import config_hash
from metalearn.data.augment import Augment
from metalearn.data.source import TaskSource
from metalearn.errors import Diverged
from metalearn.evaluate import evaluate, test_record
from metalearn.host_memory import keep_freed_memory
from metalearn.tracking import Tracker
from metalearn.train import Outcome, check_schedule, train

log = logging.getLogger("metalearn")


def preflight(config: dict[str, Any]) -> None:
    """Everything that can be known to be wrong before a file is written: device, schedule, dataset, task, algorithm.

    Raises:
        UserError (or ValueError, from a constructor): with one line for the user.
    """
    choose_device(config)
    check_schedule(config["train"])
    dataset = build_dataset(config)
    check_tasks(dataset, config["task"], "train", "val", "test")
    algorithm = build_algorithm(config, dataset)
    if config["eval"]["transductive"] is not None:
        algorithm.set_transductive(config["eval"]["transductive"])


def run(config: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Trains, evaluates on test tasks and writes everything into `run_dir`; returns what results.json holds.

    Raises:
        whatever went wrong, after results.json, run.log and the console said so.
    """
    device = choose_device(config)
    keep_freed_memory()
    outcome = Outcome()
    results = _header(config, device)
    files.write_config(run_dir, config)
    log.info("run directory: %s", run_dir.resolve())
    tracker = Tracker(run_dir, _hparams(config))
    try:
        results |= _train_and_test(config, run_dir, device, outcome, tracker)
        results["status"] = "done"
    except BaseException as error:
        results["status"] = _status(error)
        results["error"] = f"{type(error).__name__}: {error}"
        console.file_log.error("%s: %s", results["status"], results["error"], exc_info=error)
        console.error_line(
            f"{results['status']} at step {getattr(error, 'step', outcome.steps)}: {results['error']} ({run_dir})"
        )
        raise
    finally:
        results["val"] = outcome.best or None
        results["train"] = _train_record(outcome, config, device)
        files.write_results(run_dir, results)
        tracker.close(results["status"])
    console.result_panel({**results, "run_dir": str(run_dir)})
    return results


def _train_and_test(
    config: dict[str, Any], run_dir: Path, device: torch.device, outcome: Outcome, tracker: Tracker
) -> dict[str, Any]:
    _set_precision(config["precision"])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # of the jobs before this one in a sweep
    dataset = build_dataset(config)
    train_tasks = TaskSource(dataset, "train", config["seed"], device, Augment(**config["train"]["augment"]))
    val_tasks = TaskSource(dataset, "val", config["eval"]["seed"], device)
    algorithm = build_algorithm(config, dataset).to(device)
    log.info(_describe(config, algorithm, train_tasks, device))

    with console.Progress(
        config["train"]["steps"], f"{config['names']['algorithm']} on {config['names']['dataset']}"
    ) as progress:

        def report(step: int, values: dict[str, float]) -> None:
            tracker.log(step, values)
            progress.update(step, values)

        train(config, algorithm, train_tasks, val_tasks, run_dir, outcome, report)

    # Test classes are touched here for the first time.
    chosen = config["eval"]["checkpoint"]
    algorithm.load_state_dict(checkpoint.load(run_dir / f"{chosen}.pt", device)["model"])
    if config["eval"]["transductive"] is not None:
        algorithm.set_transductive(config["eval"]["transductive"])
    test_tasks = TaskSource(dataset, "test", config["eval"]["seed"], device)
    started = time.perf_counter()
    scores = evaluate(
        algorithm, test_tasks, config["task"], config["eval"]["tasks"], config["eval"]["task_chunk"], stepwise=True
    )
    step = int(outcome.best["step"]) if chosen == "best" else outcome.steps
    test = test_record(algorithm, scores, chosen) | {"step": step, "seconds": time.perf_counter() - started}
    further = {f"test/{name}": score["mean"] for name, score in test.get("further", {}).items()}
    tracker.log(
        outcome.steps,
        {"test/accuracy": test["accuracy"], "test/ci95": test["ci95"], "test/loss": test["loss"], **further},
    )
    return {
        "split": {"name": dataset.split.name, "sha256": dataset.split.sha256},
        "test": test,
    }


def _header(config: dict[str, Any], device: torch.device) -> dict[str, Any]:
    names = config["names"]
    return {
        "status": "failed",
        "error": None,
        "algorithm": names["algorithm"],
        "dataset": names["dataset"],
        "backbone": names["backbone"],
        "experiment": names["experiment"],
        "seed": config["seed"],
        "config_hash": config_hash(_what_matters(config)),
        "split": None,
        "task": {
            **{name: config["task"][name] for name in ("ways", "shots", "queries")},
            "train": config["task"]["train"],
        },
        "test": None,
        "val": None,
        "train": None,
        "environment": files.environment(str(device)),
    }


def _what_matters(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what names places or quotes papers: two runs with equal rest ask the same question."""
    dataset = {key: value for key, value in config["dataset"].items() if key not in ("root", "download")}
    return {key: value for key, value in config.items() if key not in ("sweep_name", "reference")} | {
        "dataset": dataset
    }


def _train_record(outcome: Outcome, config: dict[str, Any], device: torch.device) -> dict[str, Any]:
    tasks = outcome.steps * config["train"]["meta_batch_size"]
    return {
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "tasks_per_second": tasks / outcome.seconds if outcome.seconds else 0.0,
        "data_wait_fraction": outcome.data_seconds / outcome.seconds if outcome.seconds else 0.0,
        "task_chunk": outcome.task_chunk,
        "peak_memory_mib": files.peak_memory_mib(device),
    }


def _hparams(config: dict[str, Any]) -> dict[str, object]:
    """Few, so that TensorBoard's table stays readable: what was chosen, and the algorithm's own numbers."""
    own = {
        f"algorithm.{key}": value
        for key, value in config["algorithm"].items()
        if isinstance(value, bool | int | float | str)
    }
    own.pop("algorithm._target_", None)
    names, task = config["names"], config["task"]
    return {
        "algorithm": names["algorithm"],
        "dataset": names["dataset"],
        "backbone": names["backbone"],
        "ways": task["ways"],
        "shots": task["shots"],
        "seed": config["seed"],
        "train.lr": config["train"]["lr"],
        "train.meta_batch_size": config["train"]["meta_batch_size"],
        **own,
    }


def _describe(config: dict[str, Any], algorithm: torch.nn.Module, train_tasks: TaskSource, device: torch.device) -> str:
    task, parameters = config["task"], sum(p.numel() for p in algorithm.parameters())
    train_task = task["train"]
    return (
        f"{config['names']['algorithm']} with {config['names']['backbone']} ({parameters:,} parameters) on {device}; train: "
        f"{train_task['ways']}-way, {train_task['shots']} support + {train_task['queries']} query per class, from "
        f"{len(train_tasks.counts)} classes of {config['names']['dataset']}, {config['train']['meta_batch_size']} tasks a step; "
        f"test: {task['ways']}-way, {task['shots']} + {task['queries']}"
    )


def _set_precision(precision: str) -> None:
    # tf32 concerns products of float32 matrices and convolutions on NVIDIA GPUs; elsewhere torch ignores it.
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def _status(error: BaseException) -> str:
    if isinstance(error, Diverged):
        return "diverged"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
