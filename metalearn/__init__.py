"""An experiment runner for meta-learning: few-shot tasks, learn2learn's meta-modules, results that can be checked.

The functions do what the commands do (docs/python.md). Each is imported when it is first used: `import metalearn` alone takes milliseconds and
imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from metalearn.version import __version__

if TYPE_CHECKING:
    from metalearn.api.drawing import draw_tasks
    from metalearn.api.finding import choices, configuration, copy, doctor, explain, schema
    from metalearn.api.records import compare, list_runs, mark_runs, progress, remove_runs, tensorboard
    from metalearn.api.reproducing import reproduce
    from metalearn.api.run import Prediction, Run, load
    from metalearn.api.trained import evaluate, evaluate_grid, export, predict
    from metalearn.api.training import sweep, train

__all__ = [
    "Prediction",
    "Run",
    "__version__",
    "choices",
    "compare",
    "configuration",
    "copy",
    "doctor",
    "draw_tasks",
    "evaluate",
    "evaluate_grid",
    "explain",
    "export",
    "list_runs",
    "load",
    "mark_runs",
    "predict",
    "progress",
    "remove_runs",
    "reproduce",
    "schema",
    "sweep",
    "tensorboard",
    "train",
]

# Module of metalearn/api -> what it offers; the same as the imports above, which only type checkers read.
_OFFERED = {
    "drawing": ("draw_tasks",),
    "finding": ("choices", "configuration", "copy", "doctor", "explain", "schema"),
    "records": ("compare", "list_runs", "mark_runs", "progress", "remove_runs", "tensorboard"),
    "reproducing": ("reproduce",),
    "run": ("Prediction", "Run", "load"),
    "trained": ("evaluate", "evaluate_grid", "export", "predict"),
    "training": ("sweep", "train"),
}


def __getattr__(name: str) -> Any:
    for module, names in _OFFERED.items():
        if name in names:
            return getattr(importlib.import_module(f"metalearn.api.{module}"), name)
    raise AttributeError(f"module 'metalearn' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
