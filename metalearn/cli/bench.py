"""`metalearn bench`: what the program costs, beside learn2learn where that does the same."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from metalearn.bench import check_names
from metalearn.cli.arguments import natural, parsed, positive


def bench(argv: list[str]) -> None:
    """Runs the benchmarks."""
    args = parsed(_parser(), argv)
    check_names(args.names)
    from metalearn.bench.command import run
    from metalearn.compose.composer import composer, explained

    def compose(*overrides: str) -> dict[str, Any]:
        with explained(list(overrides), None, None), composer() as composing:
            return composing.job(list(overrides), 0)[0]

    run(
        args.names,
        compose,
        json_file=args.json,
        against=args.against,
        threads=args.threads,
        rounds=args.rounds,
        quick=args.quick,
        device=args.device,
        runs=tuple(args.run),
        train=tuple(args.train),
        seeds=tuple(args.seed),
        cases=tuple(args.case),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--threads", type=positive)
    parser.add_argument("--rounds", type=positive)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--run", type=Path, action="append", default=[])
    parser.add_argument("--train", action="append", default=[])
    parser.add_argument("--seed", type=natural, action="append", default=[])
    parser.add_argument("--case", action="append", default=[])
    return parser
