"""An experiment runner for meta-learning: few-shot tasks, learn2learn's meta-modules, results that can be checked.

`train`, `evaluate`, `predict`, `sweep`, `compare`, `list_runs`, `choices`, `explain`, `doctor` and `load` do what the commands do (docs/python.md).
Imported when first used: `import metalearn` alone takes milliseconds and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metalearn.version import __version__

if TYPE_CHECKING:
    from metalearn.api import (
        Prediction,
        Run,
        choices,
        compare,
        doctor,
        evaluate,
        explain,
        list_runs,
        load,
        predict,
        sweep,
        train,
    )

__all__ = [
    "Prediction",
    "Run",
    "__version__",
    "choices",
    "compare",
    "doctor",
    "evaluate",
    "explain",
    "list_runs",
    "load",
    "predict",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from metalearn import api

        return getattr(api, name)
    raise AttributeError(f"module 'metalearn' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
