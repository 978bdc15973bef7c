"""Hydra's own application: --cfg, --info, shell completion, and sweeps by a plugin of Hydra's (hydra/sweeper=...).

Everything else is composed and run without it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
import hydra._internal.hydra as hydra_application
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, flag_override

from metalearn.cli.arguments import Explanation
from metalearn.cli.single import run_and_report

# Composer: a launcher's worker process imports this module to find `job`, and resolves the name of the job's directory with its resolver.
from metalearn.compose.composer import explained, run_configuration
from metalearn.config.files import conf_dir
from metalearn.config.tree import container, drop_limits


def call_hydra(argv: list[str]) -> None:
    """Hands the words to Hydra's application."""
    sys.argv = ["metalearn", *argv]
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(job)()


class _WithoutLimits(hydra_application.Hydra):
    """Hydra, which shows no `limits`: they are a third of the lines, and no settings."""

    def compose_config(self, *args: Any, **kwargs: Any) -> DictConfig:
        """See Hydra."""
        cfg = super().compose_config(*args, **kwargs)
        with flag_override(cfg, ["struct", "readonly"], False):
            drop_limits(cfg)
        return cfg


def explain(wanted: Explanation) -> None:
    """Shows the configuration, or how it was composed."""
    shipped = hydra_application.Hydra
    hydra_application.Hydra = _WithoutLimits  # type: ignore[misc]  # hydra.main looks it up there
    try:
        with explained(wanted.overrides, wanted.where.config_dir, wanted.where.config_name):
            call_hydra([*wanted.flags, *wanted.overrides])
    finally:
        hydra_application.Hydra = shipped  # type: ignore[misc]


def job(cfg: DictConfig) -> dict[str, Any]:
    """One run in the directory that Hydra made for it; launchers call it, perhaps in another process."""
    return run_and_report(run_configuration(container(cfg, resolve=True)), Path(HydraConfig.get().runtime.output_dir))
