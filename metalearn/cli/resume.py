"""`metalearn train --resume RUN_DIR`: a run that was stopped, killed or failed, from its newest intact checkpoint."""

from __future__ import annotations

from metalearn.cli.arguments import Resumption
from metalearn.cli.single import is_first_rank, preflight, run_and_report
from metalearn.compose.composer import composer, explained
from metalearn.runs.directory import saved_config
from metalearn.runs.log import log_to
from metalearn.runs.record import is_done, read_results


def resume(wanted: Resumption) -> None:
    """Resumes a run under its own configuration."""
    run_dir, config_dir = wanted.run_dir, wanted.where.config_dir
    saved = saved_config(run_dir)
    with explained(wanted.overrides, config_dir, None), composer(config_dir) as composing:
        config = composing.resumption(saved, wanted.overrides, f"'{run_dir}'")
    if is_done(run_dir) and read_results(run_dir)["train"]["steps"] == config["train"]["steps"]:
        print(f"'{run_dir}' is done: nothing is left to do (metalearn eval tests it again)")
        return
    preflight([config])
    if is_first_rank():
        log_to(run_dir)
    run_and_report(config, run_dir, resume=True)
