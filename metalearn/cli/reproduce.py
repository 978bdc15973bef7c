"""`metalearn reproduce`: trains an experiment, or takes a finished run of it, and compares it with its paper's numbers."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalearn.cli import single, sweep
from metalearn.cli.arguments import Training, Where, parsed, with_quoted_home
from metalearn.cli.compare import json_text, write
from metalearn.cli.train import single_run
from metalearn.compose.composer import composer, explained
from metalearn.errors import UserError
from metalearn.report import terminal
from metalearn.runs.directory import read_config, saved_config
from metalearn.sweeps.ask import asked_sweep, shared_config
from metalearn.sweeps.jobs import composed_jobs
from metalearn.sweeps.seeds import common_sweep, finished_runs

if TYPE_CHECKING:
    from metalearn.compose.composer import Composer
    from metalearn.runs.reproduce import Paper


def reproduce(argv: list[str]) -> None:
    """Prints the paper's numbers beside ours and writes reproduction.json into the run directory; of several seeds also for the whole."""
    args = _arguments(argv)
    experiment, *changes = args.overrides
    overrides = [f"experiment={experiment}", *changes]
    from metalearn.runs.reference import read_reference
    from metalearn.runs.reproduce import Paper, check_start, evaluation_modes

    wanted: single.SingleRun | sweep.JobSweep | None = None
    with explained(overrides, args.config_dir, None), composer(args.config_dir) as composing:
        protocol, _ = composing.job(overrides[:1], 0)
        reference = read_reference(protocol, [Path(args.config_dir)] if args.config_dir else [])
        if reference.starts_from is not None:
            reference = reference._replace(start=composing.job([f"experiment={reference.starts_from}"], 0)[0])
        if args.run:
            runs = [(path, composing.evaluation(saved_config(path), changes)) for path in finished_runs(args.run)]
        else:
            wanted = _asked(composing, overrides)
    said = [text for text in changes if not text.startswith(("sweep.", "sweep_name="))]
    paper = Paper(protocol, reference, said, again=wanted is None and bool(changes))
    if wanted is None:
        if single.is_first_rank():  # of torchrun's processes one is enough
            with terminal.quiet() if args.json == "-" else contextlib.nullcontext():
                record = _compared(runs, paper, common_sweep(args.run))
            _written(record, args.json)
        return
    # Not after hours of training: a row may ask for an evaluation that the model does not allow.
    first = wanted.config if isinstance(wanted, single.SingleRun) else wanted.jobs[0].config
    check_start(reference, first)
    single.preflight(evaluation_modes(reference, first))
    if isinstance(wanted, single.SingleRun):
        run_dir = single.start(wanted)
        if run_dir is not None:
            _written(_compared([(run_dir, read_config(run_dir))], paper), args.json)
        return
    training = Training(overrides, Where(args.config_dir), False, [], argv, command="reproduce")
    done = sweep.run_jobs(wanted, training)
    runs = [(done.run_dir(job.name), read_config(done.run_dir(job.name))) for job in wanted.jobs]
    _written(_compared(runs, paper, done.path), args.json)


def _compared(runs: list[tuple[Path, dict[str, Any]]], paper: Paper, folder: Path | None = None) -> dict[str, Any]:
    """One run beside the paper, or the mean of several."""
    if len(runs) == 1 and folder is None:
        from metalearn.runs.reproduce import reproduce_run

        (run_dir, config), *_ = runs
        return reproduce_run(run_dir, config, paper)
    from metalearn.runs.reproduce_seeds import reproduce_seeds

    return reproduce_seeds(runs, paper, folder)


def _asked(composing: Composer, overrides: list[str]) -> single.SingleRun | sweep.JobSweep:
    """One run, or one for each seed; UserError where something else varies too."""
    base = shared_config(composing, overrides)
    asked = asked_sweep(composing, base, overrides, False)
    if asked is None:
        return single_run(composing, overrides, base)
    varied = {choice.key for job in asked.jobs for choice in job} - {"seed"}
    if asked.search is not None or varied:
        over = ", ".join(sorted(varied)) or "a search space"
        raise UserError(f"reproduce trains one run, or one for each seed; {overrides[0]} is a sweep over {over}")
    return sweep.JobSweep(asked, composed_jobs(composing, asked))


def _written(record: dict[str, Any], file: str | None) -> None:
    if file is not None:
        write(file, json_text(record), "--json")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run", metavar="RUN_DIR", type=Path, action="append", default=[])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--config-dir")
    parser.add_argument("overrides", nargs="*")
    args = parsed(parser, argv)
    if not args.overrides or "=" in args.overrides[0]:
        raise UserError("reproduce needs an experiment: metalearn reproduce EXPERIMENT [key=value ...]")
    if args.json == "-" and not args.run:
        raise UserError("--json - goes with --run, as training prints its lines to stdout: --json FILE")
    args.overrides = [with_quoted_home(override) for override in args.overrides]
    return args
