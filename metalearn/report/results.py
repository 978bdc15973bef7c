"""How results are shown: of one run, of a reproduction, of a sweep."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from metalearn.kinds import Scale, scale_of
from metalearn.report import terminal
from metalearn.report.published import band_text, number, paper_text, unit
from metalearn.report.seen import marks, pretraining_text
from metalearn.report.text import age_text
from metalearn.sizes import bytes_text, count_text

_COMPARED = ("paper", "ours", "difference", "band", "verdict")
_VERDICT_STYLES = {
    "reproduced": "green",
    "below the band": "bold red",
    "above the band": "bold red",
    "not scored": "bold red",
    "undecided": "yellow",
    "not comparable": "yellow",
}


def result_panel(results: dict[str, Any]) -> None:
    """Prints the final result and puts it into run.log.

    Args:
        results: what results.json holds, and `run_dir`; where that is None, no place is named: `written` names it once the file is there.
    """
    numbers = _result_lines(scale_of(results), results["task"], results["test"])
    if changed := results.get("images"):
        numbers.append(
            f"images of the shape {_image_size(changed['shape'])} were brought to {_image_size(changed['as'])}, as the model was trained"
        )
    numbers += results.get("notes", [])
    for line in numbers:
        terminal.file_log.info(line)
    # Outside the frame, so that they can be copied whole.
    places = [] if results["run_dir"] is None else _places(Path(results["run_dir"]).absolute())
    if terminal.on_terminal():
        title = f"{results['algorithm']} on {results['dataset']}, {results['backbone']}, seed {results['seed']}"
        terminal.CONSOLE.print(Panel(Text("\n".join(numbers)), title=Text(title), expand=False))
        if places:
            terminal.CONSOLE.print(Text("\n".join(places)), soft_wrap=True)
    else:
        terminal.say("\n".join([*numbers, *places]))


def reproduction(record: dict[str, Any]) -> None:
    """Prints how a run compares with its paper and puts it into run.log: `record` is what reproduction.json holds."""
    head = f"{record['experiment']}: {record['paper']}, {record['table']} ({record['url']})"
    rows = [_compared(row) for row in record["rows"]]
    notes = _reproduction_notes(record)
    texts = [", ".join(f"{title} {cell}" for title, cell in zip(_COMPARED, row[1:], strict=True)) for row in rows]
    lines = [head, *(f"{row[0]}: {text}" for row, text in zip(rows, texts, strict=True)), *notes]
    for line in lines:
        terminal.file_log.info(line)
    if terminal.on_terminal():
        table = Table("", *_COMPARED)
        for *cells, verdict in rows:
            table.add_row(*map(Text, cells), Text(verdict, style=verdict_style(verdict)))
        terminal.CONSOLE.print(Text(head), table, Text("\n".join(notes)), sep="\n")
    else:
        terminal.say("\n".join(lines))


def verdict_style(verdict: str) -> str:
    """The colour of a verdict; what stands behind a colon are its reasons."""
    return _VERDICT_STYLES.get(verdict.partition(":")[0], "")


def sweep_table(head: list[str], rows: list[list[str]], status_column: int = 1) -> None:
    """Prints a table of a sweep's jobs; the cells of `status_column` are coloured on a terminal."""
    terminal.table(
        head, rows, lambda column, cell: terminal.STATUS_STYLES.get(cell, "") if column == status_column else ""
    )


def runs_table(rows: list[dict[str, Any]]) -> None:
    """Prints the runs that `metalearn runs` lists."""
    labelled = any(row["label"] for row in rows)
    head = [
        "status",
        *(["label"] if labelled else []),
        "algorithm",
        "data set",
        "task",
        "seed",
        "score",
        "age",
        "size",
        "run",
    ]
    lines = []
    for row in rows:
        kind = scale_of(row)
        score = "" if row["score"] is None else kind.text(row["score"], row["ci95"])
        seen = " (transductive)" if score and row["transductive"] else ""
        seen += marks(row)
        words = [
            row["algorithm"] or "",
            row["dataset"] or "",
            row["task"],
            "" if row["seed"] is None else str(row["seed"]),
        ]
        label = [row["label"] or ""] if labelled else []
        lines.append(
            [row["status"], *label, *words, score + seen, age_text(row["age"]), bytes_text(row["size"]), row["path"]]
        )
    terminal.table(head, lines, lambda column, cell: terminal.STATUS_STYLES.get(cell, "") if column == 0 else "")


def _result_lines(kind: Scale, task: dict[str, Any], test: dict[str, Any]) -> list[str]:
    lines = [f"test {_shape(task, kind)}: {_score(kind, test)} ({_conditions(kind, task, test)})"]
    if "per_step" in test:
        after = [kind.text(score, digits=1 if kind.percent else None) for score in test["per_step"][1:]]
        steps = test.get("scored_steps", range(len(after) + 1))[1:]
        each = "each inner step" if steps[-1] == len(after) else f"inner steps {', '.join(map(str, steps))}:"
        before = kind.text(test["per_step"][0], digits=1 if kind.percent else None)
        lines.append(f"before adaptation {before}; after {each} {_listed(after)}")
        lines += _fewer_steps(kind, test["per_step"], [0, *steps], test["ci95"])
    several = {what: groups for what, groups in test.get("groups", {}).items() if len(groups) > 1}
    lines += [_grouped(kind, what, groups, test) for what, groups in several.items()]
    for name, score in test.get("further", {}).items():
        lines.append(f"{name.replace('_', ' ')}: {kind.text(score['mean'], score['ci95'])}{_over_classes(kind, score)}")
    if test.get("seen_in_pretraining"):
        lines.append(pretraining_text(test["seen_in_pretraining"]))
    if ensemble := test.get("ensemble"):
        lines += _ensemble(kind, ensemble, test["checkpoint"])
    if test.get("calibration"):
        lines.append(f"calibration of the probabilities: {calibration_text(test['calibration'])}")
    return lines


def _ensemble(kind: Scale, ensemble: dict[str, Any], which: str) -> list[str]:
    """Which checkpoints were averaged, and what that gains."""
    alone, gain, steps = ensemble["alone"], ensemble["difference"], ", ".join(map(str, ensemble["steps"]))
    averaged = "probabilities" if kind.percent else "outputs"
    lines = [
        f"an ensemble of the {len(ensemble['steps'])} {which} checkpoints (steps {steps}): their {averaged} are averaged"
    ]
    if all(isinstance(one["mean"], float) and math.isfinite(one["mean"]) for one in (alone, gain)):
        points = " points" if kind.percent else ""
        over = (
            "" if gain.get("ci95_classes") is None else f", ± {gain_text(kind, gain['ci95_classes'])} over {kind.drawn}"
        )
        lines.append(
            f"the {which} checkpoint alone: {kind.text(alone['mean'], alone['ci95'])}; difference on the same tasks: "
            f"{gain_text(kind, gain['mean'], sign=True)} ± {gain_text(kind, gain['ci95'])}{points} over tasks{over}"
        )
    return lines


def gain_text(kind: Scale, value: float, sign: bool = False) -> str:
    """`+0.42` points of 0.0042, or in the score's own unit."""
    factor, digits = (100, 2) if kind.percent else (1, 4)
    return f"{factor * value:{'+' if sign else ''}.{digits}f}"


def calibration_text(calibration: dict[str, Any]) -> str:
    """`ECE 1.20 %, NLL 0.0830, Brier 0.0410`; a number that is not finite is left out."""
    ways = (("ece", "ECE {:.2%}"), ("nll", "NLL {:.4f}"), ("brier", "Brier {:.4f}"))
    texts = [form.format(value) for name, form in ways if (value := calibration.get(name)) is not None]
    return ", ".join(texts).replace("%", " %")


def _fewer_steps(kind: Scale, scores: list[float], steps: Sequence[int], ci95: float | None) -> list[str]:
    """A hint where fewer inner steps score better than all of them, by more than the interval over tasks.

    Args:
        scores: after each of `steps`, of which the first is no step.
    """
    finite = [(score, step) for score, step in zip(scores, steps, strict=True) if score is not None]
    if not finite or scores[-1] is None or ci95 is None:
        return []
    best, step = max(finite) if kind.higher_is_better else min(finite)
    if abs(best - scores[-1]) <= ci95:
        return []
    many = "no inner step scores" if step == 0 else f"{step} inner step{'s score' if step > 1 else ' scores'}"
    text = kind.text(best, digits=1 if kind.percent else None)
    return [
        f"hint: {many} better here ({text}): a smaller algorithm.inner_lr, or fewer algorithm.test_inner_steps, may help"
    ]


def _image_size(shape: list[int]) -> str:
    """`84 x 84 x 3` of [3, 84, 84]."""
    channels, *sides = shape
    return " x ".join(map(str, [*sides, channels]))


def _shape(task: dict[str, Any], kind: Scale) -> str:
    """`5-way 1-shot`; of tasks of uneven size, `5- to 20-way varying-shot`."""
    ways, shots = (_sizes(task, name) for name in ("ways", "shots"))
    return f"{ways}-way {shots}-shot" if kind.chance(2) is not None else f"{shots}-shot"


def _grouped(kind: Scale, what: str, groups: dict[str, Any], test: dict[str, Any]) -> str:
    """`by ways: 5-9 92.1 ± 0.5 % (31 tasks, chance 14.6 %), 10-19 ...`."""
    parts = []
    for name, group in groups.items():
        chance = f", chance {kind.text(group['chance'], digits=1)}" if group.get("chance") is not None else ""
        tasks = count_text(group["tasks"], "task")
        parts.append(f"{name} {kind.text(group[kind.score], group['ci95'])} ({tasks}{chance})")
    mean = test.get("mean_of_groups", {}).get(what)
    whole = [] if mean is None else [f"mean {kind.text(mean[kind.score], mean['ci95'])}"]
    return f"by {what}: {', '.join([*parts, *whole])}"


def _sizes(task: dict[str, Any], name: str) -> str:
    varies = isinstance(task[name], str)
    return f"{task[f'min_{name}']}- to {task[f'max_{name}']}" if varies and f"min_{name}" in task else str(task[name])


def _score(kind: Scale, test: dict[str, Any]) -> str:
    """The score with its intervals; a score that is not a number says so, as JSON's null for it does."""
    score = test[kind.score]
    if score is None or not math.isfinite(score):
        return f"no {kind.score} (not a number)"
    text = kind.text(score, test["ci95"]) + _over_classes(kind, test)
    return text if kind.percent else f"{kind.score} {text}"


def _over_classes(kind: Scale, score: dict[str, Any]) -> str:
    """Results of earlier versions have no such interval, and tests of few classes neither."""
    half_width = score.get("ci95_classes")
    if half_width is None:
        return ""
    digits = kind.digits(score["mean"] if "mean" in score else score[kind.score])
    return f" over tasks, ± {kind.text(half_width, digits=digits)} over {kind.drawn}"


def _conditions(kind: Scale, task: dict[str, Any], test: dict[str, Any]) -> str:
    varying = isinstance(task["ways"], str)
    chance = test.get("chance") if varying else kind.chance(task["ways"])
    step = f", step {test['step']}" if "step" in test else ""
    drawn = kind.drawn.upper()
    parts = [
        f"95 % interval over {count_text(test['tasks'], 'task')}"
        if test.get("ci95_classes") is None
        else f"95 % intervals, {count_text(test['tasks'], 'task')}",
        *([] if chance is None else [f"{'mean ' if varying else ''}chance {kind.text(chance)}"]),
        f"{test['checkpoint']} checkpoint{step}",
        "transductive" if test["transductive"] else "not transductive",
        *([f"{test['seen_classes']} TEST {drawn} WERE TRAINING {drawn}"] if test.get("seen_classes") else []),
    ]
    return "; ".join(parts)


def _listed(texts: list[str]) -> str:
    """`96.0, 97.1 %` of `96.0 %` and `97.1 %`."""
    unit = " %" if all(text.endswith(" %") for text in texts) else ""
    return ", ".join(text.removesuffix(unit) for text in texts) + unit


def written(file: Path) -> None:
    """Says where a result is, after it was written: on a full disk it is not."""
    terminal.say(f"written to: {_shown(file.absolute())}")


def _places(run_dir: Path) -> list[str]:
    return [f"run directory: {_shown(run_dir)}", f"metalearn tensorboard {shlex.quote(_shown(run_dir.parent))}"]


def _compared(row: dict[str, Any]) -> list[str]:
    """A row of reproduction.json as texts: its name, then what _COMPARED says."""
    ours = difference = "none"
    if row["ours"] is not None:
        classes = "" if row.get("ci95_classes") is None else f", ± {number(row, row['ci95_classes'])} over classes"
        ours = f"{number(row, row['ours'])} ± {number(row, row['ci95'])}{unit(row)} of {count_text(row['tasks'], 'task')}{classes}"
    if row["difference"] is not None:
        difference = number(row, row["difference"], sign=True)
    return [row["name"], paper_text(row), ours, difference, band_text(row), row["verdict"]]


def _reproduction_notes(record: dict[str, Any]) -> list[str]:
    paper = f"the paper's intervals: over {record['interval_over']}; " if record["interval_over"] else ""
    over = "tasks and over classes" if any(row.get("ci95_classes") is not None for row in record["rows"]) else "tasks"
    return [f"{paper}ours: 95 % over test {over}, one seed ({record['seed']})", *departures(record)]


def departures(record: dict[str, Any]) -> list[str]:
    """The lines of a reproduction's record on what departs from the paper's protocol and from the experiment's."""
    notes: list[str] = []
    if record["differences"]:
        notes.append("known differences from the paper's protocol:")
        notes += [f"  - {sentence}" for sentence in record["differences"]]
    if changes := [f"{key}={value['run']} (not {value['experiment']})" for key, value in record["changed"].items()]:
        notes.append(f"not the experiment's protocol, changed: {', '.join(changes)}")
    return notes


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
