"""What runs wrote: `compare`, `list_runs`, `remove_runs`, `mark_runs`, `progress` and `tensorboard`. None of them imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalearn.runs.tensorboard import Board


def compare(
    *paths: str | Path,
    baseline: str | None = None,
    equal: float | dict[str, float] | None = None,
    sort: str | None = None,
    filters: Sequence[str] = (),
    top: int | None = None,
    evaluations: bool = False,
) -> dict[str, Any]:
    """Runs side by side, as `metalearn compare` does; prints nothing and writes nothing.

    Args:
        paths: runs, sweeps, folders with runs, patterns.
        baseline: the name, label or path of the row to compare with; None: the best.
        equal: the band of "practically equal": points of accuracy, or a mapping from a score's name to its band.
        sort, filters, top, evaluations: as `--sort`, `--filter`, `--top`, `--evals`.

    Returns:
        What `--json` writes: `rows`, each with its `score`, `interval`, `difference`, ...; `warnings`, `notes`, `left_out`.

    Raises:
        UserError: a path holds no run, or a filter, the key to sort by or the baseline fits nothing.
    """
    from metalearn.runs.comparison import Wanted
    from metalearn.runs.comparison import compare as compared

    bands = equal if isinstance(equal, dict) else {} if equal is None else {None: equal}
    given: dict[str | None, float] = {score: band for score, band in bands.items()}  # noqa: C416  # keys may be None
    return compared(Wanted(paths, baseline, given, sort, filters, top, evaluations)).record


def list_runs(*paths: str | Path, filters: Sequence[str] = (), sort: str | None = None) -> list[dict[str, Any]]:
    """The runs at or below the paths (default: outputs), as `metalearn runs --json` lists them.

    Raises:
        UserError: a path holds no run, or a filter or the key to sort by is not known.
    """
    from metalearn.runs.housekeeping import listed

    return listed(paths or ("outputs",), filters, sort)


def progress(path: str | Path) -> dict[str, Any]:
    """How far a sweep or a run is, as `metalearn status --json` says it; whoever runs it may be another process.

    Returns:
        `jobs`, `counts`, `total`, `left` (seconds; None: not known), `slurm`, ...: docs/sweeps.md names the keys.

    Raises:
        UserError: there is neither a sweep nor a run in `path`.
    """
    from metalearn.sweeps.status import status_of

    return status_of(Path(path).expanduser())


def tensorboard(*paths: str | Path, filters: Sequence[str] = (), port: int | None = None) -> Board:
    """Starts TensorBoard over runs, as `metalearn tensorboard` does; `close()` ends it, as does leaving a `with` block.

    Args:
        paths: runs, sweeps, folders with runs, patterns; by default outputs.
        filters: as `--filter`.
        port: where it answers; None: 6006, or a free one.

    Returns:
        A board with `address`, `shown` (the runs with their names), `refresh()` for runs that started since, and `close()`.

    Raises:
        UserError: a path holds no run with curves, a filter fits none, or the port cannot be used.
        RunFailed: TensorBoard does not start.
    """
    from metalearn.runs.tensorboard import Board

    return Board(paths or ("outputs",), filters, port)


def remove_runs(*paths: str | Path) -> list[Path]:
    """Removes runs, as `metalearn runs rm --yes` does, without asking; returns their directories. All are checked before the first one goes.

    Raises:
        UserError: a path is no run, is at work, is a link, or holds what no run writes: then nothing is removed.
    """
    from metalearn.runs.housekeeping import removable, remove

    chosen = [removable(path) for path in dict.fromkeys(paths)]
    remove(chosen)
    return [run.path for run in chosen]


def mark_runs(*paths: str | Path, label: str) -> None:
    """Gives runs a label, as `metalearn runs mark` does; an empty one takes it away.

    Raises:
        UserError: a path is no run, or the label has several lines or is longer than 60 characters.
    """
    from metalearn.runs.housekeeping import mark, run_of

    for run in [run_of(path) for path in paths]:
        mark(run, label)
