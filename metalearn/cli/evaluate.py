"""`metalearn eval`: a finished run on test tasks, under its own configuration changed by overrides."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from metalearn.cli.arguments import hydra_arguments
from metalearn.cli.single import is_first_rank
from metalearn.compose.composer import composer, explained
from metalearn.config.tree import leaves
from metalearn.errors import UserError
from metalearn.runs.directory import read_config


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


def saved_config(run_dir: Path) -> DictConfig:
    """The configuration in a run directory.

    Raises:
        UserError: there is none, naming the newest run below; or it holds interpolations, which a run does not write.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        below = sorted(run_dir.rglob("config.yaml"), key=lambda file: file.stat().st_mtime)
        hint = f"; the newest run below it is {below[-1].parent}" if below else ""
        raise UserError(f"'{run_dir}' {'has no config.yaml' if run_dir.is_dir() else 'is no directory'}{hint}")
    plain = read_config(run_dir)
    # Written resolved; what a stranger put there must not be looked up in this user's environment.
    for key, value in leaves(plain):
        if "${" in str(value):
            raise UserError(f"{path}: {key} is not a value but an interpolation")
    return OmegaConf.create(plain)
