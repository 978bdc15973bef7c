"""What a reader of a comparison has to know: warnings where numbers do not belong side by side, notes on how they came about."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from metalearn.report.seen import pretraining_mark, pretraining_text
from metalearn.runs.rows import Row, task_text


def warnings(rows: Sequence[Row], names: Mapping[Row, str]) -> list[str]:
    """Where scores of the rows cannot be compared, or not with others' numbers."""
    scored = [row for row in rows if row.score is not None]
    found = []
    families = list(dict.fromkeys(row.family for row in scored))
    if len(families) > 1:
        kinds = {row.kind.score for row in scored}
        questions = list(
            dict.fromkeys(_question(row) + (f" ({row.kind.score})" if len(kinds) > 1 else "") for row in scored)
        )
        found.append(
            f"the rows answer {len(families)} different questions ({_listed(questions)}): scores of different questions "
            "cannot be ranked, and each question has its own baseline"
        )
    for family in families:
        members = [row for row in scored if row.family == family]
        of = _question(members[0])
        for values, said in (
            (_each(members, lambda row: _split(row)), "splits, so other test classes"),
            (_each(members, lambda row: str(row.first.eval_seed)), "eval.seed, so other test tasks"),
            (_each(members, lambda row: str(row.first.test.get("tasks"))), "numbers of test tasks"),
        ):
            if len(values) > 1:
                found.append(f"{of}: the rows have different {said} ({_listed(values)})")
        transductive = {row.first.test.get("transductive") for row in members} - {None}
        if len(transductive) > 1:
            which = [names[row] for row in members if row.first.test.get("transductive")]
            found.append(
                f"{of}: transductive evaluations, which see other queries, stand beside others ({_listed(which)})"
            )
    for row in scored:
        if seen := max(run.test.get("seen_classes", 0) for run in row.scored):
            found.append(
                f"{names[row]}: {seen} TEST CLASSES WERE TRAINING CLASSES, the score says nothing about new classes"
            )
        before = row.scored[0].test.get("seen_in_pretraining")
        if before is not None and pretraining_mark(before):
            found.append(f"{names[row]}: {pretraining_text(before)}")
    return found


def notes(
    rows: Sequence[Row], names: Mapping[Row, str], partly: Mapping[Row, str], faults: Sequence[str], asked: bool
) -> list[str]:
    """How the numbers came about.

    Args:
        partly: rows of which only some runs could be compared task by task, with how many.
        faults: files that cannot be read.
        asked: whether the user chose the baseline.
    """
    scored = [row for row in rows if row.score is not None]
    found = []
    compared = [row for row in scored if sum(other.family == row.family for other in scored) > 1]
    if compared and not asked:
        found.append(
            "the baseline is the best row, chosen by its test score, which flatters it: --baseline names one that was chosen before the test"
        )
    if single := [names[row] for row in compared if len(row.scored) == 1]:
        found.append(
            f"one seed alone ({_listed(single)}): such a difference is one of these trained networks, not of the "
            "configurations; sweep.seeds=5 trains several"
        )
    if repeated := [f"{names[row]}: {len(row.repeated)}" for row in rows if row.repeated]:
        found.append(f"of results with the same settings and seed the last one counts; left out: {_listed(repeated)}")
    found += [f"{names[row]}: differences are of {text}" for row, text in partly.items()]
    if scored and all(row.first.test.get("transductive") for row in scored):
        found.append("all evaluations are transductive: the queries of a task influence each other's predictions")
    versions = _each(scored, lambda row: str((row.first.results.get("environment") or {}).get("metalearn", "unknown")))
    if len(versions) > 1:
        found.append(f"the runs are of different versions of metalearn ({_listed(versions)})")
    return found + list(faults)


def _question(row: Row) -> str:
    return f"{task_text(row.task, row.kind)} on {row.first.name_of('dataset')}"


def _split(row: Row) -> str:
    split: dict[str, Any] = row.first.results.get("split") or {}
    return f"{split.get('name', 'unknown')} {str(split.get('sha256', ''))[:8]}".strip()


def _each(rows: Sequence[Row], value: Callable[[Row], Hashable]) -> list[Any]:
    return list(dict.fromkeys(value(row) for row in rows))


def _listed(texts: Sequence[str], most: int = 4) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
