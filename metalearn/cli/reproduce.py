"""`metalearn reproduce`: trains an experiment, or takes a finished run of it, and compares it with its paper's numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from metalearn.cli import single
from metalearn.cli.arguments import parsed, with_quoted_home
from metalearn.cli.train import single_run
from metalearn.compose.composer import composer, explained
from metalearn.errors import UserError
from metalearn.runs.directory import saved_config
from metalearn.sweeps.ask import asked_sweep, shared_config


def reproduce(argv: list[str]) -> None:
    """Prints the paper's numbers beside ours and writes reproduction.json into the run directory."""
    args = _arguments(argv)
    experiment, *changes = args.overrides
    overrides = [f"experiment={experiment}", *changes]
    from metalearn.runs.reference import read_reference
    from metalearn.runs.reproduce import evaluation_modes, reproduce_run

    with explained(overrides, args.config_dir, None), composer(args.config_dir) as composing:
        protocol, _ = composing.job(overrides[:1], 0)
        reference = read_reference(protocol, [Path(args.config_dir)] if args.config_dir else [])
        if args.run is not None:
            config = composing.evaluation(saved_config(args.run), changes)
        elif asked_sweep(composing, shared_config(composing, overrides), overrides, False) is not None:
            raise UserError(f"reproduce trains one run, {overrides[0]} is a sweep")
        else:
            wanted = single_run(composing, overrides)
    if args.run is not None:
        if single.is_first_rank():  # of torchrun's processes one is enough
            reproduce_run(args.run, protocol, reference, config, changes, again=bool(changes))
        return
    # Not after hours of training: a row may ask for an evaluation that the model does not allow.
    single.preflight(evaluation_modes(reference, wanted.config))
    if (run_dir := single.start(wanted)) is not None:
        reproduce_run(run_dir, protocol, reference, _written(run_dir), changes, again=False)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run", metavar="RUN_DIR", type=Path)
    parser.add_argument("--config-dir")
    parser.add_argument("overrides", nargs="*")
    args = parsed(parser, argv)
    if not args.overrides or "=" in args.overrides[0]:
        raise UserError("reproduce needs an experiment: metalearn reproduce EXPERIMENT [key=value ...]")
    args.overrides = [with_quoted_home(override) for override in args.overrides]
    return args


def _written(run_dir: Path) -> dict[str, Any]:
    from metalearn.runs.directory import read_config

    return read_config(run_dir)
