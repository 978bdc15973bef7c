"""`metalearn reproduce`: scores a finished run on every number that its paper reports. Accuracies are in percent here, as in papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from metalearn.config.identity import SAME_PROTOCOL, compared, differences
from metalearn.errors import UserError
from metalearn.kinds import Scale, scale_of
from metalearn.runs.directory import read_config
from metalearn.runs.reference import Reference, Row

_PLACES = ("hydra.", "dataset.root=", "dataset.file=")  # overrides that say where, not what


class Paper(NamedTuple):
    """An experiment and its published numbers, with which runs of it are compared.

    Attributes:
        protocol: the experiment's configuration.
        reference: its published numbers.
        overrides: what the user changed, for the record.
        again: evaluate anew, under the run's configuration with these changes, also what results.json holds already.
    """

    protocol: dict[str, Any]
    reference: Reference
    overrides: list[str]
    again: bool = False


def evaluation_modes(reference: Reference, config: dict[str, Any]) -> list[dict[str, Any]]:
    """`config` once for every way in which the rows are to be evaluated."""
    return [_evaluated(config, mode) for mode in dict.fromkeys(row.transductive for row in reference.rows)]


def changed_settings(protocol: dict[str, Any], config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Where a run departs from its experiment's protocol: key -> the experiment's value and the run's.

    A setting that one of them lacks is none: a run may be older than a setting, and another algorithm shows in `algorithm._target_`.
    """
    there = compared(config, SAME_PROTOCOL).keys() & compared(protocol, SAME_PROTOCOL).keys()
    changed = differences(protocol, config, SAME_PROTOCOL)
    return {key: {"experiment": before, "run": now} for key, (before, now) in changed.items() if key in there}


def check_start(reference: Reference, config: dict[str, Any]) -> None:
    """Raises UserError where the experiment starts from a run of another one and `train.init` names none."""
    if reference.starts_from is not None and config["train"]["init"] is None:
        raise UserError(
            f"this experiment starts from a run of {reference.starts_from}: metalearn train experiment={reference.starts_from} "
            "trains one, then train.init=RUN_DIR"
        )


def departures(protocol: dict[str, Any], reference: Reference, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`changed_settings` of a run and of the run that it starts from: that run's place is no departure, its settings are."""
    changed = changed_settings(protocol, config)
    if reference.starts_from is None:
        return changed
    init = config["train"]["init"]
    expected = f"a run of {reference.starts_from}"
    try:
        earlier = read_config(Path(init).expanduser())
    except UserError:  # it is gone, or it is a single checkpoint
        return changed | {"train.init": {"experiment": expected, "run": init}}
    if earlier["names"]["experiment"] != reference.starts_from:
        return changed | {"train.init": {"experiment": expected, "run": f"a run of {earlier['names']['experiment']}"}}
    before = changed_settings(reference.start or {}, earlier)
    if before:
        settings = ", ".join(f"{key}={value['run']}" for key, value in before.items())
        return changed | {"train.init": {"experiment": expected, "run": f"{expected} with {settings}"}}
    return {key: value for key, value in changed.items() if key != "train.init"}


# Settings that say what is measured. Another dataset or number of ways is another question; another learning rate is another answer.
_QUESTION = re.compile(
    r"dataset\..*|task\.(?!train\b).*|algorithm\._target_|algorithm\.first_order|eval\.(seed|checkpoint)"
)


def other_question(protocol: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """The changed settings with which a run's number cannot be compared with the published one."""
    changed = changed_settings(protocol, config)
    keys = [key for key in changed if _QUESTION.fullmatch(key)]
    tasks = changed.get("eval.tasks")
    if tasks is not None and tasks["run"] < tasks["experiment"]:
        keys.append("eval.tasks")
    if config["eval"]["transductive"] != protocol["eval"]["transductive"]:
        keys.append("eval.transductive")
    return keys


def reproduce_run(run_dir: Path, config: dict[str, Any], paper: Paper) -> dict[str, Any]:
    """Scores a finished run of this configuration on every published row, prints the comparison and writes `reproduction.json` beside it.

    Raises:
        UserError: the run is not finished, or cannot be evaluated as a row wants.
        RunFailed: test tasks have no score, or a file cannot be written; the console said so.
    """
    from metalearn.engine.ranks import launched
    from metalearn.report import results as shown
    from metalearn.runs.evaluation import write_or_say

    if not launched().first:
        return {}  # the first of torchrun's processes evaluates and writes
    record = compared_with_paper(run_dir, config, paper)
    shown.reproduction(record)  # before it is written: what cannot be written must not be lost
    write_or_say(run_dir / "reproduction.json", record)
    return record


def compared_with_paper(run_dir: Path, config: dict[str, Any], paper: Paper) -> dict[str, Any]:
    """What `reproduce_run` writes, with the same arguments and errors; prints and writes nothing but new evaluations."""
    from metalearn.runs.record import read_results

    protocol, reference, overrides, again = paper
    check_start(reference, config)
    results = read_results(run_dir)
    if results["status"] != "done":
        raise UserError(f"'{run_dir}' is not a finished run (status: {results['status']})")
    tests = _tests(run_dir, reference, config, overrides, None if again else results["test"])
    incomparable, scale = other_question(protocol, config), scale_of(results)
    return {
        "experiment": protocol["names"]["experiment"],
        "seed": results["seed"],
        "date": f"{datetime.now():%Y-%m-%d}",
        **{key: getattr(reference, key) for key in ("paper", "table", "url", "interval_over")},
        "rows": [_scored(row, tests[row.transductive], scale, incomparable) for row in reference.rows],
        "differences": list(reference.differences),
        "overrides": [text for text in overrides if not text.startswith(_PLACES)],
        "changed": departures(protocol, reference, config),
        "config": _without_places(config),
        "results": results,
    }


def _tests(
    run_dir: Path,
    reference: Reference,
    config: dict[str, Any],
    overrides: list[str],
    known: dict[str, Any] | None,
) -> dict[bool | None, dict[str, Any]]:
    """The `test` entry for every `transductive` among the rows; an evaluation where `known`, the run's own entry, is not the answer."""
    from metalearn.runs.evaluation import evaluate_run

    tests: dict[bool | None, dict[str, Any]] = {}
    for mode in dict.fromkeys(row.transductive for row in reference.rows):
        stepwise = any(row.after is not None for row in reference.rows if row.transductive == mode)
        if (
            known is not None
            and mode in (None, known["transductive"])
            and ("per_step_ci95" in known or not stepwise)  # results of earlier versions lack it
        ):
            tests[mode] = known
        else:
            asked = [] if mode is None else [f"eval.transductive={str(mode).lower()}"]
            # Most papers report the last state alone. The states before it cost as much each where every query is normalised by itself.
            evaluated = evaluate_run(run_dir, _evaluated(config, mode), [*overrides, *asked], stepwise=stepwise)
            tests[mode] = evaluated["test"]
    return tests


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """What another machine may know of the configuration; the record says elsewhere what it is compared with."""
    dataset = {key: value for key, value in config["dataset"].items() if key not in ("root", "file")}
    return {key: value for key, value in config.items() if key not in ("sweep_name", "reference")} | {
        "dataset": dataset
    }


def _evaluated(config: dict[str, Any], transductive: bool | None) -> dict[str, Any]:
    return config if transductive is None else config | {"eval": config["eval"] | {"transductive": transductive}}


def _scored(row: Row, test: dict[str, Any], scale: Scale, incomparable: Sequence[str]) -> dict[str, Any]:
    """The row with what was measured, from the `test` entry of results.json, whose scores are read by `scale`."""
    score, factor = _measured(row, test), 100 if scale.percent else 1
    ours, ci95, ci95_classes = (
        None if score.get(key) is None else factor * score[key] for key in ("mean", "ci95", "ci95_classes")
    )
    return {
        **row._asdict(),
        # results.json has fractions, this file what the paper's table has
        "unit": "percent" if scale.percent else None,
        "higher_is_better": scale.higher_is_better,
        "transductive": test["transductive"],
        "ours": ours,
        "ci95": ci95,
        "ci95_classes": ci95_classes,
        "tasks": test["tasks"],
        "difference": None if ours is None or row.reported is None else ours - row.reported,
        "verdict": row.verdict(ours, ci95_classes or ci95 or 0.0, incomparable, scale.higher_is_better),
    }


def _measured(row: Row, test: dict[str, Any]) -> dict[str, Any]:
    """`mean`, `ci95` and `ci95_classes` of what the row asks for; empty where it was not measured."""
    if row.score not in test:
        return test.get("further", {}).get(row.score) or {}
    if row.after is None or row.after == test.get("adapt_steps"):
        return {**test, "mean": test[row.score]}
    steps = test.get("scored_steps", [])
    if row.after not in steps:
        return {}
    state = steps.index(row.after)
    return {"mean": test["per_step"][state], "ci95": test["per_step_ci95"][state]}
