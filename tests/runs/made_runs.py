"""Run directories as a run leaves them, with scores that a test chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ACCURACY = {"name": "classification", "score": "accuracy", "higher_is_better": True, "percent": True}
MSE = {"name": "regression", "score": "mse", "higher_is_better": False, "percent": False}


def config_of(algorithm: str = "net", seed: int = 0, ways: int = 5, **train: Any) -> dict[str, Any]:
    shape = {"ways": ways, "shots": 1, "queries": 15}
    return {
        "seed": seed,
        "device": "cpu",
        "train": {"steps": 100, "lr": 0.01, "augment": {"degrees": 0.0}, **train},
        "eval": {"tasks": 100, "seed": 0, "checkpoint": "best"},
        "names": {"algorithm": algorithm, "backbone": "conv", "dataset": "made", "experiment": None},
        "task": {**shape, "train": dict(shape)},
        "dataset": {"_target_": "made.load", "root": None, "split": "fixed"},
        "algorithm": {"_target_": f"made.{algorithm}"},
    }


def classes_of(tasks: int, ways: int = 5, classes: int = 40, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(classes, ways, replace=False) for _ in range(tasks)]).astype(np.uint8)


def make_run(
    path: Path,
    scores: np.ndarray | None = None,
    config: dict[str, Any] | None = None,
    kind: dict[str, Any] | None = None,
    status: str = "done",
    split: str = "a" * 64,
    per_task: bool = True,
    classes: np.ndarray | None = None,
    **test: Any,
) -> Path:
    """A run directory with config.yaml, results.json and, of a run that is done, test_tasks.npz with scores [T]."""
    config = config or config_of()
    kind = kind or ACCURACY
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    names = {key: config["names"][key] for key in ("algorithm", "dataset", "backbone")}
    results: dict[str, Any] = {"status": status, "error": None if status == "done" else "boom", **names}
    results |= {"seed": config["seed"], "split": {"name": "fixed", "sha256": split}, "kind": kind}
    results |= {"task": config["task"], "test": None, "environment": {"metalearn": "0.2.0"}}
    if scores is not None:
        width = 1.96 * float(scores.std(ddof=1)) / len(scores) ** 0.5
        results["test"] = {kind["score"]: float(scores.mean()), "ci95": width, "ci95_classes": None}
        results["test"] |= {"tasks": len(scores), "loss": 1.0, "transductive": False, "checkpoint": "best", **test}
        if per_task:
            arrays = {"score": scores.astype(np.float32), "loss": scores.astype(np.float32)}
            if kind is ACCURACY:
                of_tasks = classes_of(len(scores)) if classes is None else classes
                arrays |= {"classes": of_tasks, "class_names": np.array([f"made:c{i}" for i in range(40)])}
            np.savez_compressed(path / "test_tasks.npz", **arrays)
    (path / "results.json").write_text(json.dumps(results))
    return path


def task_scores(mean: float, seed: int, tasks: int = 200, spread: float = 0.1) -> np.ndarray:
    return mean + spread * np.random.default_rng(seed).standard_normal(tasks)
