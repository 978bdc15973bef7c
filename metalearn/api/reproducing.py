"""`reproduce`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalearn.api.composing import errors_name_wishes, settings_composer, written
from metalearn.api.training import run_sweep, train
from metalearn.errors import RunFailed, UserError
from metalearn.runs.directory import read_config, saved_config
from metalearn.status import Status

if TYPE_CHECKING:
    from metalearn.runs.reference import Reference


def reproduce(
    experiment: str,
    *overrides: str,
    seeds: Sequence[int] = (),
    runs: Sequence[str | Path] = (),
    config_dir: str | None = None,
    plugins: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Trains an experiment, or takes finished runs of it, and compares it with its paper's numbers, as `metalearn reproduce` does.

    Args:
        experiment: its name: `"short/protonet_omniglot_5w1s"`.
        overrides: as on the command line; with `runs` they change the evaluation.
        seeds: train a run for each, as a sweep; `"sweep_name=..."` among the overrides names it, and the same call continues it.
        runs: finished runs, one for each seed, or a sweep over seeds; nothing is trained.
        config_dir: a folder with YAML files of your own.
        plugins: packages of your own to trust.

    Returns:
        What `reproduction.json` holds: `rows` with the paper's number and ours in percent. Of several runs that of the whole.

    Raises:
        UserError: there is no such experiment, it reproduces no number, a setting is wrong, or a run is not finished.
        RunFailed: a run failed.
    """
    from metalearn.runs.reference import read_reference
    from metalearn.runs.reproduce import Paper, reproduce_run
    from metalearn.runs.reproduce_seeds import reproduce_seeds
    from metalearn.sweeps.seeds import common_sweep, finished_runs

    if seeds and runs:
        raise UserError("reproduce takes seeds to train or finished runs, not both")
    asked, paths = [f"experiment={experiment}", *overrides], [Path(path) for path in runs]
    changes = [text for text in overrides if not text.startswith(("sweep.", "sweep_name="))]
    with settings_composer(asked, config_dir, plugins) as composing:
        protocol, _ = composing.job(asked[:1], 0)
        reference = read_reference(protocol, [Path(config_dir)] if config_dir else [])
        if reference.starts_from is not None:
            reference = reference._replace(start=composing.job([f"experiment={reference.starts_from}"], 0)[0])
        found = [(path, dict(composing.evaluation(saved_config(path), changes))) for path in finished_runs(paths)]
        trained = None if runs else composing.job([asked[0], *changes], 0)[0]
    folder = common_sweep(paths)
    if trained is not None:
        _check_evaluations(reference, trained)
        folder, directories = _trained(asked, seeds, config_dir, plugins)
        found = [(path, read_config(path)) for path in directories]
    paper = Paper(protocol, reference, changes, again=bool(runs and changes))
    if len(found) == 1 and folder is None:
        ((path, config),) = found
        return reproduce_run(path, config, paper)
    return reproduce_seeds(found, paper, folder)


def _check_evaluations(reference: Reference, config: dict[str, Any]) -> None:
    """Raises UserError, before hours of training, where a row asks for an evaluation that the model does not allow."""
    from metalearn.runs.preflight import preflight
    from metalearn.runs.reproduce import check_start, evaluation_modes

    check_start(reference, config)
    with errors_name_wishes():
        for mode in evaluation_modes(reference, config):
            preflight(mode)


def _trained(
    asked: list[str], seeds: Sequence[int], config_dir: str | None, plugins: tuple[str, ...]
) -> tuple[Path | None, list[Path]]:
    """The sweep's directory, if it is one, and those of the runs."""
    if not seeds:
        return None, [train(*asked, config_dir=config_dir, plugins=plugins).directory]
    sweep = run_sweep([*asked, *written({"seed": list(seeds)}, varied=True)], config_dir, plugins)
    names = [name for name, choices in sweep.choices().items() if choices.get("seed") in seeds]
    if missing := [name for name in names if sweep.status(name) != Status.DONE]:
        raise RunFailed(f"not done: {', '.join(missing)} of {sweep.path}; the same call with this sweep_name continues")
    return sweep.path, [sweep.run_dir(name) for name in names]
