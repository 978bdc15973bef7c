"""`metalearn eval`: a finished run on test tasks, under its own configuration changed by overrides."""

from __future__ import annotations

from pathlib import Path

from metalearn.cli.arguments import hydra_arguments
from metalearn.cli.single import is_first_rank
from metalearn.compose.composer import composer, explained
from metalearn.errors import UserError
from metalearn.runs.directory import saved_config


def evaluate(argv: list[str]) -> None:
    """Evaluates the run."""
    args = hydra_arguments(argv)
    if args.multirun or args.cfg or args.info or args.resume is not None:
        raise UserError("eval takes a run directory, overrides and --config-dir only")
    if not args.given:
        raise UserError("eval needs a run directory: metalearn eval RUN_DIR [key=value ...]")
    run_dir, overrides = Path(args.given[0]), args.overrides[1:]
    saved = saved_config(run_dir)
    with explained(overrides, args.config_dir, None), composer(args.config_dir) as composing:
        config = composing.evaluation(saved, overrides)
    if not is_first_rank():  # of torchrun's processes one is enough
        return
    from metalearn.runs.evaluation import evaluate_run

    evaluate_run(run_dir, config, overrides)
