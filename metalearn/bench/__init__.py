"""`metalearn bench`: what this program costs, beside learn2learn where that does the same work.

Every comparison takes turns in one process: the same initial parameters, the same images, the same precision, after a warm-up. One module for each
benchmark, with `measure(bench)`, which returns a record that JSON can hold, and `tables(record)`, which shows it; `docs/performance.md` is
written from such records.
"""

from __future__ import annotations

from metalearn.errors import UserError, nearest

# In the order in which they run; light, because `metalearn bench --help` lists them.
BENCHMARKS = {
    "tasks": "few-shot tasks per second, beside learn2learn's tasksets",
    "steps": "meta-training steps, data included, beside learn2learn's example loops; peak memory of both",
    "rivals": "MAML steps beside learn2learn, functorch's example and parallel-metalearn, in one table",
    "scaling": "MAML's time per task over tasks per step: chosen, all at once, one by one; parallel-metalearn's",
    "accuracy": "time until validation reaches 95 % and the paper's band, of finished runs (--run) or a fresh one (--train)",
    "record": "seconds until the mean test accuracy of --rounds seeds is a stated one: experiment=record/..., or --train",
    "eval": "seconds for 1,000 test tasks, for each algorithm",
    "start": "metalearn --help, metalearn train to its first step, import time by package",
    "growth": "how time and memory grow with meta-batch size, ways, queries and inner steps",
    "limit": "operations and bytes of a meta-step over this machine's peak rates, and where the rest goes",
    "data": "drawing, loading and sampling; what raw pixels come to",
}


def check_names(names: list[str]) -> None:
    """Raises UserError where there is no such benchmark."""
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(
                f"no benchmark named '{name}'{nearest(name, BENCHMARKS)} (available: {', '.join(BENCHMARKS)})"
            )
