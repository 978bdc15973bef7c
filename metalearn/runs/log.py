"""Logging of a run: RUN_DIR/run.log, and the console."""

from __future__ import annotations

import logging
import logging.config
from pathlib import Path
from typing import Any

from metalearn.config.files import conf_dir
from metalearn.config.yaml_text import from_yaml

_OUTPUT_DIR = "${hydra.runtime.output_dir}"  # what stands for the run directory in conf/hydra/job_logging


def log_to(run_dir: Path, on_console: bool = True, settings: dict[str, Any] | None = None) -> None:
    """Sends what is logged to RUN_DIR/run.log and, if wanted, to the console; Python's warnings and torch's go to run.log alone.

    Args:
        settings: a choice of Hydra's group job_logging; by default the one that is shipped.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    shipped = conf_dir() / "hydra" / "job_logging" / "metalearn.yaml"
    chosen = _placed(settings or from_yaml(shipped.read_text(encoding="utf-8")), str(run_dir.resolve()))
    if chosen.get("root") is None:  # hydra/job_logging=disabled or none
        return
    if not on_console:
        chosen["handlers"].pop("console", None)
        chosen["root"]["handlers"] = [name for name in chosen["root"]["handlers"] if name != "console"]
    logging.config.dictConfig(chosen)
    logging.captureWarnings(True)
    of_torch = logging.getLogger("torch")  # has a handler of its own for stderr
    of_torch.handlers.clear()
    of_torch.propagate = True


def _placed(node: Any, run_dir: str) -> Any:
    """The settings with the run directory in its place."""
    if isinstance(node, dict):
        return {key: _placed(value, run_dir) for key, value in node.items()}
    if isinstance(node, list):
        return [_placed(value, run_dir) for value in node]
    return node.replace(_OUTPUT_DIR, run_dir) if isinstance(node, str) else node
