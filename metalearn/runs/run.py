"""One run, from a plain configuration to results.json: the program, top to bottom."""

from __future__ import annotations

import logging
import shlex
import time
from pathlib import Path
from typing import Any

import torch

from metalearn.algorithms.base import Algorithm
from metalearn.config.identity import compared, config_hash
from metalearn.data.base import TaskSource
from metalearn.engine.build import build_algorithm, build_dataset, build_source, check_tasks, choose_device
from metalearn.engine.evaluate import evaluate, test_record
from metalearn.engine.host_memory import keep_freed_memory
from metalearn.engine.interrupts import Interrupts
from metalearn.engine.loop import Hopeless, Outcome, check_schedule, train
from metalearn.engine.ranks import Ranks, check_share, joined, launched
from metalearn.errors import Diverged, Pruned, RunFailed, UserError
from metalearn.report import results as shown
from metalearn.report import terminal
from metalearn.report.progress import LOG_SECONDS, Progress
from metalearn.runs import checkpoint
from metalearn.runs import directory as files
from metalearn.runs.resume import refuse_changes
from metalearn.runs.tracking import Tracker

log = logging.getLogger("metalearn")


def preflight(config: dict[str, Any]) -> None:
    """Everything that can be known to be wrong before a file is written: device, schedule, dataset, task, algorithm.

    Raises:
        UserError (or ValueError, from a constructor): with one line for the user.
    """
    choose_device(config)
    check_schedule(config["train"])
    check_share(launched(), config["train"]["meta_batch_size"])
    dataset = build_dataset(config)
    dataset.check_augment(config["train"]["augment"])
    check_tasks(dataset, config["task"], "train", "val", "test")
    algorithm = build_algorithm(config, dataset)
    if config["eval"]["transductive"] is not None:
        algorithm.set_transductive(config["eval"]["transductive"])


def run(
    config: dict[str, Any], run_dir: Path, resume: bool = False, hopeless: Hopeless | None = None
) -> dict[str, Any]:
    """Trains, evaluates on test tasks and writes everything into `run_dir`; returns what results.json holds.

    Args:
        resume: go on from the newest intact checkpoint in `run_dir`; where there is none, start anew in place of what is there.
        hopeless: asked after every validation; where it agrees, the run ends as pruned, without a test, and may be gone on with.

    Raises:
        UserError: `run_dir` holds another run, or a process is at work there; nothing was written.
        RunFailed: not even results.json could be written, as the console said.
        whatever else went wrong, after results.json, run.log and the console said so.
    """
    device, ranks = choose_device(config), launched()
    keep_freed_memory()
    if not ranks.first:
        _assist(config, run_dir, device, ranks, resume)
        return {}
    with files.in_use(run_dir):
        state = _to_go_on_from(config, run_dir, resume)
        interrupts, outcome, results = Interrupts(), Outcome(), _header(config, device)
        failure: BaseException | None = None
        try:
            with interrupts.watched():
                if resume:
                    files.clear(run_dir, keep_checkpoints=state is not None)
                files.write_config(run_dir, config)
                log.info("run directory: %s", run_dir.resolve())
                results |= _train_and_test(config, run_dir, device, outcome, state, interrupts, ranks, hopeless)
                results["status"] = "done"
        except BaseException as error:
            failure = error
            results |= {"status": _status(error), "error": _told(error), "step": getattr(error, "step", outcome.steps)}
            _say(results, run_dir, error)
        results["val"] = outcome.best or None
        results["train"] = _train_record(outcome, config, device)
        _write_results(run_dir, results, failure)
        if failure is not None:
            raise failure
    shown.result_panel({**results, "run_dir": str(run_dir)})
    return results


def _to_go_on_from(config: dict[str, Any], run_dir: Path, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from, if any; UserError where `run_dir` holds another run."""
    if not resume:
        if (run_dir / "metrics.csv").exists() or (run_dir / "results.json").exists():
            raise UserError(f"'{run_dir}' holds another run's files already")
        return None
    state = checkpoint.newest(run_dir)
    if state is None:
        return None
    if "outcome" not in state:
        raise UserError(f"'{run_dir}' was written by an older metalearn: it can be evaluated, but not gone on with")
    refuse_changes(state["config"], config, f"the checkpoint in '{run_dir}'")
    if config["train"]["steps"] < state["step"]:
        raise UserError(f"train.steps={config['train']['steps']}: '{run_dir}' is at step {state['step']} already")
    return state


def _train_and_test(
    config: dict[str, Any],
    run_dir: Path,
    device: torch.device,
    outcome: Outcome,
    state: dict[str, Any] | None,
    interrupts: Interrupts,
    ranks: Ranks,
    hopeless: Hopeless | None,
) -> dict[str, Any]:
    _set_precision(config["precision"])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # of the jobs before this one in a sweep
    dataset = build_dataset(config)
    train_tasks = build_source(config, dataset, "train", device)
    val_tasks = build_source(config, dataset, "val", device)
    algorithm = build_algorithm(config, dataset).to(device)
    log.info(_describe(config, algorithm, train_tasks, device))
    names, reported = config["names"], 0
    if state is not None:
        reported = state["outcome"]["reported"]
        log.info("going on after step %d", state["step"])
        _check_best(run_dir, state)

    with Tracker(run_dir, _hparams(config), reported if state else None) as tracker:
        with Progress(
            config["train"]["steps"],
            f"{names['algorithm']} on {names['dataset']}",
            done=reported,
            log_seconds=config["train"].get("log_seconds", LOG_SECONDS),  # a stored job may be older than the setting
            ways=(config["task"]["train"]["ways"], config["task"]["ways"]),
        ) as progress:

            def report(step: int, values: dict[str, float]) -> None:
                tracker.log(step, values)
                progress.update(step, values)

            with joined(ranks, device):
                train(
                    config,
                    algorithm,
                    train_tasks,
                    val_tasks,
                    run_dir,
                    outcome,
                    report,
                    state=state,
                    before_saving=tracker.sync,
                    interrupts=interrupts,
                    ranks=ranks,
                    hopeless=hopeless,
                )
        tested = _test(config, run_dir, algorithm, outcome, build_source(config, dataset, "test", device))
        further = {f"test/{name}": score["mean"] for name, score in tested.get("further", {}).items()}
        numbers = {f"test/{name}": tested[name] for name in ("accuracy", "ci95", "loss")}
        tracker.log(outcome.steps, numbers | further)
    return {
        "split": {"name": dataset.split.name, "sha256": dataset.split.sha256},
        "test": tested,
    }


def _assist(config: dict[str, Any], run_dir: Path, device: torch.device, ranks: Ranks, resume: bool) -> None:
    """Trains along with rank 0, which does the rest."""
    _set_precision(config["precision"])
    state = checkpoint.newest(run_dir) if resume else None
    with joined(ranks, device):
        dataset = build_dataset(config)
        train_tasks = build_source(config, dataset, "train", device)
        val_tasks = build_source(config, dataset, "val", device)
        algorithm = build_algorithm(config, dataset).to(device)
        interrupts = Interrupts()
        with interrupts.watched():
            train(
                config,
                algorithm,
                train_tasks,
                val_tasks,
                run_dir,
                Outcome(),
                lambda step, values: None,
                state=state,
                interrupts=interrupts,
                ranks=ranks,
            )


def _test(
    config: dict[str, Any], run_dir: Path, algorithm: Algorithm, outcome: Outcome, test_tasks: TaskSource
) -> dict[str, Any]:
    """Test classes are touched here for the first time."""
    settings, device = config["eval"], test_tasks.device
    chosen = checkpoint.load(run_dir / f"{settings['checkpoint']}.pt", device)
    algorithm.load_state_dict(chosen["model"])
    if settings["checkpoint"] == "best":
        outcome.best = chosen["outcome"]["best"]  # what was said of it, wherever this run went on from
    if settings["transductive"] is not None:
        algorithm.set_transductive(settings["transductive"])
    started = time.perf_counter()
    scores = evaluate(algorithm, test_tasks, config["task"], settings["tasks"], settings["task_chunk"], stepwise=True)
    return test_record(algorithm, scores, settings["checkpoint"]) | {
        "step": chosen["step"],
        "seconds": time.perf_counter() - started,
    }


def _check_best(run_dir: Path, state: dict[str, Any]) -> None:
    """Forgets the best validation so far where its checkpoint is damaged or gone, so that another becomes the best."""
    if not state["outcome"]["best"]:
        return
    try:
        checkpoint.load(run_dir / "best.pt", torch.device("cpu"))
    except UserError as error:
        log.warning("%s; the best validation so far is forgotten", error)
        state["outcome"]["best"] = {}


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
        "config_hash": config_hash(compared(config)),
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
        f"{len(train_tasks.classes)} classes of {config['names']['dataset']}, {config['train']['meta_batch_size']} tasks a step; "
        f"test: {task['ways']}-way, {task['shots']} + {task['queries']}"
    )


def _set_precision(precision: str) -> None:
    # tf32 concerns products of float32 matrices and convolutions on NVIDIA GPUs; elsewhere torch ignores it.
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def _write_results(run_dir: Path, results: dict[str, Any], failure: BaseException | None) -> None:
    try:
        files.write_results(run_dir, results)
    except OSError as error:
        terminal.error_line(f"{results['status']}, and results.json cannot be written: {error} ({run_dir})")
        if failure is None or isinstance(failure, Exception):
            raise RunFailed(str(failure or error)) from (failure or error)


def _say(results: dict[str, Any], run_dir: Path, error: BaseException) -> None:
    where = f"{results['status']} at step {results['step']}: {results['error']} ({run_dir})"
    if isinstance(error, KeyboardInterrupt):
        log.info("%s", where)
        log.info("to go on: metalearn train --resume %s", shlex.quote(str(run_dir)))
    elif isinstance(error, Pruned):
        log.info("%s", where)
    else:
        terminal.file_log.error("%s: %s", results["status"], results["error"], exc_info=error)
        terminal.error_line(where)


def _told(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "stopped at once"
    if isinstance(error, Pruned):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _status(error: BaseException) -> str:
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, Pruned):
        return "pruned"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
